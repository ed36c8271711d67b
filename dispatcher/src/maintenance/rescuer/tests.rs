//! Which tasks are due, by events and heartbeats.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use pool_core::event::{
    Configuration, EmitterId, Event, Retry, TaskPublished, TaskReissued, TaskStarted, TaskSubmitted,
};
use pool_core::heartbeat::{Gate, Heartbeat, ProgrammerBeat, ShutReason};
use pool_core::id::{AttemptId, Capability, LlmName, ProgrammerId, TaskId, Token};
use pool_core::result::ErrorKind;
use pool_core::routing::Routes;
use pool_core::rules::Rules;
use pool_core::state::PoolState;
use pool_core::time::Timestamp;

use super::due::{PresenceTracker, QueueObservation, Repair, RepairCause, due};

const AFTER: Duration = Duration::from_secs(60);
const SECOND: u64 = 1_000;

fn programmer(id: &str) -> ProgrammerId {
    ProgrammerId::new(id).expect("an id")
}

fn task() -> TaskId {
    TaskId::new("t").expect("an id")
}

/// Two programmers of one route, and what happened at which second.
struct Scene {
    fold: PoolState,
    routes: Routes,
    presence: PresenceTracker,
    empty: BTreeMap<String, Timestamp>,
    results_empty: Option<Timestamp>,
}

impl Scene {
    fn new() -> Self {
        let offers = ["001", "002"].map(|id| (programmer(id), BTreeSet::new()));
        Self {
            fold: PoolState::new(),
            routes: Routes::new(&BTreeMap::from(offers)),
            presence: PresenceTracker::default(),
            empty: BTreeMap::new(),
            results_empty: None,
        }
    }

    fn at(&mut self, second: u64, decision: Event) {
        self.fold.append(Timestamp(second * SECOND), decision);
    }

    fn submitted(&mut self, second: u64) {
        let (body_hash, route) = ("hash".to_owned(), "any".to_owned());
        self.at(
            second,
            Event::from(TaskSubmitted {
                task: task(),
                body_hash,
                route,
                deadline_ms: None,
            }),
        );
    }

    fn published(&mut self, second: u64) {
        self.submitted(second);
        self.at(
            second,
            Event::from(TaskPublished {
                task: task(),
                generation: 0,
            }),
        );
    }

    fn started(&mut self, second: u64) -> AttemptId {
        let (attempt, body_hash, route) =
            (AttemptId::from_u128(7), "hash".to_owned(), "any".to_owned());
        let token = Token::default();
        self.at(
            second,
            Event::from(TaskStarted {
                task: task(),
                attempt,
                programmer: programmer("001"),
                token,
                route,
                body_hash,
            }),
        );
        attempt
    }

    fn heard(&mut self, second: u64, id: &str, gate: Gate) {
        let beat = ProgrammerBeat {
            id: programmer(id),
            port: 0,
            gate,
            current_llm: LlmName::new("local/x").expect("an LLM"),
        };
        let heartbeat = Heartbeat {
            process: EmitterId::from_u128(2),
            name: "worker".to_owned(),
            version: "1".to_owned(),
            at_ms: second * SECOND,
            programmers: vec![beat],
            sandbox: None,
            asks: false,
            ends: false,
        };
        self.presence.hear(&heartbeat, Timestamp(second * SECOND));
    }

    fn idle(&mut self, seconds: impl IntoIterator<Item = u64>) {
        for second in seconds {
            for id in ["001", "002"] {
                self.heard(second, id, Gate::Consuming);
            }
        }
    }

    fn empty(&mut self, second: u64) {
        self.empty
            .insert("any".to_owned(), Timestamp(second * SECOND));
    }

    fn due(&self, second: u64) -> Vec<Repair> {
        let look = QueueObservation {
            routes: &self.routes,
            empty_since: &self.empty,
            results_empty_since: self.results_empty,
            after: AFTER,
        };
        due(
            &self.fold,
            &self.presence,
            &look,
            Timestamp(second * SECOND),
        )
    }
}

fn repair(generation: u32, cause: RepairCause) -> Vec<Repair> {
    vec![Repair {
        task: task(),
        generation,
        cause,
    }]
}

#[test]
fn what_was_submitted_and_not_published_is_due_after_a_minute() {
    let mut scene = Scene::new();
    scene.submitted(100);
    assert_eq!(
        scene.due(159),
        [],
        "its dispatcher may be about to publish it"
    );
    assert_eq!(
        scene.due(160),
        repair(1, RepairCause::Unpublished),
        "its dispatcher is not"
    );
    scene.at(
        161,
        Event::from(TaskPublished {
            task: task(),
            generation: 0,
        }),
    );
    assert_eq!(scene.due(500), [], "it was published late");
}

#[test]
fn what_was_reissued_and_not_published_is_due_a_minute_after_its_time() {
    let mut scene = Scene::new();
    scene.published(100);
    scene.at(200, Event::reissued(&task(), 1));
    assert_eq!(
        scene.due(260),
        repair(2, RepairCause::Unpublished),
        "the process that reissued it has died"
    );
    let mut scene = Scene::new();
    scene.published(100);
    let attempt = scene.started(100);
    let retry = Retry {
        attempt,
        error: ErrorKind::AgentCrashed,
        at_ms: 250 * SECOND,
        spent: Default::default(),
    };
    scene.at(
        200,
        Event::from(TaskReissued {
            task: task(),
            generation: 1,
            retry: Some(retry),
        }),
    );
    assert_eq!(scene.due(309), [], "the next attempt is planned for later");
    assert_eq!(
        scene.due(310),
        repair(2, RepairCause::Unpublished),
        "no process has published it"
    );
}

