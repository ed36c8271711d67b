//! The outcome of a run: a decision table over evidence, in the order of its weight.
//!
//! First comes how the run ended for the worker, then the gateway's record, then aider's own log,
//! then the files, and last the output. An agent's exit status says little: aider exits with 0
//! whatever its LLM did.

use pool_core::pool::AgentKind;
use pool_core::result::{ErrorKind, TaskFailure};

use super::{AgentEvidence, AgentRun, AiderEvidence};
use crate::sandbox::Exit;
use llm_gateway::class::{CallClass, Cut};
use llm_gateway::record::{CallRecord, NoLlmLeft, NotAnswered, RunRecord};

/// The edit of a run that did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Edit {
    /// An edit that was applied as a whole.
    Whole,
    /// Some of the edit did not fit. This is a success only if the task has acceptance checks and
    /// all pass. Otherwise the edit is discarded as [`ErrorKind::EditNotApplied`].
    Partial,
    /// The worker stopped a silent agent that had changed something and seems to have been about to
    /// continue. This is a success only if the task has acceptance checks and all pass. Otherwise
    /// it is [`silent`].
    Unfinished,
    /// No edit, and none was asked for.
    Nothing,
}

/// Judges a run. `changed`: the worktree differs from the base commit.
///
/// # Errors
/// Why the run failed. Then everything that it left in the worktree must be discarded: a failed LLM
/// call after an edit means half an edit.
pub fn judge(
    kind: &AgentKind,
    run: &AgentRun,
    record: &RunRecord,
    changed: bool,
) -> Result<Edit, TaskFailure> {
    let facts = Facts {
        run,
        record,
        changed,
    };
    match (kind, run.exit) {
        (_, Exit::Cancelled) => fail(
            ErrorKind::Cancelled,
            "the task was cancelled while the agent ran",
        ),
        (_, Exit::Signal(signal)) => fail(
            ErrorKind::AgentCrashed,
            format!("the agent was killed by signal {signal}; was there enough memory?"),
        ),
        (_, Exit::Limit(exceeded)) => fail(ErrorKind::Limit, format!("the agent {exceeded}")),
        (_, Exit::TimedOut) => facts.timed_out(),
        (_, Exit::Silent) => facts.silent(kind),
        // The agent had finished. How the worker then stopped it says nothing about its work.
        (_, Exit::Done) => facts.ended(kind, 0),
        (_, Exit::Status(status)) => facts.ended(kind, status),
    }
}

/// The failure of a silent agent that the worker stopped.
pub fn silent() -> TaskFailure {
    let message = "the agent printed nothing, called no LLM and computed nothing for too long (`agent.no_output_timeout_s`)";
    TaskFailure::new(ErrorKind::AgentSilent, message)
}

/// Whether a run failed because no LLM was left for it, so that neither the task nor the agent is
/// to blame. [`judge`] then returns the failure's class. A crash of the agent is always the agent's
/// failure, whatever its LLMs did.
pub fn no_llm_left<'a>(run: &AgentRun, record: &'a RunRecord) -> Option<&'a NoLlmLeft> {
    match run.exit {
        Exit::Status(_) | Exit::TimedOut | Exit::Silent | Exit::Done => record.no_llm_left.as_ref(),
        Exit::Cancelled | Exit::Signal(_) | Exit::Limit(_) => None,
    }
}

fn fail<T>(kind: ErrorKind, message: impl Into<String>) -> Result<T, TaskFailure> {
    Err(TaskFailure::new(kind, message))
}

struct Facts<'a> {
    run: &'a AgentRun,
    record: &'a RunRecord,
    changed: bool,
}

