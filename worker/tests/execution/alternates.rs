//! Repositories that take objects from elsewhere. Agents see those objects, so a repository may not
//! name what they must not see.

use pool_core::result::ErrorKind;

use crate::repo::{Bench, git, task_on, write};

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
            .any(|path| path.canonicalize().ok() == expected);
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
