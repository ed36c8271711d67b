//! Says which setting of the sandbox may have made a command fail.
//!
//! A hint names a path only if the output named it, and if sharing it would be sound: never secrets, other tasks' files or the
//! machine's own directories. Otherwise a result would tell a submitter which secrets exist.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use agent_sandbox::show::{Entries, PathAccess, entries};
use agent_sandbox::{Level, Plan};
use pool_api::format::counted;
use pool_core::result::{NetworkAttempts, SandboxReport};

use super::denials::{self, OUTPUT_BYTES, Refusal, RefusedPath};
use super::trust::real;
use super::{CommandOutput, Exit};
use crate::workspace::off_the_runtime;

/// The most hints about paths.
const MOST_HINTS: usize = 5;
/// A path may lie on a file system that hangs.
const LIMIT: Duration = Duration::from_secs(2);
/// Programs have these to themselves, or must not have them.
const NEVER_SHARED: [&str; 8] = [
    "/dev", "/proc", "/run", "/sys", "/tmp", "/var/run", "/var/tmp", "/boot",
];
/// Directories of the machine that nobody should open for writing.
const SYSTEM: [&str; 8] = [
    "/bin", "/etc", "/gnu", "/lib", "/lib64", "/nix", "/sbin", "/usr",
];
/// Directories and files with secrets.
const SECRETS: [&str; 16] = [
    ".aws",
    ".azure",
    ".docker",
    ".gcloud",
    ".git-credentials",
    ".gnupg",
    ".kube",
    ".netrc",
    ".npmrc",
    ".password-store",
    ".pgpass",
    ".pypirc",
    ".ssh",
    "gcloud",
    "gh",
    "keyrings",
];

/// The refusals of the sandbox to a command.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Denials {
    pub network: NetworkAttempts,
    /// Likely causes of a failure, in words.
    pub hints: Vec<String>,
}

impl Denials {
    /// Adds those of another command, with its hints if it failed.
    pub fn add(&mut self, more: &Self, failed: bool) {
        self.network = self.network.and(more.network);
        for hint in more.hints.iter().filter(|_| failed) {
            if !self.hints.contains(hint) {
                self.hints.push(hint.clone());
            }
        }
    }

    /// The part of a result. An attempt that succeeded needs no hints.
    pub fn report(self, failed: bool) -> SandboxReport {
        let mut hints = Vec::new();
        if failed {
            hints.extend(self.hints);
            hints.extend(of_network(self.network));
        }
        SandboxReport {
            network_attempts: self.network,
            hints,
        }
    }
}

/// The kernel layers of a command, and what they keep to themselves.
#[derive(Debug, Clone)]
pub(super) struct Walls {
    pub(super) plan: Plan,
    /// Directories and files that are never shown as a whole, without links.
    pub(super) guarded: Vec<PathBuf>,
    /// The home directory of the worker's user, without links. Parts of it may be shown.
    pub(super) home: Option<PathBuf>,
}

/// The hints about a command that has ended.
pub(super) async fn look(walls: Walls, exit: Exit, output: &CommandOutput) -> Vec<String> {
    let text = output.tail(OUTPUT_BYTES);
    let call = refused_call(exit, &text);
    let about_paths = off_the_runtime(move || Ok(walls.about_paths(&text)));
    let paths = tokio::time::timeout(LIMIT, about_paths).await;
    let mut hints = paths.ok().and_then(Result::ok).unwrap_or_default();
    hints.extend(call);
    hints
}

/// The hint about the network.
fn of_network(attempts: NetworkAttempts) -> Option<String> {
    let NetworkAttempts {
        addresses,
        names,
        local_ports,
    } = attempts;
    let failed: Vec<String> = [
        (
            addresses,
            "connection to another machine",
            "connections to other machines",
        ),
        (
            names,
            "question to a name server",
            "questions to name servers",
        ),
    ]
    .into_iter()
    .filter(|(count, ..)| *count > 0)
    .map(|(count, one, many)| counted(count, one, many))
    .collect();
    if !failed.is_empty() {
        return Some(format!(
            "agents and checks have no network, and {} failed; `sandbox.network: host` in the pool file opens the machine's network \
             to them",
            failed.join(" and ")
        ));
    }
    (local_ports > 0).then(|| {
        format!(
            "{} to ports of 127.0.0.1 found no server: the sandbox has a loopback interface of its own, and servers outside of it \
             cannot be reached",
            counted(local_ports, "connection", "connections")
        )
    })
}

fn refused_call(exit: Exit, output: &str) -> Option<String> {
    /// A shell's exit status for a program that SIGSYS ended.
    const BY_SIGSYS: i32 = 128 + nix::libc::SIGSYS;
    let ended = matches!(
        exit,
        Exit::Signal(nix::libc::SIGSYS) | Exit::Status(BY_SIGSYS)
    );
    (ended || denials::names_a_refused_call(output)).then(|| {
        "the sandbox refuses some system calls (\"Operation not permitted\"); on the worker's machine `worker sandbox -- COMMAND` runs \
         a command as a check would run"
            .to_owned()
    })
}