impl Facts<'_> {
    fn timed_out(&self) -> Result<Edit, TaskFailure> {
        if self.record.open_calls > 0 {
            return fail(
                ErrorKind::LlmTimeout,
                "the agent's time ran out while an LLM call was open",
            );
        }
        self.last_call()?;
        fail(
            ErrorKind::AgentTimeout,
            format!(
                "the agent was stopped after {} s",
                self.run.duration.as_secs()
            ),
        )
    }

    /// Judges an agent that exited by itself, or that counts as if it had.
    fn ended(&self, kind: &AgentKind, status: i32) -> Result<Edit, TaskFailure> {
        match kind {
            AgentKind::Noop if self.changed => Ok(Edit::Whole),
            AgentKind::Noop => Ok(Edit::Nothing),
            AgentKind::Command { .. } => self.command(status),
            AgentKind::Aider { .. } => self.aider(status),
        }
    }

    /// Judges a silent agent. Agents are known to finish their work and stay alive. So an agent
    /// that has changed something counts as finished, unless there is a sign that it was about to
    /// continue.
    fn silent(&self, kind: &AgentKind) -> Result<Edit, TaskFailure> {
        self.last_call()?;
        let edited = match &self.run.evidence {
            AgentEvidence::Aider(evidence) => self.changed && evidence.applied,
            AgentEvidence::NoLastEvent | AgentEvidence::None => self.changed,
        };
        if !edited || self.record.open_calls > 0 {
            return Err(silent());
        }
        match self.ended(kind, 0)? {
            Edit::Whole if self.goes_on() => Ok(Edit::Unfinished),
            edit @ (Edit::Whole | Edit::Partial | Edit::Unfinished | Edit::Nothing) => Ok(edit),
        }
    }

    /// Whether the agent was about to act on the last answer, or has not printed its last event.
    fn goes_on(&self) -> bool {
        let tool = self
            .record
            .last_answer()
            .is_some_and(CallRecord::asks_for_a_tool);
        tool || self.run.evidence == AgentEvidence::NoLastEvent
    }

    /// A run whose last LLM call failed is a failure of that class.
    fn last_call(&self) -> Result<(), TaskFailure> {
        if let Some(left) = &self.record.no_llm_left {
            return Err(none_left(left, self.record.last()));
        }
        self.record
            .last()
            .and_then(call_failure)
            .map_or(Ok(()), Err)
    }

    fn command(&self, status: i32) -> Result<Edit, TaskFailure> {
        self.last_call()?;
        if status != 0 {
            return fail(
                ErrorKind::AgentFailed,
                format!("the agent exited with status {status}"),
            );
        }
        match self.changed {
            true => Ok(Edit::Whole),
            false => self.nothing_changed(),
        }
    }

    fn aider(&self, status: i32) -> Result<Edit, TaskFailure> {
        let nothing = AiderEvidence::default();
        let evidence = match &self.run.evidence {
            AgentEvidence::Aider(evidence) => evidence,
            AgentEvidence::NoLastEvent | AgentEvidence::None => &nothing,
        };
        self.last_call()?;
        self.empty_answer()?;
        started(status, evidence)?;
        self.answered(evidence)?;
        self.edited(evidence)
    }

    /// Fails for an answer from which aider cannot have made an edit.
    fn empty_answer(&self) -> Result<(), TaskFailure> {
        match self.record.last() {
            Some(call) if call.empty => fail(
                ErrorKind::LlmEmpty,
                format!("the answer of {} was empty", call.llm),
            ),
            Some(_) | None => Ok(()),
        }
    }

    fn answered(&self, evidence: &AiderEvidence) -> Result<(), TaskFailure> {
        if evidence.stumbled {
            return fail(
                ErrorKind::LlmBadAnswer,
                "aider could not read the answer of the LLM",
            );
        }
        if !evidence.answered {
            let kind = evidence.llm_error.unwrap_or(ErrorKind::LlmUnavailable);
            return fail(kind, "the last question of aider to the LLM got no answer");
        }
        let no_tokens = evidence.output_tokens == Some(0);
        if no_tokens && evidence.token_limit {
            return fail(
                ErrorKind::LlmContextTooLong,
                "the prompt did not fit into the context of the LLM",
            );
        }
        // A provider that reports no usage makes every answer look empty to aider. The gateway
        // knows better.
        let looks_empty = self.record.calls.is_empty()
            && evidence.output_tokens.is_some_and(|tokens| tokens <= 1);
        if evidence.empty || looks_empty {
            return fail(ErrorKind::LlmEmpty, "aider got an empty answer");
        }
        Ok(())
    }

    fn edited(&self, evidence: &AiderEvidence) -> Result<Edit, TaskFailure> {
        // Aider creates a missing file that it was given, empty. That is not an edit.
        let edited = self.changed && evidence.applied;
        match (edited, evidence.refused) {
            (true, false) => Ok(Edit::Whole),
            (true, true) => Ok(Edit::Partial),
            (false, true) => fail(
                ErrorKind::EditNotApplied,
                "the LLM's edit did not fit the files (`did not conform to the edit format`)",
            ),
            (false, false) => self.nothing_changed(),
        }
    }

    fn nothing_changed(&self) -> Result<Edit, TaskFailure> {
        let reason = self
            .record
            .last()
            .and_then(|call| call.finish_reason.as_deref());
        let message = match reason {
            Some(reason) => {
                format!("the agent changed nothing (the last answer ended with `{reason}`)")
            }
            None => "the agent changed nothing".to_owned(),
        };
        fail(ErrorKind::NoChange, message)
    }
}

