//! The sandbox with real processes: none survives, output and files have limits, and nothing of the
//! worker's environment leaks in.

use std::time::Duration;

use crate::support::{alive, eventually, limits, sandbox, shell};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio_util::sync::CancellationToken;
use worker::sandbox::{Exit, LaunchError, SandboxLauncher, Watch};

fn nobody() -> Watch {
    Watch::new(CancellationToken::new())
}

/// The argument of a sleep that no other test, and no other run of this test, uses.
fn marker(number: u32) -> String {
    format!("{}.{number}", 100_000 + std::process::id())
}

/// A script that leaves a child in its group, a child in a session of its own, and a daemon without
/// parents.
fn litter(marker: &str) -> String {
    format!(
        "sleep {marker} & setsid sleep {marker} & (setsid sh -c 'sleep {marker} & sleep {marker}' &) ; \
         sh -c 'trap \"\" TERM; sleep {marker}; sleep {marker}' &"
    )
}

#[tokio::test]
async fn a_command_gets_its_environment_its_directory_and_no_input() {
    let dir = tempfile::tempdir().expect("a directory");
    let script = "pwd; env | grep -v -e ^PWD= -e ^SHLVL= -e ^_= ; cat; echo to stderr >&2; exit 3";
    let finished = sandbox()
        .run(shell(dir.path(), script), &nobody())
        .await
        .expect("it starts");
    let expected = format!(
        "{}\nPATH=/usr/local/bin:/usr/bin:/bin\nto stderr\n",
        dir.path().display()
    );
    assert_eq!(
        finished.output.text(),
        expected,
        "only what was given comes in, and both outputs come out"
    );
    assert_eq!(
        (finished.exit, finished.stragglers),
        (Exit::Status(3), 0),
        "its status is reported"
    );
}

#[tokio::test]
async fn nothing_survives_a_command_that_ended() {
    let (dir, marker) = (tempfile::tempdir().expect("a directory"), marker(1));
    let script = format!(
        "{} while [ $(pgrep -cf 'sleep {marker}$') -lt 5 ]; do :; done; exit 0",
        litter(&marker)
    );
    let finished = sandbox()
        .run(shell(dir.path(), &script), &nobody())
        .await
        .expect("it starts");
    assert_eq!(
        finished.exit,
        Exit::Status(0),
        "the output was {}",
        finished.output.text()
    );
    assert!(
        finished.stragglers >= 5,
        "the remaining processes are counted: {}",
        finished.stragglers
    );
    assert_eq!(alive(&marker), Vec::<u32>::new(), "no process is left");
}

#[tokio::test]
async fn a_time_out_ends_everything_even_what_ignores_sigterm() {
    let (dir, marker) = (tempfile::tempdir().expect("a directory"), marker(2));
    let mut command = shell(
        dir.path(),
        &format!("{} echo started; sleep {marker}", litter(&marker)),
    );
    command.timeout = Duration::from_millis(500);
    let finished = sandbox().run(command, &nobody()).await.expect("it starts");
    assert_eq!(finished.exit, Exit::TimedOut, "the wall clock ended it");
    assert_eq!(finished.output.text(), "started\n", "its output is kept");
    assert_eq!(alive(&marker), Vec::<u32>::new(), "no process is left");
    assert!(
        finished.duration >= Duration::from_secs(5),
        "a process that ignores SIGTERM gets five seconds"
    );
}

#[tokio::test]
async fn a_command_may_clean_up_after_sigterm() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut command = shell(
        dir.path(),
        "trap 'echo cleaned; exit 0' TERM; echo up; while :; do sleep 0.05; done",
    );
    command.timeout = Duration::from_millis(500);
    let finished = sandbox().run(command, &nobody()).await.expect("it starts");
    let text = finished.output.text();
    assert!(
        text.starts_with("up\n") && text.ends_with("cleaned\n"),
        "SIGTERM came first, output {text}"
    );
    assert_eq!(
        finished.exit,
        Exit::TimedOut,
        "and the exit is reported as a time-out"
    );
    assert!(
        finished.duration < Duration::from_secs(5),
        "the helper does not wait for the grace to pass"
    );
}

