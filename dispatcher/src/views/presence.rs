//! The latest heartbeat of each programmer, as this dispatcher received them. For display only:
//! nothing is decided by them.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use pool_api::status::{LastBeat, NoHeartbeat};
use pool_broker::status::{BrokerState, BrokerStatus};
use pool_core::event::EmitterId;
use pool_core::heartbeat::{Gate, Heartbeat, ProgrammerBeat, ShutReason};
use pool_core::id::ProgrammerId;
use pool_core::sandbox::SandboxStatus;
use pool_core::state::{Owner, PoolState};
use pool_core::time::Timestamp;
use pool_telemetry::clock::wall_clock;
use tokio::time::Instant;

/// A process that only waits for an id does not replace its holder while the holder was heard
/// within this time.
const HOLDER_IS_FRESH: Duration = Duration::from_secs(30);

/// The latest heartbeat of a programmer.
struct ReceivedBeat {
    beat: ProgrammerBeat,
    at: Instant,
    time: Timestamp,
    by: EmitterId,
    /// The name of the sending process.
    name: String,
    sandbox: Option<SandboxStatus>,
    end: Option<End>,
}

/// How the process of a heartbeat has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// It was its last heartbeat.
    Left,
    /// This dispatcher has found, at this time, that the broker has lost its connection.
    Gone(Timestamp),
}

/// The latest heartbeats. Cheap to clone.
#[derive(Clone)]
pub struct Presence {
    heard: Arc<RwLock<HashMap<ProgrammerId, ReceivedBeat>>>,
    /// Since when this dispatcher has listened.
    since: Instant,
    begun: Timestamp,
}

impl Default for Presence {
    fn default() -> Self {
        Self {
            heard: Arc::default(),
            since: Instant::now(),
            begun: wall_clock(),
        }
    }
}

/// The recent heartbeats. While the broker is away: those that were recent when it was lost.
#[derive(Debug, Clone)]
pub struct Snapshot {
    pub seen: HashMap<ProgrammerId, LastBeat>,
    /// Programmers whose last heartbeat is too old.
    pub missed: HashMap<ProgrammerId, NoHeartbeat>,
    /// The state of all other programmers.
    pub unheard: NoHeartbeat,
}

impl Snapshot {
    /// A snapshot without any heartbeat.
    pub fn empty(unheard: NoHeartbeat) -> Self {
        Self {
            seen: HashMap::new(),
            missed: HashMap::new(),
            unheard,
        }
    }

    /// The programmer's last heartbeat, or why it is missing.
    ///
    /// # Errors
    /// [`NoHeartbeat`].
    pub fn of(&self, id: &ProgrammerId) -> Result<&LastBeat, NoHeartbeat> {
        self.seen
            .get(id)
            .ok_or_else(|| self.missed.get(id).copied().unwrap_or(self.unheard))
    }

    /// Whether this owner's programmer is down or has been replaced by another process, as far as
    /// this dispatcher knows. For display; only the log decides which attempt owns a task.
    pub fn has_lost(&self, fold: &PoolState, owner: &Owner) -> bool {
        fold.is_gone(owner) || self.of(&owner.programmer).is_err_and(NoHeartbeat::is_down)
    }
}

impl Presence {
    pub fn hear(&self, heartbeat: Heartbeat) {
        let mut presence = self.heard.write().unwrap_or_else(PoisonError::into_inner);
        for beat in heartbeat.programmers {
            let holder = presence.get(&beat.id).filter(|heard| {
                heard.by != heartbeat.process
                    && heard.end.is_none()
                    && !is_held(&heard.beat.gate)
                    && heard.at.elapsed() < HOLDER_IS_FRESH
            });
            if holder.is_some() && (heartbeat.ends || is_held(&beat.gate)) {
                continue;
            }
            let (at, time) = (Instant::now(), wall_clock());
            let heard = ReceivedBeat {
                at,
                time,
                by: heartbeat.process,
                name: heartbeat.name.clone(),
                sandbox: heartbeat.sandbox.clone(),
                end: heartbeat.ends.then_some(End::Left),
                beat,
            };
            presence.insert(heard.beat.id.clone(), heard);
        }
    }

