//! One programmer: takes a task, works on it, publishes the result, and starts over.
//!
//! [`session`] decides the next action, and this shell performs it. [`consumer`] talks to the
//! broker; [`executor`] handles a task in hand. ARCHITECTURE.md, "The life of a task", numbers the
//! steps: [`claim`] decides in step 7, [`executor`] does step 8, [`attempt`] step 9, [`conclude`]
//! steps 10 and 11. [`completer`] does steps 12 and 13 beside the next task.

pub mod attempt;
pub mod claim;
pub mod completer;
pub mod conclude;
pub mod consumer;
mod executor;
pub mod gate;
pub mod permits;
mod policy;
mod preflight;
pub mod progress;
mod runs;
mod schedule_retry;
pub mod session;
pub mod telemetry;
mod work;
pub mod workshop;

use std::collections::BTreeSet;
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use lapin::message::Delivery;
use pool_broker::BrokerError;
use pool_broker::process::Process;
use pool_core::event::{Event, ProgrammerUp, ReleaseCause};
use pool_core::heartbeat::{Gate, ShutReason};
use pool_core::pool::{self, Pool};
use pool_telemetry::clock::wall_clock;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use attempt::AttemptOutcome;
use claim::Claimed;
use completer::Completer;
use conclude::OutcomeWriter;
use consumer::{Consumers, Incoming, OpenError, Received, TaskConsumer};
use gate::{GateState, ShutGate};
use session::{Action, Conditions, Input, OpenQueues, Session};
use telemetry::attempt_span;
use workshop::Attempts;

use crate::answers::AnsweredCalls;

/// How long to wait before the next try when another process holds the id or the broker is gone.
const REOPEN_AFTER: Duration = Duration::from_secs(2);

/// Signals that tell programmers to stop.
#[derive(Debug, Clone, Default)]
pub struct EndSignals {
    /// No more tasks are taken.
    pub drain: CancellationToken,
    /// The running task is handed back.
    pub kill: CancellationToken,
}

/// A task in hand, claimed.
#[derive(Debug)]
struct TaskInHand {
    delivery: Delivery,
    claimed: Claimed,
    /// The number of the connection that brought the task.
    connection: u64,
    /// Why the task is handed back, if it is.
    cause: ReleaseCause,
}

/// A task whose attempt has an outcome.
struct AttemptedTask {
    held: TaskInHand,
    outcome: AttemptOutcome,
}

type In = Input<Delivery, TaskInHand, AttemptedTask>;

/// One programmer with all that it needs. [`ProgrammerRunner::run`] is its life.
pub struct ProgrammerRunner {
    pub config: pool::Programmer,
    pub process: Process,
    pub attempts: Attempts,
    pub pool: Arc<Pool>,
    pub gate: watch::Receiver<GateState>,
    /// The priority of its consumers.
    pub priority: u8,
    pub status: watch::Sender<Gate>,
    pub ending: EndSignals,
    /// The end of its last task.
    pub completer: Completer,
    pub outcome_writer: Arc<OutcomeWriter>,
    pub answers: Arc<AnsweredCalls>,
}

impl ProgrammerRunner {
    /// Works until the process drains.
    pub async fn run(self) {
        let queues = self.queues();
        let mut session = Session::new(queues.len());
        let mut consumer = None;
        let mut conditions = self.conditions();
        let mut action = Action::Open {
            after_failure: false,
        };
        loop {
            let input = if let Action::Open { after_failure } = action {
                self.completer.settled().await;
                if let Some(unusable) = consumer.take() {
                    TaskConsumer::close(&unusable).await;
                }
                match self.open(&queues, after_failure).await {
                    Ok(opened) => {
                        consumer = Some(opened);
                        In::Opened
                    }
                    Err(input) => input,
                }
            } else if let Action::Stop = action {
                break;
            } else if let Some(consumer) = &mut consumer {
                self.perform(consumer, action, &conditions).await
            } else {
                In::Broken
            };
            conditions = self.conditions();
            action = session.handle(input, &conditions, Instant::now());
        }
        self.completer.settled().await;
        if let Some(consumer) = consumer {
            consumer.close().await;
        }
        self.show(Gate::Shut {
            reason: ShutReason::Draining,
            detail: "this process is ending".to_owned(),
        });
    }

