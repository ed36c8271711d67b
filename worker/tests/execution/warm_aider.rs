//! Warm starts of the real aider. Set `POOL_AIDER` to the program and run with `--ignored`.
#![expect(clippy::expect_used, reason = "a helper that fails fails the test")]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pool_core::pool;
use pool_tests::places::lasting_directory;
use tokio::time::{Instant, timeout};
use worker::agent::{AgentRun, from_config};
use worker::sandbox::SandboxLauncher;
use worker::sandbox::warm::{StartKind, python_of};

use crate::aider::{config, edit, program};
use crate::support::{alive, eventually, limits};
use crate::warm::{launcher, launcher_with};

/// The first server lists its modules with a made-up run.
const READY_WITHIN: Duration = Duration::from_secs(300);

/// Starts the fork server of this aider, and waits until it is ready.
async fn warm_up(program: &Path, sandbox: &SandboxLauncher) {
    // The variables of the jobs in these tests.
    let variables = [("LANG".into(), "C".into())];
    let start = from_config(&config(program, true)).warm_start(&variables);
    sandbox
        .warm_up(&start.expect("aider is a program in Python"))
        .await;
    let ready = async { while !eventually(|| sandbox.is_warm(program)).await {} };
    timeout(READY_WITHIN, ready).await.expect("a server");
}

async fn warm_edit(program: &Path, sandbox: &SandboxLauncher) -> AgentRun {
    let run = edit(program, sandbox, true).await;
    assert_eq!(run.start, StartKind::Warm, "its server is ready");
    run
}

/// Ten runs at once take a small part of the time when they are warm.
#[tokio::test]
#[ignore = "needs aider: POOL_AIDER"]
async fn ten_warm_runs_of_aider_at_once_are_quick_and_right() {
    let dir = tempfile::tempdir().expect("a directory");
    let (sandbox, program) = (launcher(dir.path()), program());
    warm_up(&program, &sandbox).await;
    let rounds = async |warm: bool| {
        let begin = Instant::now();
        let runs = (0..10).map(|_| edit(&program, &sandbox, warm));
        let all = futures_util::future::join_all(runs).await;
        let expected = if warm {
            StartKind::Warm
        } else {
            StartKind::Usual
        };
        assert!(all.iter().all(|run| run.start == expected), "warm: {warm}");
        begin.elapsed()
    };
    let (cold, warm) = (rounds(false).await, rounds(true).await);
    let load = fs::read_to_string("/proc/loadavg").expect("/proc");
    eprintln!(
        "ten runs of aider at once: cold {cold:?}, warm {warm:?}, ratio {:.1}, load {load}",
        cold.as_secs_f64() / warm.as_secs_f64()
    );
}

/// An installation of aider whose own package is a copy, and whose libraries are those of the
/// machine's aider.
struct Installation {
    dir: tempfile::TempDir,
    packages: PathBuf,
    libraries: PathBuf,
}

impl Installation {
    fn copy() -> Self {
        let original = program();
        let python = python_of(&original).expect("a program in Python");
        let prefix = python.parent().and_then(Path::parent).expect("a prefix");
        let library = fs::read_dir(prefix.join("lib")).expect("its libraries");
        let mut versions = library.flatten().map(|entry| entry.file_name());
        let version = versions
            .find(|name| name.to_string_lossy().starts_with("python"))
            .expect("a version of Python");
        let libraries = prefix.join("lib").join(&version).join("site-packages");
        let dir = lasting_directory();
        let packages = dir.path().join("lib").join(&version).join("site-packages");
        fs::create_dir_all(&packages).expect("a directory");
        fs::create_dir(dir.path().join("bin")).expect("a directory");
        let copied = Command::new("cp")
            .arg("-r")
            .args([&libraries.join("aider"), &packages])
            .status();
        assert!(copied.expect("cp").success(), "its package is copied");
        let path = libraries.to_str().expect("a path in UTF-8");
        fs::write(packages.join("libraries.pth"), format!("{path}\n")).expect("a path");
        fs::copy(prefix.join("pyvenv.cfg"), dir.path().join("pyvenv.cfg")).expect("a copy");
        let own = dir.path().join("bin/python");
        symlink(python.canonicalize().expect("its file"), &own).expect("a link");
        let this = Self {
            dir,
            packages,
            libraries,
        };
        fs::copy(&original, this.program()).expect("a copy");
        let script = fs::read_to_string(&original).expect("a script");
        let script = script.replacen(
            python.to_str().expect("a path in UTF-8"),
            own.to_str().expect("a path in UTF-8"),
            1,
        );
        fs::write(this.program(), script).expect("a script");
        this
    }

