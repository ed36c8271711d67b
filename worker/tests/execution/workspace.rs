//! Worktrees with real git: the states in which an agent may leave them, and what the worker makes
//! of each.
#![expect(clippy::expect_used, reason = "a helper that fails fails the test")]

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use futures_util::future::join_all;
use pool_core::id::AttemptId;
use pool_core::result::ErrorKind;
use pool_telemetry::clock::new_id;
use worker::workspace::Workspaces;

use crate::repo::{Bench, commit, git, task, task_on, write};
use crate::support::eventually;

#[tokio::test]
async fn a_change_becomes_a_patch_a_commit_and_a_branch() {
    let bench = Bench::new();
    bench.write("gone.txt", "x\n");
    let base = bench.commit("second");
    let (workspaces, task, attempt) = (bench.workspaces(), task(), new_id::<AttemptId>());
    let worktree = workspaces
        .prepare(&task, attempt)
        .await
        .expect("a worktree");
    assert_eq!(worktree.base(), base, "the default branch is the base");
    assert_eq!(
        git(&worktree.path(), &["status", "--porcelain"]),
        "",
        "the agent's git sees a clean worktree"
    );
    assert_eq!(
        git(&worktree.path(), &["log", "--format=%s"]),
        "second\nfirst",
        "and the history"
    );

    write(
        &worktree.path().join("calc.py"),
        "def add(a, b):\n    return a + b\n",
    );
    write(&worktree.path().join("new/data.bin"), [0, 1, 2, 255, 0, 10]);
    std::fs::remove_file(worktree.path().join("gone.txt")).expect("it was there");
    let changes = worktree.collect().await.expect("good changes");
    assert_eq!(
        changes.files,
        ["calc.py", "gone.txt", "new/data.bin"],
        "each change is listed"
    );
    let commit = commit(&worktree).await;
    let repository = worktree.repository();
    let dir = worktree.path();
    worktree.remove().await.expect("it is removed");
    assert!(
        !dir.parent().expect("a parent").exists(),
        "no file of the attempt is left"
    );

    bench.git(&["gc", "--quiet", "--prune=now"]);
    for _ in 0..2 {
        assert_eq!(
            repository
                .set_branch(&task.id, &commit)
                .await
                .expect("a branch"),
            "pool/task-1",
            "its name"
        );
    }
    repository.forget(attempt).await;
    assert_eq!(
        bench.git(&["for-each-ref", "--format=%(refname)"]),
        "refs/heads/main\nrefs/heads/pool/task-1",
        "refs"
    );
    let message = bench.git(&["log", "-1", "--format=%an <%ae>%n%B", "pool/task-1"]);
    let expected = "Programmer Pool <pool@localhost>\nFix add\n\nPool-Task: task-1\nPool-Programmer: Prog-003\n\
                    Pool-LLM: ollama/qwen2.5-coder:7b-instruct";
    assert_eq!(
        message, expected,
        "the commit names its authors and its reason"
    );
    let clone = bench.apply(&changes);
    assert_eq!(
        git(&clone, &["write-tree"]),
        bench.git(&["rev-parse", "pool/task-1^{tree}"]),
        "patch and commit agree"
    );
}

#[tokio::test]
async fn ten_attempts_at_once_on_one_repository_do_not_meet() {
    let bench = Bench::new();
    let (workspaces, task) = (bench.workspaces(), task());
    let attempts = (0..10).map(|number| {
        let (workspaces, task) = (&workspaces, &task);
        async move {
            let attempt = new_id::<AttemptId>();
            let worktree = workspaces.prepare(task, attempt).await.expect("a worktree");
            write(
                &worktree.path().join("calc.py"),
                format!("number = {number}\n"),
            );
            let changes = worktree.collect().await.expect("good changes");
            assert_eq!(changes.files, ["calc.py"], "its own change and no other");
            let commit = commit(&worktree).await;
            let repository = worktree.repository();
            worktree.remove().await.expect("it is removed");
            let id = pool_core::id::TaskId::new(format!("t{number}")).expect("an id");
            repository.set_branch(&id, &commit).await.expect("a branch");
            repository.forget(attempt).await;
            (number, commit)
        }
    });
    for (number, commit) in join_all(attempts).await {
        assert_eq!(
            bench.git(&["rev-parse", &format!("pool/t{number}")]),
            commit,
            "branch {number}"
        );
        assert_eq!(
            bench.git(&["show", &format!("{commit}:calc.py")]),
            format!("number = {number}"),
            "content {number}"
        );
    }
    assert_eq!(
        bench.git(&["for-each-ref", "refs/pool"]),
        "",
        "no ref of an attempt is left"
    );
    assert_eq!(
        bench.git(&["status", "--porcelain"]),
        "",
        "the repository's own files are untouched"
    );
}