#[tokio::test]
async fn silence_ends_a_command_unless_an_llm_call_is_open() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut command = shell(dir.path(), "echo hello; sleep 1.5; echo bye");
    command.silence = Some(Duration::from_millis(400));
    let finished = sandbox()
        .run(command.clone(), &nobody())
        .await
        .expect("it starts");
    assert_eq!(
        (finished.exit, finished.output.text().as_str()),
        (Exit::Silent, "hello\n"),
        "it was silent"
    );
    let busy = Watch {
        busy: std::sync::Arc::new(|| true),
        ..nobody()
    };
    let finished = sandbox().run(command, &busy).await.expect("it starts");
    assert_eq!(
        (finished.exit, finished.output.text().as_str()),
        (Exit::Status(0), "hello\nbye\n"),
        "it was waiting"
    );
}

#[tokio::test]
async fn cancelling_ends_everything_and_says_so() {
    let (dir, marker, watch) = (
        tempfile::tempdir().expect("a directory"),
        marker(3),
        nobody(),
    );
    let command = shell(
        dir.path(),
        &format!("sleep {marker} & setsid sleep {marker} & sleep {marker}"),
    );
    let (sandbox, cancel) = (sandbox(), watch.cancel.clone());
    let run = tokio::spawn(async move { sandbox.run(command, &watch).await });
    assert!(
        eventually(|| alive(&format!("sleep {marker}")).len() >= 3).await,
        "the command is up"
    );
    cancel.cancel();
    let finished = run.await.expect("no panic").expect("it started");
    assert_eq!(finished.exit, Exit::Cancelled, "it was cancelled");
    assert_eq!(alive(&marker), Vec::<u32>::new(), "no process is left");
}

#[tokio::test]
async fn dropping_the_future_ends_everything() {
    let (dir, marker) = (tempfile::tempdir().expect("a directory"), marker(4));
    let command = shell(
        dir.path(),
        &format!("setsid sleep {marker} & sleep {marker}"),
    );
    let sandbox = sandbox();
    let run = tokio::spawn(async move { sandbox.run(command, &nobody()).await });
    assert!(
        eventually(|| alive(&format!("sleep {marker}")).len() >= 2).await,
        "the command is up"
    );
    run.abort();
    assert!(
        eventually(|| alive(&marker).is_empty()).await,
        "no process is left"
    );
}

/// The owner of a sandbox is this test executable, started once more with only the next test.
#[tokio::test]
async fn nothing_survives_a_worker_that_was_killed() {
    let (dir, marker) = (tempfile::tempdir().expect("a directory"), marker(5));
    let mut owner = tokio::process::Command::new(std::env::current_exe().expect("this executable"))
        .args([
            "--exact",
            "sandbox::stands_in_for_a_worker",
            "--ignored",
            "--nocapture",
        ])
        .env("SANDBOX_TEST_DIR", dir.path())
        .env("SANDBOX_TEST_MARKER", &marker)
        .stdout(std::process::Stdio::null())
        .spawn()
        .expect("it starts");
    assert!(
        eventually(|| alive(&format!("sleep {marker}")).len() >= 2).await,
        "the command is up"
    );
    owner.start_kill().expect("it is killed");
    owner.wait().await.expect("it ended");
    assert!(
        eventually(|| alive(&marker).is_empty()).await,
        "no process is left"
    );
}

#[tokio::test]
#[ignore = "a part of the test above, which runs it in a process of its own"]
async fn stands_in_for_a_worker() {
    let dir = std::env::var("SANDBOX_TEST_DIR").expect("a directory");
    let marker = std::env::var("SANDBOX_TEST_MARKER").expect("a marker");
    let script = format!("setsid sleep {marker} & sleep {marker}");
    let _ = sandbox().run(shell(dir.as_ref(), &script), &nobody()).await;
}

