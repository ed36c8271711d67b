//! The sandbox that a worker has settled on its machine, in the words of its log and of `worker sandbox`.

use std::fmt;
use std::time::Duration;

use agent_sandbox::Layers;
use pool_core::pool::{self, SandboxLevel, SandboxNetwork};
use pool_core::sandbox::{LimitedBy, SandboxStatus, VisibleProcesses};

use super::access::SettledLevel;
use super::cgroup::LimitsBy;

/// The sandbox of a worker, and why it is not a stronger one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettledSandbox {
    /// As others see it.
    pub status: SandboxStatus,
    /// The layers that the self-test has proven.
    pub layers: Option<Layers>,
    /// How long the self-test took; None: there was none.
    tested_in: Option<Duration>,
    not_stronger: Option<Remedied>,
}

/// A weakness, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Remedied {
    cause: String,
    remedy: String,
}

impl SettledSandbox {
    /// `wanted` is the section of the pool file, and `took` the duration of the self-test.
    pub fn new(
        wanted: &pool::Sandbox,
        settled: &SettledLevel,
        limits: LimitsBy,
        took: Duration,
    ) -> Self {
        let SettledLevel {
            level,
            proven,
            not_stronger,
        } = settled;
        let own_proc =
            *level == SandboxLevel::Strict && proven.is_some_and(|proven| proven.own_proc);
        let mut status = SandboxStatus {
            level: *level,
            wanted: wanted.level,
            landlock: proven.map_or(0, |proven| proven.layers.landlock),
            proc: if own_proc {
                VisibleProcesses::Own
            } else {
                VisibleProcesses::Shared
            },
            limits: match limits {
                LimitsBy::Cgroup => LimitedBy::Cgroup,
                LimitsBy::Watched => LimitedBy::Watched,
            },
            network: match level {
                SandboxLevel::Off => SandboxNetwork::Host,
                SandboxLevel::Auto | SandboxLevel::Strict | SandboxLevel::Files => wanted.network,
            },
            why: None,
        };
        let not_stronger = match not_stronger {
            Some(refused) => Some(Remedied {
                cause: refused.cause.clone(),
                remedy: refused.remedy.clone(),
            }),
            None => weakness(&status),
        };
        status.why = not_stronger
            .as_ref()
            .map(|Remedied { cause, remedy }| format!("{cause}; {remedy}"));
        Self {
            status,
            layers: proven.map(|proven| proven.layers),
            tested_in: proven.map(|_| took),
            not_stronger,
        }
    }

    /// Whether agents and checks reach nothing but their own files and their gateway.
    pub fn is_full(&self) -> bool {
        self.status.is_full()
    }

    /// One line for a full sandbox. Otherwise also the cause, each thing that stays open, and the remedy.
    pub fn lines(&self) -> Vec<String> {
        let tested = self.tested_in.map_or(String::new(), |took| {
            format!(", tested in {} ms", took.as_millis())
        });
        let mut lines = vec![format!("{}{tested}", self.status)];
        if let Some(Remedied { cause, .. }) = &self.not_stronger {
            lines.push(format!("why not stronger: {cause}"));
        }
        let open = self.status.stays_open();
        lines.extend(open.iter().map(|open| format!("stays open: {open}")));
        if let Some(Remedied { remedy, .. }) = &self.not_stronger {
            lines.push(format!("to change that: {remedy}"));
        }
        lines
    }
}

/// Why a level that is in force as it was wanted is not the whole sandbox.
fn weakness(status: &SandboxStatus) -> Option<Remedied> {
    let (cause, remedy) = match status.level {
        SandboxLevel::Off => (
            "the pool file switches the sandbox off",
            "write `sandbox: {level: auto}`",
        ),
        SandboxLevel::Files => (
            "the pool file asks for `files`",
            "write `sandbox: {level: auto}`, which takes `strict` if the machine supports it",
        ),
        SandboxLevel::Strict | SandboxLevel::Auto if status.network == SandboxNetwork::Host => (
            "the pool file opens the network",
            "write `sandbox: {network: gateway}`",
        ),
        SandboxLevel::Strict | SandboxLevel::Auto if status.proc == VisibleProcesses::Shared => (
            "the container masks parts of /proc, so a run gets no /proc of its own",
            "start the container with `--security-opt systempaths=unconfined`, which Compose does not know",
        ),
        SandboxLevel::Strict | SandboxLevel::Auto => return None,
    };
    Some(Remedied {
        cause: cause.to_owned(),
        remedy: remedy.to_owned(),
    })
}

