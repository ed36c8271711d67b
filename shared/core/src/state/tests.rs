use super::tasks::MOST_RELEASES;
use super::*;
use crate::event::{
    BudgetSettled, Configuration, PoolEvent, ProgrammerUp, ReleaseCause, Retry, Spent,
    TaskCancelled, TaskEvent, TaskFinished, TaskPublished, TaskReissued, TaskReleased,
    TaskSnapshot, TaskStarted, TaskSubmitted, TaskUsed,
};
use crate::id::{AttemptId, Capability, LlmName, TaskId, Token};
use crate::money::MicroUsd;
use crate::result::{ErrorKind, LlmUsage, Status, Usage};
use crate::rules::Rules;
use proptest::prelude::*;

pub(super) fn task(name: &str) -> TaskId {
    TaskId::new(name).expect("an id")
}

fn attempt(n: u128) -> AttemptId {
    AttemptId::from_u128(n)
}

fn started(name: &str, n: u128, generation: u32, count: u64) -> Event {
    Event::from(TaskStarted {
        task: task(name),
        attempt: attempt(n),
        programmer: ProgrammerId::new("001").expect("an id"),
        token: Token { generation, count },
        route: "any".to_owned(),
        body_hash: "h".to_owned(),
    })
}

fn finished(name: &str, n: Option<u128>, status: Status) -> Event {
    Event::from(TaskFinished {
        task: task(name),
        attempt: n.map(attempt),
        status,
        llm: None,
        cost_usd: crate::money::MicroUsd::ZERO,
        error: None,
    })
}

fn submitted(name: &str, hash: &str) -> Event {
    Event::from(TaskSubmitted {
        task: task(name),
        body_hash: hash.to_owned(),
        route: "any".to_owned(),
        deadline_ms: None,
    })
}

pub(super) fn batch(first: u64, events: Vec<Event>) -> EventBatch {
    EventBatch {
        v: 1,
        emitter: EmitterId::from_u128(1),
        first,
        at_ms: 1000 + first,
        events,
    }
}

/// The verdicts of one run of events.
fn verdicts(events: Vec<Event>) -> Vec<Verdict> {
    let mut seen = Vec::new();
    PoolState::new().apply(&batch(0, events), |_, _, verdict| seen.push(verdict));
    seen
}

const YES: Verdict = Verdict::Accepted;
const SUPERSEDED: Verdict = Verdict::Refused(Refusal::Superseded);
const FINISHED: Verdict = Verdict::Refused(Refusal::Finished);
const OLD: Verdict = Verdict::Refused(Refusal::OldGeneration);

#[test]
fn the_first_finished_of_the_owner_is_the_outcome() {
    let events = vec![
        submitted("t", "h"),
        started("t", 1, 0, 0),
        finished("t", Some(2), Status::Failed),
        finished("t", Some(1), Status::Succeeded),
        finished("t", Some(1), Status::Failed),
    ];
    assert_eq!(
        verdicts(events),
        [YES, YES, SUPERSEDED, YES, FINISHED],
        "only the owner, only once"
    );
}

#[test]
fn a_redelivery_takes_ownership_and_the_old_owner_is_ignored_from_then_on() {
    let events = vec![
        started("t", 1, 0, 0),
        started("t", 2, 0, 1),
        finished("t", Some(1), Status::Failed),
        finished("t", Some(2), Status::Succeeded),
    ];
    assert_eq!(
        verdicts(events),
        [YES, YES, SUPERSEDED, YES],
        "the higher token owns the task"
    );
}

fn retry(n: u128, generation: u32) -> Event {
    let retry = Retry {
        attempt: attempt(n),
        error: ErrorKind::AgentCrashed,
        at_ms: 9000,
        spent: Spent {
            tokens: 7,
            ..Spent::default()
        },
    };
    Event::from(TaskReissued {
        task: task("t"),
        generation,
        retry: Some(retry),
    })
}