#[tokio::test]
async fn nothing_that_stands_in_a_repository_runs() {
    let bench = Bench::new();
    let trap = bench.dir.path().join("trap");
    let script = format!("#!/bin/sh\necho \"$0\" >>{}\n", trap.display());
    let evil = bench.dir.path().join("evil");
    write(&evil, &script);
    std::fs::set_permissions(&evil, std::fs::Permissions::from_mode(0o755)).expect("executable");
    let evil = evil.to_str().expect("a path");
    bench.write(".gitattributes", "*.py filter=evil diff=evil\n");
    let submodule = format!("160000,{},library", bench.git(&["rev-parse", "HEAD"]));
    bench.git(&["update-index", "--add", "--cacheinfo", &submodule]);
    bench.git(&["add", ".gitattributes"]);
    bench.git(&["commit", "--quiet", "-m", "attributes"]);
    for hook in [
        "post-checkout",
        "post-commit",
        "pre-commit",
        "reference-transaction",
        "post-index-change",
    ] {
        let hook = bench.app().join(".git/hooks").join(hook);
        write(&hook, &script);
        std::fs::set_permissions(&hook, std::fs::Permissions::from_mode(0o755))
            .expect("executable");
    }
    for key in [
        "core.fsmonitor",
        "filter.evil.clean",
        "filter.evil.smudge",
        "diff.evil.textconv",
        "diff.evil.command",
        "diff.external",
        "core.sshCommand",
        "core.editor",
        "core.pager",
        "gpg.program",
    ] {
        git(
            bench.dir.path(),
            &["config", "--file", "root/app/.git/config", key, evil],
        );
    }
    let _ = std::fs::remove_file(&trap);
    let worktree = bench.worktree().await;
    // The agent's own repository is hostile to the worker, too.
    let config = std::fs::read_to_string(bench.app().join(".git/config"))
        .expect("the hostile configuration");
    write(&worktree.path().join(".git/config"), config);
    write(&worktree.path().join("calc.py"), "print()\n");
    let changes = worktree.collect().await.expect("good changes");
    assert_eq!(changes.files, ["calc.py"], "the change is there");
    let commit = commit(&worktree).await;
    worktree
        .check_out_for_checks()
        .await
        .expect("it is checked out");
    worktree.reset().await.expect("it is reset");
    worktree
        .repository()
        .set_branch(&task().id, &commit)
        .await
        .expect("a branch");
    assert!(
        !trap.exists(),
        "something ran: {}",
        std::fs::read_to_string(&trap).unwrap_or_default()
    );
    // A repository that the agent makes, in a new directory or in the place of a submodule.
    for dir in ["library", "vendor/tool"] {
        worktree.reset().await.expect("it is reset");
        git(
            &worktree.path(),
            &[
                "clone",
                "--quiet",
                bench.app().to_str().expect("a path"),
                dir,
            ],
        );
        git(
            &worktree.path(),
            &[
                "config",
                "--file",
                &format!("{dir}/.git/config"),
                "core.fsmonitor",
                evil,
            ],
        );
        let _ = std::fs::remove_file(&trap);
        worktree
            .collect()
            .await
            .expect_err("a repository in the worktree is refused");
    }
    assert!(
        !trap.exists(),
        "something ran: {}",
        std::fs::read_to_string(&trap).unwrap_or_default()
    );
}

