//! The signs of life of a command, and the signs of its end, with real processes.
#![expect(clippy::expect_used, reason = "a helper that fails fails the test")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use pool_core::pool::LastEvent;
use tokio_util::sync::CancellationToken;
use worker::sandbox::{Exit, Finished, LastWords, Watch};

use crate::support::{sandbox, shell};

/// Longer than any of these scripts takes between two signs of life.
const SILENCE: Duration = Duration::from_secs(1);

fn nobody() -> Watch {
    Watch::new(CancellationToken::new())
}

async fn run(script: &str, silence: Option<Duration>, watch: &Watch) -> Finished {
    let dir = tempfile::tempdir().expect("a directory");
    let mut command = shell(dir.path(), script);
    (command.silence, command.timeout) = (silence, Duration::from_secs(30));
    sandbox().run(command, watch).await.expect("it starts")
}

/// A program that uses one core for `seconds` and prints nothing.
fn computing(seconds: u32) -> String {
    format!("python3 -c 'import time\nwhile time.process_time() < {seconds}: pass'")
}

#[tokio::test]
async fn whoever_computes_is_not_silent_whichever_process_it_is() {
    let loops = "end=$(($(date +%s) + 5)); \
        while [ $(date +%s) -lt $end ]; do sh -c 'n=0; while [ $n -lt 50000 ]; do n=$((n+1)); done'; done";
    for (what, script) in [
        ("the program", format!("exec {}", computing(4))),
        ("a child", computing(4)),
        (
            "a child in a session of its own, without a parent that waits",
            {
                format!(
                    "(setsid sh -c '{}; touch done' &) ; while [ ! -e done ]; do sleep 0.2; done",
                    computing(4).replace('\'', "\"")
                )
            },
        ),
        ("children that come and go", loops.to_owned()),
    ] {
        let finished = run(&script, Some(SILENCE), &nobody()).await;
        assert_eq!(
            finished.exit,
            Exit::Status(0),
            "{what}: {}",
            finished.output.text()
        );
        assert!(
            finished.duration > SILENCE * 2,
            "{what} took {:?}, which shows nothing",
            finished.duration
        );
    }
}

#[tokio::test]
async fn whoever_only_waits_is_silent() {
    for (what, script) in [
        ("a sleep", "sleep 60".to_owned()),
        ("a poll", "while :; do sleep 0.2; done".to_owned()),
        (
            "timers",
            "python3 -c 'import time\nwhile True: time.sleep(0.02)'".to_owned(),
        ),
        (
            "a program that has computed",
            format!("{}; sleep 60", computing(2)),
        ),
    ] {
        let finished = run(&script, Some(SILENCE), &nobody()).await;
        assert_eq!(finished.exit, Exit::Silent, "{what}");
    }
}

#[tokio::test]
async fn a_busy_loop_ends_with_its_time() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut command = shell(dir.path(), "while :; do :; done");
    (command.silence, command.timeout) = (Some(SILENCE), Duration::from_secs(4));
    let finished = sandbox().run(command, &nobody()).await.expect("it starts");
    assert_eq!(
        finished.exit,
        Exit::TimedOut,
        "it is alive, and not for ever"
    );
}

/// Stops a command that has printed `done`. `calls` counts the LLM calls that it has begun.
fn done(calls: &Arc<AtomicU64>) -> Watch {
    let calls = Arc::clone(calls);
    let words = LastWords {
        event: LastEvent::new("done"),
        calls: Arc::new(move || calls.load(Ordering::SeqCst)),
        grace: Duration::from_millis(500),
    };
    Watch {
        last_words: Some(words),
        ..nobody()
    }
}

#[tokio::test]
async fn a_command_that_has_said_that_it_is_done_is_ended_whatever_it_does_then() {
    let calls = Arc::new(AtomicU64::new(3));
    for (what, script) in [
        ("it stays", "echo done; sleep 60"),
        ("without an end of line", "printf 'all done'; sleep 60"),
        (
            "in two pieces",
            "printf do; sleep 0.3; printf 'ne\\n'; sleep 60",
        ),
        ("to standard error", "echo done >&2; sleep 60"),
        (
            "it goes on printing",
            "echo done; while :; do echo more; sleep 0.01; done",
        ),
        ("it goes on computing", "echo done; while :; do :; done"),
    ] {
        let finished = run(script, None, &done(&calls)).await;
        assert_eq!(finished.exit, Exit::Done, "{what}");
        assert!(
            finished.duration < Duration::from_secs(10),
            "{what}: {:?}",
            finished.duration
        );
    }
    let finished = run("echo done; sleep 0.1; exit 3", None, &done(&calls)).await;
    assert_eq!(
        finished.exit,
        Exit::Status(3),
        "a command that exits in time has its own status"
    );
}

#[tokio::test]
async fn a_command_that_calls_an_llm_after_its_last_event_goes_on() {
    let calls = Arc::new(AtomicU64::new(0));
    let mut watch = done(&calls);
    // The command begins a call with its second line.
    let counting = Arc::clone(&calls);
    watch.listen = Arc::new(move |bytes: &[u8]| {
        if bytes.windows(4).any(|word| word == b"call") {
            counting.fetch_add(1, Ordering::SeqCst);
        }
    });
    let finished = run(
        "echo done; sleep 0.2; echo call; sleep 2; echo bye",
        None,
        &watch,
    )
    .await;
    assert_eq!(
        (finished.exit, finished.output.text().contains("bye")),
        (Exit::Status(0), true),
        "it was not its last event"
    );

    let open = Watch {
        busy: Arc::new(|| true),
        ..done(&calls)
    };
    let finished = run("echo done; sleep 2", None, &open).await;
    assert_eq!(
        finished.exit,
        Exit::Status(0),
        "the command goes on while a call is open"
    );
}