#[test]
fn only_the_owner_has_its_attempt_repeated_and_the_attempt_counts() {
    let events = vec![
        started("t", 1, 0, 0),
        retry(2, 1),
        retry(1, 1),
        finished("t", Some(1), Status::Failed),
    ];
    assert_eq!(
        verdicts(events.clone()),
        [YES, SUPERSEDED, YES, SUPERSEDED],
        "an event of another attempt has no effect, and neither has a second one of the owner"
    );
    let fold = PoolState::of_events(Timestamp(1000), events);
    let state = fold.tasks.get(&task("t")).expect("the task");
    assert_eq!(
        (state.attempts, state.owner()),
        (1, None),
        "it was made, and is over"
    );
    assert_eq!(
        state.spent.tokens, 7,
        "the next attempt cannot use it again"
    );
    assert!(
        matches!(state.phase, Phase::RetryAt(_)),
        "its message is not in its queue yet: {state:?}"
    );
}

fn usage(calls: u64, cost: u64) -> Usage {
    let (llm, cost_usd) = (LlmName::new("p/m").expect("an LLM"), MicroUsd(cost));
    let of = LlmUsage {
        calls,
        cost_usd,
        output_tokens: 10,
        ..LlmUsage::none(llm)
    };
    Usage {
        calls,
        cost_usd,
        output_tokens: 10,
        by_llm: vec![of],
        ..Usage::default()
    }
}

fn used(n: u128, calls: u64, cost: u64) -> Event {
    Event::from(TaskUsed {
        task: task("t"),
        attempt: attempt(n),
        spent: Spent::of(usage(calls, cost)),
        so_far: false,
    })
}

fn so_far(n: u128, calls: u64, cost: u64) -> Event {
    let spent = Spent::of(usage(calls, cost));
    Event::from(TaskUsed {
        task: task("t"),
        attempt: attempt(n),
        spent,
        so_far: true,
    })
}

#[test]
fn what_each_attempt_said_last_is_what_the_task_has_used() {
    let released = |n| {
        Event::from(TaskReleased {
            task: task("t"),
            attempt: attempt(n),
            cause: ReleaseCause::NoLlm,
        })
    };
    let events = vec![
        started("t", 1, 0, 0),
        used(1, 1, 300),
        used(1, 1, 200),
        released(1),
        started("t", 2, 0, 1),
        so_far(2, 2, 50),
        // Its worker has died: the log has only the upper bound. Then the first attempt reports once more.
        started("t", 3, 0, 2),
        used(1, 1, 210),
    ];
    let fold = folded_from(0, &events);
    let spent = &fold.tasks.get(&task("t")).expect("the task").spent;
    assert_eq!(
        (spent.cost_usd, spent.tokens),
        (MicroUsd(260), 20),
        "of the first and the second"
    );
    let sure = fold
        .tasks
        .get(&task("t"))
        .map(|state| state.spent_for_sure())
        .expect("the task");
    assert_eq!(
        sure.cost_usd,
        MicroUsd(210),
        "the second one has only an upper bound"
    );
    assert_eq!(
        spent.usage,
        usage(1, 210).and(&usage(2, 50)),
        "with all its parts"
    );
    assert_eq!(
        spent.usage.by_llm,
        [LlmUsage {
            output_tokens: 20,
            ..usage(3, 260).by_llm[0].clone()
        }],
        "of one LLM"
    );

    let events = vec![
        started("t", 1, 0, 0),
        finished("t", Some(1), Status::Failed),
        used(1, 1, 9),
    ];
    assert_eq!(verdicts(events), [YES, YES, FINISHED], "the result has it");
    assert_eq!(
        verdicts(vec![used(1, 1, 9)]),
        [Verdict::Refused(Refusal::UnknownTask)],
        "the log does not know the task"
    );
}