    fn program(&self) -> PathBuf {
        self.dir.path().join("bin/aider")
    }

    fn launcher(&self) -> SandboxLauncher {
        let limits = pool::Sandbox {
            read: vec![self.libraries.clone()],
            ..limits()
        };
        launcher_with(self.dir.path(), limits)
    }

    /// Has aider call itself by this version.
    fn set_version(&self, version: &str) {
        let file = self.packages.join("aider/__init__.py");
        fs::write(file, format!("__version__ = \"{version}\"\n")).expect("an edit in place");
    }
}

#[tokio::test]
#[ignore = "needs aider: POOL_AIDER"]
async fn an_aider_that_was_edited_or_upgraded_is_never_started_from_its_former_modules() {
    let installation = Installation::copy();
    let (program, sandbox) = (installation.program(), installation.launcher());
    installation.set_version("1.2.3");
    warm_up(&program, &sandbox).await;
    let first = warm_edit(&program, &sandbox).await.output.text();
    assert!(first.contains("v1.2.3"), "its version: {first}");
    let upgrades: [(&str, &dyn Fn()); 2] = [
        ("4.5.6", &|| installation.set_version("4.5.6")),
        ("7.8.9", &|| {
            installation.set_version("7.8.9");
            let facts = installation.packages.join("aider_chat-7.8.9.dist-info");
            fs::create_dir(facts).expect("a directory");
        }),
    ];
    for (version, upgrade) in upgrades {
        upgrade();
        let next = edit(&program, &sandbox, true).await;
        let said = next.output.text();
        assert!(
            said.contains(&format!("v{version}")),
            "the next run is the new aider: {said}"
        );
        let StartKind::Cold(why) = next.start else {
            panic!("{:?}", next.start)
        };
        assert!(why.contains("installation has changed"), "{why}");
        let ready = async { while !eventually(|| sandbox.is_warm(&program)).await {} };
        timeout(READY_WITHIN, ready).await.expect("another server");
        let later = warm_edit(&program, &sandbox).await.output.text();
        assert!(later.contains(&format!("v{version}")), "{later}");
    }
    let lists = fs::read_dir(installation.dir.path().join("warm")).expect("lists");
    assert_eq!(lists.count(), 2, "a list for each installation");
    let records = fs::read_dir(installation.dir.path().join("records")).expect("records");
    assert_eq!(records.count(), 0, "nothing of the recorded runs is left");
}

#[tokio::test]
#[ignore = "needs aider: POOL_AIDER"]
async fn an_aider_whose_server_is_killed_runs_cold_and_then_warm_again() {
    let dir = tempfile::tempdir().expect("a directory");
    let (sandbox, program) = (launcher(dir.path()), program());
    warm_up(&program, &sandbox).await;
    warm_edit(&program, &sandbox).await;
    let python = python_of(&program).expect("a program in Python");
    // As the kernel does it when memory runs out. Servers of other tests have another parent.
    let servers: Vec<u32> = alive(&format!("{} -c import socket", python.display()))
        .into_iter()
        .filter(|pid| is_below_this_process(*pid))
        .collect();
    assert!(!servers.is_empty(), "the server lives between runs");
    for pid in servers {
        let _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL);
    }
    let next = edit(&program, &sandbox, true).await;
    assert!(matches!(next.start, StartKind::Cold(_)), "{:?}", next.start);
    let ready = async { while !eventually(|| sandbox.is_warm(&program)).await {} };
    timeout(READY_WITHIN, ready).await.expect("another server");
    warm_edit(&program, &sandbox).await;
}

fn is_below_this_process(pid: u32) -> bool {
    let parent = |pid: u32| -> Option<u32> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit(") ").next()?.split(' ').nth(1)?.parse().ok()
    };
    std::iter::successors(Some(pid), |pid| parent(*pid).filter(|parent| *parent > 1))
        .any(|pid| pid == std::process::id())
}
