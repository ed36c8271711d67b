//! Checks see the tree of the commit that the worker publishes, with a repository of their own, and
//! nothing else.
#![expect(clippy::expect_used, reason = "a helper that fails fails the test")]

use std::os::unix::fs::symlink;

use pool_core::result::ResultMessage;
use serde_json::{Value, json};

use crate::repo::Bench;
use crate::rig::{Rig, check, word};

/// A base commit with a link that leads out, a submodule, ignored files and text with fixed line
/// ends.
fn bench() -> Bench {
    let bench = Bench::new();
    symlink("/nonexistent/data", bench.app().join("data")).expect("a link");
    bench.write(".gitignore", "*.tmp\nbuild/\n");
    bench.write(".gitattributes", "*.txt text eol=lf\n");
    bench.write("tests/test_calc.py", "assert add(1, 2) == 3\n");
    bench.git(&["add", "--all"]);
    let submodule = format!("160000,{},library", bench.git(&["rev-parse", "HEAD"]));
    bench.git(&["update-index", "--add", "--cacheinfo", &submodule]);
    bench.git(&["commit", "--quiet", "-m", "second"]);
    bench
}

async fn outcome(script: &str, more: Value) -> (Rig, ResultMessage) {
    let rig = Rig::with(bench(), script, json!({"max_fix_iterations": 1})).await;
    let result = rig.outcome(more).await;
    (rig, result)
}

/// Lists everything that a check sees except the repository: every file with its content, every
/// empty directory.
const LISTING: &str = "find . -path ./.git -prune -o ! -type d -print -o -empty -print | sort; \
    echo --; find . -path ./.git -prune -o -type f -print | sort | xargs sha1sum";

/// The same list for the commit, from a checkout as a reader would make it.
fn listing_of(rig: &Rig, commit: &str) -> String {
    let clone = rig.bench.dir.path().join("clone");
    let path = clone.to_str().expect("a path");
    rig.bench
        .git(&["worktree", "add", "--quiet", "--detach", path, commit]);
    // The worker hides a link that leads out of the repository.
    std::fs::remove_file(clone.join("data")).expect("the link");
    std::fs::remove_file(clone.join(".git")).expect("the file of the worktree");
    let listed = std::process::Command::new("bash")
        .args(["-c", LISTING])
        .current_dir(&clone)
        .output();
    String::from_utf8(listed.expect("it runs").stdout).expect("text")
}

#[tokio::test]
async fn a_check_sees_the_tree_of_the_commit_and_nothing_else() {
    let deeds = [
        ("a file in place of a hidden link", "echo x >data"),
        (
            "a directory in place of a hidden link, without a file",
            "mkdir data",
        ),
        (
            "a file in the directory of a submodule",
            "mkdir -p library/inner; echo x >library/inner/extra",
        ),
        (
            "ignored files",
            "mkdir build; echo x >build/out; echo x >a.tmp",
        ),
        (
            "a repository in an ignored directory",
            "git init -q build/inner; echo x >build/inner/a",
        ),
        (
            "a socket in an ignored directory",
            "mkdir build; python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"build/s\")'",
        ),
        (
            "a repository in a directory of the commit",
            "git init -q docs",
        ),
        ("empty directories", "mkdir -p empty/inner docs/empty"),
        (
            "line ends that a checkout does not have",
            "printf 'a\\r\\nb\\r\\n' >dos.txt",
        ),
        (
            "a directory in place of a file, and the reverse",
            "rm -r docs; echo x >docs; rm calc.py; mkdir calc.py; echo x >calc.py/__init__.py",
        ),
    ];
    for (what, deed) in deeds {
        let (rig, result) = outcome(&format!("echo fixed >calc.py; {deed}"), check(LISTING)).await;
        assert_eq!(word(&result), "succeeded", "{what}: {result:?}");
        let commit = result.commit.as_deref().expect("a commit");
        assert_eq!(
            result.acceptance[0].output_tail,
            listing_of(&rig, commit),
            "{what}"
        );
    }
}

#[tokio::test]
async fn what_the_commit_lacks_lets_no_check_pass() {
    for (deed, wanted) in [
        ("echo x >data", "data"),
        ("mkdir -p library; echo x >library/extra", "library/extra"),
        ("echo x >needed.tmp", "needed.tmp"),
    ] {
        let (_rig, result) = outcome(
            &format!("echo fixed >calc.py; {deed}"),
            check(&format!("test -e {wanted}")),
        )
        .await;
        assert_eq!(
            word(&result),
            "acceptance_failed",
            "the commit has no {wanted}: {result:?}"
        );
    }
}

