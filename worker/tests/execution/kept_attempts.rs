//! Whole attempts whose trees are used again.

use pool_core::pool::SandboxLevel;
use pool_core::result::ResultMessage;
use serde_json::{Value, json};

use crate::kept_trees::bench;
use crate::rig::{Rig, check, word};
use crate::support::limits;

/// Obeys the instruction of its task.
const OBEYS: &str = ". \"$1\"";
const WHEN_MADE: &str = "stat -c 'made %w' untouched/witness";

/// The lines of an output that begin with `made `.
fn made_lines(output: &str) -> Vec<String> {
    let lines = output.lines().filter(|line| line.starts_with("made "));
    lines.map(str::to_owned).collect()
}

async fn outcome(rig: &Rig, instruction: &str, more: Value) -> ResultMessage {
    let mut more = more;
    more["instruction"] = instruction.into();
    rig.outcome(more).await
}

/// Whether the sandbox of these tests separates attempts.
fn separates() -> bool {
    let separates = limits().level == SandboxLevel::Strict;
    if !separates {
        eprintln!("skipped: no tree is used again without `strict`");
    }
    separates
}

#[tokio::test]
async fn a_process_that_an_agent_leaves_behind_reaches_no_later_attempt() {
    if !separates() {
        return;
    }
    let rig = Rig::with(bench(), OBEYS, json!({})).await;
    let leaves = "echo fixed >calc.py; exec 9>>docs/guide.md; \
        (setsid bash -c 'while :; do echo evil >>docs/guide.md; echo evil >&9; echo evil >evil-$RANDOM; done' &>/dev/null &); \
        while ! ls evil-* &>/dev/null; do :; done; ";
    let first = outcome(&rig, &format!("{leaves} {WHEN_MADE}"), json!({})).await;
    assert_eq!(word(&first), "succeeded", "{first:?}");
    assert!(
        first
            .files_changed
            .iter()
            .any(|file| file.starts_with("evil-")),
        "it has written"
    );
    let looks = format!(
        "cat docs/guide.md; ls; {WHEN_MADE}; sleep 0.5; cat docs/guide.md; ls; echo x >calc.py"
    );
    let second = outcome(&rig, &looks, json!({})).await;
    assert_eq!(
        second.files_changed,
        ["calc.py"],
        "only its own change: {second:?}"
    );
    assert!(!second.log_tail.contains("evil"), "{}", second.log_tail);
    assert_eq!(
        made_lines(&second.log_tail),
        made_lines(&first.log_tail),
        "the tree is used again"
    );
}

#[tokio::test]
async fn checks_use_trees_again_and_leave_nothing_in_them() {
    if !separates() {
        return;
    }
    let rig = Rig::with(bench(), OBEYS, json!({})).await;
    let dirties = "echo x >>docs/guide.md; rm -r src; mkdir -p build; echo x >build/out; ln -sf /etc note.txt; rm -rf .git; chmod 777 run.sh";
    let check = check(&format!(
        "{WHEN_MADE}; find . -path ./.git -prune -o -printf '%p %y %m %n\\n' | sort | sha1sum; \
         find . -path ./.git -prune -o -type f -print0 | sort -z | xargs -0 sha1sum | sha1sum; git status --porcelain; {dirties}"
    ));
    let works = format!("echo fixed >calc.py; rm note.txt; {WHEN_MADE}");
    let mut seen = Vec::new();
    for _ in 0..3 {
        let result = outcome(&rig, &works, check.clone()).await;
        assert_eq!(word(&result), "succeeded", "{result:?}");
        let output = result.acceptance[0].output_tail.clone();
        let mut trees = [made_lines(&result.log_tail), made_lines(&output)].concat();
        trees.sort();
        let rest: Vec<String> = output
            .lines()
            .filter(|line| !line.starts_with("made "))
            .map(str::to_owned)
            .collect();
        seen.push((trees, rest));
    }
    assert_eq!(
        seen[0].0.len(),
        2,
        "a tree for the agent and one for the checks"
    );
    assert_ne!(seen[0].0[0], seen[0].0[1], "which are not the same");
    assert_eq!(
        seen[0], seen[1],
        "the second attempt has the same trees, as if they were new"
    );
    assert_eq!(seen[1], seen[2], "the third, too");
}

#[tokio::test]
async fn a_repair_goes_on_in_the_tree_and_finds_the_collected_change_alone() {
    if !separates() {
        return;
    }
    let script = format!(
        "{WHEN_MADE}; find . -path ./.git -prune -o -type f -print | sort | xargs -d '\\n' sha1sum; git status --porcelain --no-renames; \
         test -e new || {{ echo one >new; rm note.txt; echo x >a.tmp; chmod 777 docs; exit; }}; echo two >new"
    );
    let rig = Rig::with(bench(), &script, json!({"max_fix_iterations": 3})).await;
    let result = rig
        .outcome(check(
            "grep -q two new || { echo spoilt >calc.py; exit 1; }",
        ))
        .await;
    assert_eq!((word(&result), result.runs), ("succeeded", 2), "{result:?}");
    assert_eq!(result.files_changed, ["new", "note.txt"], "{result:?}");
    assert!(
        !result.log_tail.contains("a.tmp"),
        "no ignored file stays: {}",
        result.log_tail
    );
    let status: Vec<&str> = result
        .log_tail
        .lines()
        .filter(|line| line.len() < 20)
        .collect();
    assert_eq!(
        status,
        ["A  new", "D  note.txt"],
        "the agent sees the change: {}",
        result.log_tail
    );
}

#[tokio::test]
async fn a_tree_in_doubt_is_not_used_again() {
    if !separates() {
        return;
    }
    let rig = Rig::with(bench(), OBEYS, json!({"timeout_s": 3})).await;
    let works = format!("{WHEN_MADE}; echo x >calc.py");
    let first = outcome(&rig, &works, json!({})).await;
    let again = outcome(&rig, &works, json!({})).await;
    assert_eq!(
        made_lines(&again.log_tail),
        made_lines(&first.log_tail),
        "it is used again"
    );
    for (doubtful, expected) in [
        ("sleep 60", "task_timeout"),
        ("echo x >calc.py; kill -KILL $$", "agent_crashed"),
        ("mkfifo pipe; echo x >calc.py", "change_refused"),
    ] {
        let before = outcome(&rig, &works, json!({})).await;
        let result = outcome(&rig, doubtful, json!({})).await;
        assert_eq!(word(&result), expected, "{result:?}");
        let next = outcome(&rig, &works, json!({})).await;
        assert_ne!(
            made_lines(&next.log_tail),
            made_lines(&before.log_tail),
            "after {expected}"
        );
        assert_eq!(next.files_changed, ["calc.py"], "after {expected}");
    }
}

#[tokio::test]
async fn without_a_sandbox_no_tree_is_used_again() {
    let rig = Rig::without_layers(bench(), OBEYS).await;
    let works = format!("{WHEN_MADE}; echo x >calc.py");
    let first = outcome(&rig, &works, json!({})).await;
    let second = outcome(&rig, &works, json!({})).await;
    assert_ne!(
        made_lines(&second.log_tail),
        made_lines(&first.log_tail),
        "it is new"
    );
}