#[test]
fn the_attempt_of_a_cancelled_task_tells_what_it_has_used_when_it_has_stopped() {
    let cancelled = Event::from(TaskCancelled { task: task("t") });
    let events = vec![
        started("t", 1, 0, 0),
        used(1, 2, 300),
        cancelled,
        used(1, 2, 100),
    ];
    let fold = folded_from(0, &events);
    assert_eq!(fold.tasks.usage(&task("t")), usage(2, 100), "its last word");
    let outcome = fold
        .tasks
        .get(&task("t"))
        .and_then(|state| state.outcome().cloned())
        .expect("an outcome");
    assert_eq!(
        (outcome.status, outcome.cost),
        (Status::Cancelled, MicroUsd(100)),
        "and what the task has cost"
    );
}

#[test]
fn the_sum_of_an_older_version_is_not_lost_and_not_counted_twice() {
    let mut old = what_decides(&folded_from(0, &[submitted("t", "h")])).expect("an open task");
    old.spent = Spent {
        cost_usd: MicroUsd(70),
        tokens: 9,
        ..Spent::default()
    };
    let stated = Event::from(TaskSnapshot {
        task: task("t"),
        state: Box::new(old),
    });
    let spent = |events: &[Event]| {
        folded_from(0, events)
            .tasks
            .get(&task("t"))
            .map(|state| state.spent.cost_usd)
    };
    let events = vec![
        stated.clone(),
        stated.clone(),
        started("t", 1, 0, 0),
        used(1, 1, 5),
        stated,
    ];
    assert_eq!(spent(&events[..2]), Some(MicroUsd(70)), "two snapshots");
    assert_eq!(spent(&events), Some(MicroUsd(75)), "and more came to it");
}

#[test]
fn an_outcome_counts_in_the_days_budget_only_what_its_own_attempt_has_cost() {
    let settled = |n, cost| {
        Event::from(BudgetSettled {
            attempt: attempt(n),
            cost_usd: MicroUsd(cost),
            by_llm: BTreeMap::new(),
        })
    };
    let released = Event::from(TaskReleased {
        task: task("t"),
        attempt: attempt(1),
        cause: ReleaseCause::NoLlm,
    });
    let outcome = Event::from(TaskFinished {
        task: task("t"),
        attempt: Some(attempt(2)),
        status: Status::Succeeded,
        llm: None,
        cost_usd: MicroUsd(330),
        error: None,
    });
    let events = [
        started("t", 1, 0, 0),
        settled(1, 300),
        used(1, 1, 300),
        released,
        // The second attempt has paid nothing, or could not report it.
        started("t", 2, 0, 1),
        outcome,
    ];
    assert_eq!(
        folded_from(0, &events).budget.spent(),
        MicroUsd(330),
        "300 were settled, 30 are new"
    );
}

#[test]
fn the_first_of_cancelled_and_finished_is_the_outcome() {
    let cancelled = || Event::from(TaskCancelled { task: task("t") });
    let events = vec![
        cancelled(),
        started("t", 1, 0, 0),
        cancelled(),
        finished("t", Some(1), Status::Succeeded),
    ];
    assert_eq!(
        verdicts(events),
        [Verdict::Refused(Refusal::UnknownTask), YES, YES, FINISHED],
        "a running task is cancelled, an unknown one is not"
    );
    let events = vec![
        started("t", 1, 0, 0),
        finished("t", Some(1), Status::Succeeded),
        cancelled(),
    ];
    assert_eq!(verdicts(events), [YES, YES, FINISHED], "too late");
}

/// The fold of these events, from the first one that is still there.
fn folded_from(first: usize, events: &[Event]) -> PoolState {
    PoolState::of_events(Timestamp(1000), events[first..].iter().cloned())
}

/// The values that decide about a task from now on: those of a snapshot.
fn what_decides(fold: &PoolState) -> Option<TaskState> {
    let state = serde_json::to_value(fold.tasks.get(&task("t"))?).expect("a snapshot");
    Some(serde_json::from_value(state).expect("a snapshot"))
}

