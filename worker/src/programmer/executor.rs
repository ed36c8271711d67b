//! The life of a task at this programmer: claimed, worked on, concluded or handed back. Each step
//! returns the session's next [`Input`](super::session::Input).

use std::sync::Arc;
use std::time::Duration;

use lapin::message::Delivery;
use pool_broker::fault::{Point, point};
use pool_core::event::{Event, Spent, TaskReleased, TaskStarted};
use pool_core::heartbeat::Gate;
use pool_core::id::AttemptId;
use pool_core::result::{ErrorKind, ResultMessage, Usage};
use pool_core::state::Verdict;
use pool_core::time::Timestamp;
use pool_telemetry::clock::wall_clock;
use tokio_util::sync::CancellationToken;

use super::attempt::{Ended, HandBack, Outcome};
use super::claim::{self, Claimed, Earlier, Examination};
use super::completer::Concluded;
use super::conclude::{self, End};
use super::consumer::Station;
use super::permits::TaskPermits;
use super::{Done, Held, In, Programmer, gate, schedule_retry};
use llm_gateway::permits::Permits;

/// How an attempt ended for its programmer.
enum Attempted {
    Outcome(Box<Outcome>),
    /// No LLM was left for it.
    HandBack,
    Superseded,
    Interrupted,
}

impl Attempted {
    fn reason(&self) -> &'static str {
        match self {
            Self::Outcome(_) => "it has an outcome",
            Self::HandBack => "no LLM is left for the task; handing it back",
            Self::Superseded => "the task belongs to another attempt, or it has an outcome",
            Self::Interrupted => "this programmer has to stop; handing the task back",
        }
    }
}

impl Programmer {
    /// Steps 7 and 8.
    pub(super) async fn claim(&self, delivery: Delivery) -> In {
        point(Point::Delivered);
        let connection = self.process.consume.number();
        let envelope = match claim::read(&delivery.data, &delivery.properties) {
            Ok(envelope) => envelope,
            Err(malformed) => {
                let told = (&malformed.reply, malformed.failure);
                return ended(
                    conclude::dead_letter(&self.process, &delivery, malformed.id, told, || {
                        !self.is_killed()
                    })
                    .await,
                );
            }
        };
        point(Point::Read);
        let examination = self
            .process
            .log
            .read(|fold| claim::examine(fold, &envelope, &self.config.capabilities));
        if examination != Examination::Claim {
            return self.refuse(&delivery, &envelope, examination).await;
        }
        let attempt = AttemptId::new();
        point(Point::Claiming);
        let unread = self.process.log.read(|fold| self.completer.unread(fold));
        match self
            .process
            .log
            .append_behind(unread, self.started(&envelope, attempt))
            .await
        {
            Ok(Verdict::Accepted) => {}
            Ok(Verdict::Refused(refusal)) => {
                let examination = self
                    .process
                    .log
                    .read(|fold| claim::after_refusal(fold, &envelope, refusal));
                return self.refuse(&delivery, &envelope, examination).await;
            }
            Err(error) => {
                tracing::warn!(task_id = %envelope.task.id, %error, "failed to claim the task; leaving it to its next delivery");
                return In::Lost;
            }
        }
        point(Point::Started);
        let (number, spent) = self.process.log.read(|fold| {
            fold.tasks
                .get(&envelope.task.id)
                .map_or((1, Earlier::default()), |state| {
                    let earlier = Earlier {
                        at_most: state.spent.clone(),
                        for_sure: state.spent_for_sure(),
                    };
                    (state.attempts, earlier)
                })
        });
        let claimed = Claimed {
            envelope,
            attempt,
            number,
            spent,
            since: wall_clock(),
        };
        In::Owned(Held {
            delivery,
            claimed,
            connection,
            no_llm: false,
        })
    }

    /// The process ends now and waits for nothing more. Unfinished work is left to the next owner.
    fn is_killed(&self) -> bool {
        self.ending.kill.is_cancelled()
    }

    fn started(&self, envelope: &claim::Envelope, attempt: AttemptId) -> Event {
        let route = self
            .process
            .routes
            .route(&envelope.task.message.capabilities);
        Event::from(TaskStarted {
            task: envelope.task.id.clone(),
            attempt,
            programmer: self.config.id.clone(),
            token: envelope.token,
            route: route.map(|route| route.name.clone()).unwrap_or_default(),
            body_hash: envelope.body_hash.clone(),
        })
    }

