//! The gateway's [`Permits`] for one attempt: what the event log says about LLMs and money.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::future::{BoxFuture, FutureExt as _};
use pool_broker::process::Process;
use pool_core::eligibility::explain;
use pool_core::event::{BudgetReserved, BudgetSettled, Event, LlmFailed, Spent, TaskUsed};
use pool_core::id::{AttemptId, LlmName, TaskId};
use pool_core::money::MicroUsd;
use pool_core::pool::Pool;
use pool_core::result::Usage;
use pool_core::state::breaker::Caller;
use pool_core::state::{Refusal, Verdict};
use pool_telemetry::clock::wall_clock;
use tokio::sync::Mutex;
use tracing::Instrument as _;

use super::ProgrammerRunner;
use super::claim::Claimed;
use crate::answers::AnsweredCalls;
use llm_gateway::permits::{Epoch, LlmFailure, Permits, Unavailable, UnavailableReason};

/// The permits of one attempt. [`TaskPermits::settle`] ends them.
pub struct TaskPermits {
    process: Process,
    pool: Arc<Pool>,
    answers: Arc<AnsweredCalls>,
    me: Caller,
    task: TaskId,
    attempt: AttemptId,
    /// The amount that is reserved: the most that this attempt may cost.
    cap: MicroUsd,
    /// A reservation was requested, so money may be reserved even if no answer came.
    asked: AtomicBool,
    /// The reservation was admitted.
    admitted: Mutex<bool>,
}

impl TaskPermits {
    pub(super) fn new(runner: &ProgrammerRunner, claimed: &Claimed) -> Self {
        Self {
            process: runner.process.clone(),
            pool: Arc::clone(&runner.pool),
            answers: Arc::clone(&runner.answers),
            me: Caller {
                programmer: runner.config.id.clone(),
                host: runner.process.host.clone(),
            },
            task: claimed.delivered.task.id.clone(),
            attempt: claimed.attempt,
            cap: claimed.max_cost(runner.config.limits.max_cost),
            asked: AtomicBool::default(),
            admitted: Mutex::default(),
        }
    }

    /// Replaces the reservation by the true cost. Must be called before this attempt lets go of the
    /// task, for any reason. An attempt that is not settled counts as having spent its whole
    /// reservation.
    pub async fn settle(&self, usage: &Usage) {
        if !self.asked.load(Ordering::Relaxed) {
            return;
        }
        let cost_usd = usage.cost_usd;
        let by_llm = usage
            .by_llm
            .iter()
            .map(|used| (used.llm.clone(), used.cost_usd))
            .collect();
        let settled = Event::from(BudgetSettled {
            attempt: self.attempt,
            cost_usd,
            by_llm,
        });
        if let Err(error) = self.process.log.append(settled).await {
            tracing::warn!(%cost_usd, %error, "the cost of an attempt is not in the log; its whole reservation counts as spent");
        }
    }

    /// Appends the usage of an attempt that publishes no result, so that it counts against the
    /// task's limits.
    pub async fn tell_used(&self, usage: Usage) {
        if usage.is_nothing() {
            return;
        }
        if let Err(error) = self.process.log.append(self.used(usage, false)).await {
            tracing::warn!(%error, "failed to write the usage of an attempt into the log");
        }
    }

    fn used(&self, usage: Usage, so_far: bool) -> Event {
        Event::from(TaskUsed {
            task: self.task.clone(),
            attempt: self.attempt,
            spent: Spent::of(usage),
            so_far,
        })
    }

