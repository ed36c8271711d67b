//! Acceptance checks: the submitter's commands that decide whether a change counts.
//!
//! They run code that an agent wrote, so they run in the sandbox, like the agent.

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::time::Duration;

use agent_sandbox::Exceeded;
use pool_core::pool;
use pool_core::result::{CheckReport, ErrorKind, TaskFailure};
use pool_core::task::AcceptanceCheck;

use crate::agent::absolute_path_entries;
use crate::sandbox::warm::WarmPart;
use crate::sandbox::{
    CommandAccess, Denials, Exit, Finished, LaunchError, PinnedDirectory, SandboxCommand,
    SandboxLauncher, Watch,
};
use crate::workspace::{
    bound_git, failure, lay_over, make_directory, off_the_runtime, remove_tree,
};

/// How much of the end of each check's output is kept.
const OUTPUT_TAIL_BYTES: usize = 4096;

/// The reports of a task's checks.
#[derive(Debug, Clone, Default)]
pub struct Checked {
    pub reports: Vec<CheckReport>,
    pub duration: Duration,
    /// The refusals of the sandbox, with hints about the checks that failed.
    pub denials: Denials,
    /// The first check that used more than a run may.
    pub exceeded: Option<CheckLimit>,
    /// The run was cancelled, so checks are missing.
    pub cancelled: bool,
    /// Whether a process of a check may be alive.
    pub may_live: bool,
}

/// A check that was ended because it used more than a run may.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckLimit {
    pub check: String,
    pub exceeded: Exceeded,
}

impl Checked {
    /// Whether every check exited with 0.
    pub fn passed(&self) -> bool {
        !self.cancelled && self.failed().is_none()
    }

    /// The first check that did not exit with 0.
    pub fn failed(&self) -> Option<&CheckReport> {
        self.reports
            .iter()
            .find(|report| report.exit_status != Some(0))
    }
}

/// Runs checks, one after another, and all of them even if one fails.
///
/// Checks may write anywhere in the tree. They run in a checkout of their own
/// (`Worktree::check_out_for_checks`), so they see the commit, and their files do not get into it.
/// A check runs the agent's code, so each try of a check gets an empty home directory, because
/// programs obey files there. `renew` restores the checkout between two tries. The overlay of a
/// check is there only while it runs. `watch` is called with the name of each check when it begins.
///
/// # Errors
/// [`ErrorKind::Workspace`] if the home directory cannot be made, or the helper breaks;
/// [`ErrorKind::Sandbox`] if the kernel layers cannot be set up; also the errors of `renew`.
pub async fn run_checks<Renewed: Future<Output = Result<(), TaskFailure>>>(
    checks: &[AcceptanceCheck],
    config: &pool::Acceptance,
    place: &CheckEnvironment<'_>,
    renew: impl Fn() -> Renewed,
    watch: impl Fn(&str) -> Watch,
) -> Result<Checked, TaskFailure> {
    let mut checked = Checked::default();
    let mut is_fresh = true;
    for check in checks {
        let timeout = check.timeout_s.map_or(config.timeout, Duration::from_secs);
        let mut took = Duration::ZERO;
        for number in 1..=check.tries {
            if !is_fresh {
                renew().await?;
            }
            is_fresh = false;
            let finished = place.run(check, timeout, &watch(&check.name)).await?;
            let finished = finished.as_ref();
            took += finished.map_or(Duration::ZERO, |finished| finished.duration);
            if finished.is_ok_and(|finished| finished.exit == Exit::Cancelled) {
                checked.cancelled = true;
                checked.duration += took;
                return Ok(checked);
            }
            if let Ok(finished) = finished {
                let failed = finished.exit != Exit::Status(0);
                checked.denials.add(&finished.denials, failed);
            }
            // Without a report nobody knows what still runs.
            checked.may_live |=
                finished.is_err() || finished.is_ok_and(|finished| finished.may_live);
            let mut report = report(check, timeout, finished);
            if report.exit_status == Some(0) || number == check.tries {
                report.tries = number;
                report.duration_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
                checked.reports.push(report);
                if let (None, Ok(Exit::Limit(exceeded))) =
                    (&checked.exceeded, finished.map(|finished| finished.exit))
                {
                    let check = check.name.clone();
                    checked.exceeded = Some(CheckLimit { check, exceeded });
                }
                break;
            }
        }
        checked.duration += took;
    }
    Ok(checked)
}

/// The `PATH` of checks: that of the worker, unless `sandbox.env` or a toolchain sets another one.
pub(crate) fn effective_path(path: &OsStr, variables: &[(OsString, OsString)]) -> OsString {
    let own = variables.iter().rfind(|(name, _)| name == "PATH");
    own.map_or_else(|| absolute_path_entries(path), |(_, value)| value.clone())
}