#[tokio::test]
async fn a_guard_sees_what_the_agent_has_committed() {
    let guard = check("git diff --quiet HEAD -- tests");
    let commits = "export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a; \
        echo pass >tests/test_calc.py; git add -A; git commit -qm cheat; git update-index --assume-unchanged tests/test_calc.py";
    let (_rig, result) = outcome(&format!("echo fixed >calc.py; {commits}"), guard.clone()).await;
    assert_eq!(
        word(&result),
        "acceptance_failed",
        "the test was changed: {result:?}"
    );
    let (_rig, result) = outcome(
        "echo fixed >calc.py; git add -A; git commit -qm honest; rm -rf .git",
        guard,
    )
    .await;
    assert_eq!(
        word(&result),
        "succeeded",
        "no test was changed: {result:?}"
    );
}

#[tokio::test]
async fn the_repository_of_checks_holds_the_base_and_nothing_of_the_agents() {
    let script = "echo fixed >calc.py; echo new >new.py; git add -A; git commit -qm x; \
        git config core.fsmonitor \"$PWD/.git/evil\"; git config alias.mine '!touch aliased'; git config core.bare true; \
        git config include.path ../../evil; git config filter.x.clean 'touch filtered'; echo '*.py filter=x' >.git/info/attributes; \
        mkdir -p .git/hooks .git/info; printf '#!/bin/sh\\ntouch \"$HOME/pwned\"\\n' >.git/evil; chmod +x .git/evil; \
        cp .git/evil .git/hooks/post-index-change; echo '*' >.git/info/exclude; \
        printf '[core]\\n\\tfsmonitor = %s\\n' \"$PWD/.git/evil\" | tee \"$HOME/.gitconfig\" >\"$HOME/../.gitconfig\"; \
        echo 'import os; os._exit(0)' | tee \"$HOME/../usercustomize.py\" >\"$HOME/sitecustomize.py\"";
    let sees = "git status --porcelain; git diff --name-only HEAD; git ls-files | tr '\\n' ' '; git rev-parse HEAD; \
        git config --local --list --name-only | sort -u | tr '\\n' ' '; git config --global --list; ls -A \"$HOME\" \"$TMPDIR\"; ls .git/hooks; exit 0";
    let (rig, result) = outcome(script, check(sees)).await;
    assert_eq!(word(&result), "succeeded", "{result:?}");
    let expected = format!(
        " M calc.py\n?? new.py\ncalc.py\n\
         .gitattributes .gitignore calc.py data docs/guide.md library tests/test_calc.py {}\n\
         core.bare core.filemode core.repositoryformatversion user.email user.name ",
        rig.bench.git(&["rev-parse", "HEAD"])
    );
    let text = &result.acceptance[0].output_tail;
    assert!(
        text.starts_with(&expected),
        "the base and the change in files:\n{text}\nand not\n{expected}"
    );
    for word in ["fsmonitor", "pwned", "usercustomize", "post-index-change"] {
        assert!(
            !text.contains(word),
            "no setting of the agent's: {word} in {text}"
        );
    }
}

#[tokio::test]
async fn every_check_has_a_home_of_its_own() {
    let plant = "echo planted >\"$HOME/planted\"; mkdir -p \"$HOME/.local\" \"$TMPDIR/x\"; touch \"$HOME/../../left\"";
    let checks = json!({"acceptance": [
        {"name": "first", "run": ["bash", "-c", plant]},
        {"name": "second", "run": ["bash", "-c", "ls -A \"$HOME\" \"$TMPDIR\""]},
    ]});
    let (_rig, result) = outcome("echo fixed >calc.py; touch \"$HOME/agent\"", checks).await;
    let text = &result.acceptance[1].output_tail;
    assert!(
        !text.contains("planted") && !text.contains(".local") && !text.contains("agent"),
        "the home is empty: {text}"
    );
}

