//! The proof of a check: it is tried on the base, sees files that the agent does not, and may be flaky.

use std::path::Path;

use pool_core::result::ResultMessage;
use serde_json::{Value, json};

use crate::repo::Bench;
use crate::rig::{Rig, is_made_again, message, word};

const FIXES: &str = "echo fixed >calc.py";

/// The scripts count their runs in files outside of the worktree, so there are no kernel layers.
async fn rig(script: &str) -> Rig {
    let sections = json!({"defaults": {"max_fix_iterations": 1}, "sandbox": {"level": "off"}});
    Rig::with_sections(Bench::new(), script, sections).await
}

fn checks(checks: Value) -> Value {
    json!({"acceptance": checks})
}

/// How often a script has added a line to this file.
fn lines(file: &Path) -> usize {
    std::fs::read_to_string(file).map_or(0, |text| text.lines().count())
}

fn free_of_charge(result: &ResultMessage) {
    let seen = (result.runs, result.usage.calls, is_made_again(result));
    assert_eq!(seen, (0, 0, false), "no agent ran: {result:?}");
}

#[tokio::test]
async fn a_check_that_does_not_do_on_the_base_what_it_says_ends_the_task_before_the_agent() {
    let agent = tempfile::tempdir().expect("a directory");
    let ran = agent.path().join("ran");
    let rig = rig(&format!("{FIXES}; touch {}", ran.display())).await;
    for (before, script, said) in [
        (
            "fails",
            "test -e calc.py",
            "passes on the base commit already",
        ),
        (
            "passes",
            "grep -q fixed calc.py",
            "fails on the base commit already",
        ),
    ] {
        let check = json!([{"name": "says", "run": ["sh", "-c", script], "before": before}]);
        let result = rig.outcome(checks(check)).await;
        assert_eq!(word(&result), "check_proves_nothing", "{result:?}");
        free_of_charge(&result);
        for part in ["\"says\"", said, before] {
            assert!(
                message(&result).contains(part),
                "{part} is in {}",
                message(&result)
            );
        }
        assert_eq!(
            result.acceptance.len(),
            1,
            "the report of the check is there"
        );
    }
    assert!(!ran.exists(), "the agent has not run");
    for (before, script) in [
        ("fails", "grep -q fixed calc.py"),
        ("passes", "test -e calc.py"),
        ("any", "true"),
    ] {
        let check = json!([{"name": "says", "run": ["sh", "-c", script], "before": before}]);
        let result = rig.outcome(checks(check)).await;
        assert_eq!(word(&result), "succeeded", "{before}: {result:?}");
    }
}

#[tokio::test]
async fn a_check_on_the_base_finds_what_earlier_checks_build() {
    let rig = rig(FIXES).await;
    let result = rig
        .outcome(checks(json!([
            {"name": "builds", "run": ["sh", "-c", "mkdir built && cp calc.py built/"]},
            {"name": "uses", "run": ["sh", "-c", "grep -q fixed built/calc.py"], "before": "fails"},
            {"name": "has it", "run": ["test", "-e", "built/calc.py"], "before": "passes"},
        ])))
        .await;
    assert_eq!(word(&result), "succeeded", "{result:?}");
}

#[tokio::test]
async fn tasks_on_one_commit_try_a_check_on_the_base_once() {
    let counted = tempfile::tempdir().expect("a directory");
    let count = counted.path().join("count");
    let check = json!([{"name": "counts", "before": "fails",
        "run": ["sh", "-c", format!("grep -q fixed calc.py || {{ echo x >>{}; exit 1; }}", count.display())]}]);
    let rig = rig(FIXES).await;
    let tasks = (0..3).map(|_| rig.outcome(checks(check.clone())));
    for result in futures_util::future::join_all(tasks).await {
        assert_eq!(word(&result), "succeeded", "{result:?}");
    }
    assert_eq!(lines(&count), 1, "one try for three tasks");
    rig.bench.commit("another base");
    rig.outcome(checks(check)).await;
    assert_eq!(lines(&count), 2, "and one for another commit");
}

#[tokio::test]
async fn a_check_that_ran_out_of_time_on_the_base_decides_for_its_own_task_alone() {
    let counted = tempfile::tempdir().expect("a directory");
    let count = counted.path().join("count");
    let script = format!(
        "echo x >>{0}; test $(wc -l <{0}) -gt 1 || sleep 60",
        count.display()
    );
    let check = json!([{"name": "hangs once", "run": ["sh", "-c", script], "before": "passes", "timeout_s": 1}]);
    let rig = rig(FIXES).await;
    let tasks = (0..3).map(|_| rig.outcome(checks(check.clone())));
    let results = futures_util::future::join_all(tasks).await;
    let mut words: Vec<&str> = results.iter().map(word).collect();
    words.sort_unstable();
    assert_eq!(
        words,
        ["check_proves_nothing", "succeeded", "succeeded"],
        "{results:?}"
    );
    assert_eq!(
        lines(&count),
        4,
        "two tries on the base, one on each change"
    );
}

