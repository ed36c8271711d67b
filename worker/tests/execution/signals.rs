//! Every program that the worker starts begins with an empty signal mask and default dispositions.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};
use pool_core::id::AttemptId;
use pool_core::pool;
use pool_telemetry::clock::new_id;
use serde_json::json;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use worker::programmer::attempt::AttemptEnd;
use worker::sandbox::warm::WarmPart;
use worker::sandbox::{CommandAccess, Exit, SandboxCommand, SandboxLauncher, Watch};
use worker::workspace::Workspaces;

use crate::repo::{Bench, task, write};
use crate::rig::{Rig, word};
use crate::support::{eventually, helper, limits, path, sandbox, unconfined};

fn nobody() -> Watch {
    Watch::new(CancellationToken::new())
}

/// Starts the program directly, because a shell may change its own mask.
fn command(argv: &[&str]) -> SandboxCommand {
    SandboxCommand {
        argv: argv.iter().map(Into::into).collect(),
        cwd: "/".into(),
        env: vec![path()],
        timeout: Duration::from_secs(30),
        silence: None,
        access: CommandAccess::default(),
        warm: WarmPart::None,
    }
}

/// The masks of blocked and ignored signals in `/proc/PID/status`. Signals 32 and 33 belong to the
/// C library, whose `posix_spawn` ignores them in the new program.
fn blocked_or_ignored(status: &str) -> Vec<u64> {
    let mask = |line: &str| {
        let (_, mask) = line
            .strip_prefix("SigBlk:")
            .or(line.strip_prefix("SigIgn:"))?
            .split_at(1);
        Some(u64::from_str_radix(mask, 16).ok()? & !(0b11 << 31))
    };
    status.lines().filter_map(mask).collect()
}

#[tokio::test]
async fn a_program_begins_with_a_clean_signal_state() {
    let dir = tempfile::tempdir().expect("a directory");
    let wrapper = dir.path().join("worker");
    let script = format!(
        "#!/bin/bash\ntrap '' HUP INT QUIT PIPE TERM CHLD USR1\nexec {} \"$@\"\n",
        helper().display()
    );
    write(&wrapper, script);
    std::fs::set_permissions(&wrapper, std::fs::Permissions::from_mode(0o755)).expect("executable");
    // The worker's own threads may block signals, too.
    let blocked: SigSet = [Signal::SIGUSR2, Signal::SIGTERM].into_iter().collect();
    blocked.thread_block().expect("signals are blocked");
    let asks = command(&["/usr/bin/grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status"]);
    for sandbox in [sandbox(), SandboxLauncher::with_helper(&limits(), wrapper)] {
        let finished = sandbox
            .run(asks.clone(), &nobody())
            .await
            .expect("it starts");
        assert_eq!(
            blocked_or_ignored(&finished.output.text()),
            [0, 0],
            "regardless of the signals that the worker blocks or ignores"
        );
    }
}

/// The worker is this test executable, started once more with only the next test.
#[tokio::test]
async fn git_of_the_worker_begins_with_a_clean_signal_state() {
    let bench = Bench::new();
    let (log, git) = (
        bench.dir.path().join("log"),
        bench.dir.path().join("bin/git"),
    );
    write(
        &git,
        format!(
            "#!/bin/bash\ngrep -E '^Sig(Blk|Ign)' /proc/self/status >{}\nexec /usr/bin/git \"$@\"\n",
            log.display()
        ),
    );
    std::fs::set_permissions(&git, std::fs::Permissions::from_mode(0o755)).expect("executable");
    let executable = std::env::current_exe().expect("this executable");
    let stand_in = "exec \"$0\" --exact signals::stands_in_for_a_worker --ignored --nocapture";
    let status = tokio::process::Command::new("bash")
        .args(["-c", &format!("trap '' HUP INT QUIT USR1 CHLD; {stand_in}")])
        .arg(executable)
        .env("SIGNALS_TEST_DIR", bench.dir.path())
        .stdout(std::process::Stdio::null())
        .status();
    assert!(
        status.await.expect("it starts").success(),
        "the worker's git works"
    );
    assert_eq!(
        blocked_or_ignored(&std::fs::read_to_string(log).expect("git ran")),
        [0, 0],
        "and gets all signals"
    );
}

