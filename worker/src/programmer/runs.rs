//! Decides what follows each run of the agent: an attempt may take several. Pure.
//!
//! A useless answer is discarded, and the next run begins with the next LLM. A change that failed
//! its checks is kept and repaired. A run for which no LLM was left ends the attempt, and so does
//! every other failure.

use pool_core::result::{CheckReport, ErrorKind, TaskFailure};
use pool_core::task::AcceptanceCheck;

/// How much of a failed check's output goes into the prompt for its repair, in bytes.
const OUTPUT_BYTES: usize = 4096;

/// How a run of the agent ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum RunEnd {
    /// The agent made an edit that counts, and all checks passed.
    Passed,
    /// The agent made an edit that counts, and a check failed. `repair` is the prompt for the
    /// repair.
    CheckFailed {
        failure: TaskFailure,
        repair: String,
    },
    /// The agent made an edit that the pool file or the task forbids. `repair` is the prompt to undo
    /// it.
    Refused {
        failure: TaskFailure,
        repair: String,
    },
    NoLlmLeft(TaskFailure),
    Failed(TaskFailure),
}

/// A finished run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Run {
    /// The index of the LLM that it began with, in the programmer's list.
    pub(super) first_llm: usize,
    /// The index of the LLM that gave the last answer.
    pub(super) answered_by: Option<usize>,
    /// The indices of the LLMs whose last answer was cut off. They have had their turn within a
    /// call.
    pub(super) cut: Vec<usize>,
    pub(super) end: RunEnd,
}

/// The limits of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct AttemptBounds {
    /// The number of LLMs that a run can begin with.
    pub(super) llms: usize,
    /// The most runs of the agent; at least one.
    pub(super) runs: usize,
}

/// The step after a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum NextRun {
    /// The attempt has succeeded.
    Done,
    /// Run again on the kept worktree, with the same LLMs in the same order.
    Repair {
        prompt: String,
    },
    /// Start over from the base commit, with the task's own prompt.
    Again {
        first_llm: usize,
    },
    /// No LLM was available, or there was no sandbox: return the task to its queue. The attempt does
    /// not count.
    HandBack(TaskFailure),
    Fail(TaskFailure),
}

/// Decides the next step. `history` holds all runs so far, oldest first.
pub(super) fn next_run(history: &[Run], bounds: AttemptBounds) -> NextRun {
    let Some(last) = history.last() else {
        return NextRun::Again { first_llm: 0 };
    };
    let more = history.len() < bounds.runs;
    match &last.end {
        RunEnd::Passed => NextRun::Done,
        RunEnd::CheckFailed { repair, .. } | RunEnd::Refused { repair, .. } if more => {
            NextRun::Repair {
                prompt: repair.clone(),
            }
        }
        RunEnd::CheckFailed { failure, .. } | RunEnd::Refused { failure, .. } => {
            NextRun::Fail(failure.clone())
        }
        RunEnd::NoLlmLeft(failure) => NextRun::HandBack(failure.clone()),
        RunEnd::Failed(failure) if failure.kind == ErrorKind::Sandbox => {
            NextRun::HandBack(failure.clone())
        }
        RunEnd::Failed(failure) if more && is_useless_answer(failure.kind) => {
            match next_llm(history, failure, bounds) {
                Some(first_llm) => NextRun::Again { first_llm },
                None => NextRun::Fail(verdict(history, failure)),
            }
        }
        RunEnd::Failed(failure) => NextRun::Fail(verdict(history, failure)),
    }
}

/// Whether another LLM may do better, because the LLM's answer was the failure.
fn is_useless_answer(kind: ErrorKind) -> bool {
    match kind {
        ErrorKind::EditNotApplied
        | ErrorKind::NoChange
        | ErrorKind::LlmEmpty
        | ErrorKind::LlmOutputLimit
        | ErrorKind::LlmBadAnswer => true,
        ErrorKind::InvalidTask
        | ErrorKind::IdConflict
        | ErrorKind::Unroutable
        | ErrorKind::Repository
        | ErrorKind::Workspace
        | ErrorKind::ChangeRefused
        | ErrorKind::Policy
        | ErrorKind::ProtectedChanged
        | ErrorKind::AgentConfig
        | ErrorKind::AgentTimeout
        | ErrorKind::AgentSilent
        | ErrorKind::AgentCrashed
        | ErrorKind::AgentFailed
        | ErrorKind::Limit
        | ErrorKind::Sandbox
        | ErrorKind::LlmRateLimited
        | ErrorKind::LlmTimeout
        | ErrorKind::LlmUnavailable
        | ErrorKind::LlmModelUnavailable
        | ErrorKind::LlmAuth
        | ErrorKind::LlmContextTooLong
        | ErrorKind::LlmBadRequest
        | ErrorKind::TokenLimit
        | ErrorKind::CheckCannotStart
        | ErrorKind::CheckProvesNothing
        | ErrorKind::AcceptanceFailed
        | ErrorKind::PatchTooLarge
        | ErrorKind::TaskTimeout
        | ErrorKind::DeadlinePassed
        | ErrorKind::Poison
        | ErrorKind::Cancelled => false,
    }
}

