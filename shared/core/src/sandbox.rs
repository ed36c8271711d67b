//! The sandbox of a worker, as the worker has settled it on its machine. Heartbeats and the status of the pool show it.
//! Workers of one pool may differ.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use crate::pool::{SandboxLevel, SandboxNetwork};

/// Since this ABI Landlock knows TCP ports.
const LANDLOCK_PORTS: u32 = 4;
/// Since this ABI Landlock knows signals and abstract sockets.
const LANDLOCK_SIGNALS: u32 = 6;

crate::words!(
    /// The processes that a program sees in `/proc`.
    pub enum VisibleProcesses {
        /// Those of its own run.
        Own = "own",
        /// Those of the worker's machine or container.
        Shared = "shared",
    }
);

crate::words!(
    /// The mechanism that holds the limits of memory, processes and disk.
    pub enum LimitedBy {
        /// The kernel counts a run as a whole.
        Cgroup = "cgroup",
        /// The sandbox looks at a run as a whole several times a second.
        Watched = "watched",
    }
);

/// The sandbox of a worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SandboxStatus {
    /// The level in force: `strict`, `files` or `off`.
    pub level: SandboxLevel,
    /// The level in the pool file.
    pub wanted: SandboxLevel,
    /// The ABI of Landlock that is used; 0: Landlock is not used.
    pub landlock: u32,
    /// The processes that agents and checks see.
    pub proc: VisibleProcesses,
    /// The mechanism that holds the limits of a run.
    pub limits: LimitedBy,
    /// The network of agents and checks.
    pub network: SandboxNetwork,
    /// Why agents and checks are not locked in further, and what to do; for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

impl SandboxStatus {
    /// Whether agents and checks see and reach nothing but their own files, their own processes and their gateway.
    pub fn is_full(&self) -> bool {
        self.level == SandboxLevel::Strict
            && self.proc == VisibleProcesses::Own
            && self.network == SandboxNetwork::Gateway
    }

    /// The things that agents and checks can see or do beyond that, one line for each.
    pub fn stays_open(&self) -> Vec<&'static str> {
        let mut open = match self.level {
            SandboxLevel::Off => {
                return vec!["everything that the worker's user can read, write, reach or end"];
            }
            SandboxLevel::Files => self.open_in_files(),
            SandboxLevel::Strict | SandboxLevel::Auto => match self.proc {
                VisibleProcesses::Own => Vec::new(),
                VisibleProcesses::Shared => {
                    vec!["the names and command lines of this container's processes can be seen"]
                }
            },
        };
        if self.network == SandboxNetwork::Host {
            open.push("the machine's network can be reached");
        }
        open
    }

    /// The attacks of `tests/attacks` that Landlock and seccomp do not stop.
    fn open_in_files(&self) -> Vec<&'static str> {
        let mut open = vec![
            "the names, sizes and times of the machine's files can be seen",
            "modes and times of files of the worker's user can be changed",
            "the command lines of other processes can be seen",
            "the priority of the user's processes can be changed",
            "the user's System V shared memory can be used",
        ];
        if self.landlock < LANDLOCK_SIGNALS {
            open.push("the user's processes can be signalled (Landlock 6, Linux 6.12, stops that)");
        }
        if self.network == SandboxNetwork::Gateway {
            open.push(if self.landlock < LANDLOCK_PORTS {
                "every TCP port can be reached (Landlock 4, Linux 6.7, stops that)"
            } else {
                "the gateway's port number can be reached on other addresses, too"
            });
        }
        open
    }
}

/// The layers: `strict (namespaces, Landlock 7, seccomp; limits watched)`.
impl fmt::Display for SandboxStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let namespaces = match self.level {
            SandboxLevel::Off => return f.write_str("off (no kernel sandbox)"),
            SandboxLevel::Strict | SandboxLevel::Auto => "namespaces, ",
            SandboxLevel::Files => "",
        };
        write!(f, "{} ({namespaces}", self.level)?;
        if self.landlock > 0 {
            write!(f, "Landlock {}, ", self.landlock)?;
        }
        f.write_str("seccomp")?;
        match self.limits {
            LimitedBy::Cgroup => f.write_str("; limits by cgroup)"),
            LimitedBy::Watched => f.write_str("; limits watched)"),
        }
    }
}

/// Reads the sandbox in a heartbeat. A newer worker may use words that this process does not know; then it is unknown,
/// and the rest of the heartbeat counts.
///
/// # Errors
/// When the heartbeat is not JSON.
pub(crate) fn if_known<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<SandboxStatus>, D::Error> {
    let value = Option::<serde_json::Value>::deserialize(deserializer)?;
    Ok(value.and_then(|value| serde_json::from_value(value).ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(level: SandboxLevel, landlock: u32) -> SandboxStatus {
        SandboxStatus {
            level,
            wanted: SandboxLevel::Auto,
            landlock,
            proc: match level {
                SandboxLevel::Strict | SandboxLevel::Auto => VisibleProcesses::Own,
                SandboxLevel::Files | SandboxLevel::Off => VisibleProcesses::Shared,
            },
            limits: LimitedBy::Watched,
            network: SandboxNetwork::Gateway,
            why: None,
        }
    }

    #[test]
    fn the_layers_are_named() {
        for (status, text) in [
            (
                status(SandboxLevel::Strict, 7),
                "strict (namespaces, Landlock 7, seccomp; limits watched)",
            ),
            (
                status(SandboxLevel::Strict, 0),
                "strict (namespaces, seccomp; limits watched)",
            ),
            (
                status(SandboxLevel::Files, 4),
                "files (Landlock 4, seccomp; limits watched)",
            ),
            (status(SandboxLevel::Off, 0), "off (no kernel sandbox)"),
        ] {
            assert_eq!(status.to_string(), text);
        }
    }

    #[test]
    fn nothing_stays_open_only_if_the_sandbox_is_full() {
        let full = status(SandboxLevel::Strict, 7);
        assert!(full.is_full() && full.stays_open().is_empty(), "all walls");
        let strict = |change: fn(&mut SandboxStatus)| {
            let mut status = status(SandboxLevel::Strict, 7);
            change(&mut status);
            status
        };
        for (status, open) in [
            (
                strict(|status| status.network = SandboxNetwork::Host),
                "network",
            ),
            (
                strict(|status| status.proc = VisibleProcesses::Shared),
                "container's processes",
            ),
            (status(SandboxLevel::Off, 0), "everything"),
            (status(SandboxLevel::Files, 7), "other addresses"),
            (status(SandboxLevel::Files, 4), "signalled"),
            (status(SandboxLevel::Files, 2), "every TCP port"),
        ] {
            assert!(!status.is_full(), "{status}");
            let lines = status.stays_open();
            assert!(
                lines.iter().any(|line| line.contains(open)),
                "{status}: {open} is named: {lines:?}"
            );
        }
        let files = status(SandboxLevel::Files, 7).stays_open();
        assert!(
            !files.iter().any(|line| line.contains("signalled")),
            "Landlock 7 stops signals: {files:?}"
        );
    }
}