#[test]
fn who_reads_an_open_task_from_its_statement_on_knows_what_the_others_know() {
    let stated = |before: &[Event]| {
        let state = what_decides(&folded_from(0, before)).expect("an open task");
        Event::from(TaskSnapshot {
            task: task("t"),
            state: Box::new(state),
        })
    };
    let published = Event::from(TaskPublished {
        task: task("t"),
        generation: 0,
    });
    let released = |n| {
        Event::from(TaskReleased {
            task: task("t"),
            attempt: attempt(n),
            cause: ReleaseCause::NoLlm,
        })
    };
    let stories = [
        vec![submitted("t", "h"), published.clone()],
        vec![
            submitted("t", "h"),
            published.clone(),
            started("t", 1, 0, 0),
        ],
        vec![
            submitted("t", "h"),
            published.clone(),
            started("t", 1, 0, 0),
            released(1),
            started("t", 2, 0, 1),
        ],
        vec![
            submitted("t", "h"),
            started("t", 1, 0, 0),
            Event::reissued(&task("t"), 1),
        ],
        vec![
            submitted("t", "h"),
            started("t", 1, 0, 0),
            used(1, 1, 7),
            released(1),
            started("t", 2, 0, 1),
            used(2, 1, 9),
        ],
        vec![
            submitted("t", "h"),
            started("t", 1, 0, 0),
            started("t", 2, 0, 1),
            started("t", 3, 0, 2),
            released(1),
        ],
        vec![submitted("t", "h"), started("t", 1, 0, 0), retry(1, 1)],
    ];
    for mut events in stories {
        events.push(stated(&events));
        let whole = what_decides(&folded_from(0, &events));
        for first in 1..events.len() {
            assert_eq!(
                what_decides(&folded_from(first, &events)),
                whole,
                "from event {first} of {events:?}"
            );
        }
    }
}

#[test]
fn a_statement_tells_nothing_to_who_knows_more() {
    let mut events = vec![submitted("t", "h"), started("t", 1, 0, 0)];
    let old = what_decides(&folded_from(0, &events[..1])).expect("an open task");
    let before = what_decides(&folded_from(0, &events));
    events.push(Event::from(TaskSnapshot {
        task: task("t"),
        state: Box::new(old),
    }));
    assert_eq!(
        what_decides(&folded_from(0, &events)),
        before,
        "the snapshot was written before the start and appended after it"
    );
    let running = before.clone().expect("an open task");
    let release = Event::from(TaskReleased {
        task: task("t"),
        attempt: attempt(1),
        cause: ReleaseCause::Stopped,
    });
    let mut late = [&events[..2], &[release]].concat();
    let released = what_decides(&folded_from(0, &late));
    late.push(Event::from(TaskSnapshot {
        task: task("t"),
        state: Box::new(running),
    }));
    assert_eq!(
        what_decides(&folded_from(0, &late)),
        released,
        "a released attempt is not counted again"
    );

    events.push(finished("t", Some(1), Status::Succeeded));
    let state = Box::new(before.expect("an open task"));
    events.push(Event::from(TaskSnapshot {
        task: task("t"),
        state,
    }));
    assert_eq!(
        verdicts(events).last(),
        Some(&FINISHED),
        "nothing opens a finished task again"
    );
}

#[test]
fn a_waiting_task_is_overdue_from_its_deadline_until_it_is_started() {
    let submitted = Event::from(TaskSubmitted {
        task: task("t"),
        body_hash: "h".to_owned(),
        route: "any".to_owned(),
        deadline_ms: Some(5000),
    });
    let mut fold = PoolState::new();
    fold.append(Timestamp(1000), submitted);
    assert_eq!(
        fold.tasks.overdue(Timestamp(4999)).count(),
        0,
        "there is time left"
    );
    assert_eq!(
        fold.tasks.overdue(Timestamp(5000)).count(),
        1,
        "it has passed"
    );
    fold.append(Timestamp(1001), started("t", 1, 0, 0));
    assert_eq!(
        fold.tasks.overdue(Timestamp(5000)).count(),
        0,
        "it was started"
    );
}

