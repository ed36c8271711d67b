//! Telemetry of the worktrees: how they were made, and which are kept.

use pool_telemetry::catalog::{KEPT_TREES, KEPT_TREES_BYTES, KEPT_TREES_THROWN_AWAY, TREES};

/// Makes all time series at the start of the worker.
pub(super) fn begin() {
    KeptTreesAre { trees: 0, bytes: 0 }.emit();
    for made in ["new", "again"] {
        TREES.add([made], 0);
    }
    for reason in ["attempt", "doubt", "too_many"] {
        KEPT_TREES_THROWN_AWAY.add([reason], 0);
    }
}

/// The trees that no attempt uses.
pub(super) struct KeptTreesAre {
    pub(super) trees: usize,
    pub(super) bytes: u64,
}

impl KeptTreesAre {
    #[expect(
        clippy::cast_precision_loss,
        reason = "metrics are floats, and sizes of disks stay far below 2^53"
    )]
    pub(super) fn emit(&self) {
        KEPT_TREES.set_count([], self.trees);
        KEPT_TREES_BYTES.set([], self.bytes as f64);
    }
}

/// A tree is checked out.
pub(super) enum TreeMade {
    New,
    /// A kept tree was used again.
    Again,
}

impl TreeMade {
    pub(super) fn emit(&self) {
        let made = match self {
            Self::New => "new",
            Self::Again => "again",
        };
        TREES.add([made], 1);
    }
}

/// A tree is not used again.
pub(super) enum TreeThrownAway<'a> {
    /// The attempt did not end well.
    Attempt,
    /// The tree is not certainly as git has made it.
    Doubt(&'a str),
    /// The kept trees have more bytes than `workspace.keep_trees_mib`.
    TooMany,
}

impl TreeThrownAway<'_> {
    pub(super) fn emit(&self) {
        let reason = match self {
            Self::Attempt => "attempt",
            Self::Doubt(why) => {
                tracing::info!(why, "a worktree is not used again");
                "doubt"
            }
            Self::TooMany => "too_many",
        };
        KEPT_TREES_THROWN_AWAY.add([reason], 1);
    }
}
