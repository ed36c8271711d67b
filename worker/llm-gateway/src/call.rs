//! One call of an agent, from its request to the reply. The gateway asks one LLM after another
//! until one answers.
//!
//! Other modules decide the next step: [`Permits`](super::permits::Permits) say which LLM may be
//! asked, and [`failover`] says what a failure means. Nothing here outlives the agent's connection:
//! when it closes, the call ends at once.

use std::mem::discriminant;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use axum::response::Response;
use bytes::Bytes;
use pool_core::id::LlmName;
use pool_core::llm::Dialect;
use pool_telemetry::clock::wall_clock;
use tokio::time::Instant;

use super::answer::ProviderAnswer;
use super::class::{CallClass, Cap};
use super::classify::{CallFailure, CallOutcome, Exchange, classify};
use super::failover::{self, FailoverStep};
use super::lesson::{self, Lesson, RefusedLimit};
use super::llm_limits::LlmLimits;
use super::permits::{Epoch, LlmFailure, Unavailable};
use super::pricing::{AdmissionError, Demand, Tariff};
use super::protocol::{self, RequestHead};
use super::record::{NoLlmLeft, NotAnswered};
use super::reply;
use super::request::AgentRequest;
use super::session::{AgentCall, OpenCall, SessionState};
use super::telemetry::{Exhausted, LimitLearned, MovedOn, Skipped};
use super::upstream::{Upstream, Upstreams};

/// Answers the agent's request. `body` is the body, or the limit that it exceeds.
pub(super) async fn answer(
    session: &Arc<SessionState>,
    upstreams: &Upstreams,
    head: RequestHead,
    body: Result<&[u8], usize>,
) -> Response {
    let dialect = head.dialect;
    let Some(first) = session.plan.llms.first() else {
        return reply::error(StatusCode::BAD_REQUEST, "no_llm", "the task has no LLM");
    };
    // Declared before the calls to LLMs, so that it is dropped after them.
    let call = session.begin();
    if !session
        .plan
        .llms
        .iter()
        .any(|llm| upstreams.speaks(llm, dialect))
    {
        return give_up(call, first, nobody_speaks(dialect, first));
    }
    let request = match read(head, body) {
        Ok(request) => request,
        Err(failure) => return give_up(call, first, failure),
    };
    let in_progress = CallInProgress {
        session,
        upstreams,
        request: &request,
        call: &call,
    };
    let answered = tokio::select! {
        biased;
        () = session.ended.cancelled() => {
            return reply::error(StatusCode::UNAUTHORIZED, "session_ended", "the task has ended");
        }
        answered = in_progress.run() => answered,
    };
    match answered {
        Ok(answer) => {
            call.end(None);
            // The agent knows one name only: that of the LLM that its run began with.
            reply::answer(answer, first, &request)
        }
        Err(not_answered) => {
            let response = reply::failed(&not_answered);
            let left = NoLlmLeft::of(not_answered);
            if let Some(left) = &left {
                Exhausted { left }.emit();
            }
            call.end(left);
            response
        }
    }
}

/// The failure if none of the agent's LLMs is served in its protocol.
fn nobody_speaks(dialect: Dialect, first: &LlmName) -> CallFailure {
    let provider = first.provider();
    let advice = match dialect {
        Dialect::Chat | Dialect::Responses => {
            "set its base_url to an OpenAI-compatible endpoint and protocol to openai"
        }
        Dialect::Messages => {
            "set protocol to anthropic, and base_url where the provider serves Messages"
        }
    };
    let message = format!(
        "the agent speaks {}, but none of the providers of its LLMs does; for {provider}: {advice}",
        protocol::name(dialect)
    );
    CallFailure::unsent(CallClass::BadRequest, message)
}