    /// Performs an action that was chosen under `conditions`.
    async fn perform(
        &self,
        consumer: &mut TaskConsumer,
        action: Action<Delivery, TaskInHand, AttemptedTask>,
        conditions: &Conditions,
    ) -> In {
        match action {
            Action::Ask(queue) => self.ask(consumer, queue).await,
            Action::Stay(queue) => self.stay(consumer, queue, conditions).await,
            Action::Listen(queues) => self.listen(consumer, &queues, conditions).await,
            Action::Wait(_) => self.wait(consumer, conditions).await,
            Action::Claim(delivery) => self.claim(delivery).await,
            Action::Work { task, turn } => {
                let span = self.span_of(&task);
                self.work_beyond(consumer, task, turn)
                    .instrument(span)
                    .await
            }
            Action::Conclude { task, stay } => {
                let span = self.span_of(&task.held);
                self.conclude(consumer, task, stay).instrument(span).await
            }
            Action::HandBack(held) => {
                let span = self.span_of(&held);
                self.hand_back(consumer, held).instrument(span).await
            }
            Action::Abandon => {
                self.completer.settled().await;
                consumer.close().await;
                In::Broken
            }
            Action::Open { .. } | Action::Stop => In::Broken,
        }
    }

    /// The span of everything that this programmer does for an attempt: each log line in it names the
    /// task, the programmer and the attempt.
    fn span_of(&self, held: &TaskInHand) -> tracing::Span {
        let claimed = &held.claimed;
        attempt_span(&claimed.delivered.task.id, &self.config.id, claimed.attempt)
    }

    /// Works on a task. If the turn of its queue ends first, the programmer stops consuming from
    /// that queue.
    async fn work_beyond(
        &self,
        consumer: &mut TaskConsumer,
        task: TaskInHand,
        turn: Instant,
    ) -> In {
        let working = self.work(task);
        tokio::pin!(working);
        tokio::select! {
            biased;
            input = &mut working => return input,
            () = tokio::time::sleep_until(turn) => {}
        }
        let leaving = async {
            if let Err(error) = consumer.stop().await {
                // The task goes on: its result confirms its outcome, not this channel.
                tracing::warn!(%error, "the channel broke while the programmer works on a task; the work goes on");
            }
        };
        tokio::join!(working, leaving).0
    }

    /// Its queues, the most specific first.
    fn queues(&self) -> Vec<String> {
        let routes = self.process.routes.of(&self.config.id);
        routes.iter().map(|route| route.queue()).collect()
    }

    fn conditions(&self) -> Conditions {
        Conditions {
            tasks_wait: self.tasks_wait(),
            ..self.gate_conditions()
        }
    }

    /// The queues in which the log knows a task. Only a less specific queue is left because of one,
    /// so the last queue does not matter.
    fn tasks_wait(&self) -> BTreeSet<usize> {
        let routes = self.process.routes.of(&self.config.id);
        let Some((_, specific)) = routes.split_last().filter(|(_, most)| !most.is_empty()) else {
            return BTreeSet::new();
        };
        self.process.log.read(|fold| {
            let waits = |queue: &usize| fold.tasks.has_queued(&specific[*queue].name);
            (0..specific.len()).filter(waits).collect()
        })
    }

    fn gate_conditions(&self) -> Conditions {
        let gate = self.gate.borrow();
        let (shut, closed) = gate.state();
        let open_queues = match closed.is_empty() {
            true => OpenQueues::All,
            false => OpenQueues::Only(
                (0..self.queues().len())
                    .filter(|queue| !closed.contains(queue))
                    .collect(),
            ),
        };
        Conditions {
            shut,
            open_queues,
            draining: self.ending.drain.is_cancelled(),
            tasks_wait: BTreeSet::new(),
        }
    }

    fn show(&self, gate: Gate) {
        self.status.send_if_modified(|shown| {
            let changed = *shown != gate;
            *shown = gate;
            changed
        });
    }

    /// Ends when the gate or the process's state differs from `than`.
    async fn disturbed(&self, than: &Conditions) {
        let mut gate = self.gate.clone();
        let than = Conditions {
            tasks_wait: BTreeSet::new(),
            ..than.clone()
        };
        let changed = async {
            while self.gate_conditions() == than {
                if gate.changed().await.is_err() {
                    // The gate's sender is gone: the process is ending.
                    std::future::pending::<()>().await;
                }
            }
        };
        tokio::select! {
            () = changed => {}
            () = self.ending.drain.cancelled(), if !than.draining => {}
        }
    }

