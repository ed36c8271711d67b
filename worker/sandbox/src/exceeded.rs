//! Whether a run uses more than it may. Pure.

use serde::{Deserialize, Serialize};

use crate::plan::RunLimits;

const MIB: u64 = 1024 * 1024;

/// Something of which a run may use only so much.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunLimit {
    Memory,
    Processes,
    Disk,
}

impl RunLimit {
    pub const ALL: [Self; 3] = [Self::Memory, Self::Processes, Self::Disk];

    pub fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Processes => "processes",
            Self::Disk => "disk",
        }
    }
}

/// The use of all processes of a run together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct RunUsage {
    /// In bytes.
    pub(crate) memory: u64,
    /// Threads included.
    pub(crate) processes: u64,
    /// The bytes that the run has added.
    pub(crate) disk: u64,
}

/// A limit that a run has exceeded. Bytes, or a number of processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exceeded {
    pub limit: RunLimit,
    /// If the kernel refused to give more, the same as `allowed`.
    pub used: u64,
    pub allowed: u64,
}

/// The first limit that is exceeded.
pub(crate) fn exceeded(limits: RunLimits, usage: RunUsage) -> Option<Exceeded> {
    let all = [
        (RunLimit::Processes, usage.processes, limits.processes),
        (RunLimit::Memory, usage.memory, limits.memory_bytes),
        (RunLimit::Disk, usage.disk, limits.disk_bytes),
    ];
    all.into_iter()
        .find(|(_, used, allowed)| *allowed > 0 && used > allowed)
        .map(|(limit, used, allowed)| Exceeded {
            limit,
            used,
            allowed,
        })
}

/// The rest of a sentence whose subject is the agent or the check.
impl std::fmt::Display for Exceeded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            limit,
            used,
            allowed,
        } = *self;
        let mib = |bytes: u64| bytes.div_ceil(MIB);
        let refused = used <= allowed;
        let key = match (limit, refused) {
            (RunLimit::Memory, false) => {
                write!(
                    f,
                    "used {} MiB of memory, and a run may use {}",
                    mib(used),
                    mib(allowed)
                )?;
                "max_total_memory_mib"
            }
            (RunLimit::Memory, true) => {
                write!(
                    f,
                    "needed more than the {} MiB of memory that a run may use",
                    mib(allowed)
                )?;
                "max_total_memory_mib"
            }
            (RunLimit::Processes, false) => {
                write!(
                    f,
                    "had {used} processes and threads, and a run may have {allowed}"
                )?;
                "max_processes"
            }
            (RunLimit::Processes, true) => {
                write!(
                    f,
                    "needed more than the {allowed} processes and threads that a run may have"
                )?;
                "max_processes"
            }
            (RunLimit::Disk, _) => {
                write!(
                    f,
                    "wrote {} MiB to the disk, and a run may write {}",
                    mib(used),
                    mib(allowed)
                )?;
                "max_disk_mib"
            }
        };
        write!(f, "; `sandbox.{key}` sets this limit")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_may_use_as_much_as_its_limits_and_no_more() {
        let limits = RunLimits {
            memory_bytes: 100,
            processes: 10,
            disk_bytes: 50,
        };
        let none = RunLimits::default();
        let usage = |memory, processes, disk| RunUsage {
            memory,
            processes,
            disk,
        };
        for (limits, usage, expected) in [
            (limits, usage(100, 10, 50), None),
            (
                limits,
                usage(101, 10, 50),
                Some((RunLimit::Memory, 101, 100)),
            ),
            (limits, usage(0, 11, 0), Some((RunLimit::Processes, 11, 10))),
            (limits, usage(0, 0, 51), Some((RunLimit::Disk, 51, 50))),
            (
                limits,
                usage(101, 11, 51),
                Some((RunLimit::Processes, 11, 10)),
            ),
            (none, usage(u64::MAX, u64::MAX, u64::MAX), None),
            (
                RunLimits {
                    disk_bytes: 1,
                    ..none
                },
                usage(9, 9, 1),
                None,
            ),
            (
                RunLimits {
                    disk_bytes: 1,
                    ..none
                },
                usage(9, 9, 2),
                Some((RunLimit::Disk, 2, 1)),
            ),
        ] {
            let found = exceeded(limits, usage).map(|one| (one.limit, one.used, one.allowed));
            assert_eq!(found, expected, "{usage:?} of {limits:?}");
        }
    }

    #[test]
    fn the_message_has_the_use_the_limit_and_the_key() {
        let of = |limit, used, allowed| {
            Exceeded {
                limit,
                used,
                allowed,
            }
            .to_string()
        };
        for (said, expected) in [
            (
                of(RunLimit::Memory, 210 * MIB, 100 * MIB),
                "used 210 MiB of memory, and a run may use 100; `sandbox.max_total_memory_mib` sets this limit",
            ),
            (
                of(RunLimit::Memory, 100 * MIB, 100 * MIB),
                "needed more than the 100 MiB of memory that a run may use; `sandbox.max_total_memory_mib` sets this limit",
            ),
            (
                of(RunLimit::Processes, 41, 20),
                "had 41 processes and threads, and a run may have 20; `sandbox.max_processes` sets this limit",
            ),
            (
                of(RunLimit::Processes, 20, 20),
                "needed more than the 20 processes and threads that a run may have; `sandbox.max_processes` sets this limit",
            ),
            (
                of(RunLimit::Disk, 50 * MIB + 1, 50 * MIB),
                "wrote 51 MiB to the disk, and a run may write 50; `sandbox.max_disk_mib` sets this limit",
            ),
        ] {
            assert_eq!(said, expected);
        }
    }
}