fn read(head: RequestHead, body: Result<&[u8], usize>) -> Result<AgentRequest, CallFailure> {
    match body {
        Ok(body) => AgentRequest::read(head, body)
            .map_err(|error| CallFailure::unsent(CallClass::BadRequest, error.to_string())),
        Err(limit) => Err(CallFailure::unsent(
            CallClass::ContextTooLong,
            format!("the request is longer than {limit} bytes"),
        )),
    }
}

/// Refuses a call because of the agent's own mistake, with an explanation.
fn give_up(call: AgentCall, llm: &LlmName, failure: CallFailure) -> Response {
    let message = format!("the call to {llm} was not sent: {}", failure.message);
    let code = failure.class.label();
    // The agent gets the failure as an error.
    let _ = call.ask(llm).end(CallOutcome::Failure(failure));
    call.end(None);
    reply::error(StatusCode::BAD_REQUEST, code, &message)
}

/// A call with less time left than this is in trouble.
const NEARLY_OVER: Duration = Duration::from_millis(1500);

/// A readable call on its way from LLM to LLM.
struct CallInProgress<'a> {
    session: &'a SessionState,
    upstreams: &'a Upstreams,
    request: &'a AgentRequest,
    call: &'a AgentCall,
}

/// The outcome with one LLM.
enum LlmOutcome {
    Answer(ProviderAnswer),
    GoOn(NotAnswered),
    GiveUp(NotAnswered),
}

/// The outcome of one try.
enum TryOutcome {
    Answer(ProviderAnswer),
    /// Nothing was sent.
    Unavailable(Unavailable),
    Failed(FailedTry),
}

/// A failed try.
struct FailedTry {
    class: CallClass,
    status: Option<u16>,
    epoch: Epoch,
    sent: Instant,
    /// If the LLM refused the output limit: the lesson of that refusal.
    lesson: Option<Lesson>,
}

/// A request that is ready to be sent.
struct Prepared<'a> {
    upstream: &'a Upstream,
    tariff: Tariff,
    body: Vec<u8>,
    limit: Option<RefusedLimit>,
}