#[tokio::test]
async fn a_check_cannot_change_what_the_next_one_tests() {
    let tampers = "mkdir built; echo x >built/out; echo pass >tests/test_calc.py; rm -r docs; ln -s /etc docs; chmod 000 calc.py; \
        git config core.fsmonitor /bin/false; echo x >>.git/info/exclude; git add -A; mkfifo .gitmodules; \
        rm .gitattributes; mkfifo .gitattributes; echo x >data; exit 0";
    let sees = "cat tests/test_calc.py docs/guide.md; ls built; test -r calc.py && git status --porcelain; test -e data || echo hidden";
    let checks = json!({"acceptance": [
        {"name": "first", "run": ["bash", "-c", tampers]},
        {"name": "second", "run": ["bash", "-c", sees]},
    ]});
    let (_rig, result) = outcome("echo fixed >calc.py", checks).await;
    assert_eq!(word(&result), "succeeded", "{result:?}");
    let expected = "assert add(1, 2) == 3\n# Guide\nout\n M calc.py\n?? built/\nhidden\n";
    assert_eq!(
        result.acceptance[1].output_tail, expected,
        "the commit, and what was built"
    );
}

#[tokio::test]
async fn a_check_cannot_change_what_the_next_one_tests_by_attributes() {
    let reads = |name: &str| json!({"name": name, "run": ["bash", "-c", "find . -path ./.git -prune -o -type f -print | sort | xargs sha1sum"]});
    // A file that was touched is checked out again.
    let touches = "echo x >>tests/test_calc.py; echo x >>docs/guide.md; echo x >>a.txt";
    for tampers in [
        "echo '*.py eol=crlf' >tests/.gitattributes; echo '* eol=crlf' >docs/.gitattributes",
        "echo '* working-tree-encoding=UTF-16' >.gitattributes",
        "rm .gitattributes; ln -s docs/guide.md .gitattributes",
        "mkdir -p new/deep; echo '* eol=crlf' >new/deep/.gitattributes",
        "echo '* eol=crlf' >.git/info/attributes; mkdir .git/info; echo '* eol=crlf' >.git/info/attributes",
    ] {
        let checks = json!({"acceptance": [
            reads("before"),
            {"name": "tampers", "run": ["bash", "-c", format!("{touches}; {tampers}; exit 0")]},
            reads("after"),
        ]});
        let (_rig, result) = outcome("echo fixed >calc.py; echo x >a.txt", checks).await;
        assert_eq!(word(&result), "succeeded", "{tampers}: {result:?}");
        let text = |index: usize| &result.acceptance[index].output_tail;
        assert_eq!(text(2), text(0), "{tampers}");
    }
}

#[tokio::test]
async fn a_check_that_replaces_its_directory_is_not_followed() {
    let other = tempfile::tempdir().expect("a directory");
    std::fs::write(other.path().join("precious"), "x").expect("a file");
    let moves = format!(
        "cd ..; mv tree moved; ln -s {} tree; exit 0",
        other.path().display()
    );
    let checks = json!({"acceptance": [
        {"name": "first", "run": ["bash", "-c", moves]},
        {"name": "second", "run": ["bash", "-c", "grep -q fixed calc.py && touch made"]},
    ]});
    let (_rig, result) = outcome("echo fixed >calc.py", checks).await;
    assert_eq!(
        word(&result),
        "succeeded",
        "the second has its checkout: {result:?}"
    );
    let left: Vec<_> = std::fs::read_dir(other.path()).expect("entries").collect();
    assert_eq!(left.len(), 1, "the link's target is untouched");
}

#[tokio::test]
async fn a_check_leaves_nothing_to_the_next_repair() {
    let script = "test -e fixed && echo three >>calc.py || { echo two >calc.py; touch fixed; }; ls -A; cat .git/HEAD";
    let rig = Rig::with(bench(), script, json!({"max_fix_iterations": 3})).await;
    let result = rig
        .outcome(check(
            "touch made-by-check; echo spoilt >docs/guide.md; rm -rf .git; grep -q three calc.py",
        ))
        .await;
    assert_eq!((word(&result), result.runs), ("succeeded", 2), "{result:?}");
    assert_eq!(
        result.files_changed,
        ["calc.py", "fixed"],
        "no file of the check is in the change"
    );
    assert!(
        !result.log_tail.contains("made-by-check"),
        "and the agent sees none of them: {}",
        result.log_tail
    );
    let base = rig.bench.git(&["rev-parse", "HEAD"]);
    assert!(
        result.log_tail.contains(&base),
        "the agent has its repository: {}",
        result.log_tail
    );
}
