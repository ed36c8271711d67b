//! The helper's part in the limits of a whole run: its control group, its watch, and who is ended
//! first when memory runs out.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::PathBuf;

use agent_sandbox::processes::descendants;
use agent_sandbox::{Exceeded, Level, LimitWatch, Plan, RunLimits};
use nix::poll::PollTimeout;
use serde::{Deserialize, Serialize};

use super::cgroup::RunGroup;

/// The time between two looks at what the run uses.
const LOOK_EVERY_MS: u16 = 100;
/// If memory runs out, the kernel ends programs with this score before the worker.
const OOM_SCORE: &str = "800";

/// The task of a helper, apart from the program: comes first on the line.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct HelperOrder {
    /// None: no kernel layers.
    pub(super) plan: Option<Plan>,
    /// Without a plan, or beside it.
    pub(super) limits: RunLimits,
    /// Where the program may write.
    pub(super) write: Vec<PathBuf>,
    pub(super) group: Option<RunGroup>,
}

/// Enforces the limits of one run.
pub(super) struct Limiter {
    group: Option<RunGroup>,
    /// None: the sandbox watches, or nothing is limited.
    watch: Option<LimitWatch>,
    oom_score: OomScore,
}

/// The score of this process, which the program inherits. The file is opened before this process
/// hides, because then it is root's.
pub(super) struct OomScore {
    usual: String,
    file: io::Result<File>,
}

impl OomScore {
    pub(super) fn open() -> Self {
        const FILE: &str = "/proc/self/oom_score_adj";
        Self {
            usual: std::fs::read_to_string(FILE).unwrap_or_default(),
            file: File::options().write(true).open(FILE),
        }
    }

    fn set(&self, score: &str) {
        if let Ok(mut file) = self.file.as_ref() {
            // The kernel may refuse that, and then the usual score applies.
            let _ = file.write_all(score.as_bytes());
        }
    }
}

impl Limiter {
    /// Call it before the program starts.
    pub(super) fn new(order: &mut HelperOrder, oom_score: OomScore) -> Self {
        let group = order.group.take().filter(|group| group.enter().is_ok());
        let mut limits = order.limits;
        if group.is_some() {
            (limits.memory_bytes, limits.processes) = (0, 0);
        }
        let watched_inside = match &mut order.plan {
            Some(plan) if plan.layers.level == Level::Strict => {
                plan.limits = limits;
                true
            }
            Some(_) | None => false,
        };
        let limiter = Self {
            group,
            watch: match watched_inside {
                true => None,
                false => LimitWatch::new(limits, &order.write, &[]),
            },
            oom_score,
        };
        limiter.oom_score.set(OOM_SCORE);
        limiter
    }

    /// The program is on its way, with the group and the score of this process.
    pub(super) fn started(&self) -> io::Result<()> {
        self.oom_score.set(&self.oom_score.usual);
        self.group.as_ref().map_or(Ok(()), RunGroup::leave)
    }

    /// How long to wait for something else.
    pub(super) fn pause(&self) -> PollTimeout {
        match (&self.watch, &self.group) {
            (None, None) => PollTimeout::NONE,
            (Some(_), _) | (_, Some(_)) => PollTimeout::from(LOOK_EVERY_MS),
        }
    }

    pub(super) fn exceeded(&mut self, urgent: impl Fn() -> bool) -> Option<Exceeded> {
        let refused = self.refused();
        let watch = self.watch.as_mut();
        refused.or_else(|| watch?.exceeded(descendants, urgent))
    }

    /// The refusals of the kernel to the run.
    pub(super) fn refused(&self) -> Option<Exceeded> {
        self.group.as_ref()?.exceeded()
    }

    pub(super) fn kill(&self) {
        if let Some(group) = &self.group {
            group.kill();
        }
    }
}

impl Drop for Limiter {
    fn drop(&mut self) {
        if let Some(group) = &self.group {
            // If no program has started, this process is still in it.
            let _ = group.leave();
            group.end();
        }
    }
}
