//! Repositories in unusual states, as people have them.
#![expect(clippy::expect_used, reason = "a helper that fails fails the test")]

use std::os::unix::fs::PermissionsExt;

use pool_core::event::ReleaseCause;
use pool_core::pool::SandboxLevel;
use pool_core::result::ErrorKind;
use rustix::mount::{MountFlags, UnmountFlags, mount_bind, mount_remount, unmount};
use serde_json::json;
use tokio_util::sync::CancellationToken;
use worker::programmer::attempt::AttemptEnd;

use crate::repo::{Bench, git, task, task_on};
use crate::rig::{Rig, check, word};
use crate::support::{self, in_own_mounts};

#[tokio::test]
async fn a_linked_worktree_starts_from_its_own_head() {
    let bench = Bench::new();
    bench.git(&["worktree", "add", "--quiet", "-b", "feature", "../linked"]);
    let linked = bench.dir.path().join("root/linked");
    git(
        &linked,
        &["commit", "--quiet", "--allow-empty", "-m", "mine"],
    );
    let own = git(&linked, &["rev-parse", "HEAD"]);
    assert_ne!(own, bench.git(&["rev-parse", "HEAD"]), "two heads");
    let worktree = bench
        .prepare(&task_on("linked", ""))
        .await
        .expect("a worktree");
    assert_eq!(worktree.base(), own, "the head of the linked worktree");
    assert_eq!(
        git(&worktree.path(), &["rev-parse", "feature"]),
        own,
        "and its branch"
    );
    let detached = git(&linked, &["rev-parse", "HEAD~1"]);
    git(&linked, &["checkout", "--quiet", "--detach", "HEAD~1"]);
    let worktree = bench
        .prepare(&task_on("linked", ""))
        .await
        .expect("a worktree");
    assert_eq!(worktree.base(), detached, "also without a branch");
}

#[tokio::test]
async fn a_branch_with_the_name_of_the_pool_does_not_make_the_result_lie() {
    let bench = Bench::new();
    bench.git(&["branch", "pool"]);
    let rig = Rig::start(bench, "echo fixed >calc.py").await;
    let stop = CancellationToken::new();
    let AttemptEnd::Outcome(outcome) = rig.run(json!({}), &stop).await else {
        panic!("it ends");
    };
    let named = outcome.result.branch.expect("a branch");
    let branch = outcome.branch.expect("a branch");
    branch.set(&task().id).await.expect("it is set");
    assert_eq!(named, "pool-task-1", "a name that git allows");
    assert_eq!(
        rig.bench.git(&["rev-parse", &named]),
        outcome.result.commit.expect("a commit"),
        "the branch that the result names exists"
    );
}

#[tokio::test]
async fn tags_and_the_base_branch_are_there_for_agent_and_checks() {
    let bench = Bench::new();
    bench.git(&["tag", "-a", "-m", "tag", "v1.0"]);
    bench.git(&["tag", "light"]);
    bench.write("second.txt", "x\n");
    bench.commit("second");
    let script = "echo fixed >calc.py; git describe; git diff --stat main; git tag -d light; git branch -f main v1.0; \
        git commit -qam mine; exit 0";
    let rig = Rig::start(bench, script).await;
    let before = rig.bench.git(&["for-each-ref"]);
    let result = rig
        .outcome(check(
            "test \"$(git describe --tags)\" = \"$(git describe --tags main)\" && git diff --exit-code light -- docs && git tag",
        ))
        .await;
    assert_eq!(word(&result), "succeeded", "{result:?}");
    assert!(
        result.log_tail.starts_with("v1.0-1-g") && result.log_tail.contains("calc.py | 3 +--"),
        "the agent's git knows them: {}",
        result.log_tail
    );
    assert_eq!(
        result.acceptance[0].output_tail, "light\nv1.0\n",
        "what the agent did to its copy does not count"
    );
    let attempt = result.attempt.expect("an attempt").to_string();
    let after = rig.bench.git(&["for-each-ref"]);
    let others: Vec<&str> = after
        .lines()
        .filter(|line| !line.contains(&attempt))
        .collect();
    assert_eq!(others.join("\n"), before, "nor in the repository");
}

#[tokio::test]
async fn a_partial_clone_is_refused_by_name_unless_the_base_is_there() {
    let bench = Bench::new();
    bench.git(&["config", "uploadpack.allowFilter", "true"]);
    let root = bench.dir.path().join("root");
    let url = format!("file://{}", bench.app().display());
    let clone = ["clone", "--quiet", "--filter=blob:none"];
    let bare: Vec<&str> = clone
        .into_iter()
        .chain(["--no-checkout", &url, "partial"])
        .collect();
    git(&root, &bare);
    let partial = task_on("partial", "");
    let error = bench
        .prepare(&partial)
        .await
        .expect_err("its files are missing");
    assert_eq!(error.kind, ErrorKind::Repository, "no other attempt helps");
    assert!(
        error.message.contains("partial clone") && error.message.contains("git checkout"),
        "the message says what to do: {}",
        error.message
    );
    git(&root.join("partial"), &["checkout", "--quiet", "main"]);
    bench
        .prepare(&partial)
        .await
        .expect("now it is whole enough");
}

