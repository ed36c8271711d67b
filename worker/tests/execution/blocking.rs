//! The worker's own steps end: by themselves, at the task's time limit, and when the task is
//! cancelled.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use pool_core::id::AttemptId;
use pool_telemetry::clock::new_id;
use serde_json::json;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use worker::programmer::attempt::AttemptEnd;
use worker::workspace::Workspaces;

use crate::agents::{job, program, run};
use crate::repo::{Bench, task, write};
use crate::rig::{Rig, check, message, word};
use crate::support::{alive, eventually};

/// Pipes in places where the worker may open files: in the worktree, in the agent's repository and
/// in the scratch directory.
const PIPES: &str = "cd \"$HOME/..\"; rm -rf prompt.txt home tmp; mkfifo prompt.txt home tmp analytics.jsonl; cd - >/dev/null; \
    for file in HEAD config index packed-refs info/exclude info/attributes objects/info/alternates; do \
    rm -rf .git/$file; mkdir -p .git/info; mkfifo .git/$file; done";

#[tokio::test]
async fn pipes_in_the_agents_own_places_hold_nobody_up() {
    let script = format!(
        "grep -q one calc.py && {{ echo two >>calc.py; exit; }}; echo one >calc.py; {PIPES}"
    );
    let rig = Rig::start(Bench::new(), &script).await;
    let began = Instant::now();
    let result = rig
        .outcome(check("grep -q two calc.py && git status --porcelain"))
        .await;
    assert_eq!(
        (word(&result), result.runs),
        ("succeeded", 2),
        "the second run had its prompt: {result:?}"
    );
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "it took {:?}",
        began.elapsed()
    );
}

#[tokio::test]
async fn pipes_that_git_would_wait_for_are_refused() {
    for path in [
        ".gitignore",
        ".gitattributes",
        ".gitmodules",
        "docs/.gitignore",
        "new/.git/HEAD",
        "new/.git/config",
    ] {
        let script = format!(
            "echo fixed >calc.py; mkdir -p \"$(dirname {path})\" new/.git/objects new/.git/refs; rm -f {path}; mkfifo {path}"
        );
        let rig = Rig::start(Bench::new(), &script).await;
        let began = Instant::now();
        let result = rig.outcome(json!({})).await;
        assert_eq!(word(&result), "change_refused", "{path}: {result:?}");
        assert!(
            message(&result).contains(path),
            "the message names {path}: {}",
            message(&result)
        );
        assert!(
            began.elapsed() < Duration::from_secs(10),
            "{path}: it took {:?}",
            began.elapsed()
        );
    }
}

#[tokio::test]
async fn aider_finds_its_papers_whatever_lies_in_their_places() {
    let bench = Bench::new();
    let script = "cd \"$HOME/..\"; rm -rf prompt.txt pin.yml meta.json analytics.jsonl llm.log; \
        mkfifo prompt.txt pin.yml analytics.jsonl; mkdir llm.log; ln -s /dev/zero meta.json";
    let stand_in = program(&bench, "aider", script);
    let worktree = bench.worktree().await;
    let kind = pool_core::pool::AgentKind::Aider {
        program: stand_in,
        edit_format: "diff".to_owned(),
    };
    for round in ["first", "second"] {
        let job = job(&worktree, &["calc.py"]);
        let ran = tokio::time::timeout(Duration::from_secs(10), run(&kind, &job)).await;
        ran.unwrap_or_else(|_| panic!("the {round} run hangs"))
            .expect("it runs");
    }
}

/// Blocks every git that reads the repository's objects: the worker's own git, after the agent has
/// ended.
const BLOCKED_GIT: &str = "echo fixed >calc.py; objects=$(head -n 1 .git/objects/info/alternates); \
    rm -f \"$objects/info/alternates\"; mkfifo \"$objects/info/alternates\"";

#[tokio::test]
async fn the_time_limit_of_a_task_bounds_the_workers_own_git() {
    let rig = Rig::without_layers(Bench::new(), BLOCKED_GIT).await;
    let began = Instant::now();
    let result = rig.outcome(json!({"limits": {"timeout_s": 3}})).await;
    assert_eq!(word(&result), "task_timeout", "{result:?}");
    assert!(
        began.elapsed() < Duration::from_secs(6),
        "it took {:?}",
        began.elapsed()
    );
}

