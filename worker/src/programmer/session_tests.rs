use super::*;
use proptest::prelude::*;

type In = Input<char, char, char>;
type Do = Action<char, char, char>;

const OPEN: Conditions = Conditions {
    shut: None,
    open_queues: OpenQueues::All,
    draining: false,
    tasks_wait: BTreeSet::new(),
};
const DRAINING: Conditions = Conditions {
    shut: None,
    open_queues: OpenQueues::All,
    draining: true,
    tasks_wait: BTreeSet::new(),
};
const SHUT: Conditions = Conditions {
    shut: Some(ShutReason::Log),
    open_queues: OpenQueues::All,
    draining: false,
    tasks_wait: BTreeSet::new(),
};

fn only(queues: &[usize]) -> Conditions {
    Conditions {
        open_queues: OpenQueues::Only(queues.iter().copied().collect()),
        ..OPEN
    }
}

/// Takes a task from this queue and finishes it at once; returns the action after that.
fn do_one(session: &mut Session, queue: usize, now: Instant) -> Do {
    assert_eq!(
        session.handle(In::Delivered('t', queue), &OPEN, now),
        Do::Claim('t'),
        "a task"
    );
    assert!(
        matches!(session.handle(In::Owned('t'), &OPEN, now), Do::Work { .. }),
        "it is worked on"
    );
    assert!(
        matches!(
            session.handle(In::Worked('t'), &OPEN, now),
            Do::Conclude { .. }
        ),
        "it is done"
    );
    session.handle(In::Settled, &OPEN, now)
}

#[test]
fn an_idle_programmer_asks_every_queue_once_and_then_listens() {
    let (mut session, now) = (Session::new(3), Instant::now());
    assert_eq!(
        session.handle(In::Opened, &OPEN, now),
        Do::Ask(0),
        "first queue"
    );
    assert_eq!(
        session.handle(In::Empty, &OPEN, now),
        Do::Ask(1),
        "second queue"
    );
    assert_eq!(
        session.handle(In::Empty, &OPEN, now),
        Do::Ask(2),
        "third queue"
    );
    assert_eq!(
        session.handle(In::Empty, &OPEN, now),
        Do::Listen(vec![0, 1, 2]),
        "all are empty"
    );
}

#[test]
fn a_queue_that_gives_is_stayed_at_for_its_turn_and_then_the_most_specific_one_is_asked() {
    let (mut session, now) = (Session::new(3), Instant::now());
    assert_eq!(
        do_one(&mut session, 1, now),
        Do::Stay(1),
        "it may have more"
    );
    let almost = now + TURN - Duration::from_millis(1);
    assert_eq!(
        do_one(&mut session, 1, almost),
        Do::Stay(1),
        "its turn is not over"
    );
    assert_eq!(
        do_one(&mut session, 1, now + TURN),
        Do::Ask(0),
        "the most specific one first"
    );
}

#[test]
fn a_task_that_outlasts_the_turn_of_its_queue_closes_the_consumer_before_its_ack() {
    let (mut session, now) = (Session::new(2), Instant::now());
    assert_eq!(
        session.handle(In::Delivered('t', 1), &OPEN, now),
        Do::Claim('t'),
        "a task"
    );
    let turn = now + TURN;
    assert_eq!(
        session.handle(In::Owned('t'), &OPEN, now),
        Do::Work { task: 't', turn },
        "it is worked on"
    );
    let conclude = session.handle(In::Worked('t'), &OPEN, turn);
    assert_eq!(
        conclude,
        Do::Conclude {
            task: 't',
            stay: false
        },
        "another one would come with the ack"
    );
    assert_eq!(
        session.handle(In::Settled, &OPEN, turn),
        Do::Ask(0),
        "the more specific queue first"
    );
}

#[test]
fn a_queue_that_breaks_the_channel_does_not_keep_a_programmer_from_its_others() {
    let (mut session, now) = (Session::new(3), Instant::now());
    assert_eq!(
        session.handle(In::Opened, &OPEN, now),
        Do::Ask(0),
        "first queue"
    );
    assert_eq!(
        session.handle(In::Broken, &OPEN, now),
        Do::Open {
            after_failure: true
        },
        "it is not there"
    );
    assert_eq!(
        session.handle(In::Opened, &OPEN, now),
        Do::Ask(1),
        "another one"
    );
}