#[tokio::test]
async fn a_half_applied_edit_is_gone_after_a_reset() {
    let bench = Bench::new();
    bench.write(".gitignore", "*.log\n");
    bench.commit("ignore");
    let worktree = bench.worktree().await;
    let tree = worktree.path();
    write(&tree.join("calc.py"), "half");
    write(&tree.join("run.log"), "ignored");
    write(&tree.join("locked/inner/file"), "x");
    std::fs::set_permissions(tree.join("locked"), std::fs::Permissions::from_mode(0o000))
        .expect("locked");
    std::fs::remove_dir_all(tree.join(".git")).expect("an agent can do that");
    std::fs::remove_dir_all(tree.join("docs")).expect("and that");
    worktree.reset().await.expect("it is reset");
    assert!(
        worktree.collect().await.expect("no change").is_empty(),
        "no change is left"
    );
    assert!(
        !tree.join("run.log").exists() && !tree.join("locked").exists(),
        "no new file is left"
    );
    assert_eq!(
        git(&tree, &["status", "--porcelain"]),
        "",
        "the agent's repository is whole again"
    );
}

#[tokio::test]
async fn checks_see_what_the_patch_holds_and_no_ignored_file() {
    let bench = Bench::new();
    bench.write(".gitignore", "*.log\n");
    bench.commit("ignore");
    let worktree = bench.worktree().await;
    write(&worktree.path().join("calc.py"), "changed\n");
    write(&worktree.path().join("added.py"), "added\n");
    write(&worktree.path().join("run.log"), "ignored");
    assert_eq!(
        worktree.collect().await.expect("good changes").files,
        ["added.py", "calc.py"],
        "an ignored file is not kept"
    );
    let checks = worktree
        .check_out_for_checks()
        .await
        .expect("it is checked out")
        .tree;
    assert!(!checks.join("run.log").exists(), "the ignored file is gone");
    assert!(
        checks.join("added.py").exists(),
        "the change is still there"
    );
}

#[tokio::test]
async fn changes_that_reach_out_of_the_repository_are_refused() {
    type Deed = fn(&Path);
    let deeds: [(&str, Deed); 4] = [
        ("absolute -> /etc/passwd", |tree| {
            symlink("/etc/passwd", tree.join("absolute")).expect("a link")
        }),
        ("docs/up -> ../../secret", |tree| {
            symlink("../../secret", tree.join("docs/up")).expect("a link")
        }),
        ("is a git repository of its own", |tree| {
            git(tree, &["init", "--quiet", "inner"]);
            git(
                &tree.join("inner"),
                &["commit", "--quiet", "--allow-empty", "-m", "x"],
            );
        }),
        ("is a git repository of its own", |tree| {
            git(tree, &["init", "--quiet", "unborn"]);
        }),
    ];
    let bench = Bench::new();
    for (problem, deed) in deeds {
        let worktree = bench.worktree().await;
        deed(&worktree.path());
        let error = worktree.collect().await.expect_err(problem);
        assert_eq!(error.kind, ErrorKind::ChangeRefused, "its kind");
        assert!(
            error.message.contains(problem),
            "expected {problem:?}, not: {}",
            error.message
        );
    }
}

#[tokio::test]
async fn links_that_lead_out_of_the_repository_are_out_of_sight_and_stay_in_it() {
    let bench = Bench::new();
    let secret = bench.dir.path().join("secret");
    write(&secret, "secret\n");
    for (link, target) in [
        ("absolute", "/etc/passwd"),
        ("up", "../../secret"),
        ("inside", "docs/guide.md"),
        ("d", "."),
    ] {
        symlink(target, bench.app().join(link)).expect("a link");
    }
    symlink("d/../../../../../../secret", bench.app().join("winding")).expect("a link");
    bench.commit("links");
    let worktree = bench.worktree().await;
    for link in ["absolute", "up", "winding"] {
        assert!(
            worktree.path().join(link).symlink_metadata().is_err(),
            "{link} is hidden"
        );
    }
    for link in ["inside", "d"] {
        assert!(
            worktree.path().join(link).symlink_metadata().is_ok(),
            "{link} is there"
        );
    }
    assert_eq!(
        git(&worktree.path(), &["status", "--porcelain"]),
        "",
        "the agent's git does not miss them"
    );
    write(&worktree.path().join("calc.py"), "changed\n");
    let changes = worktree.collect().await.expect("good changes");
    assert_eq!(changes.files, ["calc.py"], "they do not count as changes");
}