    /// The processes that run, as far as is known, each with its programmers. True for a programmer
    /// that takes or does tasks.
    pub fn holders(&self) -> BTreeMap<EmitterId, BTreeMap<ProgrammerId, bool>> {
        let presence = self.heard.read().unwrap_or_else(PoisonError::into_inner);
        let mut holders: BTreeMap<_, BTreeMap<_, _>> = BTreeMap::new();
        for (id, heard) in presence.iter() {
            let gate = &heard.beat.gate;
            if heard.end.is_none() && !is_held(gate) {
                let works = !matches!(gate, Gate::Shut { .. });
                holders
                    .entry(heard.by)
                    .or_default()
                    .insert(id.clone(), works);
            }
        }
        holders
    }

    /// Whether the latest heartbeat of some programmer is of this process.
    pub fn knows(&self, process: EmitterId) -> bool {
        let presence = self.heard.read().unwrap_or_else(PoisonError::into_inner);
        presence.values().any(|heard| heard.by == process)
    }

    /// The broker has lost the connection of this process. Its next heartbeat revokes that.
    pub fn lose(&self, process: EmitterId) {
        let mut presence = self.heard.write().unwrap_or_else(PoisonError::into_inner);
        let now = wall_clock();
        for heard in presence.values_mut() {
            if heard.by == process && heard.end.is_none() {
                heard.end = Some(End::Gone(now));
            }
        }
    }

    /// All programmers with a heartbeat within `fresh`.
    pub fn snapshot(&self, fresh: Duration, broker: &BrokerStatus) -> Snapshot {
        let deaf_for = match self.listened(broker) {
            Ok(_) => Duration::ZERO,
            Err(_) => wall_clock().since(broker.since),
        };
        let presence = self.heard.read().unwrap_or_else(PoisonError::into_inner);
        let mut snapshot = Snapshot::empty(self.unseen(None, fresh, broker));
        for (id, heard) in presence.iter() {
            match heard.seen(fresh + deaf_for) {
                Some(Ok(one)) => drop(snapshot.seen.insert(id.clone(), one)),
                Some(Err(left)) => drop(snapshot.missed.insert(id.clone(), left)),
                None => drop(
                    snapshot
                        .missed
                        .insert(id.clone(), self.unseen(Some(heard), fresh, broker)),
                ),
            }
        }
        snapshot
    }

    /// The age of each programmer's last heartbeat. If none has arrived: how long this dispatcher
    /// has listened.
    pub fn ages<'a>(
        &self,
        ids: impl Iterator<Item = &'a ProgrammerId>,
    ) -> Vec<(&'a ProgrammerId, Duration)> {
        let presence = self.heard.read().unwrap_or_else(PoisonError::into_inner);
        ids.map(|id| {
            (
                id,
                presence
                    .get(id)
                    .map_or(self.since, |heard| heard.at)
                    .elapsed(),
            )
        })
        .collect()
    }

    pub(super) fn of(
        &self,
        id: &ProgrammerId,
        fresh: Duration,
        broker: &BrokerStatus,
    ) -> Result<LastBeat, NoHeartbeat> {
        let presence = self.heard.read().unwrap_or_else(PoisonError::into_inner);
        let heard = presence.get(id);
        heard
            .and_then(|heard| heard.seen(fresh))
            .unwrap_or_else(|| Err(self.unseen(heard, fresh, broker)))
    }

    fn unseen(
        &self,
        heard: Option<&ReceivedBeat>,
        fresh: Duration,
        broker: &BrokerStatus,
    ) -> NoHeartbeat {
        match self.listened(broker) {
            Ok(listened) if listened < fresh => NoHeartbeat::NotYet(listened),
            Ok(_) => match heard {
                Some(heard) => NoHeartbeat::Silent { since: heard.time },
                None => NoHeartbeat::Never {
                    since: self.begun.max(broker.since),
                },
            },
            Err(deaf) => deaf,
        }
    }

    /// How long it has listened without a break.
    fn listened(&self, broker: &BrokerStatus) -> Result<Duration, NoHeartbeat> {
        match broker.state {
            BrokerState::Connected => {
                Ok(self.since.elapsed().min(wall_clock().since(broker.since)))
            }
            BrokerState::Blocked => Err(NoHeartbeat::Deaf("takes no messages")),
            BrokerState::Reconnecting => Err(NoHeartbeat::Deaf("is not reachable")),
        }
    }
}