#[test]
fn whose_only_queue_gives_stays_there() {
    let (mut session, now) = (Session::new(1), Instant::now());
    assert_eq!(do_one(&mut session, 0, now), Do::Stay(0), "more");
    assert_eq!(
        do_one(&mut session, 0, now + 2 * TURN),
        Do::Stay(0),
        "there is no other"
    );
    assert_eq!(
        session.handle(In::Delivered('t', 0), &OPEN, now + 2 * TURN),
        Do::Claim('t'),
        "a task"
    );
    assert_eq!(
        session.handle(In::Owned('t'), &OPEN, now + 2 * TURN),
        Do::Work {
            task: 't',
            turn: now + 3 * TURN
        },
        "a short task does not close the consumer"
    );
    assert_eq!(
        session.handle(In::Empty, &OPEN, now),
        Do::Listen(vec![0]),
        "empty"
    );
}

#[test]
fn a_queue_that_gives_nothing_more_loses_its_turn() {
    let (mut session, now) = (Session::new(2), Instant::now());
    assert_eq!(
        do_one(&mut session, 0, now),
        Do::Stay(0),
        "it may have more"
    );
    assert_eq!(
        session.handle(In::Empty, &OPEN, now),
        Do::Ask(1),
        "it has none"
    );
    assert_eq!(
        session.handle(In::Empty, &OPEN, now),
        Do::Listen(vec![0, 1]),
        "the other has none either"
    );
}

#[test]
fn a_queue_that_was_empty_a_moment_ago_is_not_asked_before_one_that_gives_but_soon_again() {
    let (mut session, now) = (Session::new(2), Instant::now());
    assert_eq!(
        session.handle(In::Opened, &OPEN, now),
        Do::Ask(0),
        "the first"
    );
    assert_eq!(
        session.handle(In::Empty, &OPEN, now),
        Do::Ask(1),
        "the second"
    );
    assert_eq!(do_one(&mut session, 1, now), Do::Stay(1), "it gives");
    assert_eq!(
        session.handle(In::Empty, &OPEN, now),
        Do::Listen(vec![0, 1]),
        "the other was empty a moment ago"
    );
    assert_eq!(do_one(&mut session, 1, now), Do::Stay(1), "it gives again");
    assert_eq!(
        session.handle(In::Empty, &OPEN, now + EMPTY_FOR),
        Do::Ask(0),
        "it is asked again when its turn comes"
    );
}

#[test]
fn a_shut_gate_takes_nothing_and_an_open_one_goes_on() {
    let (mut session, now) = (Session::new(1), Instant::now());
    assert_eq!(
        session.handle(In::Opened, &SHUT, now),
        Do::Wait(ShutReason::Log),
        "shut"
    );
    assert_eq!(
        session.handle(In::Disturbed, &OPEN, now),
        Do::Ask(0),
        "open again"
    );
    assert_eq!(
        session.handle(In::Delivered('t', 0), &OPEN, now),
        Do::Claim('t'),
        "a task"
    );
    let conclude = session.handle(In::Worked('t'), &SHUT, now);
    assert_eq!(
        conclude,
        Do::Conclude {
            task: 't',
            stay: false
        },
        "no other comes with its ack"
    );
}

#[test]
fn a_queue_that_is_shut_is_neither_asked_nor_stayed_at_nor_listened_to() {
    let (mut session, now) = (Session::new(3), Instant::now());
    assert_eq!(
        session.handle(In::Opened, &only(&[1, 2]), now),
        Do::Ask(1),
        "the first that is open"
    );
    assert_eq!(
        session.handle(In::Delivered('t', 1), &OPEN, now),
        Do::Claim('t'),
        "a task"
    );
    let conclude = session.handle(In::Worked('t'), &only(&[0, 2]), now);
    assert_eq!(
        conclude,
        Do::Conclude {
            task: 't',
            stay: false
        },
        "it was shut meanwhile"
    );
    assert_eq!(
        session.handle(In::Settled, &only(&[0, 2]), now),
        Do::Ask(0),
        "the first that is open now"
    );
    assert_eq!(
        session.handle(In::Empty, &only(&[0, 2]), now),
        Do::Ask(2),
        "the other"
    );
    assert_eq!(
        session.handle(In::Empty, &only(&[0, 2]), now),
        Do::Listen(vec![0, 2]),
        "both"
    );
    assert_eq!(
        session.handle(In::Disturbed, &only(&[]), now),
        Do::Listen(vec![]),
        "none"
    );
}

#[test]
fn a_drain_ends_after_the_task_and_takes_no_other() {
    let (mut session, now) = (Session::new(2), Instant::now());
    assert_eq!(
        session.handle(In::Delivered('t', 0), &OPEN, now),
        Do::Claim('t'),
        "a task"
    );
    let conclude = session.handle(In::Worked('t'), &DRAINING, now);
    assert_eq!(
        conclude,
        Do::Conclude {
            task: 't',
            stay: false
        },
        "the task is concluded"
    );
    assert_eq!(
        session.handle(In::Settled, &DRAINING, now),
        Do::Stop,
        "then it ends"
    );
}

