//! The git of agents and checks never leaves the worktree.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::agents::{job, run, shell_agent};
use crate::repo::{Bench, git, write};
use crate::rig::{Rig, check, word};

/// A checkout with uncommitted work. The pool's workspace directory is inside it.
fn outer_repository(bench: &Bench) -> PathBuf {
    let outer = bench.dir.path().join("outer");
    write(&outer.join("notes.txt"), "committed\n");
    git(&outer, &["init", "--quiet"]);
    git(&outer, &["add", "--all"]);
    git(&outer, &["commit", "--quiet", "-m", "outer"]);
    write(&outer.join("notes.txt"), "a day of work\n");
    write(&outer.join("untracked.txt"), "more work\n");
    outer
}

fn state(outer: &Path) -> [String; 5] {
    let read = |name: &str| std::fs::read_to_string(outer.join(name)).unwrap_or_default();
    let refs = git(outer, &["for-each-ref"]);
    [
        git(outer, &["rev-parse", "HEAD"]),
        refs,
        git(outer, &["status", "--short"]),
        read("notes.txt"),
        read("untracked.txt"),
    ]
}

const DEEDS: &str = "rm -rf .git; export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a; \
    git add -A; git commit -qam gone --allow-empty; git stash -u; git reset --hard; git checkout -- :/; \
    git clean -ffdx :/; git branch -f moved; (mkdir -p sub && cd sub && git reset --hard); \
    (cd \"$HOME\" && git reset --hard); (cd \"$TMPDIR\" && git clean -ffdx :/; git commit -q --allow-empty -m tmp)";

#[tokio::test]
async fn an_agent_without_its_repository_does_not_reach_the_one_around_the_pool() {
    let bench = Bench::new();
    let outer = outer_repository(&bench);
    // By its own name, through a link, and below a name with a colon, which a list of directories
    // cannot contain.
    symlink(outer.join("work"), bench.dir.path().join("link")).expect("a link");
    std::fs::create_dir_all(outer.join("work")).expect("a directory");
    let script = format!("{DEEDS}; env -i PATH=\"$PATH\" git reset --hard; echo fixed >calc.py");
    let before = state(&outer);
    for work in [
        outer.join("work"),
        bench.dir.path().join("link"),
        outer.join("a:b"),
    ] {
        let rig = Rig::in_directory(Bench::new(), &script, json!({}), &work).await;
        let result = rig.outcome(json!({})).await;
        assert_eq!(
            (word(&result), &result.files_changed[..]),
            ("succeeded", &["calc.py".to_owned()][..]),
            "{result:?}"
        );
        assert_eq!(
            state(&outer).map(without_work),
            before.clone().map(without_work),
            "through {}",
            work.display()
        );
    }
}

/// The workspace directory itself is new in the outer repository.
fn without_work(text: String) -> String {
    text.lines()
        .filter(|line| !line.starts_with("??"))
        .collect::<Vec<_>>()
        .join("\n")
}

#[tokio::test]
async fn a_check_without_its_repository_does_not_reach_the_one_around_the_pool() {
    let bench = Bench::new();
    let outer = outer_repository(&bench);
    let before = state(&outer);
    let rig = Rig::in_directory(bench, "echo fixed >calc.py", json!({}), &outer.join("work")).await;
    let result = rig
        .outcome(check(&format!(
            "{DEEDS}; env -i PATH=\"$PATH\" git reset --hard; exit 0"
        )))
        .await;
    assert_eq!(word(&result), "succeeded", "{result:?}");
    assert_eq!(
        state(&outer).map(without_work),
        before.map(without_work),
        "it is unchanged"
    );
}

#[tokio::test]
async fn variables_that_name_a_repository_do_not_reach_an_agent() {
    let bench = Bench::new();
    let outer = outer_repository(&bench);
    let before = state(&outer);
    let worktree = bench.worktree().await;
    let mut job = job(&worktree, &[]);
    let git_dir = outer.join(".git");
    for (name, value) in [
        ("GIT_DIR", git_dir.clone()),
        ("GIT_WORK_TREE", outer.clone()),
        ("GIT_INDEX_FILE", git_dir.join("index")),
        ("GIT_OBJECT_DIRECTORY", git_dir.join("objects")),
        ("GIT_CEILING_DIRECTORIES", "/".into()),
        ("GIT_DISCOVERY_ACROSS_FILESYSTEM", "1".into()),
    ] {
        job.env.push((name.into(), value.into()));
    }
    let script = "git reset -q --hard; git commit -qm mine --allow-empty; git rev-parse --show-toplevel; env | grep ^GIT_";
    let finished = run(&shell_agent(script, &[]), &job).await.expect("it runs");
    assert_eq!(state(&outer), before, "the other repository is unchanged");
    let text = finished.output.text();
    assert!(
        text.contains(&format!("{}\n", worktree.path().display())),
        "git works in the worktree's repository: {text}"
    );
    assert!(
        !text.contains(&outer.join(".git").display().to_string()),
        "and no variable points to another one: {text}"
    );
}
