//! The life of a task at this programmer: claimed, worked on, concluded or handed back. Each step
//! returns the session's next [`Input`](super::session::Input).

use std::sync::Arc;
use std::time::Duration;

use lapin::message::Delivery;
use pool_broker::fault::{Point, point};
use pool_core::event::{Event, ReleaseCause, Spent, TaskReleased, TaskStarted};
use pool_core::heartbeat::Gate;
use pool_core::id::AttemptId;
use pool_core::result::{ErrorKind, ResultMessage, Usage};
use pool_core::state::Verdict;
use pool_core::time::Timestamp;
use pool_telemetry::clock::{new_id, wall_clock};
use tokio_util::sync::CancellationToken;

use super::attempt::{AttemptEnd, AttemptOutcome, HandBack};
use super::claim::{self, Claimed, DeadDelivery, Earlier, Examination, TaskEnd};
use super::completer::Concluded;
use super::conclude::{self, Claim, DeliveryEnd};
use super::consumer::TaskConsumer;
use super::permits::TaskPermits;
use super::schedule_retry::BrokenAttempt;
use super::{AttemptedTask, In, ProgrammerRunner, TaskInHand, gate, schedule_retry};
use llm_gateway::permits::Permits;

/// How an attempt ended for its programmer.
enum Attempted {
    Outcome(Box<AttemptOutcome>),
    /// No LLM was left for it, or no sandbox.
    HandBack(ReleaseCause),
    Superseded,
    Interrupted,
}

impl Attempted {
    fn reason(&self) -> &'static str {
        match self {
            Self::Outcome(_) => "it has an outcome",
            Self::HandBack(ReleaseCause::NoLlm) => "no LLM is left for the task; handing it back",
            Self::HandBack(ReleaseCause::NoSandbox) => {
                "there is no sandbox for the task; handing it back"
            }
            Self::Superseded => "the task belongs to another attempt, or it has an outcome",
            Self::HandBack(ReleaseCause::Stopped) | Self::Interrupted => {
                "this programmer has to stop; handing the task back"
            }
        }
    }
}

impl TaskInHand {
    fn claim(&self) -> Claim {
        Claim {
            task: self.claimed.delivered.task.id.clone(),
            attempt: self.claimed.attempt,
            connection: self.connection,
        }
    }
}

impl ProgrammerRunner {
    /// Steps 7 and 8 of the life of a task (ARCHITECTURE.md).
    pub(super) async fn claim(&self, delivery: Delivery) -> In {
        point(Point::Delivered);
        let connection = self.process.consume.number();
        let delivered = match claim::read(&delivery.data, &delivery.properties) {
            Ok(delivered) => delivered,
            Err(dead) => {
                let wanted = || !self.is_killed();
                return ended(conclude::dead_letter(&self.process, &delivery, dead, wanted).await);
            }
        };
        point(Point::Read);
        let examination = self
            .process
            .log
            .read(|fold| claim::examine(fold, &delivered, &self.config.capabilities));
        if examination != Examination::Claim {
            return self.refuse(&delivery, &delivered, examination).await;
        }
        let attempt = new_id::<AttemptId>();
        point(Point::Claiming);
        let unread = self.process.log.read(|fold| self.completer.unread(fold));
        match self
            .process
            .log
            .append_behind(unread, self.started(&delivered, attempt))
            .await
        {
            Ok(Verdict::Accepted) => {}
            Ok(Verdict::Refused(refusal)) => {
                let examination = self
                    .process
                    .log
                    .read(|fold| claim::after_refusal(fold, &delivered, refusal));
                return self.refuse(&delivery, &delivered, examination).await;
            }
            Err(error) => {
                tracing::warn!(task_id = %delivered.task.id, %error, "failed to claim the task; leaving it to its next delivery");
                return In::Lost;
            }
        }
        point(Point::Started);
        let (number, spent) = self.process.log.read(|fold| {
            fold.tasks
                .get(&delivered.task.id)
                .map_or((1, Earlier::default()), |state| {
                    let earlier = Earlier {
                        at_most: state.spent.clone(),
                        for_sure: state.spent_for_sure(),
                    };
                    (state.attempts, earlier)
                })
        });
        let claimed = Claimed {
            delivered,
            attempt,
            number,
            spent,
            since: wall_clock(),
        };
        In::Owned(TaskInHand {
            delivery,
            claimed,
            connection,
            cause: ReleaseCause::Stopped,
        })
    }