impl CallInProgress<'_> {
    async fn run(&self) -> Result<ProviderAnswer, Vec<(LlmName, NotAnswered)>> {
        let mut not_answered: Vec<(LlmName, NotAnswered)> = Vec::new();
        let dialect = self.request.head.dialect;
        let candidates = failover::candidates(&self.session.plan.llms, &self.session.plan.failover);
        // An LLM that is served in another protocol than the agent's is skipped.
        for llm in candidates
            .iter()
            .filter(|llm| self.upstreams.speaks(llm, dialect))
        {
            if let Some((from, out)) = not_answered.last() {
                MovedOn { from, to: llm, out }.emit();
            }
            match self.ask(llm).await {
                LlmOutcome::Answer(answer) => return Ok(answer),
                LlmOutcome::GoOn(out) => not_answered.push((llm.clone(), out)),
                LlmOutcome::GiveUp(out) => {
                    not_answered.push((llm.clone(), out));
                    break;
                }
            }
        }
        Err(not_answered)
    }

    /// Asks one LLM, with retries.
    async fn ask(&self, llm: &LlmName) -> LlmOutcome {
        let mut failed = None;
        let mut tries = 0;
        let (mut limits, mut lessons) = (self.upstreams.limits.of(llm), Vec::new());
        loop {
            match (self.attempt(llm, limits).await, failed.take()) {
                (TryOutcome::Answer(answer), _) => {
                    if !lessons.is_empty() {
                        self.upstreams.limits.keep(llm, limits);
                    }
                    self.session.plan.permits.succeeded(llm);
                    return LlmOutcome::Answer(answer);
                }
                (TryOutcome::Unavailable(unavailable), None) => {
                    return LlmOutcome::GoOn(NotAnswered::Unavailable(unavailable));
                }
                // The LLM was shut while this call waited for its retry.
                (TryOutcome::Unavailable(_), Some(failing)) => {
                    return LlmOutcome::GoOn(self.failed(llm, failing));
                }
                (TryOutcome::Failed(failing), before) => {
                    // A call learns each kind of lesson once. Asking again with a lesson is not a
                    // retry.
                    let new = failing
                        .lesson
                        .filter(|lesson| !lessons.contains(&discriminant(lesson)));
                    if let Some(lesson) = new
                        && let Some(taught) = limits.with_lesson(lesson, self.request.demand)
                    {
                        LimitLearned { llm, lesson }.emit();
                        lessons.push(discriminant(&lesson));
                        limits = taught;
                        failed = before;
                        continue;
                    }
                    tries += 1;
                    let sent = before.map_or(failing.sent, |before: FailedTry| before.sent);
                    let failing = FailedTry { sent, ..failing };
                    match failover::next(&failing.class, tries, &self.session.plan.failover) {
                        FailoverStep::Retry { after } => {
                            self.session.plan.permits.in_trouble(llm);
                            failed = Some(failing);
                            tokio::time::sleep(after).await;
                        }
                        FailoverStep::MoveOn => return LlmOutcome::GoOn(self.failed(llm, failing)),
                        FailoverStep::GiveUp => {
                            return LlmOutcome::GiveUp(self.failed(llm, failing));
                        }
                    }
                }
            }
        }
    }

    /// Gives up on this LLM and reports it to the pool.
    fn failed(
        &self,
        llm: &LlmName,
        FailedTry {
            class,
            status,
            epoch,
            sent,
            ..
        }: FailedTry,
    ) -> NotAnswered {
        if class.is_outage() {
            let dialect = self.request.head.dialect;
            let failed = LlmFailure {
                class: class.clone(),
                epoch,
                dialect,
                status,
                took: sent.elapsed(),
            };
            self.session.plan.permits.failed(llm, &failed);
        }
        NotAnswered::Failed(class)
    }

    /// Does all that needs no place: finds the provider, the price and the rest of the limits.
    fn prepare(
        &self,
        llm: &LlmName,
        limits: LlmLimits,
        call: &mut OpenCall,
    ) -> Result<Prepared<'_>, CallFailure> {
        let provider = llm.provider();
        let unusable = |message: String| CallFailure::unsent(CallClass::BadRequest, message);
        let upstream = self
            .upstreams
            .provider(llm)
            .ok_or_else(|| unusable(format!("provider {provider} is not in the pool file")))?;
        let tariff = self
            .upstreams
            .tariff(llm, wall_clock())
            .ok_or_else(|| unusable(format!("prices has no entry for {llm}")))?;
        let demand = Demand {
            most_output: limits.most_output(self.request.demand),
            ..self.request.demand
        };
        let admission = call.reserve(demand, &tariff).map_err(|refusal| {
            let class = match refusal {
                AdmissionError::Tokens { .. } => CallClass::Refused(Cap::Tokens),
                AdmissionError::Cost { .. } => CallClass::Refused(Cap::Cost),
                AdmissionError::Context { .. } => CallClass::ContextTooLong,
            };
            CallFailure::unsent(class, refusal.to_string())
        })?;
        let (told, terms) = (admission.output_limit, upstream.terms(limits));
        let (body, limit) = (
            self.request.for_provider(llm.model(), told, terms),
            self.request.limit(told, terms.limit_field),
        );
        Ok(Prepared {
            upstream,
            tariff,
            body,
            limit,
        })
    }

    /// One try with one LLM. It is recorded if anything was sent.
    async fn attempt(&self, llm: &LlmName, limits: LlmLimits) -> TryOutcome {
        let permits = &self.session.plan.permits;
        let mut epoch = match permits.check(llm) {
            Ok(epoch) => epoch,
            Err(unavailable) => return skipped(llm, unavailable),
        };
        let mut call = self.call.ask(llm);
        let (mut sent, mut lesson) = (Instant::now(), None);
        let outcome = match self.prepare(llm, limits, &mut call) {
            Err(failure) => CallOutcome::Failure(failure),
            Ok(Prepared {
                upstream,
                tariff,
                body,
                limit,
            }) => {
                if tariff.is_paid()
                    && let Err(unavailable) = permits.reserve().await
                {
                    return skipped(llm, unavailable);
                }
                let timeout = self.session.plan.failover.call_timeout;
                let _place = upstream.place().await;
                // The call that had the place before may have found that the LLM is down.
                match permits.check(llm) {
                    Ok(now) => epoch = now,
                    Err(unavailable) => return skipped(llm, unavailable),
                }
                if tariff.is_paid() {
                    permits.spending(self.session.at_most()).await;
                }
                call.sent();
                sent = Instant::now();
                let exchange = upstream.send(self.request, body, timeout);
                let exchange = watched(exchange, timeout, || permits.in_trouble(llm)).await;
                let said = match &exchange {
                    Exchange::Answered { body, .. } => body.clone(),
                    Exchange::KeyMissing { .. }
                    | Exchange::NotConnected { .. }
                    | Exchange::TimedOut { .. }
                    | Exchange::Silent { .. } => Bytes::new(),
                };
                let outcome = classify(exchange, wall_clock(), upstream.secret());
                lesson = limit
                    .filter(|_| is_refusal(&outcome))
                    .and_then(|limit| lesson::read(&said, limit));
                reclassified(outcome, || permits.refuses_the_task(llm))
            }
        };
        let status = match &outcome {
            CallOutcome::Failure(failure) => failure.status,
            CallOutcome::Answer(_) | CallOutcome::Cut(..) => None,
        };
        match call.end(outcome) {
            Ok(answer) => TryOutcome::Answer(answer),
            Err(class) => TryOutcome::Failed(FailedTry {
                class,
                status,
                epoch,
                sent,
                lesson,
            }),
        }
    }
}

