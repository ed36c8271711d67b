//! Trees that are used again: whatever an attempt does in its tree, the next attempt gets the tree
//! of a new checkout.
#![expect(clippy::expect_used, reason = "a helper that fails fails the test")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use pool_core::id::AttemptId;
use pool_core::pool;
use pool_core::task::Task;
use pool_telemetry::clock::new_id;
use pool_tests::places::lasting_directory;
use sha2::{Digest, Sha256};
use tokio::time::Instant;
use worker::workspace::{Reach, Workspaces, Worktree};

use crate::repo::{Bench, git, task, task_on, write};
use crate::support::eventually;

/// Everything about a file that a later attempt could see, except for times and inode numbers.
type Listing = BTreeMap<PathBuf, String>;

/// The listing of a tree, without the agent's repository.
fn listing(tree: &Path) -> Listing {
    let mut found = Listing::new();
    let mut next = vec![PathBuf::new()];
    while let Some(path) = next.pop() {
        let full = tree.join(&path);
        let meta = full.symlink_metadata().expect("it is there");
        let content = if meta.is_dir() {
            for entry in fs::read_dir(&full).expect("it can be read") {
                let inner = path.join(entry.expect("an entry").file_name());
                if inner != Path::new(".git") {
                    next.push(inner);
                }
            }
            String::new()
        } else if meta.is_symlink() {
            format!("{:?}", fs::read_link(&full).expect("a link"))
        } else {
            assert!(meta.is_file(), "{full:?} is a special file");
            format!("{:?}", Sha256::digest(fs::read(&full).expect("a file")))
        };
        let names = rustix::fs::llistxattr(&full, &mut [0; 4096]).unwrap_or(0);
        let links = if meta.is_dir() { 0 } else { meta.nlink() };
        let shown = format!(
            "{:o} {links} {}:{} {names} {content}",
            meta.mode(),
            meta.uid(),
            meta.gid()
        );
        found.insert(path, shown);
    }
    found
}

/// The names in the agent's repository, and what its git says.
fn repository(tree: &Path) -> String {
    let names = Command::new("find")
        .args([".git", "-printf", "%P %y %m %s\n"])
        .current_dir(tree)
        .output();
    let mut names: Vec<String> = String::from_utf8_lossy(&names.expect("find runs").stdout)
        .lines()
        // Its size tells how git has written it.
        .filter(|line| !line.starts_with("index "))
        .map(str::to_owned)
        .collect();
    names.sort();
    let status = git(tree, &["status", "--porcelain", "--ignored"]);
    let config = fs::read_to_string(tree.join(".git/config")).expect("a file");
    format!("{names:#?} {status:?} {config}")
}

/// When a file was made. A tree that was used again has the same files.
fn made(tree: &Path, path: &str) -> SystemTime {
    let meta = tree.join(path).symlink_metadata().expect("it is there");
    meta.created().expect("the file system knows it")
}

/// A file that no agent here touches.
const WITNESS: &str = "untouched/witness";

pub(crate) fn bench() -> Bench {
    let bench = Bench::new();
    symlink("/etc/passwd", bench.app().join("outside")).expect("a link");
    symlink("outside", bench.app().join("chain")).expect("a link");
    symlink("docs", bench.app().join("inside")).expect("a link");
    bench.write(".gitignore", "*.tmp\nbuild/\n");
    bench.write(
        ".gitattributes",
        "*.txt text eol=lf\n*.crlf text eol=crlf\n",
    );
    bench.write("note.txt", "one\ntwo\n");
    bench.write("dos.crlf", "one\ntwo\n");
    bench.write("src/deep/er/code.rs", "fn main() {}\n");
    bench.write("src/other.rs", "// other\n");
    bench.write("big.bin", &"0123456789abcdef".repeat(4096));
    bench.write(WITNESS, "here\n");
    bench.write("run.sh", "#!/bin/sh\n");
    let script = bench.app().join("run.sh");
    fs::set_permissions(script, fs::Permissions::from_mode(0o755)).expect("executable");
    fs::create_dir(bench.app().join("library")).expect("a directory");
    bench.git(&["add", "--all"]);
    let submodule = format!("160000,{},library", bench.git(&["rev-parse", "HEAD"]));
    bench.git(&["update-index", "--add", "--cacheinfo", &submodule]);
    bench.git(&["commit", "--quiet", "-m", "second"]);
    bench
}

