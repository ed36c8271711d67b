//! Finds mistakes before an LLM is asked: files that the base lacks, checks that cannot start, and
//! checks that prove nothing.

use std::ffi::OsStr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use pool_broker::process::host_name;
use pool_core::result::{CheckReport, ErrorKind, TaskFailure};
use pool_core::source::RelativePath;
use pool_core::task::{AcceptanceCheck, Before};

use super::work::{Findings, Work, cancelled, millis};
use crate::acceptance::effective_path;
use crate::agent::is_program;
use crate::baselines::BaselineKey;
use crate::workspace::{failure, off_the_runtime};

impl Work<'_> {
    /// Looks at the worktree of the base commit, and runs the checks there that say what they must
    /// do before the change.
    ///
    /// # Errors
    /// The failure of the task. No money is spent.
    pub(super) async fn preflight(&self, findings: &mut Findings) -> Result<(), TaskFailure> {
        let message = &self.task.message;
        let (tree, files, checks) = (
            self.worktree.path(),
            message.files.clone(),
            message.acceptance.clone(),
        );
        let (base, path) = (self.worktree.base().to_owned(), {
            let workshop = &self.attempts.workshop;
            effective_path(&workshop.path, workshop.sandbox.variables())
        });
        let look = move || {
            Ok(missing_file(&tree, &base, &files).or_else(|| {
                let mut problems = checks
                    .iter()
                    .filter_map(|check| cannot_start(check, &tree, &path));
                problems.next()
            }))
        };
        let found = off_the_runtime(look)
            .await
            .map_err(|error| failure("cannot look at the worktree", error))?;
        if let Some(failure) = found {
            return Err(failure);
        }
        self.try_on_base(findings).await
    }

    async fn try_on_base(&self, findings: &mut Findings) -> Result<(), TaskFailure> {
        let checks = &self.task.message.acceptance;
        let Some(last) = checks.iter().rposition(|check| check.before != Before::Any) else {
            return Ok(());
        };
        // An earlier check may build what a later one needs.
        let checks = checks.get(..=last).unwrap_or_default();
        let key = BaselineKey::new(self.worktree.base(), checks);
        let (mut took, is_running) = (0, AtomicBool::new(false));
        let run = async {
            is_running.store(true, Ordering::Relaxed);
            let checked = self.run_checks(checks).await?;
            took = millis(checked.duration);
            if checked.cancelled {
                return Err(cancelled());
            }
            Ok(checked)
        };
        // Checks that run here end by themselves when the attempt is cancelled. Those of another
        // attempt do not.
        let given_up = async {
            self.cancel.cancelled().await;
            if is_running.load(Ordering::Relaxed) {
                std::future::pending::<()>().await;
            }
        };
        let checked = tokio::select! {
            biased;
            checked = self.attempts.workshop.baselines.get(key, run) => checked?,
            () = given_up => return Err(cancelled()),
        };
        findings.timings.acceptance_ms += took;
        let unexpected = checks
            .iter()
            .zip(&checked.reports)
            .find_map(|(check, report)| proves_nothing(check, report));
        match unexpected {
            Some(failure) => {
                findings.checks = checked.reports;
                Err(failure)
            }
            None => Ok(()),
        }
    }
}

/// The failure for the first of `files` that the base lacks. An agent would make it as an empty file.
fn missing_file(tree: &Path, base: &str, files: &[RelativePath]) -> Option<TaskFailure> {
    let is_missing = |file: &&RelativePath| tree.join(file.as_str()).symlink_metadata().is_err();
    let file = files.iter().find(is_missing)?;
    let message = format!(
        "the base commit {base} has no {file}, which `files` of the task names: correct the path, or remove it there and \
         say in the instruction that the file is to be made"
    );
    Some(TaskFailure::new(ErrorKind::Repository, message))
}

/// The failure for a check whose program the worker cannot start. A program that the repository
/// lacks may come with the change.
fn cannot_start(check: &AcceptanceCheck, tree: &Path, path: &OsStr) -> Option<TaskFailure> {
    let program = check.run.first()?;
    let problem = if program.starts_with('/') {
        let is_there = is_program(Path::new(program));
        (!is_there).then(|| format!("is not an executable file on {}", host_name()))
    } else if program.contains('/') {
        let file = tree.join(program);
        let comes_later = check.before == Before::Fails
            || check.overlay.keys().any(|path| is_same_path(path, program));
        let cannot = file.exists() && !is_program(&file) && !comes_later;
        cannot.then(|| "is not executable in the repository".to_owned())
    } else {
        let mut directories = std::env::split_paths(path);
        let is_there = directories.any(|directory| is_program(&directory.join(program)));
        (!is_there).then(|| format!("is not in the PATH of the worker on {}", host_name()))
    }?;
    let message = format!(
        "the acceptance check {:?} cannot start: {program} {problem}. Correct `run` of the check, or install the program",
        check.name
    );
    Some(TaskFailure::new(ErrorKind::CheckCannotStart, message))
}

fn is_same_path(path: &RelativePath, program: &str) -> bool {
    let program = Path::new(program)
        .strip_prefix(".")
        .unwrap_or(Path::new(program));
    Path::new(path.as_str()) == program
}

/// The failure for a check that did not do on the base what its `before` says.
fn proves_nothing(check: &AcceptanceCheck, report: &CheckReport) -> Option<TaskFailure> {
    let passed = report.exit_status == Some(0);
    let problem = match (check.before, passed) {
        (Before::Fails, true) => {
            "passes on the base commit already, and its `before` is `fails`: it would pass without any change. Correct the \
             check, or close the task as done"
        }
        (Before::Passes, false) => {
            "fails on the base commit already, and its `before` is `passes`: it cannot tell whether the change breaks \
             something. Repair the base first, or see the check's output"
        }
        (Before::Fails | Before::Any, false) | (Before::Passes | Before::Any, true) => return None,
    };
    let message = format!("the acceptance check {:?} {problem}", check.name);
    Some(TaskFailure::new(ErrorKind::CheckProvesNothing, message))
}

#[cfg(test)]
#[path = "preflight_tests.rs"]
mod tests;
