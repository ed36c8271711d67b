//! Repositories that take objects from elsewhere. Agents see those objects, so a repository may not
//! name what they must not see.

use std::path::Path;

use pool_core::id::AttemptId;
use pool_core::pool::{Sandbox, SandboxLevel};
use pool_core::result::ErrorKind;
use pool_telemetry::clock::new_id;
use tokio_util::sync::CancellationToken;
use worker::sandbox::{CommandAccess, SandboxLauncher, Watch};

use crate::repo::{Bench, git, task_on, write};
use crate::support::{helper, limits, shell};

#[tokio::test]
async fn a_clone_with_shared_objects_is_checked_out_and_its_agent_sees_them() {
    let bench = Bench::new();
    let root = bench.dir.path().join("root");
    git(&root, &["clone", "--quiet", "--shared", "app", "clone"]);
    let worktree = bench
        .prepare(&task_on("clone", ""))
        .await
        .expect("a worktree");
    let objects = worktree.objects();
    for of in ["clone", "app"] {
        let expected = root.join(of).join(".git/objects").canonicalize().ok();
        let found = objects
            .iter()
            .any(|one| one.path().canonicalize().ok() == expected);
        assert!(found, "{of}: {objects:?}");
    }
    assert!(worktree.path().join("calc.py").exists(), "the base commit");
}

#[tokio::test]
async fn a_repository_that_names_what_agents_must_not_see_is_refused() {
    let bench = Bench::new();
    let secret = bench.dir.path().join("work/mirrors/other.git/objects");
    write(&secret.join("pack/pack-1.pack"), "");
    let keys = bench.dir.path().join("keys");
    write(&keys.join("id_ed25519"), "secret");
    let list = bench.app().join(".git/objects/info/alternates");
    for named in [
        secret.display().to_string(),
        "../../../../work/mirrors/other.git/objects".to_owned(),
        keys.display().to_string(),
        "../../../../keys".to_owned(),
    ] {
        write(&list, format!("{named}\n"));
        let refused = bench.prepare(&task_on("app", "")).await;
        let failure = refused.expect_err("it is refused");
        assert_eq!(failure.kind, ErrorKind::Repository, "{}", failure.message);
        assert!(
            failure.message.contains("repository app") && failure.message.contains(&named),
            "it names both: {}",
            failure.message
        );
    }
    std::fs::remove_file(list).expect("the list");
    bench
        .prepare(&task_on("app", ""))
        .await
        .expect("without the list it is fine");
}

#[tokio::test]
async fn the_objects_of_a_repository_must_be_below_a_root_too() {
    let bench = Bench::new();
    let (objects, keys) = (
        bench.app().join(".git/objects"),
        bench.dir.path().join("keys"),
    );
    write(&keys.join("id_ed25519"), "secret");
    std::fs::rename(&objects, bench.dir.path().join("objects")).expect("they are moved");
    std::os::unix::fs::symlink(&keys, &objects).expect("a link");
    let refused = bench.prepare(&task_on("app", "")).await;
    let failure = refused.expect_err("it is refused");
    assert_eq!(failure.kind, ErrorKind::Repository, "{}", failure.message);
}

/// The output of a program with these rights that looks into a directory.
async fn found(sandbox: &SandboxLauncher, access: CommandAccess, tree: &Path, at: &Path) -> String {
    let mut command = shell(tree, &format!("ls {0}; cat {0}/key; exit 0", at.display()));
    command.access = access;
    let watch = Watch::new(CancellationToken::new());
    match sandbox.run(command, &watch).await {
        Ok(finished) => finished.output.text(),
        Err(error) => panic!("it must start: {error}"),
    }
}

#[tokio::test]
async fn objects_that_somebody_swaps_after_the_check_are_not_shown() {
    if limits().level != SandboxLevel::Strict || agent_sandbox::landlock_abi() < 2 {
        eprintln!("skipped: this needs both levels of the sandbox");
        return;
    }
    for level in [SandboxLevel::Strict, SandboxLevel::Files] {
        let bench = Bench::new();
        let worktree = bench
            .workspaces()
            .prepare(&task_on("app", ""), new_id::<AttemptId>())
            .await
            .expect("a worktree");
        let sandbox = SandboxLauncher::with_helper(&Sandbox { level, ..limits() }, helper());
        let objects = bench.app().join(".git/objects");
        let (keys, moved) = (
            bench.dir.path().join("keys"),
            bench.dir.path().join("moved"),
        );
        write(&keys.join("key"), "the secret");
        let checked = CommandAccess {
            pinned: worktree.objects(),
            ..CommandAccess::default()
        };
        let by_path = CommandAccess {
            read: vec![objects.clone()],
            ..CommandAccess::default()
        };
        let tree = worktree.path();
        let seen = found(&sandbox, checked.clone(), &tree, &objects).await;
        assert!(seen.contains("pack"), "the objects in {level:?}: {seen}");
        std::fs::rename(&objects, &moved).expect("they are moved");
        for swap in ["link", "directory"] {
            match swap {
                "link" => std::os::unix::fs::symlink(&keys, &objects).expect("a link"),
                _ => {
                    std::fs::remove_file(&objects).expect("the link is gone");
                    std::fs::rename(&keys, &objects).expect("it is moved");
                }
            }
            let seen = found(&sandbox, by_path.clone(), &tree, &objects).await;
            assert!(
                seen.contains("the secret"),
                "{swap}, {level:?}: a path shows it: {seen}"
            );
            let seen = found(&sandbox, checked.clone(), &tree, &objects).await;
            assert!(
                !seen.contains("key\n") && !seen.contains("secret"),
                "{swap}, {level:?}: {seen}"
            );
            assert_eq!(sandbox.health().trouble(), None, "the sandbox works");
        }
    }
}