fn keeping(bench: &Bench) -> Workspaces {
    bench.workspaces().keeping_trees(Reach::Nobody)
}

async fn prepare(workspaces: &Workspaces, task: &Task) -> Worktree {
    let prepared = workspaces.prepare(task, new_id::<AttemptId>()).await;
    prepared.expect("a worktree")
}

/// The tree of a new checkout, from a worker that keeps nothing.
async fn fresh(bench: &Bench, task: &Task) -> (Listing, String) {
    let workspaces = bench.workspaces();
    let worktree = prepare(&workspaces, task).await;
    let seen = (listing(&worktree.path()), repository(&worktree.path()));
    worktree.remove().await.expect("it is removed");
    seen
}

/// Runs a script in a worktree, as an agent without any sandbox. `$SCRATCH` is a place outside.
fn act(worktree: &Worktree, script: &str) {
    let done = Command::new("bash")
        .args(["-ec", script])
        .current_dir(worktree.path())
        .env("SCRATCH", worktree.scratch())
        .env(
            "GIT_CEILING_DIRECTORIES",
            worktree.path().parent().expect("a parent"),
        )
        .envs(["AUTHOR", "COMMITTER"].map(|role| (format!("GIT_{role}_NAME"), "a")))
        .envs(["AUTHOR", "COMMITTER"].map(|role| (format!("GIT_{role}_EMAIL"), "a")))
        .output()
        .expect("bash runs");
    assert!(
        done.status.success(),
        "{script}: {}",
        String::from_utf8_lossy(&done.stderr)
    );
}