/// Runs the exchange, and calls `in_trouble` when its time is nearly over.
async fn watched(
    exchange: impl Future<Output = Exchange>,
    timeout: Duration,
    in_trouble: impl FnOnce(),
) -> Exchange {
    let mut exchange = pin!(exchange);
    match tokio::time::timeout(timeout - NEARLY_OVER.min(timeout / 4), &mut exchange).await {
        Ok(exchange) => exchange,
        Err(_) => {
            in_trouble();
            exchange.await
        }
    }
}

/// Reclassifies a 403 without a reason if the key is good: then the provider refuses the request.
fn reclassified(outcome: CallOutcome, refuses_the_task: impl FnOnce() -> bool) -> CallOutcome {
    match outcome {
        CallOutcome::Failure(failure)
            if failure.class == CallClass::Auth
                && failure.status == Some(403)
                && refuses_the_task() =>
        {
            let message = format!(
                "{}; a probe with the same key was answered",
                failure.message
            );
            CallOutcome::Failure(CallFailure {
                class: CallClass::BadRequest,
                message,
                ..failure
            })
        }
        CallOutcome::Answer(_) | CallOutcome::Cut(..) | CallOutcome::Failure(_) => outcome,
    }
}

fn skipped(llm: &LlmName, unavailable: Unavailable) -> TryOutcome {
    Skipped {
        llm,
        unavailable: &unavailable,
    }
    .emit();
    TryOutcome::Unavailable(unavailable)
}

/// Whether the provider may have refused the request for its output limit. Some providers wrap such
/// a refusal into a 500.
fn is_refusal(outcome: &CallOutcome) -> bool {
    let CallOutcome::Failure(CallFailure { class, status, .. }) = outcome else {
        return false;
    };
    match class {
        CallClass::BadRequest | CallClass::ContextTooLong => true,
        CallClass::Unavailable { .. } => status.is_some_and(|status| status >= 500),
        CallClass::Ok
        | CallClass::RateLimited { .. }
        | CallClass::Timeout
        | CallClass::ModelUnavailable
        | CallClass::Auth
        | CallClass::BadAnswer
        | CallClass::Cut(_)
        | CallClass::Refused(_) => false,
    }
}