    /// Ends when an operator drains this programmer and the grace period of its task is over.
    async fn drained_out(&self) {
        let mut gate = self.gate.clone();
        loop {
            let drained = gate.borrow_and_update().drained_since;
            let time_is_up = async {
                match drained {
                    Some(since) => {
                        let gone = wall_clock().since(since);
                        tokio::time::sleep(self.pool.dispatcher.drain_timeout.saturating_sub(gone))
                            .await;
                    }
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = time_is_up => return,
                // The gate's sender is gone: the process is ending, and that has a deadline of its
                // own.
                changed = gate.changed() => if changed.is_err() { std::future::pending::<()>().await },
            }
        }
    }

    async fn open(&self, queues: &[String], after_failure: bool) -> Result<TaskConsumer, In> {
        if after_failure {
            tokio::select! {
                () = self.ending.drain.cancelled() => return Err(In::Broken),
                () = tokio::time::sleep(REOPEN_AFTER.mul_f64(0.5 + rand::random::<f64>())) => {}
            }
        }
        let consumers = Consumers {
            queues: queues.to_vec(),
            label: format!(
                "{} {}",
                self.config.id.display_name(),
                self.config.primary()
            ),
            priority: self.priority,
        };
        let opened = TaskConsumer::open(&self.process.consume, &self.config.id, consumers).await;
        if opened.is_ok() {
            self.announce();
        }
        opened.map_err(|error| {
            let (reason, is_outage) = match &error {
                OpenError::Held(_) => (ShutReason::Held, false),
                OpenError::Broker(error) => (ShutReason::Broker, error.is_outage()),
            };
            let text = "the programmer cannot open its channel; trying again";
            self.no_channel(&error, reason, is_outage, text)
        })
    }

    /// Appends that this process holds the programmer. If this event is lost, nothing breaks.
    fn announce(&self) {
        let (log, host) = (self.process.log.clone(), self.process.host.clone());
        let up = Event::from(ProgrammerUp {
            programmer: self.config.id.clone(),
            host,
            again: false,
        });
        tokio::spawn(async move { log.append(up).await });
    }

    async fn ask(&self, consumer: &mut TaskConsumer, queue: usize) -> In {
        match consumer.poll(queue).await {
            Ok(None) => In::Empty,
            Ok(Some(Incoming { delivery, queue })) => In::Delivered(delivery, queue),
            Err(error) => self.broken(&error),
        }
    }

    async fn stay(&self, consumer: &mut TaskConsumer, queue: usize, conditions: &Conditions) -> In {
        match consumer.keep(queue, self.disturbed(conditions)).await {
            Ok(Received::Task(incoming)) => In::Delivered(incoming.delivery, incoming.queue),
            Ok(Received::Nothing) => In::Empty,
            Ok(Received::Disturbed) => In::Disturbed,
            Err(error) => self.broken(&error),
        }
    }

    async fn listen(
        &self,
        consumer: &mut TaskConsumer,
        queues: &[usize],
        conditions: &Conditions,
    ) -> In {
        self.show(Gate::Consuming);
        match consumer.consume(queues, self.disturbed(conditions)).await {
            Ok(None) => In::Disturbed,
            Ok(Some(Incoming { delivery, queue })) => In::Delivered(delivery, queue),
            Err(error) => self.broken(&error),
        }
    }

    fn broken(&self, error: &BrokerError) -> In {
        let text = "the channel broke; opening another one";
        self.no_channel(error, ShutReason::Broker, error.is_outage(), text)
    }

    /// Reports that the programmer has no channel. The connection logs an outage, once for all
    /// programmers.
    fn no_channel(&self, error: &dyn Error, reason: ShutReason, is_outage: bool, text: &str) -> In {
        let programmer = &self.config.id;
        if is_outage {
            tracing::debug!(%programmer, %error, "{text}");
        } else {
            tracing::warn!(%programmer, %error, "{text}");
        }
        self.show(Gate::Shut {
            reason,
            detail: error.to_string(),
        });
        In::Broken
    }

    async fn wait(&self, consumer: &mut TaskConsumer, conditions: &Conditions) -> In {
        if let Err(error) = consumer.stop().await {
            return self.broken(&error);
        }
        let shut = self.gate.borrow().shut.clone();
        if let Some(ShutGate { reason, detail }) = shut {
            self.show(Gate::Shut { reason, detail });
        }
        self.disturbed(conditions).await;
        In::Disturbed
    }
}