/// Deeds after which the tree is put back and used again.
const PUT_BACK: &[(&str, &str)] = &[
    ("nothing", "true"),
    (
        "reading",
        "cat calc.py; ls -R . >/dev/null; touch -a calc.py",
    ),
    ("opening without a change", ": >>calc.py"),
    ("an edit", "echo changed >calc.py"),
    (
        "the same size and times in the same inode",
        "touch -r calc.py \"$SCRATCH/ref\"; printf X | dd of=calc.py conv=notrunc status=none; touch -r \"$SCRATCH/ref\" calc.py",
    ),
    (
        "the same size and times in another inode",
        "cp -p calc.py new; printf X | dd of=new conv=notrunc status=none; touch -r calc.py new; mv new calc.py",
    ),
    (
        "a write through mapped memory",
        "python3 -c 'import mmap; f = open(\"big.bin\", \"r+b\"); m = mmap.mmap(f.fileno(), 0); m[7:9] = b\"!!\"; m.close()'",
    ),
    ("a hole in a file", "fallocate -p -o 4096 -l 4096 big.bin"),
    (
        "a file cut and grown again",
        "truncate -s 0 big.bin; truncate -s 65536 big.bin",
    ),
    (
        "times far away",
        "touch -d 1971-01-01 calc.py; touch -d 2400-01-01 note.txt; touch -d 1999-01-01 docs",
    ),
    (
        "modes of files",
        "chmod 777 calc.py; chmod -x run.sh; chmod 4755 note.txt; chmod 000 dos.crlf",
    ),
    ("a mode and back", "chmod 000 calc.py; chmod 644 calc.py"),
    (
        "modes of directories",
        "chmod 700 docs; chmod 1777 src; chmod 777 src/deep; chmod 777 .",
    ),
    (
        "directories that nobody may enter",
        "chmod 000 docs; mkdir locked; echo x >locked/a; chmod 000 locked",
    ),
    (
        "a hard link inside",
        "ln calc.py build-link; ln -f docs/guide.md note.txt",
    ),
    (
        "a hard link outside",
        "ln calc.py \"$SCRATCH/kept\"; ln -f \"$SCRATCH/kept\" run.sh; echo evil >\"$SCRATCH/kept\"",
    ),
    ("a renamed file", "mv calc.py gone.py"),
    ("a file renamed away and back", "mv calc.py x; mv x calc.py"),
    (
        "two files exchanged",
        "mv calc.py x; mv note.txt calc.py; mv x note.txt",
    ),
    ("a renamed directory", "mv docs moved"),
    ("a directory renamed away and back", "mv src x; mv x src"),
    (
        "two directories exchanged",
        "mv docs x; mv src docs; mv x src",
    ),
    ("a directory moved into another", "mv docs src/deep/"),
    (
        "a directory copied over itself",
        "cp -a src copy; rm -r src; mv copy src",
    ),
    (
        "a link in place of a directory",
        "mv docs real; ln -s real docs; rm -r src; ln -s /etc src",
    ),
    (
        "a link in place of a file",
        "rm calc.py; ln -s /etc/passwd calc.py; ln -sf note.txt run.sh",
    ),
    ("another target of a link", "ln -sfn src inside"),
    ("a file in place of a directory", "rm -r docs; echo x >docs"),
    (
        "a directory in place of a file",
        "rm calc.py; mkdir calc.py; echo x >calc.py/inner",
    ),
    (
        "a directory in place of a link",
        "rm inside; mkdir inside; echo x >inside/guide.md",
    ),
    (
        "untracked and ignored files",
        "echo x >new; mkdir -p build/inner; echo x >build/inner/out; echo x >a.tmp; echo x >docs/b.tmp",
    ),
    (
        "empty directories",
        "mkdir -p empty/inner docs/empty src/deep/er/empty",
    ),
    (
        "a repository inside",
        "git init -q vendor; git init -q docs; git init -q build/inner; cp -r .git vendor/copy",
    ),
    (
        "pipes and sockets",
        "mkfifo pipe docs/pipe; rm .gitignore; mkfifo .gitignore; rm calc.py; mkfifo calc.py; \
        python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"docs/s\")'",
    ),
    (
        "a socket in place of a directory",
        "rm -r docs; python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"docs\")'",
    ),
    (
        "everything removed",
        "rm -rf docs src calc.py note.txt dos.crlf run.sh big.bin inside library .gitignore .gitattributes",
    ),
    (
        "a file in place of a hidden link",
        "echo x >outside; echo y >chain",
    ),
    (
        "a hidden link made again",
        "ln -s /etc/passwd outside; ln -s outside chain",
    ),
    (
        "a directory in place of a hidden link",
        "mkdir outside chain; echo x >chain/a",
    ),
    ("files in a submodule", "echo x >library/a; mkdir library/b"),
    (
        "a repository in a submodule",
        "git init -q library; echo x >library/a",
    ),
    ("a removed submodule", "rmdir library"),
    (
        "a file in place of a submodule",
        "rmdir library; echo x >library",
    ),
    (
        "attributes that change line ends",
        "echo '* text eol=crlf' >.gitattributes; rm note.txt; echo '* text eol=crlf' >src/.gitattributes; rm src/other.rs",
    ),
    (
        "attributes of the agent's repository",
        "mkdir -p .git/info; echo '* text eol=crlf' >.git/info/attributes; rm note.txt",
    ),
    (
        "commits, branches and a collection",
        "echo x >calc.py; git commit -qam x; git checkout -qb other; git rm -q note.txt; git commit -qm y; git gc -q; git stash list",
    ),
    (
        "settings of git",
        "git update-index --skip-worktree calc.py; git config core.autocrlf true; git config core.sparseCheckout true; git config core.worktree /; rm calc.py note.txt",
    ),
    ("a removed repository", "rm -rf .git"),
    (
        "a file in place of the repository",
        "rm -rf .git; echo 'gitdir: /etc' >.git",
    ),
    (
        "a link in place of the repository",
        "mv .git moved; ln -s moved .git",
    ),
    (
        "an attribute of a file",
        "python3 -c 'import os; os.setxattr(\"calc.py\", \"user.evil\", b\"x\")'",
    ),
    ("a flag of a file", "chattr +A calc.py"),
    (
        "odd names",
        "echo x >$'a\\nb'; echo x >$'lat\\xe9in'; echo x >\"$(printf 'n%.0s' {1..255})\"; echo x >'docs/a b'; echo x >-f",
    ),
    (
        "many files",
        "mkdir -p many/{1..20}; touch many/{1..20}/{1..50}; touch docs/{1..300}",
    ),
    (
        "a deep directory",
        "python3 -c 'import os\nfor _ in range(3000): os.mkdir(\"d\"); os.chdir(\"d\")'",
    ),
    ("a sparse file", "truncate -s 10G sparse"),
    (
        "files of the worker's",
        "touch pristine-index inventory clock refuse; mkdir put-back git scratch",
    ),
];

