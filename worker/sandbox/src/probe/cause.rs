//! Why a self-test failed, in words for the person who runs the worker: the cause and the remedy.

use std::fs;
use std::io;

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use super::LevelUnavailable;
use crate::message::{SetupError, SetupStep};
use crate::plan::Level;
use crate::rules::LEAST_ABI;

pub(super) enum ProbeFailure {
    Refused(SetupError),
    /// A layer does not do what it must.
    Open(String),
    /// The self-test did not come to its end.
    Hindered(Hindrance),
}

/// Something that must work and does not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Hindrance {
    pub(super) problem: String,
    pub(super) errno: Option<i32>,
}

impl Hindrance {
    pub(super) fn new(what: &str, error: &io::Error) -> Self {
        Self {
            problem: format!("{what}: {error}"),
            errno: error.raw_os_error(),
        }
    }
}

impl From<Hindrance> for ProbeFailure {
    fn from(hindrance: Hindrance) -> Self {
        Self::Hindered(hindrance)
    }
}

impl From<io::Error> for ProbeFailure {
    fn from(error: io::Error) -> Self {
        Hindrance::new("the self-test failed", &error).into()
    }
}

/// The settings of a machine that explain why a layer was refused.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct KernelSettings {
    no_user_namespaces: bool,
    no_unprivileged_namespaces: bool,
    restricted_by_apparmor: bool,
    /// A container or a service manager filters this process's system calls.
    filtered: bool,
}

impl KernelSettings {
    pub(super) fn look() -> Self {
        let is = |path: &str, value: &str| {
            fs::read_to_string(path).is_ok_and(|text| text.trim() == value)
        };
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        Self {
            no_user_namespaces: is("/proc/sys/user/max_user_namespaces", "0"),
            no_unprivileged_namespaces: is("/proc/sys/kernel/unprivileged_userns_clone", "0"),
            restricted_by_apparmor: is(
                "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
                "1",
            ),
            filtered: status.lines().any(|line| line == "Seccomp:\t2"),
        }
    }
}

pub(super) fn without_landlock(abi: u32) -> LevelUnavailable {
    let cause = match abi {
        0 => "this kernel has no Landlock, or Landlock is switched off".to_owned(),
        abi => format!(
            "this kernel has Landlock {abi}, which does not let programs move files between \
             directories; {LEAST_ABI} is needed (Linux 5.19)"
        ),
    };
    LevelUnavailable {
        level: Level::Files,
        cause,
        remedy: "add `landlock` to the kernel parameter `lsm=`, or install a newer kernel"
            .to_owned(),
        is_transient: false,
    }
}

const OTHER_LEVEL: &str = "run the worker on a kernel that allows user namespaces, or write \
                           another level in `sandbox.level`";
const LATER: &str = "look for too many processes, too little memory or a full disk, and start the \
                     worker again";

/// Error numbers that say: this kernel, container or service never does this. After any other, for
/// example a lack of memory, the machine may do it a moment later.
fn says_never(errno: Option<i32>) -> bool {
    const NEVER: [Errno; 8] = [
        Errno::EPERM,
        Errno::EACCES,
        Errno::ENOSYS,
        Errno::EINVAL,
        Errno::EOPNOTSUPP,
        Errno::ENODEV,
        Errno::EXDEV,
        Errno::EUSERS,
    ];
    errno.is_some_and(|errno| NEVER.contains(&Errno::from_raw(errno)))
}

impl ProbeFailure {
    pub(super) fn explain(self, level: Level, machine: &KernelSettings) -> LevelUnavailable {
        let (cause, remedy, is_transient) = match self {
            Self::Refused(refused) => return explain(level, &refused, machine),
            Self::Open(problem) => (problem, OTHER_LEVEL, false),
            Self::Hindered(Hindrance { problem, errno }) if says_never(errno) => {
                (problem, OTHER_LEVEL, false)
            }
            Self::Hindered(Hindrance { problem, .. }) => (problem, LATER, true),
        };
        LevelUnavailable {
            level,
            cause,
            remedy: remedy.to_owned(),
            is_transient,
        }
    }
}