#[test]
fn who_lost_a_task_neither_acks_nor_delivers() {
    let (mut session, now) = (Session::new(1), Instant::now());
    assert_eq!(
        session.handle(In::Lost, &OPEN, now),
        Do::Abandon,
        "only the channel is closed"
    );
}

/// The log knows of tasks in these queues.
fn waiting(queues: &[usize]) -> Conditions {
    Conditions {
        tasks_wait: queues.iter().copied().collect(),
        ..OPEN
    }
}

#[test]
fn a_more_specific_task_ends_the_turn_of_a_less_specific_queue() {
    let (mut session, now) = (Session::new(3), Instant::now());
    assert_eq!(do_one(&mut session, 1, now), Do::Stay(1), "its turn");
    assert_eq!(
        session.handle(In::Delivered('t', 1), &OPEN, now),
        Do::Claim('t'),
        "another task of the turn"
    );
    assert_eq!(
        session.handle(In::Worked('t'), &waiting(&[1, 2]), now),
        Do::Conclude {
            task: 't',
            stay: true
        },
        "tasks that are no more specific wait for the end of the turn"
    );
    assert_eq!(
        session.handle(In::Settled, &waiting(&[0, 1]), now),
        Do::Ask(0),
        "a more specific task goes before the next one"
    );
    assert_eq!(
        session.handle(In::Empty, &waiting(&[0, 1]), now),
        Do::Ask(1),
        "another programmer has taken it"
    );
    assert_eq!(do_one(&mut session, 1, now), Do::Stay(1), "a new turn");
    assert_eq!(
        session.handle(In::Settled, &waiting(&[0]), now),
        Do::Stay(1),
        "a queue that was empty a moment ago is not asked again because of the log"
    );
    assert_eq!(
        session.handle(In::Settled, &waiting(&[0]), now + EMPTY_FOR),
        Do::Ask(0),
        "but soon"
    );
}

/// The next queue that gives a task, if these queues have tasks without end.
fn next_to_give(session: &mut Session, full: &[usize], mut action: Do, now: Instant) -> usize {
    loop {
        let (Do::Ask(queue) | Do::Stay(queue)) = action else {
            panic!("{action:?} although a queue has tasks");
        };
        if full.contains(&queue) {
            return queue;
        }
        action = session.handle(In::Empty, &waiting(full), now);
    }
}

#[test]
fn a_queue_that_was_passed_over_often_enough_has_a_whole_turn() {
    let (mut session, mut now) = (Session::new(2), Instant::now());
    let mut action = session.handle(In::Opened, &OPEN, now);
    for turn in 0..MOST_PASSES {
        let queue = next_to_give(&mut session, &[0, 1], action, now);
        assert_eq!(queue, 0, "turn {turn} is the more specific queue's");
        do_one(&mut session, queue, now);
        now += TURN;
        action = session.handle(In::Settled, &waiting(&[0, 1]), now);
    }
    assert_eq!(action, Do::Ask(1), "now the other queue goes first");
    do_one(&mut session, 1, now);
    now += TURN / 2;
    assert_eq!(
        session.handle(In::Settled, &waiting(&[0, 1]), now),
        Do::Stay(1),
        "its turn does not end early"
    );
    now += TURN;
    assert_eq!(
        session.handle(In::Settled, &waiting(&[0, 1]), now),
        Do::Ask(0),
        "then the more specific queue goes first again"
    );
}

/// A random answer to an action: how the action ends, and the state of the gate after it.
fn any_step() -> impl Strategy<Value = (u8, bool, bool, BTreeSet<usize>, u64)> {
    let queues = proptest::collection::btree_set(0..3usize, 0..=3);
    (
        0u8..4,
        proptest::bool::weighted(0.1),
        proptest::bool::weighted(0.1),
        queues,
        0u64..400,
    )
}