/// Deeds after which the tree is in doubt, and a new one is made.
const THROWN_AWAY: &[(&str, &str)] = &[
    (
        "an attribute of a directory",
        "python3 -c 'import os; os.setxattr(\"docs\", \"user.evil\", b\"x\")'",
    ),
    (
        "an attribute of the tree",
        "python3 -c 'import os; os.setxattr(\".\", \"user.evil\", b\"x\")'",
    ),
    (
        "an access list that new files take over",
        "python3 -c 'import os; os.setxattr(\"docs\", \"system.posix_acl_default\", \
         bytes.fromhex(\"0200000001000700ffffffff04000700ffffffff20000700ffffffff\"))'",
    ),
    ("a flag of a directory", "chattr +A docs"),
    (
        "nothing in place of the tree",
        "cd ..; mv tree \"$SCRATCH/moved\"",
    ),
    (
        "a link in place of the tree",
        "cd ..; mv tree \"$SCRATCH/moved\"; ln -s \"$SCRATCH/moved\" tree",
    ),
    (
        "another directory in place of the tree",
        "cd ..; mv tree \"$SCRATCH/moved\"; mkdir tree; echo x >tree/calc.py",
    ),
];

#[tokio::test]
async fn a_tree_after_a_hostile_agent_is_that_of_a_new_checkout() {
    let bench = bench();
    let expected = fresh(&bench, &task()).await;
    let workspaces = keeping(&bench);
    for (deeds, is_kept) in [(PUT_BACK, true), (THROWN_AWAY, false)] {
        for (deed, script) in deeds {
            let worktree = prepare(&workspaces, &task()).await;
            let before = made(&worktree.path(), WITNESS);
            act(&worktree, script);
            worktree.give_back().await.expect("it is given back");
            let next = prepare(&workspaces, &task()).await;
            let tree = next.path();
            assert_eq!(listing(&tree), expected.0, "after {deed}");
            assert_eq!(repository(&tree), expected.1, "after {deed}");
            assert_eq!(
                made(&tree, WITNESS) == before,
                is_kept,
                "after {deed}: used again"
            );
            let changes = next.collect().await.expect("good changes");
            assert!(changes.is_empty(), "after {deed}: {changes:?}");
            next.give_back().await.expect("it is given back");
        }
    }
}

#[tokio::test]
async fn a_change_at_once_after_the_checkout_is_seen() {
    let bench = bench();
    let workspaces = keeping(&bench);
    for _ in 0..50 {
        let worktree = prepare(&workspaces, &task()).await;
        let file = worktree.path().join("calc.py");
        let text = fs::read_to_string(&file).expect("a file");
        let times = fs::metadata(&file)
            .expect("a file")
            .modified()
            .expect("a time");
        let changed = fs::File::options().write(true).open(&file).expect("a file");
        std::os::unix::fs::FileExt::write_all_at(&changed, b"X", 0).expect("a write");
        changed.set_modified(times).expect("a time");
        worktree.give_back().await.expect("it is given back");
        let next = prepare(&workspaces, &task()).await;
        let now = fs::read_to_string(next.path().join("calc.py")).expect("a file");
        assert_eq!(now, text, "the change is gone");
        next.give_back().await.expect("it is given back");
    }
}

/// Commits that differ in many ways. The last one changes attributes.
fn commits(bench: &Bench) -> Vec<String> {
    let mut commits = vec![bench.git(&["rev-parse", "HEAD"])];
    let mut commit = |deed: &str| {
        let script = format!("{deed}; git add --all");
        let done = Command::new("bash")
            .args(["-ec", &script])
            .current_dir(bench.app())
            .output();
        let done = done.expect("bash runs");
        assert!(
            done.status.success(),
            "{deed}: {}",
            String::from_utf8_lossy(&done.stderr)
        );
        bench.git(&["commit", "--quiet", "-m", "x"]);
        commits.push(bench.git(&["rev-parse", "HEAD"]));
    };
    commit("echo new >calc.py; mkdir -p a/b/c; echo x >a/b/c/d; rm -r src/deep; chmod -x run.sh");
    commit(
        "rm outside; echo 'a file now' >outside; rm -r docs; echo x >docs; rm calc.py; mkdir calc.py; echo x >calc.py/in",
    );
    commit(
        "git rm -q --cached library; rm inside; ln -s a inside; ln -s ../../../etc a/b/escapes; git rm -rqf note.txt",
    );
    commit(
        "rm -rf a outside; ln -s /etc/hosts outside; mkdir -p library; echo x >library/a; echo y >note.txt",
    );
    commit("echo '*.txt text eol=crlf' >.gitattributes");
    commits
}