#[test]
fn a_message_is_lost_when_its_queue_is_empty_and_nobody_has_anything_in_hand() {
    let mut scene = Scene::new();
    scene.published(100);
    scene.idle([110, 120, 130, 170]);
    assert_eq!(scene.due(170), [], "its queue may have messages");
    scene.empty(105);
    assert_eq!(scene.due(164), [], "not for long enough");
    assert_eq!(
        scene.due(170),
        repair(1, RepairCause::Lost),
        "the message is lost"
    );
    scene.empty(125);
    assert_eq!(
        scene.due(190),
        repair(1, RepairCause::Lost),
        "two heartbeats since the queue is empty"
    );
    scene.empty(140);
    assert_eq!(
        scene.due(205),
        [],
        "one heartbeat since: it may have been delivered just then"
    );
}

#[test]
fn who_was_not_heard_of_with_empty_hands_may_have_it() {
    let mut scene = Scene::new();
    scene.published(100);
    scene.empty(100);
    let busy = Gate::Busy {
        task: TaskId::new("other").expect("an id"),
        since: Timestamp(0),
    };
    for second in [110, 120, 165] {
        scene.heard(second, "001", Gate::Consuming);
        scene.heard(second, "002", busy.clone());
    }
    assert_eq!(
        scene.due(170),
        [],
        "002 may have it besides its present task"
    );
    let held = Gate::Shut {
        reason: ShutReason::Held,
        detail: String::new(),
    };
    let draining = Gate::Shut {
        reason: ShutReason::Draining,
        detail: String::new(),
    };
    for second in [170, 180] {
        scene.heard(second, "002", held.clone());
        scene.heard(second, "002", draining.clone());
    }
    assert_eq!(
        scene.due(190),
        [],
        "neither a process that waits for an id nor one with a last task proves it"
    );
    let paused = Gate::Shut {
        reason: ShutReason::Paused,
        detail: String::new(),
    };
    for second in [190, 200] {
        scene.heard(second, "002", paused.clone());
    }
    assert_eq!(
        scene.due(200),
        repair(1, RepairCause::Lost),
        "a programmer that takes no tasks has none"
    );
}

#[test]
fn who_is_gone_has_nothing() {
    let mut scene = Scene::new();
    scene.published(100);
    scene.empty(100);
    scene.idle([90]);
    assert_eq!(scene.due(159), [], "a recent heartbeat");
    assert_eq!(
        scene.due(160),
        repair(1, RepairCause::Lost),
        "no heartbeat for a minute"
    );
    let mut scene = Scene::new();
    scene.published(100);
    scene.empty(100);
    assert_eq!(
        scene.due(160),
        repair(1, RepairCause::Lost),
        "no heartbeat ever"
    );
}

#[test]
fn a_task_that_somebody_works_on_is_left_alone_until_nobody_does() {
    let mut scene = Scene::new();
    scene.published(100);
    scene.started(110);
    scene.empty(100);
    for second in (120..300).step_by(10) {
        scene.heard(
            second,
            "001",
            Gate::Busy {
                task: task(),
                since: Timestamp(0),
            },
        );
        scene.heard(second, "002", Gate::Consuming);
    }
    scene.results_empty = Some(Timestamp(0));
    assert_eq!(scene.due(300), [], "001 is busy with it");
    scene.idle([310, 320]);
    scene.results_empty = None;
    assert_eq!(scene.due(320), [], "its result may wait for a dispatcher");
    scene.results_empty = Some(Timestamp(305 * SECOND));
    assert_eq!(scene.due(364), [], "not for long enough");
    scene.idle([365]);
    assert_eq!(
        scene.due(365),
        repair(1, RepairCause::Lost),
        "its owner has dropped it"
    );
}

#[test]
fn a_task_of_a_retired_route_is_due_when_every_queue_is_empty() {
    let mut scene = Scene::new();
    let old = BTreeSet::from([Capability::new("old").expect("a capability")]);
    let capabilities = BTreeMap::from([
        (programmer("009"), old),
        (programmer("010"), BTreeSet::new()),
    ]);
    scene.at(
        90,
        Event::from(Configuration {
            hash: "h".to_owned(),
            capabilities,
            rules: Rules::default(),
            again: false,
        }),
    );
    let (body_hash, route) = ("hash".to_owned(), "old".to_owned());
    scene.at(
        100,
        Event::from(TaskSubmitted {
            task: task(),
            body_hash,
            route,
            deadline_ms: None,
        }),
    );
    scene.at(
        100,
        Event::from(TaskPublished {
            task: task(),
            generation: 0,
        }),
    );
    scene.idle([110, 120, 165]);
    scene
        .empty
        .insert("old".to_owned(), Timestamp(100 * SECOND));
    assert_eq!(
        scene.due(170),
        [],
        "it may have been moved to a queue that is not empty"
    );
    scene.empty(100);
    assert_eq!(
        scene.due(170),
        repair(1, RepairCause::Lost),
        "the message is lost"
    );
}