#[tokio::test]
async fn a_restored_worktree_is_what_was_collected() {
    let bench = Bench::new();
    symlink("/etc/passwd", bench.app().join("outside")).expect("a link");
    bench.write(".gitignore", "*.log\n");
    bench.commit("links");
    let worktree = bench.worktree().await;
    let tree = worktree.path();
    write(&tree.join("calc.py"), "changed\n");
    write(&tree.join("added/new.py"), "added\n");
    let collected = worktree.collect().await.expect("good changes");
    write(&tree.join("calc.py"), "spoilt\n");
    write(&tree.join("docs/guide.md"), "spoilt\n");
    write(&tree.join("made-by-check"), "x");
    write(&tree.join("run.log"), "ignored");
    std::fs::remove_dir_all(tree.join("added")).expect("a check can do that");
    worktree.restore().await.expect("it is restored");
    let read = |file: &str| std::fs::read_to_string(tree.join(file)).expect("a file");
    assert_eq!(
        (read("calc.py"), read("added/new.py")),
        ("changed\n".into(), "added\n".into()),
        "the collected change"
    );
    assert_eq!(
        read("docs/guide.md"),
        "# Guide\n",
        "the file that must not change"
    );
    assert!(
        !tree.join("made-by-check").exists() && !tree.join("run.log").exists(),
        "nothing else is there"
    );
    assert!(
        tree.join("outside").symlink_metadata().is_err(),
        "the hidden link is hidden again"
    );
    assert_eq!(
        worktree.collect().await.expect("good changes"),
        collected,
        "and it is the same change"
    );
}

#[tokio::test]
async fn bytes_that_are_no_text_survive_in_the_patch() {
    let bench = Bench::new();
    let worktree = bench.worktree().await;
    write(&worktree.path().join("latin1.txt"), b"caf\xe9\n");
    write(&worktree.path().join("no newline"), "x");
    write(&worktree.path().join("tab\tand \"quote\".txt"), "y\r\n");
    let script = worktree.path().join("run.sh");
    write(&script, "#!/bin/sh\n");
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).expect("executable");
    let changes = worktree.collect().await.expect("good changes");
    let clone = bench.apply(&changes);
    assert_eq!(
        std::fs::read(clone.join("latin1.txt")).expect("a file"),
        b"caf\xe9\n",
        "byte for byte"
    );
    assert_eq!(
        git(&clone, &["diff", "--cached", "--name-only"])
            .lines()
            .count(),
        4,
        "all four files"
    );
    assert_ne!(
        script.metadata().expect("a file").permissions().mode() & 0o100,
        0,
        "executable"
    );
}

#[tokio::test]
async fn a_patch_that_is_too_large_for_a_result_is_left_out() {
    let bench = Bench::new();
    let worktree = bench.worktree().await;
    write(
        &worktree.path().join("big.txt"),
        "a line of text\n".repeat(200_000),
    );
    let changes = worktree.collect().await.expect("good changes");
    assert_eq!(
        (changes.files.len(), changes.patch),
        (1, None),
        "the file is listed, the patch is left out"
    );
}

