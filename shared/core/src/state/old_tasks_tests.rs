use proptest::prelude::*;

use super::old_tasks::OldTasks;
use super::tests::{any_decision, batch, task};
use super::*;
use crate::event::{TaskCancelled, TaskFinished, TaskStarted, TaskSubmitted};
use crate::id::{TaskId, Token};
use crate::result::{ErrorKind, Status};

const HASH: &str = "00ff00ff00ff00ff00ff00ff00ff00ff";

/// A state that forgets the details of a task as soon as it has finished.
fn forgetful(mut state: PoolState) -> PoolState {
    state.tasks.keep_details_of(0);
    state
}

/// The verdicts, without those on `published`: once the details are forgotten, no generation is too old for it.
fn verdicts_of(mut state: PoolState, events: &[Event]) -> (Vec<Option<Verdict>>, PoolState) {
    let mut verdicts = Vec::new();
    state.apply(&batch(0, events.to_vec()), |_, event, verdict| {
        let is_published = matches!(event, Event::Task(TaskEvent::Published(_)));
        verdicts.push((!is_published).then_some(verdict));
    });
    (verdicts, state)
}

/// Gives the tasks `a` a body hash like those of the pool; the others keep one that a foreign program has made.
fn with_hash(mut event: Event) -> Event {
    if let Event::Task(TaskEvent::Submitted(TaskSubmitted {
        task, body_hash, ..
    }))
    | Event::Task(TaskEvent::Started(TaskStarted {
        task, body_hash, ..
    })) = &mut event
        && task.as_str() == "a"
    {
        HASH.clone_into(body_hash);
    }
    event
}

fn any_event() -> impl Strategy<Value = Event> {
    let cancelled = prop_oneof![Just("a"), Just("b")];
    let cancelled = cancelled.prop_map(|name| Event::from(TaskCancelled { task: task(name) }));
    prop_oneof![9 => any_decision(), 1 => cancelled].prop_map(with_hash)
}

/// The part of a finished task that every process keeps.
fn rest(state: &PoolState, name: &str) -> Option<(Option<String>, Option<AttemptId>, Status)> {
    let state = state.tasks.get(&task(name))?;
    let outcome = state.outcome()?;
    Some((state.body_hash.clone(), outcome.attempt, outcome.status))
}

proptest! {
    #[test]
    fn the_verdicts_do_not_depend_on_forgotten_details(events in proptest::collection::vec(any_event(), 0..80)) {
        let (wanted, full) = verdicts_of(PoolState::new(), &events);
        for state in [PoolState::new(), PoolState::with_list()] {
            let (verdicts, state) = verdicts_of(forgetful(state), &events);
            prop_assert_eq!(&verdicts, &wanted);
            prop_assert_eq!(state.tasks.open(), full.tasks.open());
            for name in ["a", "b"] {
                prop_assert_eq!(rest(&state, name), rest(&full, name));
            }
        }
    }
}

fn id(n: usize) -> TaskId {
    task(&format!("t-{n}"))
}

/// Submitted, started and finished.
fn whole_life(n: usize) -> Vec<Event> {
    let attempt = AttemptId::from_u128(n as u128 + 1);
    vec![
        Event::from(TaskSubmitted {
            task: id(n),
            body_hash: HASH.to_owned(),
            route: "any".to_owned(),
            deadline_ms: None,
        }),
        Event::from(TaskStarted {
            task: id(n),
            attempt,
            programmer: ProgrammerId::new("001").expect("an id"),
            token: Token::default(),
            route: "any".to_owned(),
            body_hash: HASH.to_owned(),
        }),
        Event::from(TaskFinished {
            task: id(n),
            attempt: Some(attempt),
            status: Status::Failed,
            llm: None,
            cost_usd: MicroUsd(n as u64),
            error: Some(ErrorKind::NoChange),
        }),
    ]
}

fn after(count: usize, mut state: PoolState) -> PoolState {
    for n in 0..count {
        for (seq, event) in (3 * n as u64..).zip(whole_life(n)) {
            state.apply(&batch(seq, vec![event]), |_, _, _| ());
        }
    }
    state
}

#[test]
fn the_list_has_each_old_task_with_its_time_its_cost_and_its_error() {
    const COUNT: usize = 5_000;
    let state = after(COUNT, forgetful(PoolState::with_list()));
    assert_eq!(state.tasks.iter().count(), 0, "no details");
    let mut count = 0;
    for (n, old) in state.tasks.finished_long_ago().enumerate() {
        let at = 1_000 + 3 * n as u64 + 2;
        let wanted = Outcome {
            attempt: Some(AttemptId::from_u128(n as u128 + 1)),
            status: Status::Failed,
            cost: MicroUsd(n as u64),
            at: Timestamp(at),
            started_at: Some(Timestamp(at - 1)),
            programmer: None,
            llm: None,
            error: Some(ErrorKind::NoChange),
        };
        assert_eq!(
            (old.id, &old.outcome),
            (id(n).as_str(), &wanted),
            "task {n}"
        );
        let state = state.tasks.get(&id(n)).expect("it is known");
        assert_eq!(
            state.outcome(),
            Some(&wanted),
            "the same when asked by its id"
        );
        count += 1;
    }
    assert_eq!(count, COUNT, "all tasks");
}

#[test]
fn without_the_list_the_outcome_and_the_body_hash_are_left() {
    let state = after(3, forgetful(PoolState::new()));
    assert_eq!(state.tasks.finished_long_ago().count(), 0, "no list");
    let attempt = AttemptId::from_u128(2);
    assert_eq!(
        rest(&state, "t-1"),
        Some((Some(HASH.to_owned()), Some(attempt), Status::Failed)),
        "what decides about a later message of the task"
    );
    assert_eq!(
        state.tasks.winner(&id(1)),
        Some(Some(attempt)),
        "its winner"
    );
    assert_eq!(
        state.tasks.winner(&id(3)),
        None,
        "another task is not known"
    );
}

#[test]
fn an_old_task_costs_48_bytes_at_most() {
    let mut old = OldTasks::default();
    let finished = after(1, PoolState::new());
    let state = finished.tasks.get(&id(0)).expect("a finished task");
    for n in 0..30_000 {
        assert!(old.put(&id(n), &state), "it fits");
        let bytes = old.table.full_bytes();
        assert!(
            n < 1_000 || bytes <= 48 * (n + 1),
            "{bytes} bytes of {n} tasks"
        );
    }
}
