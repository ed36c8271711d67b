//! The objects of an attempt are its own until its commit counts.
#![expect(clippy::expect_used, reason = "a helper that fails fails the test")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::json;
use tokio_util::sync::CancellationToken;
use worker::programmer::attempt::AttemptEnd;

use crate::repo::{Bench, commit, git, task, write};
use crate::rig::{Rig, check, word};

/// Every file of a repository, with its size.
fn files(dir: &Path) -> BTreeMap<PathBuf, u64> {
    let mut files = BTreeMap::new();
    let mut open = vec![dir.to_owned()];
    while let Some(next) = open.pop() {
        for entry in std::fs::read_dir(next).expect("a directory") {
            let entry = entry.expect("an entry");
            let found = entry.metadata().expect("it exists");
            if found.is_dir() {
                open.push(entry.path());
            } else {
                files.insert(entry.path(), found.len());
            }
        }
    }
    files
}

const NOISE: &str = "head -c 3000000 /dev/urandom >noise; echo fixed >calc.py";

#[tokio::test]
async fn an_attempt_without_a_commit_leaves_nothing_in_the_repository() {
    let ends = [
        (NOISE.to_owned(), check("exit 1"), "acceptance_failed"),
        (format!("{NOISE}; exit 3"), json!({}), "agent_failed"),
        (
            format!("{NOISE}; ln -s /etc out"),
            json!({}),
            "change_refused",
        ),
    ];
    for (script, more, end) in ends {
        let defaults = json!({"max_fix_iterations": 2});
        let rig = Rig::with(Bench::new(), &script, defaults).await;
        let repository = rig.bench.app().join(".git");
        let before = files(&repository);
        let result = rig.outcome(more).await;
        assert_eq!(word(&result), end, "{result:?}");
        assert_eq!(files(&repository), before, "{end}: the repository");
    }
}

#[tokio::test]
async fn a_commit_that_counts_is_whole_in_the_repository() {
    // Few objects become loose ones, many stay in a pack.
    for count in [1, 300] {
        let script = format!(
            "for n in $(seq {count}); do echo $n >file-$n; done; head -c 2000000 /dev/urandom >noise"
        );
        let rig = Rig::start(Bench::new(), &script).await;
        let stop = CancellationToken::new();
        let AttemptEnd::Outcome(outcome) = rig.run(json!({}), &stop).await else {
            panic!("it ends");
        };
        assert_eq!(word(&outcome.result), "succeeded", "{:?}", outcome.result);
        // The branch is not set yet, as if the worker had been interrupted.
        rig.bench.git(&["gc", "--quiet", "--prune=now"]);
        let branch = outcome.branch.expect("a branch");
        branch.set(&task().id).await.expect("it is set");
        rig.bench.git(&["fsck", "--strict", "--no-dangling"]);
        let listed = rig
            .bench
            .git(&["ls-tree", "-r", "--name-only", "pool/task-1"]);
        assert_eq!(listed.lines().count(), 2 + count + 1, "all files");
        assert_eq!(
            rig.bench.git(&["for-each-ref", "refs/pool"]),
            "",
            "no ref of the attempt is left"
        );
        assert_eq!(
            rig.bench.git(&["log", "--format=%s", "pool/task-1"]),
            "Fix add.\nfirst",
            "the commit is on the base"
        );
    }
}

#[tokio::test]
async fn garbage_collection_in_the_source_does_not_disturb_an_attempt() {
    let bench = Bench::new();
    // The base is on a branch that somebody removes while the agent works.
    bench.git(&["switch", "--quiet", "-c", "side"]);
    bench.write("side.txt", "x\n");
    bench.commit("side");
    bench.git(&["switch", "--quiet", "main"]);
    let app = bench.app().display().to_string();
    let collect = format!(
        "git -C {app} reflog expire --expire=now --all; git -C {app} gc --quiet --prune=now"
    );
    let script = format!(
        "git -C {app} branch -q -D side; {collect}; echo new >new.py; echo fixed >calc.py; git log --oneline"
    );
    let rig = Rig::start(bench, &script).await;
    let mut task = check(&format!(
        "{collect}; cat side.txt new.py && git diff --quiet HEAD -- side.txt"
    ));
    task["base"] = json!("side");
    let result = rig.outcome(task).await;
    assert_eq!(word(&result), "succeeded", "{result:?}");
    let commit = result.commit.expect("a commit");
    assert_eq!(
        rig.bench.git(&["ls-tree", "-r", "--name-only", &commit]),
        "calc.py\ndocs/guide.md\nnew.py\nside.txt",
        "the commit is whole"
    );
}

#[tokio::test]
async fn the_agent_of_a_repair_can_read_what_the_worker_has_collected() {
    let script = "if [ -e new.py ]; then git diff --cached; git fsck --no-dangling && echo two >>new.py; \
        else echo one >new.py; fi";
    let rig = Rig::with(Bench::new(), script, json!({"max_fix_iterations": 2})).await;
    let result = rig.outcome(check("grep two new.py")).await;
    assert_eq!((word(&result), result.runs), ("succeeded", 2), "{result:?}");
    assert!(
        result.log_tail.contains("+one") && !result.log_tail.contains("missing"),
        "its git has all objects: {}",
        result.log_tail
    );
}

#[tokio::test]
async fn a_moved_file_is_a_move_in_the_patch() {
    let bench = Bench::new();
    bench.write("large.bin", &"line\n".repeat(600_000));
    bench.commit("large");
    let worktree = bench.worktree().await;
    let tree = worktree.path();
    std::fs::rename(tree.join("large.bin"), tree.join("moved.bin")).expect("it is moved");
    write(&tree.join("one"), "x".repeat(1000));
    write(&tree.join("two"), "x".repeat(1000));
    write(&tree.join("calc.py"), "short\n");
    let changes = worktree.collect().await.expect("good changes");
    assert_eq!(
        changes.files,
        ["calc.py", "large.bin", "moved.bin", "one", "two"],
        "the changed files"
    );
    let clone = bench.apply(&changes);
    let patch = changes.patch.expect("a move fits into a result");
    assert!(
        patch.contains("rename from large.bin\nrename to moved.bin"),
        "{patch}"
    );
    let commit = commit(&worktree).await;
    assert_eq!(
        git(&clone, &["write-tree"]),
        bench.git(&["rev-parse", &format!("{commit}^{{tree}}")]),
        "patch and commit agree"
    );
}

#[tokio::test]
async fn a_file_in_another_encoding_is_the_only_binary_part_of_a_patch() {
    let bench = Bench::new();
    bench.write("old latin.txt", "x\n");
    bench.commit("second");
    let worktree = bench.worktree().await;
    let tree = worktree.path();
    for name in [
        "old latin.txt",
        "a*[b].txt",
        "caf\u{e9}.txt",
        "tab\t\"q\".txt",
    ] {
        write(&tree.join(name), b"caf\xe9\n");
    }
    write(&tree.join("a1.txt"), "plain\n");
    write(&tree.join("utf8.txt"), "caf\u{e9}\n");
    let changes = worktree.collect().await.expect("good changes");
    let clone = bench.apply(&changes);
    let patch = changes.patch.expect("a patch");
    assert_eq!(
        patch.matches("GIT binary patch").count(),
        4,
        "the files in latin-1:\n{patch}"
    );
    for line in ["+plain", "+caf\u{e9}"] {
        assert!(
            patch.lines().any(|found| found == line),
            "{line} can be read:\n{patch}"
        );
    }
    assert_eq!(
        std::fs::read(clone.join("a*[b].txt")).expect("a file"),
        b"caf\xe9\n",
        "byte for byte"
    );
}