    /// The process ends now and waits for nothing more. Unfinished work is left to the next owner.
    fn is_killed(&self) -> bool {
        self.ending.kill.is_cancelled()
    }

    fn started(&self, delivered: &claim::DeliveredTask, attempt: AttemptId) -> Event {
        let route = self
            .process
            .routes
            .route(&delivered.task.message.capabilities);
        Event::from(TaskStarted {
            task: delivered.task.id.clone(),
            attempt,
            programmer: self.config.id.clone(),
            token: delivered.token,
            route: route.map(|route| route.name.clone()).unwrap_or_default(),
            body_hash: delivered.body_hash.clone(),
        })
    }

    async fn refuse(
        &self,
        delivery: &Delivery,
        delivered: &claim::DeliveredTask,
        examination: Examination,
    ) -> In {
        let process = &self.process;
        let id = &delivered.task.id;
        let wanted = || !self.is_killed();
        ended(match examination {
            Examination::Drop(reason) => {
                tracing::info!(task_id = %id, token = %delivered.token, reason, "dropping a delivery");
                conclude::repeat_result(process, delivery, delivered).await
            }
            Examination::Finished => {
                tracing::info!(task_id = %id, token = %delivered.token, "the task has already finished");
                conclude::repeat_result(process, delivery, delivered).await
            }
            Examination::Divert => conclude::divert(process, delivery, id).await,
            Examination::End(end) => {
                conclude::end_without_attempt(process, delivery, delivered, end, wanted).await
            }
            Examination::Dead(failure) => {
                let (id, reply) = (Some(id.clone()), delivered.reply.clone());
                let dead = DeadDelivery { id, reply, failure };
                conclude::dead_letter(process, delivery, dead, wanted).await
            }
            Examination::Claim => DeliveryEnd::Lost,
        })
    }

    /// Step 9, unless the task has been started too often.
    pub(super) async fn work(&self, held: TaskInHand) -> In {
        let claimed = &held.claimed;
        let id = &claimed.delivered.task.id;
        self.show(Gate::Busy {
            task: id.clone(),
            since: claimed.since,
        });
        tracing::info!(number = claimed.number, "started");
        if let Some(TaskEnd { status, failure }) =
            claimed.ends_at_once(self.pool.dispatcher.max_attempts)
        {
            let mut result = ResultMessage::without_attempt(Some(id.clone()), status, failure);
            result.programmer = Some(self.config.id.clone());
            return In::Worked(AttemptedTask {
                held,
                outcome: AttemptOutcome {
                    result,
                    branch: None,
                },
            });
        }
        match self.attempt(claimed).await {
            Attempted::Outcome(outcome) => In::Worked(AttemptedTask {
                held,
                outcome: *outcome,
            }),
            Attempted::HandBack(cause) => In::Interrupted(TaskInHand { cause, ..held }),
            Attempted::Superseded => self.superseded(&held).await,
            Attempted::Interrupted => In::Interrupted(held),
        }
    }

    /// If the task was cancelled, acknowledge it like any finished task. If another attempt owns
    /// it, leave the message to that attempt.
    async fn superseded(&self, held: &TaskInHand) -> In {
        let delivered = &held.claimed.delivered;
        match self
            .process
            .log
            .read(|fold| fold.tasks.winner(&delivered.task.id))
        {
            Some(None) => {
                ended(conclude::repeat_result(&self.process, &held.delivery, delivered).await)
            }
            Some(Some(_)) => In::Lost,
            None => {
                conclude::lost(&self.process, &held.claim()).await;
                In::Lost
            }
        }
    }

