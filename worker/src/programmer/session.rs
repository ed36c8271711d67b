//! Decides what a programmer does next: the synchronous core of its life.
//!
//! [`Session::handle`] takes how the last action ended and the state of the gate, and returns the
//! next action. It knows no brokers, agents or clocks, so tests can try every order of events
//! without them.
//!
//! A programmer never has more than one task. An action that could bring a task (`Ask`, `Stay`,
//! `Listen`) is only returned while none is held, and it ends as soon as one has come. A consumer
//! may stay open on one queue while the programmer works on its last task. This is safe: with a
//! prefetch of 1 the broker sends the next task only after the ack.
//!
//! The queues are numbered from the most specific to the least: fewer programmers can do the tasks
//! of a lower number. A free programmer asks the lowest number first, because others can do what it
//! leaves. A queue that was passed over for [`MOST_PASSES`] turns goes first, so that none starves.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::time::Duration;

use pool_core::heartbeat::ShutReason;
use tokio::time::Instant;

/// How long a queue that was found empty is not asked again. Asking costs the broker as much as a
/// delivery. A task that comes meanwhile waits at most this long, while tasks of other queues are
/// done.
const EMPTY_FOR: Duration = Duration::from_millis(50);
/// How long a programmer takes tasks from one queue before the next queue has its turn. A task that
/// takes longer than this uses up the turn alone.
pub const TURN: Duration = Duration::from_secs(1);
/// After so many turns of more specific queues, a less specific queue has one turn.
pub const MOST_PASSES: u32 = 15;

/// How the last action ended. `D` is a delivery, `C` a claimed task, `W` a task with the outcome of
/// its attempt.
#[derive(Debug, PartialEq, Eq)]
pub enum Input<D, C, W> {
    /// The channel is open and this process holds the programmer's id.
    Opened,
    /// The queue that was asked, or on which a consumer stayed open, is empty.
    Empty,
    /// The queue with this index delivered a task; nothing else is being delivered.
    Delivered(D, usize),
    /// Staying, listening or waiting ended because the gate or the process's state changed.
    Disturbed,
    /// The task belongs to this programmer now.
    Owned(C),
    /// The attempt has an outcome to publish.
    Worked(W),
    /// The process has to end before the task does.
    Interrupted(C),
    /// The task belongs to another attempt now, or the log could not be asked.
    Lost,
    /// The programmer is done with the task, in order.
    Settled,
    /// The channel is not usable any more.
    Broken,
}

/// The next action.
#[derive(Debug, PartialEq, Eq)]
pub enum Action<D, C, W> {
    /// Open a channel and hold the programmer's id; wait a little first when `after_failure`.
    Open { after_failure: bool },
    /// Ask the queue with this index for a task; no consumer is open then.
    Ask(usize),
    /// Keep a consumer open on the queue with this index, and see whether it delivers another task
    /// at once.
    Stay(usize),
    /// Consume from these queues until one delivers. Then stop all consumers but that one, and hand
    /// back surplus tasks.
    Listen(Vec<usize>),
    /// Take nothing until the gate changes; no consumer is open then.
    Wait(ShutReason),
    /// Check the task and claim it in the log.
    Claim(D),
    /// Run the agent and the checks. At `turn` the queue's turn is over, and its consumer is
    /// closed.
    Work { task: C, turn: Instant },
    /// Publish the result, acknowledge the task, begin to settle: steps 10 and 11. With `stay` the
    /// consumer that brought the task may bring the next one with the ack. Otherwise it is closed
    /// first.
    Conclude { task: W, stay: bool },
    /// Give the task back. The attempt does not count.
    HandBack(C),
    /// Publish nothing, send neither ack nor nack, and close the channel.
    Abandon,
    /// Everything is done; end.
    Stop,
}

/// The queues from which a programmer may take tasks now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OpenQueues {
    All,
    /// Those with these indices. If the set is empty, nothing is taken.
    Only(BTreeSet<usize>),
}

impl OpenQueues {
    fn has(&self, queue: usize) -> bool {
        match self {
            Self::All => true,
            Self::Only(queues) => queues.contains(&queue),
        }
    }
}

/// The conditions for taking a task. They may change at any time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conditions {
    /// None: the gate is open.
    pub shut: Option<ShutReason>,
    /// The queues to take tasks from while the gate is open.
    pub open_queues: OpenQueues,
    /// The process takes no more tasks and ends when this one is done.
    pub draining: bool,
    /// The queues in which a task waits, as far as the log knows. The log does not know of tasks
    /// that came straight over AMQP, and may name a task whose message is lost.
    pub tasks_wait: BTreeSet<usize>,
}

impl Conditions {
    fn lets_take_from(&self, queue: usize) -> bool {
        !self.draining && self.shut.is_none() && self.open_queues.has(queue)
    }
}

/// The queue whose turn it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum QueueTurn {
    /// No queue: they are asked one after another.
    Open,
    /// This queue gave the last task, and may give more until then.
    Of {
        queue: usize,
        until: Instant,
        /// The queue was passed over too often. More specific queues wait for the whole turn.
        owed: bool,
    },
}

/// A programmer's knowledge of one of its queues.
#[derive(Debug, Clone, Copy, Default)]
struct QueueRecord {
    /// When it was found empty, if it gave nothing last time.
    found_empty: Option<Instant>,
    /// The turns that more specific queues had since its own last turn.
    passes: u32,
}

