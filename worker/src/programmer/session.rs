//! What a programmer does next: the synchronous core of its life.
//!
//! [`Session::handle`] is told how the last action ended and what the gate says, and names the next action. It knows
//! nothing of brokers, agents or clocks, so that every order of events can be tried without them.
//!
//! Never more than one task: an action that could bring a task (`Ask`, `Listen`) is only named while none is held,
//! and it ends as soon as one has come.

use std::time::Duration;

use pool_shared::heartbeat::ShutReason;
use tokio::time::Instant;

/// A queue that was found empty is not asked again for so long: asking costs the broker as much as a delivery, and a
/// task that comes meanwhile waits that long at most, while tasks of other queues are done.
const EMPTY_FOR: Duration = Duration::from_millis(50);

/// How the last action ended. `D` is a delivery, `C` a claimed task, `W` a task with the outcome of its attempt.
#[derive(Debug, PartialEq, Eq)]
pub enum Input<D, C, W> {
    /// The channel is open and this process holds the programmer's id.
    Opened,
    /// The queue that was asked is empty.
    Empty,
    /// A task was delivered from the queue with this index; nothing else is being delivered.
    Delivered(D, usize),
    /// Listening or waiting ended, because the gate or the process's state changed.
    Disturbed,
    /// The task is this programmer's now.
    Owned(C),
    /// The attempt has an outcome to deliver.
    Worked(W),
    /// The process has to end before the task does.
    Interrupted(C),
    /// The task belongs to somebody else now, or what the log says is not known.
    Lost,
    /// The task is off this programmer's hands, in order.
    Settled,
    /// The channel is not usable any more.
    Broken,
}

/// What to do next.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub enum Action<D, C, W> {
    /// Open a channel and hold the programmer's id; wait a little first when `after_failure`.
    Open { after_failure: bool },
    /// Look whether the queue with this index has a task.
    Ask(usize),
    /// Consume from all queues until one delivers; then stop all and hand back what came too much.
    Listen,
    /// Take nothing until the gate changes.
    Wait(ShutReason),
    /// Check the task and claim it in the log.
    Claim(D),
    /// Run the agent and the checks.
    Work(C),
    /// Publish the result, conclude in the log, set the branch, ack: steps 5 to 7.
    Conclude(W),
    /// Give the task back without an attempt burned.
    HandBack(C),
    /// Publish nothing, neither ack nor nack: close the channel.
    Abandon,
    /// Everything is done; end.
    Stop,
}

/// What decides whether a task may be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conditions {
    /// None: the gate is open.
    pub shut: Option<ShutReason>,
    /// The process takes no more tasks and ends when this one is done.
    pub draining: bool,
}

/// A programmer between two actions.
#[derive(Debug)]
pub struct Session {
    /// When each queue was found empty, if it gave nothing last time.
    found_empty: Vec<Option<Instant>>,
    /// The queue that is asked first next time.
    first: usize,
    /// The queue that was asked last.
    asked: usize,
}

impl Session {
    /// A programmer with so many queues; at least one.
    pub fn new(queues: usize) -> Self {
        Self { found_empty: vec![None; queues.max(1)], first: 0, asked: 0 }
    }

    pub fn handle<D, C, W>(&mut self, input: Input<D, C, W>, conditions: Conditions, now: Instant) -> Action<D, C, W> {
        match input {
            Input::Delivered(task, queue) => {
                // Rotated, so that no queue starves behind one that is always full.
                self.first = (queue + 1) % self.found_empty.len();
                self.found_empty[queue] = None;
                Action::Claim(task)
            }
            Input::Owned(task) => Action::Work(task),
            Input::Worked(task) => Action::Conclude(task),
            Input::Interrupted(task) => Action::HandBack(task),
            Input::Lost => Action::Abandon,
            Input::Broken if conditions.draining => Action::Stop,
            Input::Broken => {
                self.found_empty.fill(None);
                Action::Open { after_failure: true }
            }
            Input::Empty => {
                self.found_empty[self.asked] = Some(now);
                self.next(conditions, now)
            }
            Input::Opened | Input::Disturbed | Input::Settled => self.next(conditions, now),
        }
    }

    fn next<D, C, W>(&mut self, conditions: Conditions, now: Instant) -> Action<D, C, W> {
        match conditions {
            Conditions { draining: true, .. } => Action::Stop,
            Conditions { shut: Some(reason), .. } => Action::Wait(reason),
            Conditions { shut: None, .. } => match self.worth_asking(now) {
                Some(queue) => {
                    self.asked = queue;
                    Action::Ask(queue)
                }
                // Whatever comes into any of them is delivered then.
                None => Action::Listen,
            },
        }
    }