impl Walls {
    fn about_paths(&self, output: &str) -> Vec<String> {
        let refused = denials::refused_paths(output);
        if refused.is_empty() {
            return Vec::new();
        }
        let shown = entries(&self.plan);
        let hints = refused.iter().filter_map(|one| self.about(one, &shown));
        hints.take(MOST_HINTS).collect()
    }

    fn about(&self, refused: &RefusedPath<'_>, shown: &Entries) -> Option<String> {
        let path = Path::new(refused.path);
        let real = real(path);
        let both = [path, &real];
        let is_hidden = both
            .iter()
            .any(|one| self.access(shown, one) == Access::Hidden);
        if is_hidden || !both.iter().all(|one| self.may_be_shared(one)) {
            return None;
        }
        let named = path.display();
        match (self.access(shown, path), refused.how) {
            (Access::Hidden | Access::Writable, _) => None,
            (Access::NotShown, Refusal::Missing | Refusal::Denied) => is_file(path).then(|| {
                format!("`{named}` is not shown to agents and checks: add it to `sandbox.read` in the pool file")
            }),
            (Access::NotShown | Access::ReadOnly, Refusal::ReadOnly) => cannot_write(path),
            // Landlock refuses to write with the same word as the file's own mode.
            (Access::ReadOnly, Refusal::Denied) => {
                let by_landlock = self.plan.layers.level == Level::Files && is_writable(path);
                by_landlock.then(|| cannot_write(path)).flatten()
            }
            (Access::ReadOnly, Refusal::Missing) => None,
        }
    }

    fn access(&self, shown: &Entries, path: &Path) -> Access {
        let nearest = path
            .ancestors()
            .find_map(|above| shown.get(above).map(|entry| (above, entry)));
        match nearest {
            None | Some((_, PathAccess::Link(_))) => Access::NotShown,
            Some((_, PathAccess::ReadOnly | PathAccess::Pinned(_))) => Access::ReadOnly,
            Some((_, PathAccess::Writable)) => Access::Writable,
            Some((at, PathAccess::Hidden)) if Some(at) == self.home.as_deref() => Access::NotShown,
            Some((_, PathAccess::Hidden)) => Access::Hidden,
        }
    }

