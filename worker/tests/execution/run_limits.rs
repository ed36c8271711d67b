//! The end of an attempt whose run uses more than it may, or for which there is no sandbox.

use std::os::unix::fs::PermissionsExt as _;

use pool_core::pool::{Sandbox, SandboxLevel};
use pool_core::result::ErrorKind;
use serde_json::json;
use tokio_util::sync::CancellationToken;
use worker::programmer::attempt::AttemptEnd;
use worker::sandbox::SandboxLauncher;

use crate::repo::Bench;
use crate::rig::{Rig, check, is_made_again, message, word};
use crate::support::{alive, helper, limits};

const MIB: u64 = 1024 * 1024;

fn limited() -> SandboxLauncher {
    let limits = Sandbox {
        max_disk_bytes: 20 * MIB,
        ..limits()
    };
    SandboxLauncher::with_helper(&limits, helper())
}

/// Writes 40 MiB and goes on for a minute, in a process that no other test has.
fn write_too_much(number: u32) -> (String, String) {
    let marker = format!("60.{}{number}", std::process::id());
    let script =
        format!("head -c 41943040 /dev/zero >big; (setsid sleep {marker} &); sleep {marker}");
    (script, format!("sleep {marker}"))
}

#[tokio::test]
async fn an_agent_that_exceeds_a_limit_is_ended_and_not_run_again() {
    let (script, marker) = write_too_much(1);
    let rig = Rig::in_sandbox(
        Bench::new(),
        &format!("echo fixed >calc.py; {script}"),
        limited(),
    )
    .await;
    let result = rig.outcome(json!({})).await;
    assert_eq!((word(&result), result.runs), ("limit", 1), "{result:?}");
    let expected = "the agent wrote 40 MiB to the disk, and a run may write 20; `sandbox.max_disk_mib` sets this limit";
    assert_eq!(message(&result), expected, "use, limit and key");
    assert!(!is_made_again(&result), "another attempt would use as much");
    assert!(
        result.log_tail.contains("ended by the sandbox"),
        "{}",
        result.log_tail
    );
    assert_eq!(alive(&marker), Vec::<u32>::new(), "nothing is left");
}

#[tokio::test]
async fn a_check_that_exceeds_a_limit_has_failed_and_says_so() {
    let (script, marker) = write_too_much(2);
    let rig = Rig::in_sandbox(Bench::new(), "echo fixed >calc.py", limited()).await;
    let result = rig.outcome(check(&script)).await;
    assert_eq!(word(&result), "limit", "{result:?}");
    assert!(
        message(&result).starts_with("the acceptance check \"check\" wrote 40 MiB to the disk"),
        "it names the check: {}",
        message(&result)
    );
    let report = &result.acceptance[0];
    assert_eq!(report.exit_status, None, "it did not exit by itself");
    assert!(
        report.output_tail.ends_with("[check: it wrote 40 MiB to the disk, and a run may write 20; `sandbox.max_disk_mib` sets this limit]"),
        "its report has the cause: {}",
        report.output_tail
    );
    assert_eq!(alive(&marker), Vec::<u32>::new(), "nothing is left");
}

#[tokio::test]
async fn a_task_without_a_sandbox_is_handed_back_and_the_worker_knows() {
    let bench = Bench::new();
    // In place of a machine that lost its namespaces after the worker had started.
    let helper = bench.dir.path().join("helper");
    let said = r#"{"refused":{"step":"namespaces","problem":"No space left on device"}}"#;
    std::fs::write(&helper, format!("#!/bin/sh\nprintf '%s\\n' '{said}' >&0\n")).expect("a file");
    std::fs::set_permissions(&helper, std::fs::Permissions::from_mode(0o755)).expect("a mode");
    let limits = Sandbox {
        level: SandboxLevel::Strict,
        ..limits()
    };
    let sandbox = SandboxLauncher::with_helper(&limits, helper);
    let health = sandbox.health().clone();
    assert_eq!(health.trouble(), None, "nothing has failed yet");
    let rig = Rig::in_sandbox(bench, "echo fixed >calc.py", sandbox).await;
    let AttemptEnd::HandBack(hand_back) = rig.run(json!({}), &CancellationToken::new()).await
    else {
        panic!("the attempt must be handed back");
    };
    assert_eq!(hand_back.kind, ErrorKind::Sandbox, "{}", hand_back.why);
    let expected = "cannot make namespaces: No space left on device";
    assert!(
        hand_back.why.contains(expected),
        "it says why: {}",
        hand_back.why
    );
    let trouble = health.trouble().unwrap_or_default();
    assert!(trouble.contains(expected), "the gate can shut: {trouble:?}");
}
