//! Repositories in unusual states, as people have them.
#![expect(clippy::expect_used, reason = "a helper that fails fails the test")]

use std::os::unix::fs::PermissionsExt;

use nix::sched::{CloneFlags, unshare};
use pool_core::id::AttemptId;
use pool_core::result::ErrorKind;
use pool_telemetry::clock::new_id;
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount_bind, mount_change, mount_remount,
    unmount,
};
use serde_json::json;

use crate::repo::{Bench, git, task, task_on};
use crate::rig::{Rig, check, word};

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
    let workspaces = bench.workspaces();
    let worktree = workspaces
        .prepare(&task_on("linked", ""), new_id::<AttemptId>())
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
    let worktree = workspaces
        .prepare(&task_on("linked", ""), new_id::<AttemptId>())
        .await
        .expect("a worktree");
    assert_eq!(worktree.base(), detached, "also without a branch");
}

#[tokio::test]
async fn a_branch_with_the_name_of_the_pool_does_not_make_the_result_lie() {
    let bench = Bench::new();
    bench.git(&["branch", "pool"]);
    let rig = Rig::start(bench, "echo fixed >calc.py").await;
    let stop = tokio_util::sync::CancellationToken::new();
    let worker::programmer::attempt::AttemptEnd::Outcome(outcome) = rig.run(json!({}), &stop).await
    else {
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
    let workspaces = bench.workspaces();
    let partial = task_on("partial", "");
    let error = workspaces
        .prepare(&partial, new_id::<AttemptId>())
        .await
        .expect_err("its files are missing");
    assert_eq!(error.kind, ErrorKind::Repository, "no other attempt helps");
    assert!(
        error.message.contains("partial clone") && error.message.contains("git checkout"),
        "the message says what to do: {}",
        error.message
    );
    git(&root.join("partial"), &["checkout", "--quiet", "main"]);
    workspaces
        .prepare(&partial, new_id::<AttemptId>())
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
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    unshare(CloneFlags::CLONE_NEWNS).expect("a mount namespace");
    mount_change("/", private).expect("mounts stay in it");
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

/// Runs in a thread of its own, which gets a mount namespace of its own.
#[test]
fn a_source_that_cannot_be_written_is_found_before_the_agent_runs() {
    let thread = std::thread::spawn(|| {
        let bench = Bench::new();
        close(&bench);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(async {
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
    });
    thread.join().expect("the test passes");
}

/// Patches alone need no right to write.
#[test]
fn a_source_that_cannot_be_written_gives_patches() {
    let thread = std::thread::spawn(|| {
        let bench = Bench::new();
        close(&bench);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            let defaults = json!({"auto_commit": false});
            let rig = Rig::with(bench, "echo fixed >calc.py", defaults).await;
            let result = rig.outcome(check("grep fixed calc.py")).await;
            assert_eq!(word(&result), "succeeded", "{result:?}");
            let patch = result.patch.expect("a patch");
            assert!(patch.contains("+fixed"), "{patch}");
            open_again(&rig.bench);
        });
    });
    thread.join().expect("the test passes");
}