/// The next LLM in order that has neither begun a run nor given a last answer. A programmer's only
/// LLM is asked a second time only if its edit did not fit the files. An answer without an edit may
/// be a refusal.
fn next_llm(history: &[Run], failure: &TaskFailure, bounds: AttemptBounds) -> Option<usize> {
    let last = history.last()?;
    let after = last.answered_by.unwrap_or(last.first_llm);
    let had_its_turn = |llm: usize| {
        history.iter().any(|run| {
            run.first_llm == llm || run.answered_by == Some(llm) || run.cut.contains(&llm)
        })
    };
    let others = (1..bounds.llms).map(|step| (after + step) % bounds.llms);
    let misfits = history
        .iter()
        .filter(|run| matches!(&run.end, RunEnd::Failed(f) if f.kind == ErrorKind::EditNotApplied));
    let alone =
        bounds.llms == 1 && failure.kind == ErrorKind::EditNotApplied && misfits.count() == 1;
    others
        .into_iter()
        .find(|llm| !had_its_turn(*llm))
        .or(alone.then_some(0))
}

/// The failure of the attempt. If a repair run brought no change, it is the failure before. An agent that stays alive after its work ends such a repair as silent.
fn verdict(history: &[Run], failure: &TaskFailure) -> TaskFailure {
    let before = history
        .len()
        .checked_sub(2)
        .and_then(|index| history.get(index));
    let nothing = is_useless_answer(failure.kind) || failure.kind == ErrorKind::AgentSilent;
    match before.map(|run| &run.end) {
        Some(
            RunEnd::CheckFailed {
                failure: before, ..
            }
            | RunEnd::Refused {
                failure: before, ..
            },
        ) if nothing => {
            let message = format!(
                "{}, and the run to repair it failed: {}",
                before.message, failure.message
            );
            TaskFailure::new(before.kind, message)
        }
        Some(
            RunEnd::CheckFailed { .. }
            | RunEnd::Refused { .. }
            | RunEnd::Passed
            | RunEnd::NoLlmLeft(_)
            | RunEnd::Failed(_),
        )
        | None => failure.clone(),
    }
}

/// The prompt for a repair: the instruction, and the first failed check with its output. `reports`
/// are those of `checks`, in the same order.
pub(super) fn repair_prompt(
    instruction: &str,
    checks: &[AcceptanceCheck],
    reports: &[CheckReport],
) -> String {
    let failed = |(_, report): &(&AcceptanceCheck, &CheckReport)| report.exit_status != Some(0);
    let mut failing = checks.iter().zip(reports).filter(failed);
    let Some((check, report)) = failing.next() else {
        return instruction.to_owned();
    };
    let exit = match report.exit_status {
        Some(status) => format!("It exited with status {status}."),
        None => "It did not exit by itself.".to_owned(),
    };
    let others: Vec<String> = failing
        .map(|(check, _)| format!("{:?}", check.name))
        .collect();
    let others = if others.is_empty() {
        String::new()
    } else {
        format!("\nThese failed as well: {}.", others.join(", "))
    };
    // The code under test could print the files of the overlay, which the agent must not see.
    let output = if check.overlay.is_empty() {
        format!("The end of its output:\n\n{}\n", tail(&report.output_tail))
    } else {
        "Its output is not shown, because it uses files that you do not see.\n".to_owned()
    };
    format!(
        "{instruction}\n\nThe files already contain a change for this task, but the acceptance check {:?} failed.\n\
         Its command: {}\n{exit} {output}{others}\n\
         Fix the code so that this check passes. Change the code, not the check.\n",
        check.name,
        command_line(&check.run),
    )
}

/// The command for people to read, not for a shell.
fn command_line(argv: &[String]) -> String {
    let plain = |word: &str| {
        !word.is_empty() && !word.contains(|c: char| c.is_whitespace() || "\"'\\".contains(c))
    };
    let words = argv.iter().map(|word| {
        if plain(word) {
            word.clone()
        } else {
            format!("{word:?}")
        }
    });
    words.collect::<Vec<_>>().join(" ")
}

fn tail(output: &str) -> &str {
    let output = output.trim_end();
    let mut start = output.len().saturating_sub(OUTPUT_BYTES);
    while !output.is_char_boundary(start) {
        start += 1;
    }
    &output[start..]
}

#[cfg(test)]
#[path = "runs_tests.rs"]
mod tests;