#[tokio::test]
async fn another_base_is_checked_out_as_if_it_were_new() {
    let bench = bench();
    let commits = commits(&bench);
    let mut expected = Vec::new();
    for commit in &commits {
        let task = task_on("app", &format!(r#", "base": "{commit}""#));
        expected.push((fresh(&bench, &task).await, task));
    }
    let last = commits.len() - 1;
    let deeds = [
        "true",
        "rm -rf docs calc.py a src; mkdir -p a/b; echo x >a/b/c; echo x >outside; echo x >new",
        "rm -rf library note.txt; ln -s /etc library; mkdir note.txt empty; echo x >note.txt/a; chmod 700 src",
        "find . -mindepth 1 -path ./.git -prune -o -path ./untouched -prune -o -type f -print0 | xargs -0 rm",
        "mv a moved; mv docs a; mkdir docs; echo '* text eol=crlf' >src/.gitattributes; rm -f src/other.rs",
    ];
    let workspaces = keeping(&bench);
    for from in 0..commits.len() {
        for to in 0..commits.len() {
            let script = deeds[(from + 2 * to) % deeds.len()];
            let worktree = prepare(&workspaces, &expected[from].1).await;
            let before = made(&worktree.path(), WITNESS);
            act(&worktree, &format!("set +e; {script}; true"));
            worktree.give_back().await.expect("it is given back");
            let next = prepare(&workspaces, &expected[to].1).await;
            let (tree, what) = (next.path(), format!("{from} to {to} after {script}"));
            assert_eq!(listing(&tree), expected[to].0.0, "{what}");
            assert_eq!(repository(&tree), expected[to].0.1, "{what}");
            let kept = made(&tree, WITNESS) == before;
            let same_attributes = (from == last) == (to == last);
            assert_eq!(kept, same_attributes, "{what}: used again");
            next.give_back().await.expect("it is given back");
        }
    }
}

#[tokio::test]
async fn a_tree_that_was_changed_between_two_attempts_is_restored() {
    let bench = bench();
    let expected = fresh(&bench, &task()).await;
    let workspaces = bench.workspaces().keeping_trees(Reach::Attributes);
    let worktree = prepare(&workspaces, &task()).await;
    let before = made(&worktree.path(), WITNESS);
    let attempts = above(&worktree);
    worktree.give_back().await.expect("it is given back");
    let kept = kept_tree(&attempts).await;
    // Landlock does not stop this.
    let script = "chmod 777 calc.py docs; touch -d 1990-01-01 note.txt; chmod 777 .";
    let done = Command::new("bash")
        .args(["-ec", script])
        .current_dir(&kept)
        .status();
    assert!(done.expect("bash runs").success(), "the tree is there");
    let next = prepare(&workspaces, &task()).await;
    assert_eq!(listing(&next.path()), expected.0, "nothing of it is left");
    assert_eq!(
        made(&next.path(), WITNESS),
        before,
        "and the tree is used again"
    );
}

#[tokio::test]
async fn kept_trees_take_no_more_space_than_they_may() {
    let bench = bench();
    let worktree = prepare(&keeping(&bench), &task()).await;
    worktree.remove().await.expect("it is removed");
    // A tree takes 132 KiB.
    for (max_kib, expected) in [(0, 0), (100, 0), (300, 2), (1000, 7)] {
        let config = pool::Workspace {
            keep_trees_bytes: max_kib << 10,
            ..bench.config()
        };
        let workspaces = Workspaces::open(&config)
            .expect("a directory")
            .keeping_trees(Reach::Nobody);
        let mut worktrees = Vec::new();
        for _ in 0..8 {
            worktrees.push(prepare(&workspaces, &task()).await);
        }
        let attempts = above(&worktrees[0]);
        for worktree in worktrees {
            worktree.give_back().await.expect("it is given back");
        }
        let settled = eventually(|| {
            let names = names(&attempts);
            let leaving = names.iter().any(|name| name.starts_with("leaving-"));
            !leaving && names.len() == expected
        });
        assert!(settled.await, "{max_kib} KiB: {:?}", names(&attempts));
    }
}

#[tokio::test]
async fn the_kept_trees_of_a_dead_worker_are_removed() {
    let bench = bench();
    let workspaces = keeping(&bench);
    let worktree = prepare(&workspaces, &task()).await;
    let attempts = above(&worktree);
    worktree.give_back().await.expect("it is given back");
    let kept = kept_tree(&attempts).await;
    drop(bench.workspaces());
    assert!(kept.exists(), "those of a live one are not");
    drop(workspaces);
    // The kernel releases the lock of a worker that was killed. Its files stay.
    write(&attempts.join("kept-1/tree/file"), "x");
    write(&attempts.join("leaving-1/tree/file"), "x");
    let gone = || {
        drop(bench.workspaces());
        let discarded = bench.config().dir.join("discarded");
        !attempts.exists() && names(&discarded).is_empty()
    };
    assert!(eventually(gone).await, "they are removed");
}

#[tokio::test]
async fn a_tree_of_an_attempt_whose_processes_may_be_alive_is_not_used_again() {
    let bench = bench();
    let workspaces = keeping(&bench);
    let worktree = prepare(&workspaces, &task()).await;
    worktree.doubt();
    worktree.reset().await.expect("it is reset");
    let before = made(&worktree.path(), WITNESS);
    worktree.give_back().await.expect("it is removed");
    let next = prepare(&workspaces, &task()).await;
    assert_ne!(made(&next.path(), WITNESS), before, "the next one is new");
}

/// The directory with everything of a worker process.
fn above(worktree: &Worktree) -> PathBuf {
    let path = worktree.path();
    path.ancestors()
        .nth(2)
        .expect("two directories above")
        .to_owned()
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

/// The only kept tree, once it has been put back.
async fn kept_tree(attempts: &Path) -> PathBuf {
    let find = || {
        let names = names(attempts);
        let kept = names.iter().find(|name| name.starts_with("kept-"))?;
        let tree = attempts.join(kept).join("tree");
        (!names.iter().any(|name| name.starts_with("leaving-")) && tree.exists()).then_some(tree)
    };
    assert!(
        eventually(|| find().is_some()).await,
        "a tree is kept: {:?}",
        names(attempts)
    );
    find().expect("a tree")
}

/// Prints what a worktree of a large repository costs, beside `git worktree add`. The set-up of a
/// sandbox and the messages of the broker are not in it; `bench workspace` measures all.
#[tokio::test]
#[ignore = "a measurement: it makes 50,000 files several times"]
async fn what_a_worktree_of_a_large_repository_costs() {
    const FILES: usize = 50_000;
    let bench = Bench::empty(lasting_directory());
    for number in 0..FILES {
        let text = format!("file {number} has a line\n").repeat(170);
        bench.write(
            &format!("part-{}/module-{}/{number}.txt", number / 1000, number / 50),
            &text,
        );
    }
    bench.commit("all");
    bench.git(&["gc", "--quiet"]);
    let config = pool::Workspace {
        keep_trees_bytes: 16 << 30,
        ..bench.config()
    };
    let workspaces = Workspaces::open(&config)
        .expect("a directory")
        .keeping_trees(Reach::Nobody);
    for round in 0..3 {
        let place = bench.dir.path().join("by-git");
        let place = place.to_str().expect("a path");
        let began = Instant::now();
        bench.git(&["worktree", "add", "--quiet", "--detach", place]);
        eprintln!("round {round}: git worktree add {:?}", began.elapsed());
        bench.git(&["worktree", "remove", "--force", place]);
        for attempt in 0..4 {
            let began = Instant::now();
            let worktree = prepare(&workspaces, &task()).await;
            eprintln!("round {round}: attempt {attempt} {:?}", began.elapsed());
            write(
                &worktree.path().join("part-3/module-70/3500.txt"),
                "changed\n",
            );
            worktree.give_back().await.expect("it is given back");
        }
        for again in 0..2 {
            let began = Instant::now();
            let (workspaces, task) = (&workspaces, &task());
            let ten = (0..10).map(|_| prepare(workspaces, task));
            let ten = futures_util::future::join_all(ten).await;
            eprintln!("round {round}: ten at once, {again} {:?}", began.elapsed());
            for worktree in ten {
                write(
                    &worktree.path().join("part-3/module-70/3500.txt"),
                    "changed\n",
                );
                worktree.give_back().await.expect("it is given back");
            }
        }
    }
}