/// The place where checks run.
#[derive(Debug, Clone)]
pub struct CheckEnvironment<'a> {
    pub worktree: &'a Path,
    /// The home directory of each check. It is emptied between checks.
    pub scratch: &'a Path,
    /// The worker's own `PATH`, so that checks use the same compilers and test runners as the
    /// people here.
    pub path: OsString,
    /// The directories with objects, which checks may read besides their directories.
    pub objects: Vec<PinnedDirectory>,
    pub sandbox: &'a SandboxLauncher,
}

impl CheckEnvironment<'_> {
    /// One try of a check, with an empty home directory and with its overlay. Both are gone
    /// afterwards.
    async fn run(
        &self,
        check: &AcceptanceCheck,
        timeout: Duration,
        watch: &Watch,
    ) -> Result<Result<Finished, LaunchError>, TaskFailure> {
        let (home, tree, overlay) = (
            self.scratch.to_owned(),
            self.worktree.to_owned(),
            check.overlay.clone(),
        );
        let prepare = move || {
            remove_tree(&home)?;
            make_directory(&home)?;
            lay_over(&tree, &overlay)
        };
        let laid = off_the_runtime(prepare)
            .await
            .map_err(|error| failure("cannot prepare the place for a check", error))?;
        let argv = check.run.iter().map(OsString::from).collect();
        let finished = self.sandbox.run(self.command(argv, timeout), watch).await;
        let tree = self.worktree.to_owned();
        off_the_runtime(move || laid.take_back(&tree))
            .await
            .map_err(|error| failure("cannot remove the overlay of a check", error))?;
        match finished {
            Err(refused @ (LaunchError::Sandbox(_) | LaunchError::OwnPath { .. })) => {
                let message = format!("the checks did not start: {refused}");
                Err(TaskFailure::new(ErrorKind::Sandbox, message))
            }
            // It is not the check that failed, so a repair would be of no use.
            Err(LaunchError::NoReport(end)) => {
                let message = format!(
                    "the acceptance check {:?} did not come to its end: {end}",
                    check.name
                );
                Err(TaskFailure::new(end.kind(ErrorKind::Workspace), message))
            }
            Err(broken @ LaunchError::Helper { .. }) => {
                Err(failure("a check did not come to its end", broken))
            }
            finished => Ok(finished),
        }
    }

    /// A command that runs like a check.
    pub(crate) fn command(&self, argv: Vec<OsString>, timeout: Duration) -> SandboxCommand {
        let env = [
            ("PATH", absolute_path_entries(&self.path)),
            ("HOME", self.scratch.into()),
            ("TMPDIR", self.scratch.into()),
            ("LANG", "C.UTF-8".into()),
            ("PYTHONDONTWRITEBYTECODE", "1".into()),
        ];
        let mut env = env
            .into_iter()
            .map(|(name, value)| (name.into(), value))
            .chain(self.sandbox.variables().iter().cloned())
            .collect();
        bound_git(&mut env, self.worktree);
        SandboxCommand {
            argv,
            cwd: self.worktree.to_owned(),
            env,
            timeout,
            silence: None,
            access: CommandAccess {
                pinned: self.objects.clone(),
                write: vec![self.scratch.to_owned()],
                ..CommandAccess::default()
            },
            warm: WarmPart::None,
        }
    }
}

fn report(
    check: &AcceptanceCheck,
    timeout: Duration,
    finished: Result<&Finished, &LaunchError>,
) -> CheckReport {
    let mut report = CheckReport {
        name: check.name.clone(),
        exit_status: None,
        tries: 1,
        duration_ms: 0,
        output_tail: String::new(),
    };
    let ended = match finished {
        Ok(finished) => {
            report.duration_ms = u64::try_from(finished.duration.as_millis()).unwrap_or(u64::MAX);
            report.output_tail = finished.output.tail(OUTPUT_TAIL_BYTES);
            match finished.exit {
                Exit::Status(status) => {
                    report.exit_status = Some(status);
                    return report;
                }
                Exit::TimedOut => format!("ended after {} s", timeout.as_secs()),
                Exit::Limit(exceeded) => format!("it {exceeded}"),
                Exit::Signal(_) | Exit::Silent | Exit::Done | Exit::Cancelled => {
                    finished.exit.to_string()
                }
            }
        }
        Err(error) => error.to_string(),
    };
    let output = &mut report.output_tail;
    if !output.is_empty() && !output.ends_with('\n') {
        output.push('\n');
    }
    output.push_str(&format!("[{}: {ended}]", check.name));
    report
}