    async fn ask_for_money(&self) -> Result<(), Unavailable> {
        let mut admitted = self.admitted.lock().await;
        if *admitted {
            // The reservation is admitted, so running work goes on even while the log cannot be
            // read.
            return Ok(());
        }
        let refused = |detail: String| Unavailable {
            reason: UnavailableReason::Budget,
            detail,
        };
        if !self.process.log.is_fresh() {
            return Err(refused(
                "the event log cannot be read up to its end, so no new money is reserved"
                    .to_owned(),
            ));
        }
        self.asked.store(true, Ordering::Relaxed);
        let reserved = Event::from(BudgetReserved {
            attempt: self.attempt,
            task: Some(self.task.clone()),
            programmer: self.me.programmer.clone(),
            amount_usd: self.cap,
        });
        match self.process.log.append(reserved).await {
            Ok(Verdict::Accepted) => {
                *admitted = true;
                Ok(())
            }
            Ok(Verdict::Refused(Refusal::OverBudget)) => Err(refused(self.over_budget())),
            // An earlier call requested it, and nothing waited for the answer.
            Ok(Verdict::Refused(_))
                if self
                    .process
                    .log
                    .read(|fold| fold.budget.has_reserved(self.attempt)) =>
            {
                *admitted = true;
                Ok(())
            }
            Ok(Verdict::Refused(refusal)) => {
                Err(refused(format!("the reservation was refused: {refusal:?}")))
            }
            Err(error) => Err(refused(error.to_string())),
        }
    }

    fn over_budget(&self) -> String {
        let (limit, spent, reserved) = self.process.log.read(|fold| {
            let budget = &fold.budget;
            (
                budget.limit().unwrap_or_default(),
                budget.spent(),
                budget.reserved(),
            )
        });
        format!(
            "${} does not fit into today's limit of ${limit}: ${spent} spent, ${reserved} reserved",
            self.cap
        )
    }
}

impl Permits for TaskPermits {
    fn check(&self, llm: &LlmName) -> Result<Epoch, Unavailable> {
        let key = self.pool.llm_key(llm, &self.me.host);
        self.process.log.read(|fold| {
            let now = fold.now().max(wall_clock());
            match fold.breakers.check(&key, &self.me, now) {
                Ok(()) => Ok(Epoch(fold.breakers.epoch(&key, &self.me))),
                Err(shut) => Err(Unavailable {
                    reason: UnavailableReason::Breaker,
                    detail: explain(llm, &shut),
                }),
            }
        })
    }

    fn reserve(&self) -> BoxFuture<'_, Result<(), Unavailable>> {
        self.ask_for_money().boxed()
    }

    fn spending(&self, at_most: Usage) -> BoxFuture<'_, ()> {
        async {
            // As with the budget, running work goes on while the log cannot be read.
            if self.process.log.is_fresh()
                && let Err(error) = self.process.log.append(self.used(at_most, true)).await
            {
                tracing::warn!(%error, "making a paid call although the log does not record it");
            }
        }
        .boxed()
    }

    fn failed(&self, llm: &LlmName, failed: &LlmFailure) {
        let Some((fault, retry_after)) = failed.class.fault() else {
            return;
        };
        let key = self.pool.llm_key(llm, &self.me.host);
        let told = self.answers.unreported(&key, &self.me.host);
        let failed = Event::from(LlmFailed {
            key,
            programmer: self.me.programmer.clone(),
            host: self.me.host.clone(),
            task: self.task.clone(),
            fault,
            epoch: failed.epoch.0,
            retry_after_ms: retry_after.and_then(|wait| u64::try_from(wait.as_millis()).ok()),
            call: failed.call(),
        });
        let log = self.process.log.clone();
        // The call goes on to the next LLM meanwhile. If this event is lost, the next failure
        // reports the same.
        tokio::spawn(async move { log.append_behind(told, failed).await }.in_current_span());
    }

    fn in_trouble(&self, llm: &LlmName) {
        let key = self.pool.llm_key(llm, &self.me.host);
        let Some(asking) = self.answers.ask(&key, &self.me.host, wall_clock()) else {
            return;
        };
        let log = self.process.log.clone();
        // If this event is lost, the failure itself asks the other processes.
        tokio::spawn(async move { log.append(asking).await }.in_current_span());
    }

    fn refuses_the_task(&self, llm: &LlmName) -> bool {
        let key = self.pool.llm_key(llm, &self.me.host);
        self.process
            .log
            .read(|fold| fold.breakers.refuses(&key, &self.me.host, &self.task))
    }

    fn succeeded(&self, llm: &LlmName) {
        self.answers
            .note(self.pool.llm_key(llm, &self.me.host), &self.me.programmer);
    }
}