/// Makes the repository read-only. Root may write anywhere, so for root it is mounted anew.
fn close(bench: &Bench) {
    let app = bench.app();
    if !nix::unistd::getuid().is_root() {
        for closed in ["objects", "refs"] {
            let closed = app.join(".git").join(closed);
            let rights = std::fs::Permissions::from_mode(0o500);
            std::fs::set_permissions(closed, rights).expect("closed");
        }
        return;
    }
    mount_bind(&app, &app).expect("it is mounted");
    let flags = MountFlags::BIND | MountFlags::RDONLY;
    mount_remount(&app, flags, "").expect("it is read-only");
}

/// So that the directory can be removed.
fn open_again(bench: &Bench) {
    if nix::unistd::getuid().is_root() {
        unmount(bench.app(), UnmountFlags::DETACH).expect("it is unmounted");
    }
}

#[test]
fn a_source_that_cannot_be_written_is_found_before_the_agent_runs() {
    in_own_mounts(async || {
        let bench = Bench::new();
        close(&bench);
        let (app, trace) = (bench.app(), bench.dir.path().join("agent-ran"));
        let script = format!("touch {}; echo fixed >calc.py", trace.display());
        let rig = Rig::start(bench, &script).await;
        let result = rig.outcome(json!({})).await;
        assert_eq!(word(&result), "repository", "{result:?}");
        let message = result.error.expect("an error").message;
        assert!(
            message.contains(&app.display().to_string()) && message.contains("auto_commit"),
            "the message says what to do: {message}"
        );
        assert!(!trace.exists(), "no agent was paid");
        open_again(&rig.bench);
    });
}

/// A mount that another one covers cannot be found, so the sandbox cannot make it read-only.
#[test]
fn a_repository_that_the_sandbox_cannot_show_is_no_trouble_of_the_machine() {
    if !nix::unistd::getuid().is_root() || support::limits().level != SandboxLevel::Strict {
        eprintln!("skipped: only root can mount something, and only `strict` copies mounts");
        return;
    }
    in_own_mounts(async || {
        let bench = Bench::new();
        let root = bench.dir.path().join("root");
        git(&root, &["clone", "--quiet", "app", "other"]);
        let outer = root.join("other/.git/objects/info/outer");
        let inner = outer.join("inner");
        std::fs::create_dir_all(&inner).expect("a directory");
        mount_bind(&inner, &inner).expect("it is mounted");
        mount_bind(root.join("app/docs"), &outer).expect("it is covered");
        let sandbox = support::sandbox();
        let health = sandbox.health().clone();
        let rig = Rig::in_sandbox(bench, "echo fixed >calc.py", sandbox).await;
        let stop = CancellationToken::new();
        let other = rig.run(json!({"repository": "other"}), &stop).await;
        let handed_back = match other {
            AttemptEnd::HandBack(handed_back) => handed_back,
            AttemptEnd::Outcome(outcome) => panic!("it was not handed back: {:?}", outcome.result),
            AttemptEnd::Stopped { .. } => panic!("nobody stopped it"),
        };
        assert_eq!(handed_back.cause(), ReleaseCause::NoSandbox);
        assert!(
            handed_back.why.contains(&inner.display().to_string()),
            "the path is named: {}",
            handed_back.why
        );
        assert_eq!(health.trouble(), None, "other tasks can go on");
        let result = rig.outcome(json!({})).await;
        assert_eq!(word(&result), "succeeded", "and they do: {result:?}");
        for mounted in [&outer, &inner] {
            unmount(mounted, UnmountFlags::DETACH).expect("it is unmounted");
        }
    });
}

/// Patches alone need no right to write.
#[test]
fn a_source_that_cannot_be_written_gives_patches() {
    in_own_mounts(async || {
        let bench = Bench::new();
        close(&bench);
        let defaults = json!({"auto_commit": false});
        let rig = Rig::with(bench, "echo fixed >calc.py", defaults).await;
        let result = rig.outcome(check("grep fixed calc.py")).await;
        assert_eq!(word(&result), "succeeded", "{result:?}");
        let patch = result.patch.expect("a patch");
        assert!(patch.contains("+fixed"), "{patch}");
        open_again(&rig.bench);
    });
}
