//! Whether the programmers of this process may take tasks, computed before anything is consumed.
//!
//! One tokio task computes it for all programmers of the process. It first checks the process (its
//! clock, its view of the log, its pool file, its sandbox), then each programmer (its breakers, the budget).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use pool_broker::process::Process;
use pool_core::config_hash::config_hash;
use pool_core::eligibility::{Blocker, Eligibility};
use pool_core::heartbeat::{Gate, Heartbeat, ShutReason};
use pool_core::id::ProgrammerId;
use pool_core::pause::Pause;
use pool_core::pool::{self, Pool};
use pool_core::state::PoolState;
use pool_core::time::Timestamp;
use pool_telemetry::clock::wall_clock;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::sandbox::SandboxHealth;

/// How often the gates are computed when no event arrives: neither a clock nor a silent log sends
/// one.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Why the gate is shut, with a sentence for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShutGate {
    pub reason: ShutReason,
    pub detail: String,
}

/// The tasks that a programmer may take now.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GateState {
    /// None: the gate is open.
    pub shut: Option<ShutGate>,
    /// The indices of its queues that are closed for now although the gate is open.
    pub closed: BTreeSet<usize>,
    /// When an operator began to drain the programmer, if one did.
    pub drained_since: Option<Timestamp>,
}

impl GateState {
    /// The part that the session decides by: all but the sentence for people.
    pub fn state(&self) -> (Option<ShutReason>, &BTreeSet<usize>) {
        (self.shut.as_ref().map(|shut| shut.reason), &self.closed)
    }
}

/// The gates of these programmers, and the service that keeps them up to date until shutdown, which
/// the caller runs.
pub fn watch_gates(
    process: Process,
    pool: Arc<Pool>,
    others: PeerPresence,
    sandbox: SandboxHealth,
    programmers: &[pool::Programmer],
) -> (
    BTreeMap<ProgrammerId, watch::Receiver<GateState>>,
    impl Future<Output = ()> + Send + use<>,
) {
    let watcher = Watcher {
        config_hash: config_hash(&pool),
        process,
        pool,
        others,
        sandbox,
    };
    let now = watcher.look(programmers);
    let (senders, receivers): (Vec<_>, BTreeMap<_, _>) = programmers
        .iter()
        .zip(now)
        .map(|(programmer, gate)| {
            let (sender, receiver) = watch::channel(gate);
            (
                (programmer.clone(), sender),
                (programmer.id.clone(), receiver),
            )
        })
        .unzip();
    (receivers, watcher.run(senders))
}

struct Watcher {
    process: Process,
    pool: Arc<Pool>,
    config_hash: String,
    others: PeerPresence,
    sandbox: SandboxHealth,
}

