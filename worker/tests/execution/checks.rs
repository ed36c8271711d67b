//! Acceptance checks with real processes.
#![expect(clippy::expect_used, reason = "a helper that fails fails the test")]

use std::path::Path;
use std::time::Duration;

use pool_core::pool;
use pool_core::task::{AcceptanceCheck, Before};
use tokio_util::sync::CancellationToken;
use worker::acceptance::{CheckEnvironment, Checked, run_checks};
use worker::sandbox::Watch;

use crate::support::{alive, sandbox};

fn check(name: &str, run: &[&str], timeout_s: Option<u64>) -> AcceptanceCheck {
    AcceptanceCheck {
        name: name.to_owned(),
        run: run.iter().map(ToString::to_string).collect(),
        timeout_s,
        before: Before::Any,
        overlay: Default::default(),
        tries: 1,
    }
}

async fn run(checks: &[AcceptanceCheck], dir: &Path, cancel: CancellationToken) -> Checked {
    let (worktree, scratch) = (dir.join("tree"), dir.join("scratch"));
    std::fs::create_dir_all(&worktree).expect("a directory");
    std::fs::create_dir_all(&scratch).expect("a directory");
    let sandbox = sandbox();
    let path = "relative:/usr/local/bin:/usr/bin:/bin".into();
    let place = CheckEnvironment {
        worktree: &worktree,
        scratch: &scratch,
        path,
        objects: Vec::new(),
        sandbox: &sandbox,
    };
    let config = pool::Acceptance {
        timeout: Duration::from_secs(60),
    };
    run_checks(
        checks,
        &config,
        &place,
        || std::future::ready(Ok(())),
        |_| Watch::new(cancel.clone()),
    )
    .await
    .expect("a home for each")
}

#[tokio::test]
async fn every_check_runs_and_is_reported_in_order() {
    let dir = tempfile::tempdir().expect("a directory");
    let checks = [
        check("fails", &["sh", "-c", "echo no; exit 3"], None),
        check("hangs", &["sh", "-c", "echo hm; sleep 424242.1"], Some(1)),
        check("missing", &["no-such-check"], None),
        check("crashes", &["sh", "-c", "kill -9 $$"], None),
        check("passes", &["sh", "-c", "pwd; env | sort"], None),
    ];
    let checked = run(&checks, dir.path(), CancellationToken::new()).await;
    let statuses: Vec<_> = checked
        .reports
        .iter()
        .map(|report| (report.name.as_str(), report.exit_status))
        .collect();
    let expected = [
        ("fails", Some(3)),
        ("hangs", None),
        ("missing", None),
        ("crashes", None),
        ("passes", Some(0)),
    ];
    assert_eq!(statuses, expected, "each one, although the first failed");
    let tails: Vec<&str> = checked
        .reports
        .iter()
        .map(|report| report.output_tail.as_str())
        .collect();
    assert_eq!(
        tails[..2],
        ["no\n", "hm\n[hangs: ended after 1 s]"],
        "their output and how they ended"
    );
    assert!(
        tails[2].contains("no-such-check"),
        "the report names the missing program: {}",
        tails[2]
    );
    assert!(
        tails[3].contains("signal 9"),
        "the report names the signal: {}",
        tails[3]
    );
    let scratch = dir.path().join("scratch").display().to_string();
    for line in [
        format!("HOME={scratch}"),
        "PYTHONDONTWRITEBYTECODE=1".to_owned(),
        "PATH=/usr/local/bin:/usr/bin:/bin".to_owned(),
    ] {
        assert!(
            tails[4].lines().any(|given| given == line),
            "{line} is in {}",
            tails[4]
        );
    }
    assert!(!checked.passed(), "one failure is enough");
    assert_eq!(
        checked.failed().map(|report| report.name.as_str()),
        Some("fails"),
        "the first one"
    );
    assert!(
        checked.duration >= Duration::from_secs(1),
        "the time of all of them"
    );
    assert!(
        alive("sleep 424242.1").is_empty(),
        "no process of theirs is left"
    );
}

#[tokio::test]
async fn of_much_output_the_end_is_reported() {
    let dir = tempfile::tempdir().expect("a directory");
    let noisy = check(
        "noisy",
        &["sh", "-c", "seq 1 100000; echo the reason"],
        None,
    );
    let checked = run(&[noisy], dir.path(), CancellationToken::new()).await;
    let tail = &checked.reports[0].output_tail;
    assert!(
        tail.len() <= 4096 && tail.ends_with("100000\nthe reason\n"),
        "{} bytes, ending {tail:?}",
        tail.len()
    );
    assert!(checked.passed(), "status 0 is what counts");
}

#[tokio::test]
async fn cancelling_stops_between_checks_too_and_is_no_pass() {
    let dir = tempfile::tempdir().expect("a directory");
    let cancel = CancellationToken::new();
    cancel.cancel();
    let checked = run(
        &[
            check("a", &["sleep", "60"], None),
            check("b", &["true"], None),
        ],
        dir.path(),
        cancel,
    )
    .await;
    assert!(
        checked.cancelled && checked.reports.is_empty(),
        "a check that did not run has no report"
    );
    assert!(!checked.passed(), "a check that did not run did not pass");
}