    /// Whether an operator could share this path with agents and checks, and lose nothing. A path
    /// through a link shares what the link leads to, so ask for both.
    fn may_be_shared(&self, path: &Path) -> bool {
        let holds_guarded = self.guarded.iter().any(|guarded| guarded.starts_with(path));
        let in_guarded = self
            .guarded
            .iter()
            .any(|guarded| path.starts_with(guarded) && Some(guarded) != self.home.as_ref());
        let kept = NEVER_SHARED.iter().any(|never| path.starts_with(never));
        // `/mnt` and the like: much too much.
        let whole = path.components().count() <= 2;
        let secret = path.components().any(|part| is_secret(part.as_os_str()));
        !(holds_guarded || in_guarded || kept || whole || secret)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Access {
    NotShown,
    Hidden,
    ReadOnly,
    Writable,
}

fn cannot_write(path: &Path) -> Option<String> {
    if SYSTEM.iter().any(|system| path.starts_with(system)) {
        return None;
    }
    Some(format!(
        "agents and checks cannot write to `{}`: add it, or the directory that holds it, to `sandbox.write` in the pool file",
        path.display()
    ))
}

fn is_secret(name: &OsStr) -> bool {
    let name = name.to_string_lossy().to_ascii_lowercase();
    SECRETS.contains(&name.as_str())
        || [
            "credential",
            "secret",
            "password",
            "id_rsa",
            "id_ed25519",
            "id_ecdsa",
            ".env",
        ]
        .iter()
        .any(|word| name.starts_with(word))
        || [".pem", ".key"].iter().any(|end| name.ends_with(end))
}

/// Whether it exists here, as a file or directory. Devices and sockets are not for sharing.
fn is_file(path: &Path) -> bool {
    path.metadata()
        .is_ok_and(|meta| meta.is_file() || meta.is_dir())
}

fn is_writable(path: &Path) -> bool {
    rustix::fs::access(path, rustix::fs::Access::WRITE_OK).is_ok()
}

#[cfg(test)]
mod tests {
    use agent_sandbox::{Layers, RunLimits};
    use pool_tests::places::lasting_directory;

    use super::*;

    fn walls(level: Level, dir: &Path) -> Walls {
        Walls {
            plan: Plan {
                layers: Layers::all(level, 7),
                gateway_port: None,
                read: vec![dir.join("shown")],
                write: vec![dir.join("tree")],
                pinned: Vec::new(),
                hide: Vec::new(),
                directory: dir.join("tree"),
                limits: RunLimits::default(),
                warm: None,
            },
            guarded: vec![dir.to_owned(), dir.join("work")],
            home: Some(dir.to_owned()),
        }
    }

    fn hints(level: Level, dir: &Path, output: &str) -> Vec<String> {
        walls(level, dir).about_paths(&output.replace("~", &dir.display().to_string()))
    }

    #[test]
    fn a_path_that_exists_and_is_not_shown_is_named_with_its_key() {
        let dir = lasting_directory();
        for name in [".m2", "shown", "tree", "work/other", ".ssh", "conf"] {
            std::fs::create_dir_all(dir.path().join(name)).expect("a directory");
        }
        for name in ["work/other/x", ".ssh/id_rsa", "conf/api.key"] {
            std::fs::write(dir.path().join(name), "").expect("a file");
        }
        let missing = "x: ~/.m2: No such file or directory\n";
        let told = hints(Level::Strict, dir.path(), missing);
        assert_eq!(
            told,
            [format!(
                "`{}/.m2` is not shown to agents and checks: add it to `sandbox.read` in the pool file",
                dir.path().display()
            )],
            "the path and the key"
        );
        for (level, output, hint) in [
            (
                Level::Files,
                "open ~/.m2: permission denied",
                "sandbox.read",
            ),
            (
                Level::Strict,
                "'~/shown/new': Read-only file system",
                "sandbox.write",
            ),
            (
                Level::Strict,
                "mkdir ~/.cache: Read-only file system",
                "sandbox.write",
            ),
            (
                Level::Files,
                "open ~/shown: permission denied",
                "sandbox.write",
            ),
        ] {
            let told = hints(level, dir.path(), output);
            assert!(
                told.len() == 1 && told[0].contains(hint),
                "{output}: {told:?}"
            );
        }
        for (link, target) in [
            ("other", "work/other"),
            ("up", ".."),
            ("keys", ".ssh"),
            ("temporary", "/tmp"),
            ("library", ".m2"),
        ] {
            std::os::unix::fs::symlink(target, dir.path().join(link)).expect("a link");
        }
        let told = hints(
            Level::Strict,
            dir.path(),
            &missing.replace(".m2", "library"),
        );
        assert_eq!(told.len(), 1, "a link to what could be shared: {told:?}");
        for output in [
            "cat: ~/other/x: No such file or directory",
            "cat: ~/other: No such file or directory",
            "cat: ~/up: No such file or directory",
            "cat: ~/keys/id_rsa: No such file or directory",
            "cat: ~/keys: No such file or directory",
            "cat: ~/temporary: No such file or directory",
            "touch: cannot touch '~/other/new': Read-only file system",
            "cat: ~/missing: No such file or directory",
            "cat: ~: No such file or directory",
            "cat: ~/tree/missing: No such file or directory",
            "cat: ~/shown/missing: No such file or directory",
            "cat: ~/work/other/x: No such file or directory",
            "cat: ~/.ssh/id_rsa: No such file or directory",
            "cat: ~/conf/api.key: No such file or directory",
            "cat: /: Permission denied",
            "mount: /mnt: permission denied.",
            "dial unix /run/docker.sock: connect: no such file or directory",
            "cat: /dev/sda: Permission denied",
            "touch: cannot touch '/usr/lib/x': Read-only file system",
        ] {
            let told = hints(Level::Strict, dir.path(), output);
            assert_eq!(told, Vec::<String>::new(), "{output}");
        }
    }

    #[test]
    fn refused_calls_and_connections_are_told_in_words() {
        assert!(
            refused_call(Exit::Signal(nix::libc::SIGSYS), "").is_some(),
            "the filter killed it"
        );
        assert!(
            refused_call(Exit::Status(159), "").is_some(),
            "a shell reports it"
        );
        let told =
            refused_call(Exit::Status(1), "mount: Operation not permitted").unwrap_or_default();
        assert!(told.contains("worker sandbox -- COMMAND"), "{told}");
        assert_eq!(refused_call(Exit::Status(1), "assertion failed"), None);
        let attempts = |addresses, names, local_ports| NetworkAttempts {
            addresses,
            names,
            local_ports,
        };
        let told = of_network(attempts(1, 4, 1)).unwrap_or_default();
        assert!(
            told.contains("1 connection to another machine and 4 questions")
                && told.contains("network: host"),
            "{told}"
        );
        let told = of_network(attempts(0, 0, 3)).unwrap_or_default();
        assert!(told.contains("3 connections to ports"), "{told}");
        assert_eq!(of_network(NetworkAttempts::default()), None);
    }
}