    /// Works until there is an outcome, the log names another owner, or no time is left. Then
    /// settles the cost, however it ended.
    async fn attempt(&self, claimed: &Claimed) -> Attempted {
        let id = &claimed.delivered.task.id;
        let stop = CancellationToken::new();
        let log = &self.process.log;
        let superseded = log.wait_for_task(id, |fold| {
            (!fold.tasks.is_owner(id, claimed.attempt)).then_some(())
        });
        tokio::pin!(superseded);
        let permits = Arc::new(TaskPermits::new(self, claimed));
        let gateways: Arc<dyn Permits> = Arc::<TaskPermits>::clone(&permits);
        let working = self.attempts.run(claimed, gateways, &stop);
        tokio::pin!(working);
        let stopped = tokio::select! {
            ended = &mut working => {
                permits.settle(used(&ended)).await;
                if !matches!(ended, AttemptEnd::Outcome(_)) || !log.read(|fold| fold.tasks.is_owner(id, claimed.attempt)) {
                    permits.tell_used(used(&ended).clone()).await;
                }
                match ended {
                    AttemptEnd::Outcome(outcome) => return Attempted::Outcome(outcome),
                    AttemptEnd::Stopped { .. } => return Attempted::Interrupted,
                    AttemptEnd::HandBack(hand_back) => {
                        let cause = hand_back.cause();
                        let before = log.read(|fold| {
                            let state = fold.tasks.get(id);
                            state.map_or(0, |state| state.released_for(cause))
                        });
                        if let Some(outcome) = self.fail_at_last(before, *hand_back) {
                            return Attempted::Outcome(outcome);
                        }
                        tokio::select! {
                            () = &mut superseded => return Attempted::Superseded,
                            () = self.ending.drain.cancelled() => return Attempted::HandBack(cause),
                            () = tokio::time::sleep(pause_before_hand_back(before, cause)) => return Attempted::HandBack(cause),
                        }
                    }
                }
            }
            () = &mut superseded => Attempted::Superseded,
            () = self.ending.kill.cancelled() => Attempted::Interrupted,
            () = self.drained_out() => Attempted::Interrupted,
        };
        tracing::warn!(reason = stopped.reason(), "stopping the attempt");
        stop.cancel();
        let ended = working.await;
        permits.settle(used(&ended)).await;
        permits.tell_used(used(&ended).clone()).await;
        stopped
    }

    /// The outcome of a task for which no LLM or no sandbox was left, once it has been handed back too often.
    /// None: hand it back.
    fn fail_at_last(&self, before: u32, hand_back: HandBack) -> Option<Box<AttemptOutcome>> {
        let HandBack {
            why,
            kind,
            mut outcome,
        } = hand_back;
        tracing::warn!(
            kind = kind.as_str(),
            why,
            before,
            "the attempt was not possible here"
        );
        if before < self.pool.dispatcher.max_hand_backs {
            return None;
        }
        if let Some(error) = &mut outcome.result.error
            && before > 0
        {
            let lacks = if kind == ErrorKind::Sandbox {
                "sandbox"
            } else {
                "LLM"
            };
            error.message = format!(
                "the task was handed back {before} times (`max_hand_backs`) and there is still no {lacks} for it: {}",
                error.message
            );
        }
        Some(Box::new(outcome))
    }

    /// Steps 10 and 11. Once the result is in `results`, a dispatcher makes it count, whatever
    /// happens to this process. So neither the ack nor the next delivery waits for the log.
    pub(super) async fn conclude(
        &self,
        consumer: &mut TaskConsumer,
        done: AttemptedTask,
        stay: bool,
    ) -> In {
        let AttemptedTask {
            held,
            outcome: AttemptOutcome { mut result, branch },
        } = done;
        let TaskInHand {
            delivery, claimed, ..
        } = &held;
        let id = &claimed.delivered.task.id;
        if let Some(error) =
            schedule_retry::cause(&result, claimed.number, self.pool.dispatcher.max_attempts)
        {
            let broken = BrokenAttempt {
                error: error.clone(),
                spent: Spent::of(result.usage),
                first_delay: self.pool.dispatcher.retry_delay,
            };
            self.stay_or_leave(consumer, stay).await;
            return self.schedule_retry(delivery, claimed, broken).await;
        }
        // The result is about the whole task, so its usage includes earlier attempts.
        result.usage = claimed.spent.at_most.usage.clone().and(&result.usage);
        let log = &self.process.log;
        result.attempt = Some(claimed.attempt);
        result.timings.queued_ms = self.queued_ms(claimed);
        if log.read(|fold| {
            fold.tasks
                .get(id)
                .is_none_or(|state| state.submitted_at.is_none())
        }) {
            result.task = Some(Box::new(claimed.delivered.task.message.clone()));
        }
        // A process that has to end leaves an unconfirmed result to the task's next owner.
        let wanted =
            || !self.is_killed() && log.read(|fold| fold.tasks.is_owner(id, claimed.attempt));
        point(Point::ResultReady);
        let published = conclude::publish_result(&self.process, &mut result, &claimed.delivered.reply, wanted).await
            // The confirmation was lost, but a dispatcher has the result.
            || log.read(|fold| fold.tasks.winner(id)) == Some(Some(claimed.attempt));
        if !published {
            conclude::let_go(&self.process, &held.claim(), branch).await;
            return In::Lost;
        }
        point(Point::ResultPublished);
        self.stay_or_leave(consumer, stay).await;
        // If the ack fails, the message comes again and is dropped.
        conclude::ack(&self.process, delivery).await;
        let concluded = Concluded {
            programmer: self.config.id.clone(),
            claim: held.claim(),
            result,
            branch,
        };
        self.completer
            .begin(&self.process, &self.outcome_writer, concluded)
            .await;
        In::Settled
    }