/// A programmer between two actions.
#[derive(Debug)]
pub struct Session {
    /// The most specific queue first.
    queues: Vec<QueueRecord>,
    /// The queue that was asked last.
    asked: usize,
    /// The queue that broke the channel when it was asked. It is asked last, until a task has come.
    broke: Option<usize>,
    turn: QueueTurn,
}

impl Session {
    /// A programmer with this number of queues, at least one.
    pub fn new(queues: usize) -> Self {
        Self {
            queues: vec![QueueRecord::default(); queues.max(1)],
            asked: 0,
            broke: None,
            turn: QueueTurn::Open,
        }
    }

    #[must_use]
    pub fn handle<D, C, W>(
        &mut self,
        input: Input<D, C, W>,
        conditions: &Conditions,
        now: Instant,
    ) -> Action<D, C, W> {
        match input {
            Input::Delivered(task, queue) => {
                self.delivered(queue, now);
                Action::Claim(task)
            }
            Input::Owned(task) => Action::Work {
                task,
                turn: self.turn_until(conditions, now),
            },
            Input::Worked(task) => Action::Conclude {
                task,
                stay: self.may_stay(conditions, now).is_some(),
            },
            Input::Interrupted(task) => Action::HandBack(task),
            Input::Lost => Action::Abandon,
            Input::Broken if conditions.draining => Action::Stop,
            Input::Broken => {
                for queue in &mut self.queues {
                    queue.found_empty = None;
                }
                self.turn = QueueTurn::Open;
                // A missing queue must not keep this programmer from its other queues.
                self.broke = Some(self.asked);
                Action::Open {
                    after_failure: true,
                }
            }
            Input::Empty => {
                self.queues[self.asked] = QueueRecord {
                    found_empty: Some(now),
                    passes: 0,
                };
                self.turn = QueueTurn::Open;
                self.next(conditions, now)
            }
            Input::Opened | Input::Disturbed | Input::Settled => self.next(conditions, now),
        }
    }

    fn delivered(&mut self, queue: usize, now: Instant) {
        self.broke = None;
        self.queues[queue].found_empty = None;
        if matches!(self.turn, QueueTurn::Of { queue: same, .. } if same == queue) {
            return;
        }
        self.turn = QueueTurn::Of {
            queue,
            until: now + TURN,
            owed: self.is_owed(queue),
        };
        self.queues[queue].passes = 0;
        for passed_over in &mut self.queues[queue + 1..] {
            passed_over.passes += 1;
        }
    }

    fn is_owed(&self, queue: usize) -> bool {
        self.queues[queue].passes >= MOST_PASSES
    }

    fn turn_until(&self, conditions: &Conditions, now: Instant) -> Instant {
        match self.turn {
            QueueTurn::Of { queue, .. } if self.is_alone(queue, conditions) => now + TURN,
            QueueTurn::Of { until, .. } => until,
            QueueTurn::Open => now,
        }
    }

    /// Whether this programmer may take tasks from no other queue.
    fn is_alone(&self, queue: usize, conditions: &Conditions) -> bool {
        (0..self.queues.len()).all(|other| other == queue || !conditions.open_queues.has(other))
    }

    /// The queue whose turn goes on: it gave the last task, it is the only queue or its time is not
    /// over, and no more specific queue has tasks.
    fn may_stay(&self, conditions: &Conditions, now: Instant) -> Option<usize> {
        match self.turn {
            QueueTurn::Of { queue, until, owed } => {
                let goes_on = now < until || self.is_alone(queue, conditions);
                let yields = !owed
                    && (0..queue).any(|other| {
                        conditions.tasks_wait.contains(&other)
                            && self.is_worth_asking(other, conditions, now)
                    });
                (conditions.lets_take_from(queue) && goes_on && !yields).then_some(queue)
            }
            QueueTurn::Open => None,
        }
    }

    fn next<D, C, W>(&mut self, conditions: &Conditions, now: Instant) -> Action<D, C, W> {
        if conditions.draining {
            return Action::Stop;
        }
        if let Some(reason) = conditions.shut {
            self.turn = QueueTurn::Open;
            return Action::Wait(reason);
        }
        if let Some(queue) = self.may_stay(conditions, now) {
            self.asked = queue;
            return Action::Stay(queue);
        }
        self.turn = QueueTurn::Open;
        match self.first_to_ask(conditions, now) {
            Some(queue) => {
                self.asked = queue;
                Action::Ask(queue)
            }
            // Consumers then deliver whatever comes into any of them.
            None => {
                let open = |queue: &usize| conditions.open_queues.has(*queue);
                Action::Listen((0..self.queues.len()).filter(open).collect())
            }
        }
    }

    /// The queue to ask, if one may have tasks: the one that was passed over too often, or else the
    /// most specific one.
    fn first_to_ask(&self, conditions: &Conditions, now: Instant) -> Option<usize> {
        let rank = |queue: &usize| {
            let owed = self.is_owed(*queue).then_some(self.queues[*queue].passes);
            (self.broke == Some(*queue), Reverse(owed), *queue)
        };
        (0..self.queues.len())
            .filter(|queue| self.is_worth_asking(*queue, conditions, now))
            .min_by_key(rank)
    }

    /// Whether the queue is open and not known to be empty.
    fn is_worth_asking(&self, queue: usize, conditions: &Conditions, now: Instant) -> bool {
        let found_empty = self.queues[queue].found_empty;
        conditions.open_queues.has(queue)
            && found_empty.is_none_or(|since| now.duration_since(since) >= EMPTY_FOR)
    }
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