#[tokio::test]
async fn an_overlay_is_there_for_its_check_alone() {
    let script = "cat calc.py; find .. -name '*hidden*' 2>/dev/null; grep -r WORD-OF-THE-OVERLAY .. 2>/dev/null; \
        cat \"$1\"; echo fixed >>calc.py";
    let rig = Rig::with(Bench::new(), script, json!({"max_fix_iterations": 2})).await;
    let overlay = json!({
        "hidden/test_it.py": "# WORD-OF-THE-OVERLAY\n",
        "docs/guide.md": "WORD-OF-THE-OVERLAY\n",
    });
    let sees = "test -f hidden/test_it.py && test \"$(cat docs/guide.md)\" = WORD-OF-THE-OVERLAY && \
        echo x >hidden/built && test $(grep -c fixed calc.py) = 2";
    let result = rig
        .outcome(checks(json!([
            {"name": "sees", "run": ["sh", "-c", sees], "overlay": overlay},
            {"name": "next", "run": ["sh", "-c", "test ! -e hidden && test \"$(cat docs/guide.md)\" = '# Guide' && test -z \"$(git status --porcelain hidden docs)\""]},
        ])))
        .await;
    assert_eq!((word(&result), result.runs), ("succeeded", 2), "{result:?}");
    assert_eq!(
        result.files_changed,
        ["calc.py"],
        "nothing of it is in the change"
    );
    assert!(
        !result.patch.as_deref().unwrap_or_default().contains("WORD"),
        "nor in the patch"
    );
    assert!(
        result.log_tail.contains("check \"sees\" failed")
            && !result.log_tail.contains("WORD-OF-THE-OVERLAY\n"),
        "the agent that repairs finds nothing of it: {}",
        result.log_tail
    );
    assert!(
        !result.log_tail.contains("hidden/test_it.py\n"),
        "not even its name: {}",
        result.log_tail
    );
}

#[tokio::test]
async fn an_overlay_wins_over_what_the_agent_put_in_its_place() {
    let other = tempfile::tempdir().expect("a directory");
    std::fs::write(other.path().join("test_it.py"), "precious").expect("a file");
    let target = other.path().display();
    for deed in [
        "true".to_owned(),
        "mkdir hidden; echo cheat >hidden/test_it.py".to_owned(),
        "echo cheat >hidden".to_owned(),
        "mkdir away; echo cheat >away/test_it.py; ln -s away hidden".to_owned(),
        "mkdir hidden; ln -s ../calc.py hidden/test_it.py".to_owned(),
        "mkdir -p hidden/test_it.py; echo cheat >hidden/test_it.py/x".to_owned(),
    ] {
        let rig = rig(&format!("{FIXES}; {deed}")).await;
        // The first check also puts a link to other people's files in its place.
        let result = rig
            .outcome(checks(json!([
                {"name": "plants", "run": ["sh", "-c", format!("rm -rf hidden; ln -s {target} hidden")]},
                {"name": "hidden", "run": ["sh", "-c", "cat hidden/test_it.py; grep -q real hidden/test_it.py"],
                    "overlay": {"hidden/test_it.py": "real\n"}},
                {"name": "restored", "run": ["sh", "-c", "! grep -q real hidden/test_it.py"]},
            ])))
            .await;
        assert_eq!(word(&result), "succeeded", "{deed}: {result:?}");
        let precious = std::fs::read_to_string(other.path().join("test_it.py")).expect("the file");
        assert_eq!(precious, "precious", "{deed}: no link was followed");
    }
}

#[tokio::test]
async fn a_flaky_check_has_tries_and_the_result_says_how_many_it_took() {
    let counted = tempfile::tempdir().expect("a directory");
    for (tries, passes_at, expected) in [
        (3, 3, Some((3, Some(0)))),
        (2, 3, Some((2, Some(1)))),
        (1, 1, Some((1, Some(0)))),
    ] {
        let count = counted.path().join(format!("{tries}-{passes_at}"));
        let script = format!(
            "echo x >>{0}; test -z \"$(git diff docs)\" || exit 9; echo y >>docs/guide.md; test -z \"$(ls -A \"$HOME\")\" || exit 8; \
             touch \"$HOME/left\"; test $(wc -l <{0}) -ge {passes_at}",
            count.display()
        );
        let check = json!([{"name": "flaky", "run": ["sh", "-c", script], "tries": tries}]);
        let result = rig(FIXES).await.outcome(checks(check)).await;
        let report = result.acceptance.first();
        let seen = report.map(|report| (report.tries, report.exit_status));
        assert_eq!(
            seen, expected,
            "{tries} tries, it passes at the {passes_at}th: {result:?}"
        );
        assert_eq!(lines(&count), tries, "each try ran once");
    }
}

#[tokio::test]
async fn a_task_that_cannot_work_ends_before_the_agent_runs() {
    let rig = rig(FIXES).await;
    for (task, kind, named) in [
        (
            checks(json!([{"name": "typo", "run": ["pytset", "-q"]}])),
            "check_cannot_start",
            "pytset",
        ),
        (
            checks(json!([{"name": "plain", "run": ["docs/guide.md"]}])),
            "check_cannot_start",
            "docs/guide.md",
        ),
        (
            json!({"files": ["calc.py", "calculator.py"]}),
            "repository",
            "calculator.py",
        ),
    ] {
        let result = rig.outcome(task).await;
        assert_eq!(word(&result), kind, "{result:?}");
        free_of_charge(&result);
        assert!(message(&result).contains(named), "{}", message(&result));
    }
}