impl fmt::Display for SettledSandbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.lines().join("\n"))
    }
}

#[cfg(test)]
mod tests {
    use agent_sandbox::probe::{LevelUnavailable, Proven};
    use agent_sandbox::{Layers, Level};

    use super::*;

    fn settled(yaml: &str, proven: Option<(Level, u32)>, refused: bool) -> SettledSandbox {
        let file = format!(
            "programmers: [{{id: \"001\", primary_llm: a/b, capabilities: [fast]}}]\nproviders: {{a: {{base_url: 'http://127.0.0.1:9/v1', free: true}}}}\n\
             workspace: {{dir: /w, roots: [/r]}}\nsandbox: {yaml}"
        );
        let pool =
            pool_config::parse(&file, std::path::Path::new("/pool.yaml")).expect("a pool file");
        let proven = proven.map(|(level, landlock)| Proven {
            layers: Layers {
                own_network: pool.sandbox.network == SandboxNetwork::Gateway,
                ..Layers::all(level, landlock)
            },
            own_proc: true,
        });
        let refused = refused.then(|| LevelUnavailable {
            level: Level::Strict,
            cause: "AppArmor forbids it".to_owned(),
            remedy: "load the profile".to_owned(),
            is_transient: false,
        });
        let settled = SettledLevel {
            level: proven.map_or(SandboxLevel::Off, |proven| match proven.layers.level {
                Level::Strict => SandboxLevel::Strict,
                Level::Files => SandboxLevel::Files,
            }),
            proven,
            not_stronger: refused,
        };
        let took = Duration::from_millis(31);
        SettledSandbox::new(&pool.sandbox, &settled, LimitsBy::Watched, took)
    }

    #[test]
    fn a_full_sandbox_is_one_line() {
        let strict = settled("{level: auto}", Some((Level::Strict, 7)), false);
        assert!(strict.is_full());
        assert_eq!(
            strict.lines(),
            ["strict (namespaces, Landlock 7, seccomp; limits watched), tested in 31 ms"]
        );
        assert_eq!(strict.status.why, None, "there is nothing to change");
    }

    #[test]
    fn a_weaker_one_says_why_what_stays_open_and_what_to_do() {
        for (settled, first, parts) in [
            (
                settled("{level: auto}", Some((Level::Files, 4)), true),
                "files (Landlock 4, seccomp; limits watched), tested in 31 ms",
                [
                    "why not stronger: AppArmor forbids it",
                    "stays open: the names, sizes",
                    "to change that: load the profile",
                ],
            ),
            (
                settled(
                    "{level: strict, network: host}",
                    Some((Level::Strict, 7)),
                    false,
                ),
                "strict (namespaces, Landlock 7, seccomp; limits watched), tested in 31 ms",
                [
                    "why not stronger: the pool file opens the network",
                    "stays open: the machine's network",
                    "to change that: write `sandbox: {network: gateway}`",
                ],
            ),
            (
                settled("{level: \"off\"}", None, false),
                "off (no kernel sandbox)",
                [
                    "why not stronger: the pool file switches",
                    "stays open: everything",
                    "to change that: write `sandbox: {level: auto}`",
                ],
            ),
        ] {
            assert!(!settled.is_full(), "{settled}");
            let lines = settled.lines();
            assert_eq!(lines[0], first);
            for part in parts {
                assert!(
                    lines.iter().any(|line| line.starts_with(part)),
                    "{part}: {lines:?}"
                );
            }
        }
    }
}
