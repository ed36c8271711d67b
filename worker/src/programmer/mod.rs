//! One programmer: takes a task, works on it, brings the result home, and again.
//!
//! [`session`] decides what comes next; this shell performs it: [`station`] at the broker, [`claim`] for steps 1 to 3
//! of a task's walk, [`attempt`] for step 4, [`conclude`] for steps 5 to 7.

pub mod attempt;
pub mod claim;
pub mod conclude;
pub mod gate;
pub mod session;
pub mod station;

use std::time::Duration;

use lapin::message::Delivery;
use pool_shared::broker::process::Process;
use pool_shared::config;
use pool_shared::event::Decision;
use pool_shared::fold::Verdict;
use pool_shared::heartbeat::{Gate, ShutReason};
use pool_shared::id::AttemptId;
use pool_shared::result::ResultMessage;
use pool_shared::routing::queue_name;
use pool_shared::time::{Timestamp, wall_clock};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use attempt::{Attempts, Outcome};
use claim::{Claimed, Examination};
use conclude::End;
use gate::Shut;
use session::{Action, Conditions, Input, Session};
use station::{Incoming, OpenError, Station};

/// How long to wait before trying again for an id that another process holds, or a broker that is gone.
const REOPEN_AFTER: Duration = Duration::from_secs(2);

/// How a process comes to its end.
#[derive(Debug, Clone, Default)]
pub struct Ending {
    /// No more tasks are taken.
    pub drain: CancellationToken,
    /// The running task is given back.
    pub kill: CancellationToken,
}

/// A task in hand, claimed.
#[derive(Debug)]
struct Held {
    delivery: Delivery,
    claimed: Claimed,
}

/// A task whose attempt has an outcome.
struct Done {
    held: Held,
    outcome: Outcome,
}

/// How an attempt ended for its programmer.
enum Attempted {
    Outcome(Box<Outcome>),
    Superseded,
    Interrupted,
}

impl Attempted {
    fn reason(&self) -> &'static str {
        match self {
            Self::Outcome(_) => "it has an outcome",
            Self::Superseded => "the task belongs to another attempt, or has an outcome",
            Self::Interrupted => "this process has to end; the task is given back",
        }
    }
}

type In = Input<Delivery, Held, Done>;

/// What a programmer needs. One task runs [`Programmer::run`].
pub struct Programmer {
    pub config: config::Programmer,
    pub process: Process,
    pub attempts: Attempts,
    pub max_attempts: u32,
    pub gate: watch::Receiver<Option<Shut>>,
    pub status: watch::Sender<Gate>,
    pub ending: Ending,
}

impl Programmer {
    /// Works until the process drains.
    pub async fn run(self) {
        let queues = self.queues();
        let mut session = Session::new(queues.len());
        let mut station = None;
        let mut action = Action::Open { after_failure: false };
        loop {
            let input = match action {
                Action::Open { after_failure } => {
                    if let Some(unusable) = station.take() {
                        Station::close(&unusable).await;
                    }
                    match self.open(&queues, after_failure).await {
                        Ok(opened) => {
                            station = Some(opened);
                            In::Opened
                        }
                        Err(input) => input,
                    }
                }
                Action::Stop => break,
                other => match &station {
                    Some(station) => self.perform(station, other).await,
                    None => In::Broken,
                },
            };
            action = session.handle(input, self.conditions(), tokio::time::Instant::now());
        }
        if let Some(station) = station {
            station.close().await;
        }
        self.show(Gate::Shut { reason: ShutReason::Draining, detail: "this process is ending".to_owned() });
    }

    async fn perform(&self, station: &Station, action: Action<Delivery, Held, Done>) -> In {
        match action {
            Action::Ask(queue) => self.ask(station, queue).await,
            Action::Listen => self.listen(station).await,
            Action::Wait(_) => self.wait().await,
            Action::Claim(delivery) => self.claim(delivery).await,
            Action::Work(held) => self.work(held).await,
            Action::Conclude(done) => self.conclude(done).await,
            Action::HandBack(held) => self.hand_back(station, held).await,
            Action::Abandon => {
                station.close().await;
                In::Broken
            }
            Action::Open { .. } | Action::Stop => In::Broken,
        }
    }

    fn queues(&self) -> Vec<String> {
        self.process.routes.of(&self.config.id).iter().map(|route| queue_name(&route.name)).collect()
    }

    fn conditions(&self) -> Conditions {
        let shut = self.gate.borrow().as_ref().map(|shut| shut.reason);
        Conditions { shut, draining: self.ending.drain.is_cancelled() }
    }

    fn show(&self, gate: Gate) {
        self.status.send_if_modified(|shown| {
            let changed = *shown != gate;
            *shown = gate;
            changed
        });
    }