#[test]
fn what_is_not_in_its_queue_is_known_until_it_is() {
    let published = |generation| {
        Event::from(TaskPublished {
            task: task("t"),
            generation,
        })
    };
    let unpublished = |events: Vec<Event>| {
        let fold = PoolState::of_events(Timestamp(1000), events);
        fold.tasks.unpublished().count()
    };
    assert_eq!(unpublished(vec![submitted("t", "h")]), 1, "submitted");
    assert_eq!(
        unpublished(vec![submitted("t", "h"), published(0)]),
        0,
        "published"
    );
    let reissued = Event::reissued(&task("t"), 1);
    assert_eq!(
        unpublished(vec![submitted("t", "h"), published(0), reissued.clone()]),
        1,
        "about to be again"
    );
    assert_eq!(
        unpublished(vec![submitted("t", "h"), reissued, started("t", 1, 1, 0)]),
        0,
        "it was delivered"
    );
}

#[test]
fn a_delayed_started_of_an_earlier_delivery_does_not_take_ownership_back() {
    let events = vec![
        started("t", 2, 0, 1),
        started("t", 1, 0, 0),
        started("t", 3, 0, 1),
    ];
    assert_eq!(
        verdicts(events),
        [YES, SUPERSEDED, SUPERSEDED],
        "lower and equal tokens lose"
    );
}

#[test]
fn a_reissued_task_belongs_to_its_new_generation_only() {
    let reissued = |generation| Event::reissued(&task("t"), generation);
    let events = vec![
        started("t", 1, 0, 5),
        reissued(1),
        reissued(1),
        started("t", 2, 0, 6),
        started("t", 3, 1, 0),
    ];
    assert_eq!(
        verdicts(events),
        [YES, YES, OLD, OLD, YES],
        "the first reissue wins, old deliveries are dropped"
    );
}

#[test]
fn an_attempt_that_lost_its_task_and_lives_does_not_count_but_not_without_end() {
    let lives = |n| {
        Event::from(TaskReleased {
            task: task("t"),
            attempt: attempt(n),
            cause: ReleaseCause::Stopped,
        })
    };
    let attempts =
        |events: &[Event]| what_decides(&folded_from(0, events)).map(|state| state.attempts);
    let mut events = vec![started("t", 1, 0, 0), started("t", 2, 0, 1), lives(1)];
    assert_eq!(
        attempts(&events[..2]),
        Some(2),
        "it may have died with its worker"
    );
    assert_eq!(
        attempts(&events),
        Some(1),
        "its worker reports that it has not"
    );
    let again = [
        lives(1),
        finished("t", Some(1), Status::Failed),
        finished("t", Some(2), Status::Succeeded),
    ];
    let seen = verdicts([&events[..], &again].concat());
    assert_eq!(
        seen,
        [YES, YES, YES, SUPERSEDED, SUPERSEDED, YES],
        "once, and it owns nothing by that"
    );

    for n in 2..=30 {
        events.extend([
            started("t", n + 1, 0, u64::try_from(n).expect("a small number")),
            lives(n),
        ]);
    }
    let most = MOST_RELEASES;
    assert_eq!(
        attempts(&events),
        Some(31 - most),
        "{most} of 31 do not count: the task may be what cuts them off"
    );
}

#[test]
fn each_cause_of_a_release_is_counted_for_itself() {
    use ReleaseCause::{NoLlm, NoSandbox, Stopped};
    let released = |n: u128, cause| {
        Event::from(TaskReleased {
            task: task("t"),
            attempt: attempt(n),
            cause,
        })
    };
    let mut events = Vec::new();
    for (n, cause) in (1..).zip([Stopped, NoLlm, NoSandbox, Stopped, NoLlm, Stopped]) {
        events.push(started("t", n, 0, n as u64));
        events.push(released(n, cause));
    }
    let counts =
        |state: TaskState| [Stopped, NoLlm, NoSandbox].map(|cause| state.released_for(cause));
    let state = what_decides(&folded_from(0, &events)).expect("an open task");
    assert_eq!(counts(state.clone()), [3, 2, 1], "of six releases");
    let stated = [Event::from(TaskSnapshot {
        task: task("t"),
        state: Box::new(state),
    })];
    let learned = what_decides(&folded_from(0, &stated)).expect("an open task");
    assert_eq!(counts(learned), [3, 2, 1], "a snapshot repeats them");
}

