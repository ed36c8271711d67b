//! One run's access to LLMs: its token, the rest of its limits, and the record of its calls.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pool_core::id::LlmName;
use pool_core::money::MicroUsd;
use pool_core::pool::Failover;
use pool_core::result::Usage;
use sha2::{Digest, Sha256};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::answer::ProviderAnswer;
use super::bound::Bound;
use super::charge::Charge;
use super::class::{CallClass, Cut};
use super::classify::{CallFailure, CallOutcome, ended_with};
use super::permits::Permits;
use super::pricing::{Admission, AdmissionError, CallAllowance, Demand, Tariff, admit};
use super::record::{CallRecord, NoLlmLeft, RunRecord, usage};
use super::telemetry::CallEnded;

/// The LLMs and limits of one run of an agent.
#[derive(Clone)]
pub struct CallPlan {
    /// The LLMs in order. The first is the one that the agent asks for; a call may move on to the
    /// others.
    pub llms: Vec<LlmName>,
    /// Whether, when and how often to move on, and the time-out of one call. Waiting for a free
    /// place does not count towards it.
    pub failover: Failover,
    /// The limit of the whole run, input and output.
    pub max_tokens: u64,
    /// The limit of the whole run.
    pub max_cost: MicroUsd,
    /// The usage of earlier runs of the attempt.
    pub used: Usage,
    /// Tokens that one call's prompt and answer may have together.
    pub context_limit: u64,
    /// Shared by all runs of an attempt.
    pub permits: Arc<dyn Permits>,
}

pub(super) type TokenDigest = [u8; 32];

/// Tokens are compared by their digests, so the time of the comparison reveals nothing about a
/// token.
pub(super) fn digest(token: &[u8]) -> TokenDigest {
    Sha256::digest(token).into()
}

/// State that the HTTP side and the owner of a session share.
pub(super) struct SessionState {
    pub(super) token: TokenDigest,
    pub(super) plan: CallPlan,
    /// Set when the session ends; open calls are abandoned then.
    pub(super) ended: CancellationToken,
    /// The span of the session's owner; its calls are logged in it.
    pub(super) span: tracing::Span,
    ledger: Mutex<Ledger>,
    open_calls: watch::Sender<usize>,
}

struct Ledger {
    calls: Vec<CallRecord>,
    /// Open calls, as the worst case would record them.
    open: BTreeMap<u64, CallRecord>,
    /// The number of the next open call.
    next: u64,
    /// Set if the newest call of the agent found no LLM.
    no_llm_left: Option<NoLlmLeft>,
    last_activity: Instant,
    /// Calls of the agent, open ones included.
    begun: u64,
}

impl Ledger {
    /// The most input that this LLM has counted for a call.
    fn most_input(&self, llm: &LlmName) -> u64 {
        let counted = |call: &&CallRecord| call.llm == *llm && !call.estimated;
        let inputs = self
            .calls
            .iter()
            .filter(counted)
            .map(|call| call.input_tokens);
        inputs.max().unwrap_or(0)
    }

    /// The usage of ended calls, and the worst case of open ones.
    fn used(&self) -> Usage {
        usage(self.calls.iter().chain(self.open.values()))
    }
}

impl SessionState {
    pub(super) fn new(token: TokenDigest, plan: CallPlan) -> Self {
        let ledger = Ledger {
            calls: Vec::new(),
            open: BTreeMap::new(),
            next: 0,
            no_llm_left: None,
            last_activity: Instant::now(),
            begun: 0,
        };
        Self {
            token,
            plan,
            ended: CancellationToken::new(),
            span: tracing::Span::current(),
            ledger: Mutex::new(ledger),
            open_calls: watch::Sender::new(0),
        }
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn record(&self) -> RunRecord {
        // The count is read under the lock, so every call is either in the record or in the count.
        let ledger = self.ledger();
        RunRecord {
            calls: ledger.calls.clone(),
            open_calls: *self.open_calls.borrow(),
            no_llm_left: ledger.no_llm_left.clone(),
        }
    }

    /// The most that the attempt has used, open calls included.
    pub(super) fn at_most(&self) -> Usage {
        self.plan.used.clone().and(&self.ledger().used())
    }

    pub(super) fn open_calls(&self) -> usize {
        *self.open_calls.borrow()
    }

    pub(super) fn last_activity(&self) -> Instant {
        self.ledger().last_activity
    }

    pub(super) fn calls_begun(&self) -> u64 {
        self.ledger().begun
    }

    pub(super) async fn all_calls_ended(&self) {
        // The sender lives as long as `self`.
        let _ = self
            .open_calls
            .subscribe()
            .wait_for(|open| *open == 0)
            .await;
    }

    /// Opens a call of the agent.
    pub(super) fn begin(self: &Arc<Self>) -> AgentCall {
        let mut ledger = self.ledger();
        ledger.last_activity = Instant::now();
        ledger.no_llm_left = None;
        ledger.begun += 1;
        self.open_calls.send_modify(|open| *open += 1);
        AgentCall {
            session: Arc::clone(self),
        }
    }
}

/// An open call of the agent: asking, waiting for a place, or waiting for a retry. All of its calls
/// to LLMs must end before it does.
pub(super) struct AgentCall {
    session: Arc<SessionState>,
}

impl AgentCall {
    /// Opens a call to this LLM.
    pub(super) fn ask(&self, llm: &LlmName) -> OpenCall {
        let session = Arc::clone(&self.session);
        let (began, stage, bound) = (Instant::now(), CallStage::Waiting, Bound::Llm);
        OpenCall {
            session,
            llm: llm.clone(),
            began,
            reserved: None,
            bound,
            stage,
        }
    }