    /// Ends when the gate or the process's state is another than now.
    async fn disturbed(&self) {
        let now = self.conditions();
        let mut gate = self.gate.clone();
        let gate_changed = gate.wait_for(|shut| shut.as_ref().map(|shut| shut.reason) != now.shut);
        tokio::select! {
            _ = gate_changed => {}
            () = self.ending.drain.cancelled(), if !now.draining => {}
        }
    }

    async fn open(&self, queues: &[String], after_failure: bool) -> Result<Station, In> {
        if after_failure {
            tokio::select! {
                () = self.ending.drain.cancelled() => return Err(In::Broken),
                () = tokio::time::sleep(REOPEN_AFTER.mul_f64(0.5 + rand::random::<f64>())) => {}
            }
        }
        let opened =
            Station::open(&self.process.consume, &self.config.id, self.config.primary(), queues.to_vec()).await;
        opened.map_err(|error| {
            let reason = match &error {
                OpenError::Held(_) => ShutReason::Held,
                OpenError::Broker(_) => ShutReason::Broker,
            };
            tracing::warn!(programmer = %self.config.id, %error, "the programmer cannot take its place; trying again");
            self.show(Gate::Shut { reason, detail: error.to_string() });
            In::Broken
        })
    }

    async fn ask(&self, station: &Station, queue: usize) -> In {
        match station.ask(queue).await {
            Ok(None) => In::Empty,
            Ok(Some(Incoming { delivery, queue })) => In::Delivered(delivery, queue),
            Err(error) => self.broken(&error),
        }
    }

    async fn listen(&self, station: &Station) -> In {
        self.show(Gate::Consuming);
        match station.listen(self.disturbed()).await {
            Ok(None) => In::Disturbed,
            Ok(Some(Incoming { delivery, queue })) => In::Delivered(delivery, queue),
            Err(error) => self.broken(&error),
        }
    }

    fn broken(&self, error: &pool_shared::broker::BrokerError) -> In {
        tracing::warn!(programmer = %self.config.id, %error, "the channel is not usable; opening another");
        self.show(Gate::Shut { reason: ShutReason::Broker, detail: error.to_string() });
        In::Broken
    }

    async fn wait(&self) -> In {
        if let Some(Shut { reason, detail }) = self.gate.borrow().clone() {
            self.show(Gate::Shut { reason, detail });
        }
        self.disturbed().await;
        In::Disturbed
    }

    /// Steps 1 to 3.
    async fn claim(&self, delivery: Delivery) -> In {
        let envelope = match claim::read(&delivery.data, &delivery.properties) {
            Ok(envelope) => envelope,
            Err(malformed) => {
                let told = (&malformed.reply, malformed.failure);
                return ended(conclude::dead_letter(&self.process, &delivery, malformed.id, told).await);
            }
        };
        let examination = self.process.log.read(|fold| claim::examine(fold, &envelope, &self.config.capabilities));
        if examination != Examination::Claim {
            return self.refuse(&delivery, &envelope, examination).await;
        }
        let attempt = AttemptId::new();
        match self.process.log.append(self.started(&envelope, attempt)).await {
            Ok(Verdict::Accepted) => {}
            Ok(Verdict::Refused(refusal)) => {
                let examination = self.process.log.read(|fold| claim::after_refusal(fold, &envelope, refusal));
                return self.refuse(&delivery, &envelope, examination).await;
            }
            Err(error) => {
                tracing::warn!(task_id = %envelope.task.id, %error, "the task is not claimed; leaving it");
                return In::Lost;
            }
        }
        let number = self.process.log.read(|fold| fold.tasks.get(&envelope.task.id).map_or(1, |state| state.attempts));
        In::Owned(Held { delivery, claimed: Claimed { envelope, attempt, number, since: wall_clock() } })
    }

    fn started(&self, envelope: &claim::Envelope, attempt: AttemptId) -> Decision {
        let route = self.process.routes.route(&envelope.task.message.capabilities);
        Decision::Started {
            task: envelope.task.id.clone(),
            attempt,
            programmer: self.config.id.clone(),
            token: envelope.token,
            route: route.map(|route| route.name.clone()).unwrap_or_default(),
            body_hash: envelope.body_hash.clone(),
        }
    }

    async fn refuse(&self, delivery: &Delivery, envelope: &claim::Envelope, examination: Examination) -> In {
        let process = &self.process;
        let id = &envelope.task.id;
        ended(match examination {
            Examination::Drop(reason) => {
                tracing::info!(task_id = %id, token = %envelope.token, reason, "a delivery is dropped");
                conclude::ack(process, delivery).await
            }
            Examination::Finished => {
                tracing::info!(task_id = %id, token = %envelope.token, "the task has finished already");
                conclude::repeat_result(process, delivery, envelope).await
            }
            Examination::Divert { generation } => conclude::divert(process, delivery, envelope, generation).await,
            Examination::End(status, failure) => {
                conclude::end_without_attempt(process, delivery, envelope, (status, failure)).await
            }
            Examination::Dead(failure) => {
                conclude::dead_letter(process, delivery, Some(id.clone()), (&envelope.reply, failure)).await
            }
            Examination::Claim => End::Lost,
        })
    }