#[test]
fn a_released_attempt_does_not_count_and_cannot_finish() {
    let released = Event::from(TaskReleased {
        task: task("t"),
        attempt: attempt(1),
        cause: ReleaseCause::Stopped,
    });
    let mut fold = PoolState::new();
    let events = vec![
        started("t", 1, 0, 0),
        released,
        finished("t", Some(1), Status::Failed),
        started("t", 2, 0, 1),
    ];
    let mut seen = Vec::new();
    fold.apply(&batch(0, events), |_, _, verdict| seen.push(verdict));
    assert_eq!(seen, [YES, YES, SUPERSEDED, YES], "released means given up");
    let state = fold.tasks.get(&task("t")).expect("the task is known");
    assert_eq!(
        (state.attempts, state.releases),
        (1, 1),
        "only the second attempt counts"
    );
}

#[test]
fn a_result_whose_started_was_lost_counts_unless_somebody_else_has_the_task() {
    let finish = |n| finished("t", Some(n), Status::Succeeded);
    assert_eq!(
        verdicts(vec![submitted("t", "h"), finish(1)]),
        [YES, YES],
        "the log has lost its tail"
    );
    let released = Event::from(TaskReleased {
        task: task("t"),
        attempt: attempt(1),
        cause: ReleaseCause::Stopped,
    });
    let events = vec![started("t", 1, 0, 0), released, finish(1), finish(2)];
    assert_eq!(
        verdicts(events),
        [YES, YES, SUPERSEDED, YES],
        "the attempt that gave it back did not publish the result"
    );
    let events = vec![started("t", 1, 0, 0), finish(2), finish(1)];
    assert_eq!(verdicts(events), [YES, SUPERSEDED, YES], "its owner does");
}

#[test]
fn the_same_id_is_taken_once_and_another_body_is_a_conflict() {
    let taken = |same_body| Verdict::Refused(Refusal::Taken { same_body });
    let events = vec![
        submitted("t", "h"),
        submitted("t", "h"),
        submitted("t", "other"),
    ];
    assert_eq!(
        verdicts(events),
        [YES, taken(true), taken(false)],
        "first come, first served"
    );
}

#[test]
fn a_configuration_that_is_only_said_again_takes_no_others_place() {
    let configured = |hash: &str, again| {
        Event::from(Configuration {
            hash: hash.to_owned(),
            capabilities: BTreeMap::new(),
            rules: Rules::default(),
            again,
        })
    };
    let events = vec![
        configured("old", true),
        configured("new", false),
        configured("old", true),
        configured("new", true),
    ];
    assert_eq!(
        verdicts(events),
        [YES, YES, SUPERSEDED, YES],
        "the old one was written before the new one and appended after it"
    );
}

#[test]
fn queues_of_earlier_configurations_are_remembered_until_they_are_in_use_again() {
    let configured = |capability: &str| {
        Event::from(Configuration {
            hash: capability.to_owned(),
            capabilities: BTreeMap::from([(
                ProgrammerId::new("001").expect("an id"),
                [Capability::new(capability).expect("a capability")].into(),
            )]),
            rules: Rules::default(),
            again: false,
        })
    };
    let events = [configured("fast"), configured("slow")];
    let fold = PoolState::of_events(Timestamp(1000), events);
    let now = Routes::new(&fold.configuration().expect("one is in force").capabilities);
    // With a single programmer all its sets have the same eligible programmers, so there is one queue.
    assert_eq!(
        fold.retired_queues(&now),
        Vec::<String>::new(),
        "both configurations use tasks.any only"
    );
    let none = Routes::default();
    assert_eq!(
        fold.retired_queues(&none),
        ["tasks.any"],
        "nobody uses it any more"
    );
}