    /// The next queue in turn that is not known to be empty.
    fn worth_asking(&self, now: Instant) -> Option<usize> {
        let queues = self.found_empty.len();
        (self.first..self.first + queues)
            .map(|queue| queue % queues)
            .find(|queue| self.found_empty[*queue].is_none_or(|since| now.duration_since(since) >= EMPTY_FOR))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type In = Input<char, char, char>;
    type Do = Action<char, char, char>;

    const OPEN: Conditions = Conditions { shut: None, draining: false };
    const DRAINING: Conditions = Conditions { shut: None, draining: true };

    #[test]
    fn an_idle_programmer_asks_every_queue_once_and_then_listens() {
        let (mut session, now) = (Session::new(3), Instant::now());
        assert_eq!(session.handle(In::Opened, OPEN, now), Do::Ask(0), "first queue");
        assert_eq!(session.handle(In::Empty, OPEN, now), Do::Ask(1), "second queue");
        assert_eq!(session.handle(In::Empty, OPEN, now), Do::Ask(2), "third queue");
        assert_eq!(session.handle(In::Empty, OPEN, now), Do::Listen, "all are empty");
    }

    #[test]
    fn the_queue_after_the_one_that_gave_is_asked_first() {
        let (mut session, now) = (Session::new(3), Instant::now());
        assert_eq!(session.handle(In::Delivered('t', 1), OPEN, now), Do::Claim('t'), "a task");
        assert_eq!(session.handle(In::Settled, OPEN, now), Do::Ask(2), "the next in turn");
    }

    #[test]
    fn a_queue_that_was_empty_a_moment_ago_is_not_asked_before_one_that_gives_but_soon_again() {
        let (mut session, now) = (Session::new(2), Instant::now());
        assert_eq!(session.handle(In::Opened, OPEN, now), Do::Ask(0), "the first");
        assert_eq!(session.handle(In::Empty, OPEN, now), Do::Ask(1), "the second");
        assert_eq!(session.handle(In::Delivered('t', 1), OPEN, now), Do::Claim('t'), "it has a task");
        assert_eq!(session.handle(In::Settled, OPEN, now), Do::Ask(1), "the other was empty a moment ago");
        assert_eq!(session.handle(In::Delivered('u', 1), OPEN, now), Do::Claim('u'), "one more");
        assert_eq!(session.handle(In::Settled, OPEN, now + EMPTY_FOR), Do::Ask(0), "it is asked in its turn again");
    }

    #[test]
    fn a_shut_gate_takes_nothing_and_an_open_one_goes_on() {
        let (mut session, now) = (Session::new(1), Instant::now());
        let shut = Conditions { shut: Some(ShutReason::Log), draining: false };
        assert_eq!(session.handle(In::Opened, shut, now), Do::Wait(ShutReason::Log), "shut");
        assert_eq!(session.handle(In::Disturbed, OPEN, now), Do::Ask(0), "open again");
    }

    #[test]
    fn a_drain_ends_after_the_task_and_takes_no_other() {
        let (mut session, now) = (Session::new(2), Instant::now());
        assert_eq!(session.handle(In::Worked('t'), DRAINING, now), Do::Conclude('t'), "the task is concluded");
        assert_eq!(session.handle(In::Settled, DRAINING, now), Do::Stop, "then it ends");
    }

    #[test]
    fn who_lost_a_task_neither_acks_nor_delivers() {
        let (mut session, now) = (Session::new(1), Instant::now());
        assert_eq!(session.handle(In::Lost, OPEN, now), Do::Abandon, "only the channel is closed");
    }

    proptest! {
        /// Plays random answers to whatever the session asks for, and counts the tasks it holds.
        #[test]
        fn no_programmer_ever_holds_two_tasks(answers in proptest::collection::vec((0u8..4, any::<bool>(), any::<bool>()), 1..200)) {
            let (mut session, now) = (Session::new(3), Instant::now());
            let mut input = Input::<(), (), ()>::Opened;
            let mut held = 0;
            for (answer, shut, draining) in answers {
                let conditions = Conditions { shut: shut.then_some(ShutReason::Clock), draining: draining && answer == 0 };
                input = match session.handle(input, conditions, now) {
                    Action::Open { .. } => Input::Opened,
                    Action::Ask(queue) => match answer {
                        0 => Input::Empty,
                        1 => Input::Broken,
                        _ => { held += 1; Input::Delivered((), queue) }
                    },
                    Action::Listen => match answer {
                        0 => Input::Disturbed,
                        1 => Input::Broken,
                        _ => { held += 1; Input::Delivered((), 2) }
                    },
                    Action::Wait(_) => Input::Disturbed,
                    Action::Claim(task) => match answer {
                        0 => { held -= 1; Input::Settled }
                        1 => Input::Lost,
                        _ => Input::Owned(task),
                    },
                    Action::Work(task) => match answer {
                        0 => Input::Interrupted(task),
                        1 => Input::Lost,
                        _ => Input::Worked(task),
                    },
                    Action::Conclude(()) | Action::HandBack(()) => { held -= 1; Input::Settled }
                    Action::Abandon => { held -= 1; Input::Broken }
                    Action::Stop => { prop_assert_eq!(held, 0, "it ended with a task in hand"); return Ok(()); }
                };
                prop_assert!((0..=1).contains(&held), "{} tasks are held", held);
            }
        }
    }
}