impl ReceivedBeat {
    /// None if the heartbeat is too old.
    fn seen(&self, fresh: Duration) -> Option<Result<LastBeat, NoHeartbeat>> {
        match self.end {
            Some(End::Left) => return Some(Err(NoHeartbeat::Left { at: self.time })),
            Some(End::Gone(at)) => return Some(Err(NoHeartbeat::Gone { at })),
            None => {}
        }
        let seen = || LastBeat {
            gate: self.beat.gate.clone(),
            port: self.beat.port,
            worker: self.name.clone(),
            sandbox: self.sandbox.clone(),
        };
        (self.at.elapsed() < fresh).then(|| Ok(seen()))
    }
}

fn is_held(gate: &Gate) -> bool {
    matches!(
        gate,
        Gate::Shut {
            reason: ShutReason::Held,
            ..
        }
    )
}

#[cfg(test)]
mod tests {
    use pool_broker::status::Condition;
    use pool_core::id::{LlmName, TaskId};

    use super::*;

    const FRESH: Duration = Duration::from_secs(6);

    fn id() -> ProgrammerId {
        ProgrammerId::new("008").expect("an id")
    }

    fn says(presence: &Presence, process: u128, gate: Gate, ends: bool) {
        let beat = ProgrammerBeat {
            id: id(),
            port: 1,
            gate,
            current_llm: LlmName::new("a/b").expect("an LLM"),
        };
        let greeting = Heartbeat::greeting(
            EmitterId::from_u128(process),
            "worker h/1",
            wall_clock(),
            false,
        );
        presence.hear(Heartbeat {
            programmers: vec![beat],
            ends,
            ..greeting
        });
    }

    fn held() -> Gate {
        Gate::Shut {
            reason: ShutReason::Held,
            detail: String::new(),
        }
    }

    fn broker(condition: Condition) -> BrokerStatus {
        BrokerStatus::new("broker:5672/%2f".to_owned(), condition)
    }

    fn ago(seconds: u64) -> Timestamp {
        Timestamp(wall_clock().0 - seconds * 1000)
    }

    #[test]
    fn who_says_goodbye_is_down_at_once_until_another_process_has_it() {
        let (presence, connected) = (
            Presence::default(),
            broker(Condition::Connected { since: ago(60) }),
        );
        let state = || presence.of(&id(), FRESH, &connected).map(|seen| seen.gate);
        says(&presence, 1, Gate::Consuming, false);
        says(&presence, 2, held(), true);
        assert_eq!(
            state(),
            Ok(Gate::Consuming),
            "a process that only waited for the id has no effect"
        );
        says(&presence, 1, Gate::Consuming, true);
        assert!(
            matches!(state(), Err(NoHeartbeat::Left { .. })),
            "it was the holder's last heartbeat: {:?}",
            state()
        );
        let snapshot = presence.snapshot(FRESH, &connected);
        assert!(
            snapshot.of(&id()).is_err_and(NoHeartbeat::is_down),
            "likewise: {snapshot:?}"
        );
        says(&presence, 2, held(), false);
        assert_eq!(state(), Ok(held()), "another process waits for the id");
    }

    #[test]
    fn while_the_broker_is_away_it_is_as_it_was_when_it_was_lost() {
        let presence = Presence::default();
        let busy = Gate::Busy {
            task: TaskId::new("t").expect("an id"),
            since: Timestamp(1),
        };
        says(&presence, 1, busy.clone(), false);
        let away = broker(Condition::Reconnecting {
            since: ago(600),
            error: None,
        });
        // The heartbeat just arrived, and an outage of ten minutes does not age it.
        let none = Duration::ZERO;
        let seen = presence
            .snapshot(none, &away)
            .of(&id())
            .map(|seen| seen.gate.clone());
        assert_eq!(seen, Ok(busy), "its last heartbeat");
        let known = presence.of(&id(), none, &away).map(|seen| seen.gate);
        assert_eq!(
            known,
            Err(NoHeartbeat::Deaf("is not reachable")),
            "its present state is unknown"
        );
        let other = ProgrammerId::new("009").expect("an id");
        assert_eq!(
            presence.snapshot(none, &away).of(&other).err(),
            Some(NoHeartbeat::Deaf("is not reachable")),
            "so are those of others"
        );
    }
}
