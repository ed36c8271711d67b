//! Whether the programmers of this process may take tasks: computed before anything is consumed.
//!
//! One task computes it for the whole process. What concerns a single programmer (its breakers, its budget, a pause)
//! joins here.

use std::time::Duration;

use pool_shared::broker::process::Process;
use pool_shared::heartbeat::ShutReason;
use tokio::sync::watch;

/// How often it is looked at without a cause: clocks and a silent log give none.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Why the gate is shut, with a sentence for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shut {
    pub reason: ShutReason,
    pub detail: String,
}

/// Keeps the process's gate up to date until shutdown. None = open.
pub fn watch_gate(process: Process, config_hash: String, file: String) -> watch::Receiver<Option<Shut>> {
    let look = move |process: &Process| look(process, &config_hash, &file);
    let (sender, receiver) = watch::channel(look(&process));
    tokio::spawn(async move {
        while !process.shutdown.is_cancelled() && !sender.is_closed() {
            let now = look(&process);
            sender.send_if_modified(|gate| {
                let changed = *gate != now;
                if changed {
                    report(now.as_ref());
                    *gate = now;
                }
                changed
            });
            tokio::time::sleep(LOOK_EVERY).await;
        }
    });
    receiver
}

fn look(process: &Process, config_hash: &str, file: &str) -> Option<Shut> {
    let shut = |reason, detail: String| Some(Shut { reason, detail });
    if let Err(off) = process.clock.now() {
        return shut(ShutReason::Clock, off.to_string());
    }
    if !process.log.is_fresh() {
        return shut(ShutReason::Log, "the event log cannot be read up to its end".to_owned());
    }
    process.log.read(|fold| match fold.configuration() {
        None => shut(ShutReason::Config, "no configuration is in force yet; is a dispatcher running?".to_owned()),
        Some(configuration) if configuration.hash != config_hash => shut(
            ShutReason::Config,
            format!(
                "{file} (hash {config_hash}) differs from the configuration in force (hash {}); give all processes the same pool file",
                configuration.hash
            ),
        ),
        Some(_) => None,
    })
}

fn report(shut: Option<&Shut>) {
    match shut {
        Some(shut) => tracing::warn!(reason = shut.reason.as_str(), detail = %shut.detail, "the gate is shut"),
        None => tracing::info!("the gate is open"),
    }
}