impl Watcher {
    async fn run(self, senders: Vec<(pool::Programmer, watch::Sender<GateState>)>) {
        let (programmers, senders): (Vec<_>, Vec<_>) = senders.into_iter().unzip();
        // Nothing can be computed before the log has been read; then it is computed at once.
        let _ = self.process.log.ready().await;
        while !self.process.shutdown.is_cancelled() {
            for ((gate, sender), programmer) in self
                .look(&programmers)
                .into_iter()
                .zip(&senders)
                .zip(&programmers)
            {
                sender.send_if_modified(|shown| {
                    if shown.state().0 != gate.state().0 {
                        report(programmer, gate.shut.as_ref());
                    }
                    let changed = shown.state() != gate.state();
                    *shown = gate;
                    changed
                });
            }
            tokio::select! {
                () = self.process.log.ordered() => {}
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }

    /// If the process is the blocker, the same state for all programmers; otherwise one for each.
    fn look(&self, programmers: &[pool::Programmer]) -> Vec<GateState> {
        let shut = look(
            &self.process,
            &self.config_hash,
            &self.pool.file.display().to_string(),
        );
        let shut = shut.or_else(|| {
            let (reason, detail) = (ShutReason::Sandbox, self.sandbox.trouble()?);
            Some(ShutGate { reason, detail })
        });
        if shut.is_some() {
            // A programmer that is drained while the gate is shut still gets its full grace period.
            let since = |fold: &PoolState| {
                programmers
                    .iter()
                    .map(|p| drained_since(fold, &p.id))
                    .collect::<Vec<_>>()
            };
            let states = self.process.log.read(since).into_iter();
            return states
                .map(|since| GateState {
                    shut: shut.clone(),
                    drained_since: since,
                    ..GateState::default()
                })
                .collect();
        }
        let alive = |id: &ProgrammerId| {
            self.others
                .alive(id, self.pool.load_balancing.health_check_interval)
        };
        self.process.log.read(|fold| {
            // A breaker's cooldown may end before the next event carries the time.
            let now = fold.now().max(wall_clock());
            let standing = Eligibility {
                pool: &self.pool,
                fold,
                now,
            };
            let gate = |programmer: &pool::Programmer| {
                let shut = |Blocker { reason, detail, .. }| ShutGate { reason, detail };
                GateState {
                    shut: standing.blocker(programmer, alive).map(shut),
                    closed: standing.closed_routes(
                        programmer,
                        &self.process.routes.of(&programmer.id),
                        alive,
                    ),
                    drained_since: drained_since(fold, &programmer.id),
                }
            };
            programmers.iter().map(gate).collect()
        })
    }
}

fn drained_since(fold: &PoolState, programmer: &ProgrammerId) -> Option<Timestamp> {
    let paused = fold
        .pauses
        .of_programmer(programmer)
        .map(|(_, paused)| paused);
    paused
        .filter(|paused| paused.pause == Pause::Drain)
        .map(|paused| paused.since)
}

fn look(process: &Process, config_hash: &str, file: &str) -> Option<ShutGate> {
    let shut = |reason, detail: String| Some(ShutGate { reason, detail });
    if let Err(off) = process.clock.now() {
        return shut(ShutReason::Clock, off.to_string());
    }
    if !process.log.is_fresh() {
        return shut(
            ShutReason::Log,
            "the event log cannot be read up to its end".to_owned(),
        );
    }
    process.log.read(|fold| match fold.configuration() {
        None => shut(ShutReason::Config, "no configuration is in force yet; is a dispatcher running?".to_owned()),
        Some(configuration) if configuration.hash != config_hash => shut(
            ShutReason::Config,
            format!(
                "{file} (hash {config_hash}) differs from the configuration in force (hash {}); give all processes the same pool file and restart the dispatcher with it",
                configuration.hash
            ),
        ),
        Some(_) => None,
    })
}

fn report(programmer: &pool::Programmer, shut: Option<&ShutGate>) {
    let programmer = &programmer.id;
    match shut {
        // Info, not a warning: near the limit the budget shuts and opens gates within seconds.
        Some(ShutGate {
            reason: ShutReason::Budget,
            detail,
        }) => {
            tracing::info!(%programmer, reason = "budget", %detail, "the gate is shut");
        }
        Some(ShutGate { reason, detail }) => {
            tracing::warn!(%programmer, reason = reason.as_str(), %detail, "the gate is shut");
        }
        None => tracing::info!(%programmer, "the gate is open"),
    }
}

/// Whether another process holds the programmer's id.
pub fn is_held_elsewhere(gate: &Gate) -> bool {
    match gate {
        Gate::Shut { reason, .. } => *reason == ShutReason::Held,
        Gate::Consuming | Gate::Busy { .. } => false,
    }
}

/// The programmers that could take a task, according to their heartbeats. Cheap to clone.
#[derive(Clone)]
pub struct PeerPresence {
    since: Instant,
    heard: Arc<RwLock<HashMap<ProgrammerId, Instant>>>,
}

impl PeerPresence {
    #[expect(clippy::new_without_default, reason = "it has a beginning")]
    pub fn new() -> Self {
        Self {
            since: Instant::now(),
            heard: Arc::default(),
        }
    }

    pub fn hear(&self, heartbeat: &Heartbeat) {
        let mut heard = self.heard.write().unwrap_or_else(PoisonError::into_inner);
        for beat in &heartbeat.programmers {
            // This process waits for an id that another process holds; it says nothing about the
            // programmer there.
            if is_held_elsewhere(&beat.gate) {
                continue;
            }
            if beat.gate.could_take() {
                heard.insert(beat.id.clone(), Instant::now());
            } else {
                heard.remove(&beat.id);
            }
        }
    }

    /// Whether the programmer sent a heartbeat `within` this time, which is three heartbeats long.
    /// A process that has listened for less than one heartbeat takes every programmer for alive.
    fn alive(&self, id: &ProgrammerId, within: Duration) -> bool {
        if self.since.elapsed() < within / 3 {
            return true;
        }
        let heard = self.heard.read().unwrap_or_else(PoisonError::into_inner);
        heard.get(id).is_some_and(|at| at.elapsed() < within)
    }
}