    /// Records how the call ended: with an answer, or with 400 for `no_llm_left` and other
    /// failures.
    pub(super) fn end(self, no_llm_left: Option<NoLlmLeft>) {
        self.session.ledger().no_llm_left = no_llm_left;
    }
}

impl Drop for AgentCall {
    fn drop(&mut self) {
        let mut ledger = self.session.ledger();
        ledger.last_activity = Instant::now();
        self.session.open_calls.send_modify(|open| *open -= 1);
    }
}

/// The progress of a call to an LLM. It decides the record if the agent goes away now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CallStage {
    /// Nothing was sent yet, so the call does not count.
    Waiting,
    Sent,
    Ended,
}

/// The amount that is set aside for an open call, and the call's number.
#[derive(Debug, Clone)]
struct Reserved {
    number: u64,
    tariff: Tariff,
    admission: Admission,
}

/// An open call to an LLM. If it is dropped before its end (the agent went away, the session was
/// closed) and anything was sent, it is recorded and charged with its worst case.
pub(super) struct OpenCall {
    session: Arc<SessionState>,
    llm: LlmName,
    began: Instant,
    reserved: Option<Reserved>,
    bound: Bound,
    stage: CallStage,
}

impl OpenCall {
    /// Sets the worst case of the call aside, if it fits into the rest of the task's limits.
    pub(super) fn reserve(
        &mut self,
        demand: Demand,
        tariff: &Tariff,
    ) -> Result<Admission, AdmissionError> {
        let plan = &self.session.plan;
        let mut ledger = self.session.ledger();
        let used = ledger.used();
        let allowance = CallAllowance {
            tokens: plan.max_tokens.saturating_sub(used.tokens()),
            cost: plan.max_cost.saturating_sub(used.cost_usd),
            context: plan.context_limit,
        };
        let admission = admit(demand, tariff, allowance)?;
        let number = ledger.next;
        ledger.next += 1;
        let call = self.call(&given_up(), Charge::at_worst(admission));
        ledger.open.insert(number, call);
        drop(ledger);
        self.reserved = Some(Reserved {
            number,
            tariff: tariff.clone(),
            admission,
        });
        self.bound = Bound::of(demand, tariff, allowance, admission.worst);
        Ok(admission)
    }

    pub(super) fn sent(&mut self) {
        self.stage = CallStage::Sent;
    }

    /// Records the outcome. An answer for the agent may be cut off at the agent's own limit.
    ///
    /// # Errors
    /// The class of the failure.
    pub(super) fn end(mut self, outcome: CallOutcome) -> Result<ProviderAnswer, CallClass> {
        let class = self.settle(&outcome);
        match outcome {
            CallOutcome::Answer(answer) => Ok(answer),
            CallOutcome::Cut(Cut::OutputLimit, answer) if self.bound == Bound::Agent => Ok(answer),
            CallOutcome::Cut(..) | CallOutcome::Failure(_) => Err(class),
        }
    }

    fn settle(&mut self, outcome: &CallOutcome) -> CallClass {
        self.stage = CallStage::Ended;
        let reserved = self.reserved.take();
        let counted = self.session.ledger().most_input(&self.llm);
        let charge = reserved.as_ref().map_or_else(Charge::default, |held| {
            Charge::of(&self.llm, outcome, &held.tariff, held.admission, counted)
        });
        let call = self.call(outcome, charge);
        CallEnded { call: &call }.emit();
        let mut ledger = self.session.ledger();
        if let Some(Reserved { number, .. }) = reserved {
            ledger.open.remove(&number);
        }
        ledger.last_activity = Instant::now();
        let class = call.class.clone();
        ledger.calls.push(call);
        class
    }

    fn call(&self, outcome: &CallOutcome, charge: Charge) -> CallRecord {
        let Charge {
            tokens,
            cost,
            estimated,
            prompt_cut,
        } = charge;
        let (class, status, message, content) = match outcome {
            CallOutcome::Answer(answer) => (
                CallClass::Ok,
                Some(200),
                String::new(),
                Some(&answer.content),
            ),
            CallOutcome::Cut(cut, answer) => (
                CallClass::Cut(self.bound.of_cut(*cut)),
                Some(200),
                ended_with(answer.content.finish_reason.as_deref()),
                Some(&answer.content),
            ),
            CallOutcome::Failure(failure) => (
                failure.class.clone(),
                failure.status,
                failure.message.clone(),
                None,
            ),
        };
        CallRecord {
            llm: self.llm.clone(),
            class,
            status,
            message,
            finish_reason: content.and_then(|content| content.finish_reason.clone()),
            empty: content.is_some_and(|content| content.empty),
            input_tokens: tokens.input,
            cached_input_tokens: tokens.cached_input,
            output_tokens: tokens.output,
            estimated,
            cost,
            // Another LLM answers in place of a failure.
            prompt_cut: prompt_cut && matches!(outcome, CallOutcome::Answer(_)),
            duration: self.began.elapsed(),
        }
    }
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        match self.stage {
            CallStage::Ended => {}
            // Nothing was sent, so only the reservation ends.
            CallStage::Waiting => {
                if let Some(Reserved { number, .. }) = self.reserved.take() {
                    self.session.ledger().open.remove(&number);
                }
            }
            CallStage::Sent => {
                self.settle(&given_up());
            }
        }
    }
}

fn given_up() -> CallOutcome {
    CallOutcome::Failure(CallFailure::maybe_billed(
        CallClass::Timeout,
        "the agent went away or was stopped before the answer came",
    ))
}
