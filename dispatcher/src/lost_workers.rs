//! Notices within two seconds that a worker is gone, so that nobody sees its programmers at work
//! for longer.
//!
//! A worker holds an exclusive queue for each of its programmers, and the broker deletes these
//! queues with the worker's connection. Once a second the dispatcher publishes an empty message to
//! one of them for each worker. The message expires at once; if the queue is gone, it is returned.
//! Only what people see depends on it: the log decides which attempt owns a task.

use std::collections::BTreeMap;
use std::time::Duration;

use lapin::BasicProperties;
use lapin::protocol::AMQPSoftError;
use pool_broker::BrokerError;
use pool_broker::process::Process;
use pool_broker::publisher::Message;
use pool_broker::topology::programmer_lock;
use pool_core::event::EmitterId;
use pool_core::id::ProgrammerId;

use crate::views::presence::Presence;

const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The findings of earlier looks about a worker.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Found {
    /// The queue of this programmer was there.
    Queue(ProgrammerId),
    /// It has lost its connection once. If it works on a task, it holds its programmer again after that task only.
    Lost,
}

type Workers = BTreeMap<EmitterId, Found>;
/// The programmers of a worker; true for those that take or do tasks, and so are held.
type Programmers = BTreeMap<ProgrammerId, bool>;

/// Looks until the process ends.
pub(crate) async fn watch(process: Process, presence: Presence) {
    let mut found = Workers::new();
    loop {
        tokio::select! {
            () = process.shutdown.cancelled() => return,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        if let Err(error) = look(&process, &presence, &mut found).await {
            if error.is(AMQPSoftError::ACCESSREFUSED) {
                tracing::warn!(
                    %error,
                    "workers that are killed will be shown as running until their heartbeats are missed: give the dispatcher's \
                     user the right to write to the default exchange, as config/definitions.json does"
                );
                return process.shutdown.cancelled().await;
            }
            tracing::debug!(%error, "the queues of the workers cannot be looked for");
        }
    }
}

async fn look(
    process: &Process,
    presence: &Presence,
    found: &mut Workers,
) -> Result<(), BrokerError> {
    found.retain(|worker, _| presence.knows(*worker));
    for (worker, programmers) in presence.holders() {
        let Some((programmer, is_held)) = to_look_for(found.get(&worker), &programmers) else {
            continue;
        };
        // Each question about a queue that is gone costs a channel: only a loss is worth several.
        let others = programmers
            .keys()
            .filter(|other| is_held && *other != programmer);
        match first_held(process, std::iter::once(programmer).chain(others)).await? {
            Some(held) => drop(found.insert(worker, Found::Queue(held.clone()))),
            None if is_held => {
                found.insert(worker, Found::Lost);
                presence.lose(worker);
            }
            // A worker that starts sends heartbeats before it holds its programmers.
            None => {}
        }
    }
    Ok(())
}

/// The first of these programmers whose queue is there.
async fn first_held<'a>(
    process: &Process,
    programmers: impl Iterator<Item = &'a ProgrammerId>,
) -> Result<Option<&'a ProgrammerId>, BrokerError> {
    for programmer in programmers {
        match process.publisher.publish(&question(programmer)).await {
            Ok(()) => return Ok(Some(programmer)),
            Err(BrokerError::Returned { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// The programmer whose queue was there before; else one that is held; else any. Also whether its
/// queue must be there.
fn to_look_for<'a>(
    found: Option<&Found>,
    programmers: &'a Programmers,
) -> Option<(&'a ProgrammerId, bool)> {
    let known = match found {
        Some(Found::Queue(found)) => programmers.get_key_value(found),
        Some(Found::Lost) => None,
        None => programmers.iter().find(|(_, is_held)| **is_held),
    };
    match known {
        Some((programmer, _)) => Some((programmer, true)),
        None => programmers.first_key_value().map(|(any, _)| (any, false)),
    }
}

fn question(programmer: &ProgrammerId) -> Message<'static> {
    let properties = BasicProperties::default().with_expiration("0".into());
    Message::new("", programmer_lock(programmer), Vec::new(), properties)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_that_was_there_or_belongs_to_a_held_programmer_must_be_there() {
        let id = |text: &str| ProgrammerId::new(text).expect("an id");
        let programmers = |some: &[(&str, bool)]| -> Programmers {
            some.iter().map(|(text, held)| (id(text), *held)).collect()
        };
        let queue = |text: &str| Some(Found::Queue(id(text)));
        for (found, some, expected) in [
            (None, &[][..], None),
            (
                None,
                &[("001", false), ("002", false)],
                Some(("001", false)),
            ),
            (None, &[("001", false), ("002", true)], Some(("002", true))),
            (
                queue("001"),
                &[("001", false), ("002", true)],
                Some(("001", true)),
            ),
            (queue("003"), &[("001", false)], Some(("001", false))),
            (Some(Found::Lost), &[("001", true)], Some(("001", false))),
        ] {
            let programmers = programmers(some);
            let chosen = to_look_for(found.as_ref(), &programmers);
            assert_eq!(
                chosen.map(|(id, is_held)| (id.as_str(), is_held)),
                expected,
                "{found:?} of {some:?}"
            );
        }
    }
}