    /// Keeps or closes the consumer before the ack: an open one would bring another task with the
    /// ack.
    async fn stay_or_leave(&self, consumer: &mut TaskConsumer, stay: bool) {
        if !stay && let Err(error) = consumer.stop().await {
            tracing::warn!(programmer = %self.config.id, %error, "the channel broke before the ack");
        }
    }

    async fn schedule_retry(
        &self,
        delivery: &Delivery,
        claimed: &Claimed,
        broken: BrokenAttempt,
    ) -> In {
        let id = &claimed.delivered.task.id;
        let unfinished = || {
            self.process
                .log
                .read(|fold| fold.tasks.winner(id).is_none())
        };
        let wanted = || !self.is_killed() && unfinished();
        ended(
            schedule_retry::schedule_retry(&self.process, delivery, claimed, broken, wanted).await,
        )
    }

    fn queued_ms(&self, claimed: &Claimed) -> Option<u64> {
        let known = self
            .process
            .log
            .read(|fold| fold.tasks.get(&claimed.delivered.task.id)?.submitted_at);
        let submitted: Timestamp = known.or(claimed.delivered.keeps.submitted_at)?;
        u64::try_from(claimed.since.since(submitted).as_millis()).ok()
    }

    pub(super) async fn hand_back(&self, consumer: &mut TaskConsumer, held: TaskInHand) -> In {
        let Claimed {
            delivered, attempt, ..
        } = &held.claimed;
        let released = Event::from(TaskReleased {
            task: delivered.task.id.clone(),
            attempt: *attempt,
            cause: held.cause,
        });
        match self.process.log.append(released).await {
            Ok(Verdict::Accepted) => match consumer.give_back(held.delivery).await {
                Ok(()) => {
                    if held.cause == ReleaseCause::NoLlm {
                        // Lets the gate take in this failure before the programmer asks for another
                        // task.
                        tokio::time::sleep(2 * gate::LOOK_EVERY).await;
                    }
                    In::Settled
                }
                Err(error) => self.broken(&error),
            },
            Ok(Verdict::Refused(_)) | Err(_) => In::Lost,
        }
    }
}

/// How long to keep a task that has been handed back several times before it goes back again. An
/// outage may open no breaker, because a single task proves nothing. The pause keeps such an outage
/// from using up the task's hand-backs: ten of them last five minutes.
///
/// Without a sandbox, the gate has to shut first.
fn pause_before_hand_back(before: u32, cause: ReleaseCause) -> Duration {
    const FIRST: Duration = Duration::from_secs(5);
    const LONGEST: Duration = Duration::from_secs(60);
    match before {
        0 | 1 if cause == ReleaseCause::NoLlm => Duration::ZERO,
        0 | 1 => 2 * gate::LOOK_EVERY,
        _ => (FIRST * 2u32.saturating_pow(before - 2)).min(LONGEST),
    }
}

/// The usage of an attempt.
fn used(ended: &AttemptEnd) -> &Usage {
    match ended {
        AttemptEnd::Outcome(outcome) => &outcome.result.usage,
        AttemptEnd::HandBack(hand_back) => &hand_back.outcome.result.usage,
        AttemptEnd::Stopped { usage } => usage,
    }
}

fn ended(end: DeliveryEnd) -> In {
    match end {
        DeliveryEnd::Settled => In::Settled,
        DeliveryEnd::Broken => In::Broken,
        DeliveryEnd::Lost => In::Lost,
    }
}