#[tokio::test]
async fn mistakes_in_repository_and_base_are_named() {
    let bench = Bench::new();
    std::fs::create_dir_all(bench.dir.path().join("outside/app")).expect("a directory");
    git(
        bench.dir.path(),
        &["clone", "--quiet", "root/app", "outside/repo"],
    );
    symlink("../outside/repo", bench.dir.path().join("root/sneaky")).expect("a link");
    std::fs::create_dir_all(bench.dir.path().join("root/plain")).expect("a directory");
    std::fs::create_dir_all(bench.dir.path().join("root/gitlink")).expect("a directory");
    symlink(
        "../../outside/repo/.git",
        bench.dir.path().join("root/gitlink/.git"),
    )
    .expect("a link");
    write(
        &bench.dir.path().join("root/gitfile/.git"),
        "gitdir: ../../outside/repo/.git\n",
    );
    std::fs::create_dir_all(bench.dir.path().join("root/empty")).expect("a directory");
    git(&bench.dir.path().join("root/empty"), &["init", "--quiet"]);
    let outside = bench.dir.path().join("outside/repo");
    for (repository, base, problem) in [
        ("missing", "", "not found"),
        ("plain", "", "is not a git repository"),
        ("sneaky", "", "outside"),
        ("gitlink", "", "outside"),
        ("gitfile", "", "outside"),
        (outside.to_str().expect("a path"), "", "outside"),
        ("empty", "", "no commit"),
        ("app", "no-such-branch", "no-such-branch"),
    ] {
        let more = if base.is_empty() {
            String::new()
        } else {
            format!(r#", "base": "{base}""#)
        };
        let prepared = bench.prepare(&task_on(repository, &more)).await;
        let error = prepared.expect_err("it must be refused");
        assert_eq!(error.kind, ErrorKind::Repository, "its kind");
        assert!(
            error.message.contains(problem),
            "{repository}: expected {problem:?}, not: {}",
            error.message
        );
    }
}

#[tokio::test]
async fn branches_tags_commits_and_other_forms_of_repositories_are_found() {
    let bench = Bench::new();
    let first = bench.git(&["rev-parse", "HEAD"]);
    bench.git(&["tag", "-a", "-m", "tag", "v1"]);
    bench.git(&["switch", "--quiet", "-c", "feature/x"]);
    bench.write("new.txt", "x\n");
    let second = bench.commit("second");
    bench.git(&["switch", "--quiet", "main"]);
    bench.git(&["worktree", "add", "--quiet", "../linked", "feature/x"]);
    git(
        bench.dir.path(),
        &["clone", "--quiet", "--bare", "root/app", "root/bare.git"],
    );
    let absolute = bench.app().to_string_lossy().into_owned();
    for (repository, base, expected) in [
        ("app", "v1", &first),
        ("app", "feature/x", &second),
        ("app", &second[..10], &second),
        (absolute.as_str(), "main", &first),
        ("bare.git", "feature/x", &second),
        ("linked", "feature/x", &second),
    ] {
        let task = task_on(repository, &format!(r#", "base": "{base}""#));
        let worktree = bench.prepare(&task).await.expect("a worktree");
        assert_eq!(worktree.base(), expected, "{base} of {repository}");
    }
}

#[tokio::test]
async fn a_crashed_workers_attempts_are_removed_and_a_live_ones_are_not() {
    let bench = Bench::new();
    let live = bench.workspaces();
    let kept = live
        .prepare(&task(), new_id::<AttemptId>())
        .await
        .expect("a worktree");
    let crashed = bench.workspaces();
    let left = crashed
        .prepare(&task(), new_id::<AttemptId>())
        .await
        .expect("a worktree")
        .path();
    // A killed process leaves its files, but no lock.
    let lock_dir = bench.config().dir.join("workers");
    let attempts = left
        .parent()
        .and_then(Path::parent)
        .expect("the directory of the worker")
        .to_owned();
    write(&left.join("file"), "x");
    drop(crashed);
    write(&attempts.join("0/tree/file"), "x");
    // A process that another test forks holds the lock, too, until it runs another program.
    let gone = || {
        drop(bench.workspaces());
        !attempts.exists()
    };
    assert!(
        eventually(gone).await,
        "the files of the crashed worker are removed"
    );
    let next = bench.workspaces();
    assert!(
        kept.path().join("calc.py").exists(),
        "the files of a live worker are not"
    );
    assert_eq!(
        std::fs::read_dir(lock_dir).expect("locks").count(),
        2,
        "two are alive"
    );
    drop(kept);
    let empty = || {
        std::fs::read_dir(bench.config().dir.join("trash"))
            .is_ok_and(|mut entries| entries.next().is_none())
    };
    assert!(empty(), "the trash is emptied");
    drop((live, next));
}

#[tokio::test]
async fn a_dropped_worktree_is_removed_too() {
    let bench = Bench::new();
    let worktree = bench.worktree().await;
    let dir = worktree.path().parent().expect("a parent").to_owned();
    drop(worktree);
    assert!(eventually(|| !dir.exists()).await, "it is gone");
}

/// A stand-in for ssh that runs its command on this machine and records each call.
fn local_ssh(bench: &Bench) -> Workspaces {
    let bin = bench.dir.path().join("bin");
    let log = bench.dir.path().join("ssh.log");
    write(
        &bin.join("ssh"),
        format!(
            "#!/bin/sh\necho \"$@\" >>{}\nfor last; do :; done\nexec sh -c \"$last\"\n",
            log.display()
        ),
    );
    std::fs::set_permissions(bin.join("ssh"), std::fs::Permissions::from_mode(0o755))
        .expect("executable");
    let path = format!("{}:/usr/local/bin:/usr/bin:/bin", bin.display());
    Workspaces::open_with(&bench.config(), path.into(), [])
        .expect("the workspace directory is writable")
}

#[tokio::test]
async fn a_remote_repository_is_mirrored_once_for_all() {
    let bench = Bench::new();
    let workspaces = local_ssh(&bench);
    let url = format!("ssh://git@localhost{}", bench.app().display());
    let first = bench.git(&["rev-parse", "HEAD"]);
    let prepared = join_all((0..10).map(|_| async {
        workspaces
            .prepare(&task_on(&url, r#", "base": "main""#), new_id::<AttemptId>())
            .await
            .expect("a worktree")
    }));
    for worktree in prepared.await {
        assert_eq!(worktree.base(), first, "the remote's branch");
    }
    let calls = std::fs::read_to_string(bench.dir.path().join("ssh.log")).expect("a log");
    assert!(
        calls.lines().count() <= 3,
        "ten tasks at once share fetches:\n{calls}"
    );
    assert!(
        calls.lines().all(|call| call.contains("BatchMode=yes")),
        "no call asks for a password:\n{calls}"
    );

    bench.write("calc.py", "second\n");
    let second = bench.commit("second");
    let (task, attempt) = (task_on(&url, ""), new_id::<AttemptId>());
    let worktree = workspaces
        .prepare(&task, attempt)
        .await
        .expect("a worktree");
    assert_eq!(
        worktree.base(),
        second,
        "what was pushed in between is there"
    );
    write(&worktree.path().join("calc.py"), "third\n");
    worktree.collect().await.expect("good changes");
    let commit = commit(&worktree).await;
    worktree.remove().await.expect("it is removed");
    let repository = workspaces
        .repository(&task.message.repository)
        .expect("the mirror");
    repository
        .set_branch(&task.id, &commit)
        .await
        .expect("a branch");
    let follow_up = task_on(&url, r#", "base": "pool/task-1""#);
    let worktree = workspaces
        .prepare(&follow_up, new_id::<AttemptId>())
        .await
        .expect("a worktree");
    assert_eq!(
        worktree.base(),
        commit,
        "a fetch leaves the pool's branches alone, and tasks can build on them"
    );
}

#[tokio::test]
async fn a_remote_that_does_not_answer_is_given_up() {
    let bench = Bench::new();
    let bin = bench.dir.path().join("bin");
    write(&bin.join("ssh"), "#!/bin/sh\nexec sleep 987654.5\n");
    std::fs::set_permissions(bin.join("ssh"), std::fs::Permissions::from_mode(0o755))
        .expect("executable");
    let mut config = bench.config();
    config.fetch_timeout = std::time::Duration::from_millis(500);
    let path = format!("{}:/usr/local/bin:/usr/bin:/bin", bin.display());
    let workspaces = Workspaces::open_with(&config, path.into(), [])
        .expect("the workspace directory is writable");
    let error = workspaces
        .prepare(&task_on("ssh://localhost/x", ""), new_id::<AttemptId>())
        .await
        .expect_err("no answer");
    assert_eq!(error.kind, ErrorKind::Repository, "its kind");
    assert!(
        error.message.contains("took longer"),
        "the message names the time-out: {}",
        error.message
    );
    assert!(
        eventually(|| crate::support::alive("sleep 987654.5").is_empty()).await,
        "git's children are gone"
    );
}