#[test]
fn the_time_of_the_pool_never_goes_back() {
    let mut fold = PoolState::new();
    for at in [5000, 4000] {
        fold.append(Timestamp(at), Event::Pool(PoolEvent::Tick));
    }
    assert_eq!(
        fold.now(),
        Timestamp(5000),
        "the running maximum of the events' times"
    );
}

/// Events of a few tasks, attempts and tokens, so that they collide often.
pub(super) fn any_decision() -> impl Strategy<Value = Event> {
    let name = prop_oneof![Just("a"), Just("b")];
    prop_oneof![
        (name.clone(), 1u128..4, 0u32..3, 0u64..3).prop_map(|(t, n, g, c)| started(t, n, g, c)),
        (name.clone(), proptest::option::of(1u128..4)).prop_map(|(t, n)| finished(
            t,
            n,
            Status::Succeeded
        )),
        (name.clone(), 0u32..3).prop_map(|(t, generation)| Event::reissued(&task(t), generation)),
        (name.clone(), 1u128..4).prop_map(|(t, n)| Event::from(TaskReleased {
            task: task(t),
            attempt: attempt(n),
            cause: ReleaseCause::Stopped
        })),
        (name.clone(), 0u32..3).prop_map(|(t, generation)| Event::from(TaskPublished {
            task: task(t),
            generation
        })),
        name.prop_map(|t| submitted(t, "h")),
    ]
}

proptest! {
    #[test]
    fn a_task_has_at_most_one_outcome_in_every_interleaving(events in proptest::collection::vec(any_decision(), 0..60)) {
        let mut outcomes: HashMap<TaskId, u32> = HashMap::new();
        PoolState::new().apply(&batch(0, events), |_, decision, verdict| {
            if let (Event::Task(TaskEvent::Finished(TaskFinished { task, .. })), Verdict::Accepted) = (decision, verdict) {
                *outcomes.entry(task.clone()).or_default() += 1;
            }
        });
        prop_assert!(outcomes.values().all(|count| *count == 1), "{outcomes:?}");
    }

    #[test]
    fn a_batch_that_is_published_twice_counts_once(
        events in proptest::collection::vec(any_decision(), 1..40), cut in 1usize..40
    ) {
        let cut = cut.min(events.len());
        let (head, tail) = events.split_at(cut);
        let (head, tail) = (batch(0, head.to_vec()), batch(cut as u64, tail.to_vec()));
        let fold = |batches: &[&EventBatch]| {
            let mut fold = PoolState::new();
            batches.iter().for_each(|batch| fold.apply(batch, |_, _, _| ()));
            let mut tasks: Vec<_> = fold.tasks.iter().map(|(id, state)| (id.clone(), state.clone())).collect();
            tasks.sort_by(|a, b| a.0.cmp(&b.0));
            (tasks, fold.tasks.open())
        };
        prop_assert_eq!(fold(&[&head, &tail]), fold(&[&head, &head, &tail, &head, &tail]));
    }
}

#[test]
fn whoever_is_first_heard_of_when_it_says_so_again_has_been_there_before() {
    let programmer = || ProgrammerId::new("001").expect("an id");
    let up = |again| {
        Event::from(ProgrammerUp {
            programmer: programmer(),
            host: "h".to_owned(),
            again,
        })
    };
    let is_gone = |events: Vec<(u64, Event)>| {
        let mut fold = PoolState::new();
        for (at_ms, event) in events {
            fold.append(Timestamp(at_ms), event);
        }
        let owner = fold
            .tasks
            .get(&task("t"))
            .and_then(|state| state.owner().cloned())
            .expect("an owner");
        fold.is_gone(&Owner {
            programmer: programmer(),
            ..owner
        })
    };
    assert!(
        !is_gone(vec![(1, started("t", 1, 0, 0)), (5, up(true))]),
        "the log has forgotten when it came"
    );
    assert!(
        is_gone(vec![(1, started("t", 1, 0, 0)), (5, up(false))]),
        "it has only just come"
    );
}