fn started(status: i32, evidence: &AiderEvidence) -> Result<(), TaskFailure> {
    if matches!(status, 1 | 2) || !evidence.launched {
        return fail(
            ErrorKind::AgentConfig,
            format!("aider exited with status {status} and did not accept its options"),
        );
    }
    if status != 0 {
        return fail(
            ErrorKind::AgentFailed,
            format!("aider exited with status {status}"),
        );
    }
    if evidence.asked == 0 {
        return fail(ErrorKind::AgentConfig, "aider asked no LLM at all");
    }
    Ok(())
}

/// The failure when no LLM is left. The class is that of the last LLM that was asked. An LLM that
/// the pool has shut is unavailable.
fn none_left(left: &NoLlmLeft, last: Option<&CallRecord>) -> TaskFailure {
    let asked = left
        .llms
        .iter()
        .any(|(_, out)| matches!(out, NotAnswered::Failed(_)));
    let failure = last.filter(|_| asked).and_then(call_failure);
    let kind = failure
        .as_ref()
        .map_or(ErrorKind::LlmUnavailable, |failure| failure.kind);
    let said = failure.map(|failure| failure.message).unwrap_or_default();
    if let [(_, NotAnswered::Failed(_))] = left.llms.as_slice() {
        return TaskFailure::new(kind, said);
    }
    let gap = if said.is_empty() { "" } else { "; " };
    TaskFailure::new(kind, format!("no LLM is left ({left}){gap}{said}"))
}

/// The task's failure from a call that is not [`CallClass::Ok`].
fn call_failure(call: &CallRecord) -> Option<TaskFailure> {
    let (kind, what) = match &call.class {
        CallClass::Ok => return None,
        CallClass::RateLimited { .. } => (ErrorKind::LlmRateLimited, "rate limited"),
        CallClass::Timeout => (ErrorKind::LlmTimeout, "timed out"),
        CallClass::Unavailable { .. } => (ErrorKind::LlmUnavailable, "unavailable"),
        CallClass::ModelUnavailable => (ErrorKind::LlmModelUnavailable, "not served"),
        CallClass::Auth => (ErrorKind::LlmAuth, "the key was refused"),
        CallClass::ContextTooLong => (ErrorKind::LlmContextTooLong, "the prompt is too long"),
        CallClass::BadRequest => (ErrorKind::LlmBadRequest, "the request was refused"),
        CallClass::BadAnswer => (
            ErrorKind::LlmBadAnswer,
            "the answer was not valid in the protocol",
        ),
        CallClass::Cut(Cut::OutputLimit) => (
            ErrorKind::LlmOutputLimit,
            "its answer was cut off at its output limit",
        ),
        CallClass::Cut(Cut::TaskLimit(_)) => (
            ErrorKind::TokenLimit,
            "its answer was cut off at the task's limit",
        ),
        CallClass::Cut(Cut::Filtered) => (ErrorKind::LlmBadAnswer, "its answer was filtered"),
        CallClass::Cut(Cut::Unfinished) => (ErrorKind::LlmBadAnswer, "its answer was incomplete"),
        CallClass::Refused(_) => (ErrorKind::TokenLimit, "refused by the gateway"),
    };
    let again = match call.class.fault() {
        Some((_, Some(after))) => format!(", again in {} s", after.as_secs()),
        Some((_, None)) | None => String::new(),
    };
    let status = call
        .status
        .map(|status| format!(" (HTTP {status})"))
        .unwrap_or_default();
    let said = if call.message.is_empty() {
        String::new()
    } else {
        format!(": {}", call.message)
    };
    Some(TaskFailure::new(
        kind,
        format!(
            "the last call of {} failed: {what}{again}{status}{said}",
            call.llm
        ),
    ))
}

#[cfg(test)]
#[path = "judge_tests.rs"]
mod tests;