#[tokio::test]
async fn cancelling_ends_the_workers_own_git() {
    let rig = Rig::without_layers(Bench::new(), BLOCKED_GIT).await;
    let work = rig.bench.dir.path().join("work").display().to_string();
    let stop = CancellationToken::new();
    let stopping = async {
        assert!(
            eventually(|| !alive("git -c").is_empty() && !alive(&work).is_empty()).await,
            "git runs"
        );
        sleep(Duration::from_millis(500)).await;
        stop.cancel();
        Instant::now()
    };
    let (ended, since) = tokio::join!(rig.run(json!({}), &stop), stopping);
    assert!(
        matches!(ended, AttemptEnd::Stopped { .. }),
        "it was stopped"
    );
    assert!(
        since.elapsed() < Duration::from_secs(1),
        "it took {:?}",
        since.elapsed()
    );
    assert!(
        eventually(|| alive(&work).is_empty()).await,
        "no git is left"
    );
}

#[tokio::test]
async fn a_hostile_repository_holds_nobody_up() {
    for pipe in ["commondir", "HEAD", "shallow"] {
        let bench = Bench::new();
        // A linked worktree, whose repository is elsewhere below the root.
        let git_dir = bench.dir.path().join("root/elsewhere");
        std::fs::rename(bench.app().join(".git"), &git_dir).expect("it is moved");
        std::fs::write(bench.app().join(".git"), "gitdir: ../elsewhere\n").expect("a file");
        let _ = std::fs::remove_file(git_dir.join(pipe));
        let made = std::process::Command::new("mkfifo")
            .arg(git_dir.join(pipe))
            .status();
        assert!(made.expect("it runs").success(), "a pipe");
        let rig = Rig::start(bench, "echo fixed >calc.py").await;
        let began = Instant::now();
        let result = rig.outcome(json!({"limits": {"timeout_s": 2}})).await;
        assert!(
            ["task_timeout", "repository"].contains(&word(&result)),
            "{pipe}: {result:?}"
        );
        assert!(
            began.elapsed() < Duration::from_secs(5),
            "{pipe}: it took {:?}",
            began.elapsed()
        );
    }
}

#[tokio::test]
async fn a_git_that_nobody_waits_for_may_remove_its_locks() {
    let bench = Bench::new();
    let (lock, git) = (
        bench.dir.path().join("lock"),
        bench.dir.path().join("bin/git"),
    );
    write(
        &git,
        format!(
            "#!/bin/bash\ntrap 'rm {0}; exit 1' TERM\ntouch {0}\nsleep 600 &\nwait\n",
            lock.display()
        ),
    );
    std::fs::set_permissions(&git, std::fs::Permissions::from_mode(0o755)).expect("executable");
    let path = format!(
        "{}:/usr/bin:/bin",
        git.parent().expect("a directory").display()
    );
    let workspaces =
        Workspaces::open_with(&bench.config(), path.into(), []).expect("a workspace directory");
    let task = task();
    tokio::select! {
        prepared = workspaces.prepare(&task, new_id::<AttemptId>()) => panic!("this git never ends: {prepared:?}"),
        held = eventually(|| lock.exists()) => assert!(held, "git holds its lock"),
    }
    assert!(
        eventually(|| !lock.exists()).await,
        "it has removed its lock"
    );
}

#[tokio::test]
async fn many_warnings_of_git_are_no_failure() {
    let script = "echo '*.txt text eol=crlf' >.gitattributes; name=$(printf 'n%.0s' {1..200}); \
        for number in {1..600}; do echo x >$name$number.txt; done";
    let result = Rig::start(Bench::new(), script)
        .await
        .outcome(json!({}))
        .await;
    assert_eq!(
        (word(&result), result.files_changed.len()),
        ("succeeded", 601),
        "git warns of each file: {result:?}"
    );
}
