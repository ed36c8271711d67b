//! A program that attacks its sandbox helper, which it can reach without namespaces of its own.

use std::process::Command;

use pool_core::pool::{Sandbox, SandboxLevel};
use serde_json::json;
use tokio_util::sync::CancellationToken;
use worker::sandbox::{Exit, LaunchError, SandboxLauncher, Watch};

use crate::repo::Bench;
use crate::rig::{Rig, check, is_made_again, message, word};
use crate::support::{alive, eventually, helper, limits, shell};

const KILL: &str = "kill -9 $PPID; sleep 60";
/// With this version of Landlock a program can send signals to other processes.
const LANDLOCK: u32 = 4;

fn nobody() -> Watch {
    Watch::new(CancellationToken::new())
}

/// The argument of a sleep that no other test uses.
fn marker(number: u32) -> String {
    format!("{}.{number}", 300_000 + std::process::id())
}

/// The sandboxes in which a program can reach its helper.
fn sandboxes(wanted: Sandbox) -> Vec<SandboxLauncher> {
    let files = agent_sandbox::landlock_abi() >= LANDLOCK;
    let levels = [
        Some(SandboxLevel::Off),
        files.then_some(SandboxLevel::Files),
    ];
    let at = |level| {
        let limits = Sandbox {
            level,
            ..wanted.clone()
        };
        SandboxLauncher::with_landlock(&limits, helper(), LANDLOCK)
    };
    levels.into_iter().flatten().map(at).collect()
}

#[tokio::test]
async fn nothing_survives_a_program_that_kills_its_helper_and_no_other_run_is_ended() {
    let own = marker(1);
    let mut child = Command::new("setsid")
        .args(["sleep", &own])
        .spawn()
        .expect("a child of this test");
    for (number, sandbox) in (2..).step_by(2).zip(sandboxes(limits())) {
        let dir = tempfile::tempdir().expect("a directory");
        let (marker, beside) = (marker(number), marker(number + 1));
        let neighbour = format!("sleep {beside} & while [ ! -e go ]; do sleep 0.01; done");
        let watch = nobody();
        let neighbour = sandbox.run(shell(dir.path(), &neighbour), &watch);
        let hostile = format!(
            "setsid sleep {marker} & (setsid sleep {marker} &)
             while [ $(pgrep -cxf 'sleep {marker}') -lt 2 ]; do :; done
             kill -9 $PPID; sleep {marker}"
        );
        let hostile = async {
            let up = eventually(|| !alive(&format!("sleep {beside}")).is_empty()).await;
            assert!(up, "the neighbour is up");
            let watch = nobody();
            let ended = sandbox.run(shell(dir.path(), &hostile), &watch).await;
            assert_eq!(alive(&marker), Vec::<u32>::new(), "no process is left");
            assert_eq!(
                alive(&format!("sleep {own}")).len(),
                1,
                "a child of this process"
            );
            std::fs::write(dir.path().join("go"), "").expect("a file");
            ended
        };
        let (neighbour, hostile) = tokio::join!(neighbour, hostile);
        let error = hostile.expect_err("nobody knows how it ended");
        assert!(matches!(error, LaunchError::NoReport(_)), "{error}");
        assert!(
            error.to_string().contains("has killed it"),
            "it says so: {error}"
        );
        assert_eq!(sandbox.health().trouble(), None, "the sandbox works");
        let neighbour = neighbour.expect("it started");
        assert_eq!(neighbour.exit, Exit::Status(0), "it went on: {neighbour:?}");
    }
    child.kill().expect("it is killed");
    child.wait().expect("it ended");
}

#[tokio::test]
async fn a_program_that_stops_its_helper_does_not_escape_its_limits() {
    let limits = Sandbox {
        max_disk_bytes: 20 << 20,
        ..limits()
    };
    for sandbox in sandboxes(limits) {
        let dir = tempfile::tempdir().expect("a directory");
        let script = "kill -STOP $PPID; head -c 41943040 /dev/zero >big; sleep 60";
        let finished = sandbox
            .run(shell(dir.path(), script), &nobody())
            .await
            .expect("it starts");
        assert!(matches!(finished.exit, Exit::Limit(_)), "{finished:?}");
    }
}

#[tokio::test]
async fn an_agent_that_kills_its_helper_ends_its_task_and_no_other() {
    for sandbox in sandboxes(limits()) {
        let health = sandbox.health().clone();
        let rig = Rig::in_sandbox(Bench::new(), KILL, sandbox).await;
        let result = rig.outcome(json!({})).await;
        assert_eq!((word(&result), result.runs), ("policy", 1), "{result:?}");
        let expected = "the agent did not come to its end: the sandbox helper ended without a report (signal: 9 (SIGKILL))";
        assert!(
            message(&result).starts_with(expected),
            "{}",
            message(&result)
        );
        assert!(!is_made_again(&result), "it would do so again");
        assert_eq!(health.trouble(), None, "the worker takes other tasks");
    }
}

#[tokio::test]
async fn a_check_that_kills_its_helper_ends_its_task_by_name() {
    for sandbox in sandboxes(limits()) {
        let rig = Rig::in_sandbox(Bench::new(), "echo fixed >calc.py", sandbox).await;
        let result = rig.outcome(check(KILL)).await;
        assert_eq!((word(&result), result.runs), ("policy", 1), "{result:?}");
        let expected = "the acceptance check \"check\" did not come to its end: the sandbox helper";
        assert!(
            message(&result).starts_with(expected),
            "{}",
            message(&result)
        );
        assert!(!is_made_again(&result), "it would do so again");
    }
}