#[tokio::test]
#[ignore = "a part of the test above, which runs it in a process of its own"]
async fn stands_in_for_a_worker() {
    let dir = std::path::PathBuf::from(std::env::var("SIGNALS_TEST_DIR").expect("a directory"));
    worker::signals::unblock_all().expect("nothing is blocked");
    worker::signals::keep_ignored_signals_here();
    let config = pool::Workspace {
        dir: dir.join("work"),
        roots: vec![dir.join("root")],
        author_name: "Programmer Pool".to_owned(),
        author_email: "pool@localhost".to_owned(),
        fetch_timeout: Duration::from_secs(30),
        keep_trees_bytes: 0,
    };
    let path = format!("{}:/usr/bin:/bin", dir.join("bin").display());
    let workspaces = Workspaces::open_with(&config, path.into(), [])
        .expect("the workspace directory is writable");
    workspaces
        .prepare(&task(), new_id::<AttemptId>())
        .await
        .expect("a worktree");
}

#[tokio::test]
async fn a_program_that_is_ended_by_sigterm_has_not_succeeded() {
    let script = "import os, signal; os.kill(os.getpid(), signal.SIGTERM)";
    let finished = sandbox()
        .run(command(&["/usr/bin/python3", "-c", script]), &nobody())
        .await
        .expect("it starts");
    assert_eq!(finished.exit, Exit::Signal(15), "it ended by the signal");
    let rig = Rig::start(Bench::new(), "echo fixed >calc.py; kill -TERM $$").await;
    let result = rig.outcome(json!({})).await;
    assert_eq!(
        word(&result),
        "agent_crashed",
        "an agent that was killed did not succeed: {result:?}"
    );
}

#[tokio::test]
async fn timeout_works_as_a_check() {
    let rig = Rig::with(
        Bench::new(),
        "echo fixed >calc.py",
        json!({"max_fix_iterations": 1}),
    )
    .await;
    let began = Instant::now();
    let check = json!({"acceptance": [{"name": "slow", "run": ["timeout", "1", "sleep", "25"]}]});
    let result = rig.outcome(check).await;
    assert_eq!(
        (word(&result), result.acceptance[0].exit_status),
        ("acceptance_failed", Some(124)),
        "{result:?}"
    );
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "it did not wait for the sleep: {:?}",
        began.elapsed()
    );
}

#[tokio::test]
async fn an_agent_that_acts_on_sigterm_is_cancelled_within_a_second() {
    let dir = tempfile::tempdir().expect("a directory");
    let (up, ended) = (dir.path().join("up"), dir.path().join("ended"));
    let script = format!(
        "exec python3 -c 'import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (open({ended:?}, \"w\").close(), sys.exit(0)))
open({up:?}, \"w\").close()
time.sleep(600)'"
    );
    let rig = Rig::without_layers(Bench::new(), &script).await;
    let stop = CancellationToken::new();
    let stopping = async {
        assert!(eventually(|| up.exists()).await, "the agent is up");
        stop.cancel();
        Instant::now()
    };
    let (outcome, since) = tokio::join!(rig.run(json!({}), &stop), stopping);
    assert!(
        matches!(outcome, AttemptEnd::Stopped { .. }),
        "it was stopped"
    );
    assert!(
        since.elapsed() < Duration::from_secs(1),
        "it took {:?}",
        since.elapsed()
    );
    assert!(ended.exists(), "the agent got SIGTERM");
}

#[tokio::test]
async fn a_program_that_stands_still_is_cancelled_within_a_second() {
    let dir = tempfile::tempdir().expect("a directory");
    let up = dir.path().join("up");
    let script = format!(
        "import os, signal\nopen({up:?}, 'w').close()\nos.kill(os.getpid(), signal.SIGSTOP)"
    );
    let watch = nobody();
    let stopping = async {
        assert!(eventually(|| up.exists()).await, "it is up");
        watch.cancel.cancel();
        Instant::now()
    };
    let (sandbox, stopped) = (unconfined(), command(&["/usr/bin/python3", "-c", &script]));
    let (finished, since) = tokio::join!(sandbox.run(stopped, &watch), stopping);
    assert_eq!(
        finished.expect("it started").exit,
        Exit::Cancelled,
        "it was cancelled"
    );
    assert!(
        since.elapsed() < Duration::from_secs(1),
        "it took {:?}",
        since.elapsed()
    );
}
