//! Real git, in temporary repositories.

use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;

const BASE: &str = "one\ntwo\nthree\nfour\nfive\nsix\nseven\n";

struct Clone(TempDir);

impl Clone {
    fn new() -> Self {
        let clone = Self(TempDir::new().expect("a directory"));
        clone.git(&["init", "--quiet", "--initial-branch=main"]);
        clone.git(&["config", "user.name", "A Tester"]);
        clone.git(&["config", "user.email", "tester@example.org"]);
        clone.write(BASE);
        clone.git(&["add", "."]);
        clone.git(&["commit", "--quiet", "--message=base"]);
        clone
    }

    fn git(&self, arguments: &[&str]) -> String {
        let mut command = std::process::Command::new("git");
        let output = command
            .arg("-C")
            .arg(self.0.path())
            .args(arguments)
            .output();
        let output = output.expect("git runs");
        assert!(output.status.success(), "git {arguments:?}: {output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn write(&self, text: &str) {
        std::fs::write(self.0.path().join("list.txt"), text).expect("a file");
    }

    fn read(&self) -> String {
        std::fs::read_to_string(self.0.path().join("list.txt")).expect("a file")
    }

    /// The patch that makes this text of the base, as a worker writes it.
    fn patch(&self, text: &str) -> String {
        self.write(text);
        let patch = self.git(&["diff", "--full-index", "--binary"]);
        self.git(&["checkout", "--quiet", "list.txt"]);
        patch
    }

    fn commit(&self, text: &str) {
        self.write(text);
        self.git(&["commit", "--quiet", "--all", "--message=later"]);
    }

    fn open(&self) -> UserGit {
        UserGit::of(self.0.path()).expect("a repository")
    }
}

fn task(status: &str, result: Value) -> TaskView {
    let mut view = json!({
        "id": "t-1", "status": status, "route": "any", "submitted_at": null, "attempts": 1, "programmer": null,
        "attempt": null, "started_at": null, "finished_at": "2026-01-31T12:01:00Z", "cost_usd": null, "llm": null,
        "error": null, "summary": "Count to eight\nand back"
    });
    if !result.is_null() {
        view["result"] = result;
    }
    serde_json::from_value(view).expect("a task")
}

fn succeeded() -> TaskView {
    task("succeeded", Value::Null)
}

fn error<T>(result: anyhow::Result<T>) -> String {
    result
        .err()
        .map(|error| format!("{error:#}"))
        .unwrap_or_default()
}

#[test]
fn a_patch_is_applied_and_committed_also_where_the_branch_has_moved_on() {
    let clone = Clone::new();
    let patch = clone.patch(&BASE.replace("six", "SIX"));
    clone.commit(&BASE.replace("one", "ONE"));
    let (git, view) = (clone.open(), succeeded());
    clean(&git).expect("nothing is changed");
    let warned = warnings(&git, &view, &patch)
        .expect("git answers")
        .join("\n");
    assert!(
        warned.contains("1 of 1 file") && warned.contains("merges"),
        "the base differs: {warned}"
    );
    try_out(&git, &view, &patch).expect("it can be applied");
    assert_eq!(
        clone.git(&["status", "--porcelain"]),
        "",
        "--check changes nothing"
    );
    apply(&git, &view, &patch, None).expect("it is applied");
    assert!(
        has_staged(&git).expect("git answers"),
        "the change is staged"
    );
    assert_eq!(
        clone.read(),
        BASE.replace("one", "ONE").replace("six", "SIX"),
        "both changes are there"
    );
    let commit = commit(&git, &view).expect("a commit");
    let message = clone.git(&["show", "--no-patch", "--format=%B", &commit]);
    assert_eq!(
        message.trim(),
        "Count to eight\n\nPool-Task: t-1",
        "the commit names the task"
    );
    assert_eq!(
        files(&git, &patch).expect("names"),
        ["list.txt"],
        "the changed files"
    );
    apply(&git, &view, &patch, None).expect("it is applied again");
    let again = has_staged(&git).expect("git answers");
    assert!(!again, "a change that is there already changes nothing");
}

#[test]
fn at_the_base_of_the_task_nothing_is_warned_of() {
    let clone = Clone::new();
    let patch = clone.patch(&BASE.replace("six", "SIX"));
    let warned = warnings(&clone.open(), &succeeded(), &patch).expect("git answers");
    assert!(warned.is_empty(), "{warned:?}");
    let failed =
        warnings(&clone.open(), &task("failed", Value::Null), &patch).expect("git answers");
    assert!(
        failed.join("").contains("t-1 is failed"),
        "a change that did not pass: {failed:?}"
    );
}

#[test]
fn a_conflict_is_named_with_its_files_and_the_way_back() {
    let clone = Clone::new();
    let patch = clone.patch(&BASE.replace("six", "SIX"));
    clone.commit(&BASE.replace("six", "6"));
    let (git, view) = (clone.open(), succeeded());
    let words = error(try_out(&git, &view, &patch));
    assert!(words.contains("conflicts"), "--check finds it: {words}");
    assert_eq!(
        clone.git(&["status", "--porcelain"]),
        "",
        "--check changes nothing"
    );
    let left: Vec<_> = std::fs::read_dir(clone.0.path().join(".git"))
        .expect("files")
        .flatten()
        .collect();
    assert!(
        !left
            .iter()
            .any(|file| file.file_name().to_string_lossy().starts_with("index.pool")),
        "--check leaves no copy of the index: {left:?}"
    );
    let words = error(apply(&git, &view, &patch, None));
    assert!(
        words.contains("list.txt") && words.contains("git reset --hard"),
        "{words}"
    );
    assert!(clone.read().contains("<<<<<<<"), "git leaves its marks");
}

#[test]
fn another_repository_and_uncommitted_changes_are_named() {
    let (clone, other) = (Clone::new(), Clone::new());
    let patch = clone.patch(&BASE.replace("six", "SIX"));
    other.git(&["rm", "--quiet", "list.txt"]);
    other.git(&[
        "commit",
        "--quiet",
        "--amend",
        "--allow-empty",
        "--message=empty",
    ]);
    other.git(&["reflog", "expire", "--expire=now", "--all"]);
    other.git(&["gc", "--quiet", "--prune=now"]);
    let git = other.open();
    let warned = warnings(&git, &succeeded(), &patch)
        .expect("git answers")
        .join("");
    assert!(warned.contains("not in this repository"), "{warned}");
    let words = error(apply(&git, &succeeded(), &patch, None));
    assert!(words.contains("nothing was changed"), "{words}");

    clone.write("changed\n");
    let words = error(clean(&clone.open()));
    assert!(
        words.contains("list.txt") && words.contains("git stash"),
        "{words}"
    );
    let nowhere = TempDir::new().expect("a directory");
    let words = error(UserGit::of(nowhere.path()));
    assert!(
        words.contains("not in the working tree of a git repository"),
        "{words}"
    );
}

#[test]
fn a_new_file_and_a_binary_file_have_no_base_to_look_for() {
    let patch = "diff --git a/new b/new\nnew file mode 100644\n\
        index 0000000000000000000000000000000000000000..257cc5642cb1a054f08cc83f2d943e56fd3ebe99\n";
    assert!(bases(patch).is_empty(), "a new file");
    let short = "index 257cc56..5716ca5 100644\n";
    assert!(
        bases(short).is_empty(),
        "an abbreviated name cannot be looked up"
    );
}

#[test]
fn a_patch_that_is_too_large_is_found_as_a_commit() {
    let result = json!({
        "task_id": "t-1", "status": "succeeded", "patch_truncated": true, "branch": "pool/t-1", "commit": "abc123",
        "commit_at": "build-1:/srv/app.git"
    });
    let view = task("succeeded", result);
    let words = too_large(&view, view.result.as_ref().expect("a result"));
    assert!(
        words.contains("git fetch build-1:/srv/app.git pool/t-1 && git cherry-pick abc123"),
        "{words}"
    );
}

#[test]
fn a_hook_that_the_patch_brings_does_not_run() {
    let clone = Clone::new();
    let hooks = clone.0.path().join("hooks");
    std::fs::create_dir(&hooks).expect("a directory");
    let ran = clone.0.path().join(".git/ran");
    let hook = format!("#!/bin/sh\ntouch '{}'\n", ran.display());
    std::fs::write(hooks.join("post-index-change"), hook).expect("a hook");
    clone.git(&["add", "--chmod=+x", "hooks"]);
    let patch = clone.git(&["diff", "--cached", "--full-index", "--binary"]);
    clone.git(&["reset", "--quiet", "--hard"]);
    clone.git(&["config", "core.hooksPath", "hooks"]);
    let (git, view) = (clone.open(), succeeded());
    apply(&git, &view, &patch, None).expect("it is applied");
    commit(&git, &view).expect("it is committed");
    assert!(!ran.exists(), "no hook has run");
    clone.git(&["reset", "--hard", "HEAD"]);
    assert!(ran.exists(), "git by itself runs it");
}

#[test]
fn a_file_that_git_does_not_know_is_in_the_way_before_anything_is_changed() {
    let clone = Clone::new();
    std::fs::write(clone.0.path().join("new"), "mine").expect("a file");
    let names = ["new".to_owned(), "other".to_owned()];
    let said = error(nothing_in_the_way(&clone.open(), &names));
    assert!(
        said.contains("(new)") && said.contains("move them away"),
        "it is named: {said}"
    );
}

#[test]
fn the_names_of_an_agent_cannot_steer_the_terminal() {
    let applied = Applied {
        task_id: TaskId::new("t-1").expect("an id"),
        repository: PathBuf::from("/app"),
        applied: true,
        files: vec!["x\u{1b}]0;title\u{7}".to_owned()],
        branch: None,
        commit: None,
    };
    assert!(
        !text(&applied, true).contains('\u{1b}'),
        "no control sequence"
    );
}