#[tokio::test]
async fn a_script_that_signals_its_own_group_is_reported_and_leaves_nothing() {
    let (dir, marker) = (tempfile::tempdir().expect("a directory"), marker(6));
    let script = format!("setsid sleep {marker} & sleep {marker} & kill -9 0");
    let finished = sandbox()
        .run(shell(dir.path(), &script), &nobody())
        .await
        .expect("it starts");
    assert_eq!(
        finished.exit,
        Exit::Signal(9),
        "the helper is outside the group and reports"
    );
    assert_eq!(alive(&marker), Vec::<u32>::new(), "no process is left");
}

#[tokio::test]
async fn a_killed_helper_is_an_error_and_no_success() {
    let (dir, marker) = (tempfile::tempdir().expect("a directory"), marker(7));
    let command = shell(dir.path(), &format!("sleep {marker}"));
    let sandbox = sandbox();
    let run = tokio::spawn(async move { sandbox.run(command, &nobody()).await });
    let helper = format!("--grace-ms 5000 -- sh -c sleep {marker}");
    assert!(
        eventually(|| alive(&format!("sleep {marker}")).len() > alive(&helper).len()).await,
        "it is up"
    );
    for pid in alive(&helper) {
        kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL).expect("the helper is killed");
    }
    let error = run
        .await
        .expect("no panic")
        .expect_err("how the command ended is unknown");
    assert!(
        matches!(error, LaunchError::NoReport(_)),
        "the error was {error}"
    );
    assert!(
        eventually(|| alive(&marker).is_empty()).await,
        "the processes below it are gone, too"
    );
}

#[tokio::test]
async fn a_flood_of_output_is_cut_in_the_middle() {
    let dir = tempfile::tempdir().expect("a directory");
    let script = "echo begin; head -c 30000000 /dev/zero | tr '\\0' x; echo; echo end";
    let finished = sandbox()
        .run(shell(dir.path(), script), &nobody())
        .await
        .expect("it starts");
    let text = finished.output.text();
    assert!(
        text.starts_with("begin\n") && text.ends_with("end\n"),
        "both ends are kept"
    );
    assert!(
        text.len() < 300 * 1024,
        "only {} bytes are kept",
        text.len()
    );
    assert_eq!(
        finished.output.total_bytes(),
        30_000_011,
        "all were counted"
    );
}

#[tokio::test]
async fn limits_hold_for_memory_files_and_core_dumps() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut limits = limits();
    limits.max_memory_bytes = 256 * 1024 * 1024;
    limits.max_file_bytes = 1024 * 1024;
    let sandbox = SandboxLauncher::with_helper(&limits, crate::support::helper());
    let script = "ulimit -v; ulimit -f; ulimit -c; grep NoNewPrivs /proc/self/status; head -c 2000000 /dev/zero >big; \
                  stat -c %s big";
    let finished = sandbox
        .run(shell(dir.path(), script), &nobody())
        .await
        .expect("it starts");
    let text = finished.output.text();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(
        lines[..4],
        ["262144", "2048", "0", "NoNewPrivs:\t1"],
        "limits and rights inside, output {text}"
    );
    assert_eq!(
        lines.last(),
        Some(&"1048576"),
        "the file stopped growing, output {text}"
    );
}

#[tokio::test]
async fn a_program_that_does_not_exist_is_named() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut command = shell(dir.path(), "");
    command.argv[0] = "no-such-program".into();
    let error = sandbox()
        .run(command, &nobody())
        .await
        .expect_err("it cannot start");
    assert!(
        matches!(error, LaunchError::Program { .. }),
        "the error was {error}"
    );
    assert!(
        error.to_string().contains("no-such-program"),
        "the error names the program: {error}"
    );
}

#[tokio::test]
async fn files_that_the_worker_inherited_are_not_handed_on() {
    let dir = tempfile::tempdir().expect("a directory");
    let lock = std::fs::File::create(dir.path().join("lock")).expect("a file");
    fcntl(&lock, FcntlArg::F_SETFD(FdFlag::empty())).expect("it is inherited from now on");
    let finished = sandbox()
        .run(shell(dir.path(), "ls -l /proc/$$/fd"), &nobody())
        .await
        .expect("it starts");
    let text = finished.output.text();
    assert!(
        text.contains("/dev/null") && !text.contains("lock"),
        "input and output only, but there is {text}"
    );
}