proptest! {
    /// Plays random answers to each action of the session. Counts the tasks it holds and the queues
    /// from which another one could come.
    #[test]
    fn no_programmer_ever_holds_two_tasks(steps in proptest::collection::vec(any_step(), 1..200)) {
        let (mut session, mut now) = (Session::new(3), Instant::now());
        let mut input = Input::<(), (), ()>::Opened;
        let mut held = 0;
        // The consumer that is kept, and the queue of the task in hand.
        let (mut kept, mut from) = (None::<usize>, None::<usize>);
        for (answer, shut, draining, open, ms) in steps {
            now += Duration::from_millis(ms);
            let conditions = Conditions {
                shut: shut.then_some(ShutReason::Clock),
                open_queues: if answer == 0 { OpenQueues::All } else { OpenQueues::Only(open) },
                draining: draining && answer == 0,
                tasks_wait: if ms % 2 == 0 { BTreeSet::from([0, 1]) } else { BTreeSet::new() },
            };
            let may_take = |queue: usize| conditions.lets_take_from(queue);
            input = match session.handle(input, &conditions, now) {
                Action::Open { .. } => { kept = None; Input::Opened }
                Action::Ask(queue) => {
                    prop_assert!(may_take(queue), "it asks a queue that is shut");
                    kept = None;
                    match answer {
                        0 => Input::Empty,
                        1 => Input::Broken,
                        _ => { held += 1; from = Some(queue); Input::Delivered((), queue) }
                    }
                }
                Action::Stay(queue) => {
                    prop_assert!(may_take(queue), "it stays at a queue that is shut");
                    kept = Some(queue);
                    match answer {
                        0 => Input::Empty,
                        1 => Input::Disturbed,
                        _ => { held += 1; from = Some(queue); Input::Delivered((), queue) }
                    }
                }
                Action::Listen(queues) => {
                    prop_assert!(queues.iter().all(|queue| may_take(*queue)), "it listens to a queue that is shut");
                    kept = kept.filter(|queue| queues.contains(queue));
                    match (answer, queues.last()) {
                        (0, _) | (_, None) => { kept = None; Input::Disturbed }
                        (1, _) => Input::Broken,
                        (_, Some(&queue)) => { held += 1; (kept, from) = (Some(queue), Some(queue)); Input::Delivered((), queue) }
                    }
                }
                Action::Wait(_) => { kept = None; Input::Disturbed }
                Action::Claim(task) => match answer {
                    0 => { held -= 1; Input::Settled }
                    1 => Input::Lost,
                    _ => Input::Owned(task),
                },
                Action::Work { task, .. } => match answer {
                    0 => Input::Interrupted(task),
                    1 => Input::Lost,
                    _ => Input::Worked(task),
                },
                Action::Conclude { task: (), stay } => {
                    if !stay {
                        kept = None;
                    }
                    prop_assert!(kept.is_none_or(&may_take), "the ack brings a task from a queue that is shut");
                    held -= 1;
                    Input::Settled
                }
                Action::HandBack(()) => { kept = None; held -= 1; Input::Settled }
                Action::Abandon => { held -= 1; Input::Broken }
                Action::Stop => { prop_assert_eq!(held, 0, "it ended with a task in hand"); return Ok(()); }
            };
            prop_assert!((0..=1).contains(&held), "{} tasks are held", held);
            // With a prefetch of 1 only the queue of the task in hand may have a consumer, which
            // brings nothing yet.
            prop_assert!(held == 0 || kept.is_none() || kept == from, "a consumer that could bring a second task");
        }
    }

    /// The least specific queue always has tasks; others have some at random. It gets a turn after a
    /// bounded number of turns of other queues. Any other task comes from the most specific queue
    /// that has tasks, unless a queue was passed over too often.
    #[test]
    fn no_queue_starves_and_the_most_specific_goes_first(
        queues in 2..5usize, tasks in proptest::collection::vec((1u64..3000, proptest::collection::btree_set(0..5usize, 0..4)), 50..300)
    ) {
        let (mut session, mut now) = (Session::new(queues), Instant::now());
        let last = queues - 1;
        let (mut turns_without_last, mut turn_began, mut before) = (0, now, None);
        let mut action = session.handle(In::Opened, &OPEN, now);
        for (ms, others) in tasks {
            let mut full: Vec<usize> = others.into_iter().filter(|queue| *queue < last).collect();
            full.push(last);
            now += EMPTY_FOR;
            if matches!(action, Do::Stay(_) | Do::Ask(_)) {
                action = session.handle(In::Settled, &waiting(&full), now);
            }
            let queue = next_to_give(&mut session, &full, action, now);
            if before != Some(queue) || now >= turn_began + TURN {
                turns_without_last = if queue == last { 0 } else { turns_without_last + 1 };
                (turn_began, before) = (now, Some(queue));
            }
            let first = full.iter().copied().min();
            let owed = session.queues.iter().any(|record| record.passes >= MOST_PASSES);
            let owed_turn = matches!(session.turn, QueueTurn::Of { owed: true, .. });
            prop_assert!(Some(queue) == first || owed || owed_turn, "queue {queue} goes before {first:?}");
            let bound = MOST_PASSES as usize + queues;
            prop_assert!(turns_without_last <= bound, "the last queue was passed over {turns_without_last} times");
            let _ = session.handle(In::Delivered('t', queue), &waiting(&full), now);
            let _ = session.handle(In::Owned('t'), &waiting(&full), now);
            now += Duration::from_millis(ms);
            let _ = session.handle(In::Worked('t'), &waiting(&full), now);
            action = session.handle(In::Settled, &waiting(&full), now);
        }
    }
}