    async fn refuse(
        &self,
        delivery: &Delivery,
        envelope: &claim::Envelope,
        examination: Examination,
    ) -> In {
        let process = &self.process;
        let id = &envelope.task.id;
        ended(match examination {
            Examination::Drop(reason) => {
                tracing::info!(task_id = %id, token = %envelope.token, reason, "dropping a delivery");
                conclude::repeat_result(process, delivery, envelope).await
            }
            Examination::Finished => {
                tracing::info!(task_id = %id, token = %envelope.token, "the task has already finished");
                conclude::repeat_result(process, delivery, envelope).await
            }
            Examination::Divert { generation } => {
                conclude::divert(process, delivery, envelope, generation).await
            }
            Examination::End(status, failure) => {
                conclude::end_without_attempt(
                    process,
                    delivery,
                    envelope,
                    (status, failure),
                    || !self.is_killed(),
                )
                .await
            }
            Examination::Dead(failure) => {
                let told = (&envelope.reply, failure);
                conclude::dead_letter(process, delivery, Some(id.clone()), told, || {
                    !self.is_killed()
                })
                .await
            }
            Examination::Claim => End::Lost,
        })
    }

    /// Step 9, unless the task has been started too often.
    pub(super) async fn work(&self, held: Held) -> In {
        let claimed = &held.claimed;
        let id = &claimed.envelope.task.id;
        self.show(Gate::Busy {
            task: id.clone(),
            since: claimed.since,
        });
        tracing::info!(number = claimed.number, "started");
        if let Some((status, failure)) = claimed.ends_at_once(self.pool.dispatcher.max_attempts) {
            let mut result = ResultMessage::without_attempt(Some(id.clone()), status, failure);
            result.programmer = Some(self.config.id.clone());
            return In::Worked(Done {
                held,
                outcome: Outcome {
                    result,
                    branch: None,
                },
            });
        }
        match self.attempt(claimed).await {
            Attempted::Outcome(outcome) => In::Worked(Done {
                held,
                outcome: *outcome,
            }),
            Attempted::HandBack => In::Interrupted(Held {
                no_llm: true,
                ..held
            }),
            Attempted::Superseded => self.superseded(&held).await,
            Attempted::Interrupted => In::Interrupted(held),
        }
    }

    /// If the task was cancelled, acknowledge it like any finished task. If another attempt owns
    /// it, leave the message to that attempt.
    async fn superseded(&self, held: &Held) -> In {
        let envelope = &held.claimed.envelope;
        match self
            .process
            .log
            .read(|fold| fold.tasks.winner(&envelope.task.id))
        {
            Some(None) => {
                ended(conclude::repeat_result(&self.process, &held.delivery, envelope).await)
            }
            Some(Some(_)) => In::Lost,
            None => {
                let held = (held.claimed.attempt, held.connection);
                conclude::lost(&self.process, &envelope.task.id, held).await;
                In::Lost
            }
        }
    }

