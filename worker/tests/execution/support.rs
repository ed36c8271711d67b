//! Helpers that the tests of this crate share: a sandbox with the built worker as its helper, and
//! waiting for processes.
#![expect(clippy::expect_used, reason = "a helper that fails fails the test")]

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};
use pool_core::pool::{self, SandboxLevel, SandboxNetwork};
use rustix::mount::{MountPropagationFlags, mount_change};
use tokio::time::{Instant, sleep};
use worker::sandbox::warm::WarmPart;
use worker::sandbox::{CommandAccess, SandboxCommand, SandboxLauncher};

/// The limits of the sample pool. `POOL_TEST_SANDBOX` names the level for all tests of this crate.
/// Without it, it is `strict` if this machine supports that. Some tests choose their own.
pub(crate) fn limits() -> pool::Sandbox {
    let level = match std::env::var("POOL_TEST_SANDBOX").as_deref() {
        Ok("strict") => SandboxLevel::Strict,
        Ok("files") => SandboxLevel::Files,
        Ok(_) => SandboxLevel::Off,
        Err(_) if strict_works() => SandboxLevel::Strict,
        Err(_) => SandboxLevel::Off,
    };
    pool::Sandbox {
        level,
        network: SandboxNetwork::Gateway,
        read: Vec::new(),
        write: Vec::new(),
        env: Vec::new(),
        max_total_memory_bytes: 0,
        max_disk_bytes: 0,
        max_memory_bytes: 8 << 30,
        max_file_bytes: 1 << 30,
        max_processes: 4096,
        max_output_bytes: 256 * 1024,
    }
}

/// Whether the worker's self-test proves `strict` here.
fn strict_works() -> bool {
    static WORKS: LazyLock<bool> = LazyLock::new(|| {
        let pool = concat!(env!("CARGO_MANIFEST_DIR"), "/../config/pool.yaml");
        let mut test = Command::new(helper());
        test.args(["sandbox", "--level", "strict", "--pool", pool]);
        test.output().expect("the worker runs").status.success()
    });
    *WORKS
}

/// A sandbox without kernel layers, for programs that reach other files than their own.
pub(crate) fn unconfined() -> SandboxLauncher {
    let limits = pool::Sandbox {
        level: SandboxLevel::Off,
        ..limits()
    };
    SandboxLauncher::with_helper(&limits, helper())
}

pub(crate) fn helper() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_worker"))
}

/// Copies the worker's program to a place that other users can reach. Another process writes the copy: children of other tests
/// could inherit a file that this process has open for writing, and then nobody can start it.
pub(crate) fn copy_helper(to: &Path) {
    let copied = Command::new("cp").arg(helper()).arg(to).status();
    assert!(copied.expect("cp").success(), "the worker is copied");
}

pub(crate) fn sandbox() -> SandboxLauncher {
    SandboxLauncher::with_helper(&limits(), helper())
}

pub(crate) fn path() -> (OsString, OsString) {
    ("PATH".into(), "/usr/local/bin:/usr/bin:/bin".into())
}

/// A shell script in `cwd` whose environment has only `PATH`.
pub(crate) fn shell(cwd: &Path, script: &str) -> SandboxCommand {
    SandboxCommand {
        argv: ["sh", "-c", script].map(OsString::from).to_vec(),
        cwd: cwd.to_owned(),
        env: vec![path()],
        timeout: Duration::from_secs(60),
        silence: None,
        access: CommandAccess::default(),
        warm: WarmPart::None,
    }
}

/// Runs a test in a thread with mounts of its own, if this user may have them: root.
pub(crate) fn in_own_mounts(test: impl AsyncFnOnce() + Send + 'static) {
    let thread = std::thread::spawn(|| {
        if nix::unistd::getuid().is_root() {
            let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
            unshare(CloneFlags::CLONE_NEWNS).expect("a mount namespace");
            mount_change("/", private).expect("mounts stay in it");
        }
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().build().expect("a runtime");
        runtime.block_on(test());
    });
    thread.join().expect("the test passes");
}

/// The pids of processes whose command line contains `marker`. Zombies have no command line.
pub(crate) fn alive(marker: &str) -> Vec<u32> {
    std::fs::read_dir("/proc")
        .expect("/proc can be read")
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line)
                .replace('\0', " ")
                .contains(marker)
        })
        .collect()
}

/// Waits until `done` returns true, at most 20 s. Returns whether it did.
pub(crate) async fn eventually(mut done: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + Duration::from_secs(20);
    while Instant::now() < deadline {
        if done() {
            return true;
        }
        sleep(Duration::from_millis(10)).await;
    }
    done()
}