/// Turns what a stage has reported into a cause and a remedy.
fn explain(level: Level, refused: &SetupError, machine: &KernelSettings) -> LevelUnavailable {
    let said = refused.to_string();
    let namespaces = match refused.step {
        SetupStep::Namespaces | SetupStep::Network | SetupStep::View | SetupStep::Rights => true,
        SetupStep::Plan | SetupStep::Proc | SetupStep::Landlock | SetupStep::Seccomp => false,
    };
    let lasts = says_never(refused.errno) || (namespaces && machine.no_user_namespaces);
    let (cause, remedy) = if !lasts {
        ("the machine could not do it this time", LATER)
    } else if namespaces && machine.no_user_namespaces {
        (
            "user namespaces are switched off (user.max_user_namespaces is 0)",
            "run `sudo sysctl -w user.max_user_namespaces=15000`",
        )
    } else if namespaces && machine.no_unprivileged_namespaces {
        (
            "user namespaces are only for root (kernel.unprivileged_userns_clone is 0)",
            "run `sudo sysctl -w kernel.unprivileged_userns_clone=1`",
        )
    } else if namespaces && machine.restricted_by_apparmor {
        (
            "AppArmor keeps user namespaces from this program",
            "run `sudo cp config/apparmor/programmer-pool-worker /etc/apparmor.d/ && sudo \
             apparmor_parser -r /etc/apparmor.d/programmer-pool-worker` with the path of this \
             program in the profile",
        )
    } else if namespaces && machine.filtered {
        (
            "the seccomp profile of this container or service forbids namespaces",
            "start the container with `security_opt: [seccomp=./config/docker-seccomp.json]`",
        )
    } else {
        ("the kernel refuses it", OTHER_LEVEL)
    };
    LevelUnavailable {
        level,
        cause: format!("{cause} ({said})"),
        remedy: remedy.to_owned(),
        is_transient: !lasts,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(step: SetupStep, errno: Errno) -> SetupError {
        SetupError {
            step,
            problem: errno.to_string(),
            errno: Some(errno as i32),
            path: None,
        }
    }

    #[test]
    fn the_cause_names_the_setting_and_the_command_that_changes_it() {
        let machine = KernelSettings::default();
        for (machine, cause, remedy) in [
            (
                KernelSettings {
                    no_user_namespaces: true,
                    ..machine.clone()
                },
                "user.max_user_namespaces",
                "sysctl -w user.max_user_namespaces",
            ),
            (
                KernelSettings {
                    no_unprivileged_namespaces: true,
                    ..machine.clone()
                },
                "kernel.unprivileged_userns_clone",
                "sysctl -w kernel.unprivileged_userns_clone=1",
            ),
            (
                KernelSettings {
                    restricted_by_apparmor: true,
                    ..machine.clone()
                },
                "AppArmor",
                "apparmor_parser",
            ),
            (
                KernelSettings {
                    filtered: true,
                    ..machine.clone()
                },
                "seccomp profile",
                "docker-seccomp.json",
            ),
            (machine, "kernel refuses", "sandbox.level"),
        ] {
            let explained = explain(
                Level::Strict,
                &refused(SetupStep::Namespaces, Errno::EPERM),
                &machine,
            );
            assert!(explained.cause.contains(cause), "{explained}");
            assert!(explained.remedy.contains(remedy), "{explained}");
            assert!(
                explained.to_string().contains("make namespaces"),
                "it names the step: {explained}"
            );
        }
    }

    #[test]
    fn a_setting_of_namespaces_does_not_explain_landlock() {
        let machine = KernelSettings {
            no_user_namespaces: true,
            ..KernelSettings::default()
        };
        let explained = explain(
            Level::Files,
            &refused(SetupStep::Landlock, Errno::EPERM),
            &machine,
        );
        assert!(!explained.cause.contains("namespaces"), "{explained}");
    }

    #[test]
    fn only_a_cause_that_lasts_says_that_the_machine_cannot() {
        let usual = KernelSettings::default();
        let without = KernelSettings {
            no_user_namespaces: true,
            ..usual.clone()
        };
        for (errno, machine, is_transient) in [
            (Errno::EPERM, &usual, false),
            (Errno::ENOSYS, &usual, false),
            (Errno::EINVAL, &usual, false),
            (Errno::EAGAIN, &usual, true),
            (Errno::ENOMEM, &usual, true),
            (Errno::EMFILE, &usual, true),
            // Too many namespaces: of this user, or of all users if there must be none.
            (Errno::ENOSPC, &usual, true),
            (Errno::ENOSPC, &without, false),
        ] {
            let step = refused(SetupStep::Namespaces, errno);
            let explained = explain(Level::Strict, &step, machine);
            assert_eq!(explained.is_transient, is_transient, "{explained}");
            let error = io::Error::from(errno);
            let hindered = ProbeFailure::from(error).explain(Level::Strict, &usual);
            let expected = is_transient || errno == Errno::ENOSPC;
            assert_eq!(hindered.is_transient, expected, "{hindered}");
        }
        let late = ProbeFailure::from(io::Error::from(io::ErrorKind::TimedOut));
        let late = late.explain(Level::Strict, &usual);
        assert!(late.is_transient, "a slow machine: {late}");
        let open = ProbeFailure::Open("could read".to_owned()).explain(Level::Strict, &usual);
        assert!(!open.is_transient, "a layer does not hold: {open}");
    }
}