    /// Works until there is an outcome, the log names another owner, or no time is left. Then
    /// settles the cost, however it ended.
    async fn attempt(&self, claimed: &Claimed) -> Attempted {
        let id = &claimed.envelope.task.id;
        let stop = CancellationToken::new();
        let log = &self.process.log;
        let superseded = log.wait_for_task(id, |fold| {
            (!fold.tasks.is_owner(id, claimed.attempt)).then_some(())
        });
        tokio::pin!(superseded);
        let permits = Arc::new(self.permits(claimed));
        let gateways: Arc<dyn Permits> = Arc::<TaskPermits>::clone(&permits);
        let working = self.attempts.run(claimed, gateways, &stop);
        tokio::pin!(working);
        let stopped = tokio::select! {
            ended = &mut working => {
                permits.settle(used(&ended)).await;
                if !matches!(ended, Ended::Outcome(_)) || !log.read(|fold| fold.tasks.is_owner(id, claimed.attempt)) {
                    permits.tell_used(used(&ended).clone()).await;
                }
                match ended {
                    Ended::Outcome(outcome) => return Attempted::Outcome(outcome),
                    Ended::Stopped { .. } => return Attempted::Interrupted,
                    Ended::HandBack(hand_back) => {
                        let before = log.read(|fold| fold.tasks.get(id).map_or(0, |state| state.hand_backs));
                        if let Some(outcome) = self.fail_at_last(before, *hand_back) {
                            return Attempted::Outcome(outcome);
                        }
                        tokio::select! {
                            () = &mut superseded => return Attempted::Superseded,
                            () = self.ending.drain.cancelled() => return Attempted::HandBack,
                            () = tokio::time::sleep(pause_before_hand_back(before)) => return Attempted::HandBack,
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

    fn permits(&self, claimed: &Claimed) -> TaskPermits {
        let task = &claimed.envelope.task;
        let cap = claimed.max_cost(self.config.limits.max_cost);
        let (process, pool) = (self.process.clone(), Arc::clone(&self.pool));
        let answers = Arc::clone(&self.answers);
        TaskPermits::new(
            (process, pool, answers),
            self.config.id.clone(),
            (task.id.clone(), claimed.attempt),
            cap,
        )
    }

    /// The outcome of a task for which no LLM was left, once it has been handed back too often.
    /// None: hand it back.
    fn fail_at_last(&self, before: u32, hand_back: HandBack) -> Option<Box<Outcome>> {
        let HandBack {
            why,
            kind,
            mut outcome,
        } = hand_back;
        tracing::warn!(
            kind = kind.as_str(),
            why,
            before,
            "no LLM is left for the task"
        );
        if before < self.pool.dispatcher.max_hand_backs {
            return None;
        }
        if let Some(error) = &mut outcome.result.error
            && before > 0
        {
            error.message = format!(
                "the task was handed back {before} times (`max_hand_backs`) and there is still no LLM for it: {}",
                error.message
            );
        }
        Some(Box::new(outcome))
    }

    /// Steps 10 and 11. Once the result is in `results`, a dispatcher makes it count, whatever
    /// happens to this process. So neither the ack nor the next delivery waits for the log.
    pub(super) async fn conclude(&self, station: &mut Station, done: Done, stay: bool) -> In {
        let Done {
            held,
            outcome: Outcome { mut result, branch },
        } = done;
        let Held {
            delivery,
            claimed,
            connection,
            ..
        } = &held;
        let id = &claimed.envelope.task.id;
        if let Some(error) =
            schedule_retry::cause(&result, claimed.number, self.pool.dispatcher.max_attempts)
        {
            return self
                .make_again(
                    station,
                    (delivery, stay),
                    claimed,
                    (error, Spent::of(result.usage)),
                )
                .await;
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
            result.task = Some(Box::new(claimed.envelope.task.message.clone()));
        }
        // A process that has to end leaves an unconfirmed result to the task's next owner.
        let wanted =
            || !self.is_killed() && log.read(|fold| fold.tasks.is_owner(id, claimed.attempt));
        point(Point::ResultReady);
        let published = conclude::publish_result(&self.process, &mut result, &claimed.envelope.reply, wanted).await
            // The confirmation was lost, but a dispatcher has the result.
            || log.read(|fold| fold.tasks.winner(id)) == Some(Some(claimed.attempt));
        if !published {
            conclude::let_go(&self.process, id, (claimed.attempt, *connection), branch).await;
            return In::Lost;
        }
        point(Point::ResultPublished);
        self.stay_or_leave(station, stay).await;
        // If the ack fails, the message comes again and is dropped.
        conclude::ack(&self.process, delivery).await;
        let programmer = self.config.id.clone();
        let (task, attempt, connection) = (id.clone(), claimed.attempt, *connection);
        let concluded = Concluded {
            programmer,
            task,
            attempt,
            result,
            branch,
            connection,
        };
        self.completer
            .begin(&self.process, &self.scribes, concluded)
            .await;
        In::Settled
    }

    /// Keeps or closes the consumer before the ack: an open one would bring another task with the
    /// ack.
    async fn stay_or_leave(&self, station: &mut Station, stay: bool) {
        if !stay && let Err(error) = station.take_no_more().await {
            tracing::warn!(programmer = %self.config.id, %error, "the channel broke before the ack");
        }
    }

    async fn make_again(
        &self,
        station: &mut Station,
        (delivery, stay): (&Delivery, bool),
        claimed: &Claimed,
        (error, spent): (ErrorKind, Spent),
    ) -> In {
        let id = &claimed.envelope.task.id;
        self.stay_or_leave(station, stay).await;
        let unfinished = || {
            self.process
                .log
                .read(|fold| fold.tasks.winner(id).is_none())
        };
        let wanted = || !self.is_killed() && unfinished();
        let retry = (error, spent, self.pool.dispatcher.retry_delay);
        ended(schedule_retry::make_again(&self.process, delivery, claimed, retry, wanted).await)
    }

    fn queued_ms(&self, claimed: &Claimed) -> Option<u64> {
        let known = self
            .process
            .log
            .read(|fold| fold.tasks.get(&claimed.envelope.task.id)?.submitted_at);
        let submitted: Timestamp = known.or(claimed.envelope.keeps.submitted_at)?;
        u64::try_from(claimed.since.since(submitted).as_millis()).ok()
    }

    pub(super) async fn hand_back(&self, station: &mut Station, held: Held) -> In {
        let Claimed {
            envelope, attempt, ..
        } = &held.claimed;
        let released = Event::from(TaskReleased {
            task: envelope.task.id.clone(),
            attempt: *attempt,
            no_llm: held.no_llm,
        });
        match self.process.log.append(released).await {
            Ok(Verdict::Accepted) => match station.give_back(held.delivery).await {
                Ok(()) => {
                    if held.no_llm {
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
fn pause_before_hand_back(before: u32) -> Duration {
    const FIRST: Duration = Duration::from_secs(5);
    const LONGEST: Duration = Duration::from_secs(60);
    match before {
        0 | 1 => Duration::ZERO,
        _ => (FIRST * 2u32.saturating_pow(before - 2)).min(LONGEST),
    }
}

/// The usage of an attempt.
fn used(ended: &Ended) -> &Usage {
    match ended {
        Ended::Outcome(outcome) => &outcome.result.usage,
        Ended::HandBack(hand_back) => &hand_back.outcome.result.usage,
        Ended::Stopped { usage } => usage,
    }
}

fn ended(end: End) -> In {
    match end {
        End::Settled => In::Settled,
        End::Broken => In::Broken,
        End::Lost => In::Lost,
    }
}