    /// Step 4, unless the task was started too often already.
    async fn work(&self, held: Held) -> In {
        let claimed = &held.claimed;
        let id = &claimed.envelope.task.id;
        self.show(Gate::Busy { task: id.clone(), since: claimed.since });
        tracing::info!(task_id = %id, programmer = %self.config.id, attempt = %claimed.attempt, number = claimed.number, "started");
        if let Some((status, failure)) = claimed.ends_at_once(self.max_attempts) {
            let mut result = ResultMessage::without_attempt(Some(id.clone()), status, failure);
            result.programmer = Some(self.config.id.clone());
            return In::Worked(Done { held, outcome: Outcome { result, branch: None } });
        }
        match self.attempt(claimed).await {
            Attempted::Outcome(outcome) => In::Worked(Done { held, outcome: *outcome }),
            Attempted::Superseded => In::Lost,
            Attempted::Interrupted => In::Interrupted(held),
        }
    }

    /// Works until there is an outcome, the log names another owner, or no time is left.
    async fn attempt(&self, claimed: &Claimed) -> Attempted {
        let id = &claimed.envelope.task.id;
        let stop = CancellationToken::new();
        let log = &self.process.log;
        let superseded = log.wait_for_task(id, |fold| (!fold.tasks.is_owner(id, claimed.attempt)).then_some(()));
        let working = self.attempts.run(claimed, &stop);
        tokio::pin!(working);
        let stopped = tokio::select! {
            outcome = &mut working => {
                return outcome.map_or(Attempted::Interrupted, |outcome| Attempted::Outcome(Box::new(outcome)));
            }
            () = superseded => Attempted::Superseded,
            () = self.ending.kill.cancelled() => Attempted::Interrupted,
        };
        tracing::warn!(task_id = %id, programmer = %self.config.id, reason = stopped.reason(), "stopping the attempt");
        stop.cancel();
        working.await;
        stopped
    }

    /// Steps 5 to 7.
    async fn conclude(&self, done: Done) -> In {
        let Done { held: Held { delivery, claimed }, outcome: Outcome { mut result, branch } } = done;
        let id = &claimed.envelope.task.id;
        let log = &self.process.log;
        result.attempt = Some(claimed.attempt);
        result.timings.queued_ms = self.queued_ms(&claimed);
        if log.read(|fold| fold.tasks.get(id).is_none_or(|state| state.submitted_at.is_none())) {
            result.task = Some(Box::new(claimed.envelope.task.message.clone()));
        }
        let wanted = || log.read(|fold| fold.tasks.is_owner(id, claimed.attempt));
        let delivered = conclude::publish_result(&self.process, &result, &claimed.envelope.reply, wanted).await;
        if !delivered || !conclude::conclude(&self.process, id, claimed.attempt, &result).await {
            if let Some(branch) = branch {
                branch.forget().await;
            }
            return In::Lost;
        }
        tracing::info!(
            task_id = %id, programmer = %self.config.id, attempt = %claimed.attempt, status = result.status.as_str(),
            error = result.error.as_ref().map(|error| error.kind.as_str()), run_ms = result.timings.run_ms, "finished"
        );
        if let Some(branch) = branch
            && let Err(error) = branch.set(id).await
        {
            tracing::warn!(task_id = %id, error = %error.message, "the branch was not set; the result holds the patch");
        }
        ended(conclude::ack(&self.process, &delivery).await)
    }

    fn queued_ms(&self, claimed: &Claimed) -> Option<u64> {
        let known = self.process.log.read(|fold| fold.tasks.get(&claimed.envelope.task.id)?.submitted_at);
        let submitted: Timestamp = known.or(claimed.envelope.submitted_at)?;
        u64::try_from(claimed.since.since(submitted).as_millis()).ok()
    }

    async fn hand_back(&self, station: &Station, held: Held) -> In {
        let Claimed { envelope, attempt, .. } = &held.claimed;
        let released = Decision::Released { task: envelope.task.id.clone(), attempt: *attempt };
        match self.process.log.append(released).await {
            Ok(Verdict::Accepted) => match station.give_back(held.delivery).await {
                Ok(()) => In::Settled,
                Err(error) => self.broken(&error),
            },
            Ok(Verdict::Refused(_)) | Err(_) => In::Lost,
        }
    }
}

fn ended(end: End) -> In {
    match end {
        End::Settled => In::Settled,
        End::Broken => In::Broken,
        End::Lost => In::Lost,
    }
}
