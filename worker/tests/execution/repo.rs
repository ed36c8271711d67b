//! Real repositories for tests, made with the git of this machine.
#![expect(clippy::expect_used, reason = "a helper that fails fails the test")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use pool_core::id::{AttemptId, LlmName, ProgrammerId, TaskId};
use pool_core::pool;
use pool_core::result::TaskFailure;
use pool_core::task::{Task, TaskMessage};
use pool_core::time::Timestamp;
use pool_telemetry::clock::new_id;
use tempfile::TempDir;
use worker::workspace::{Credit, Workspaces, Worktree, WorktreeChanges};

/// A root with the repository `app`, and a workspace directory next to it.
pub(crate) struct Bench {
    /// Those of [`Self::prepare`].
    workspaces: OnceLock<Workspaces>,
    pub(crate) dir: TempDir,
}

impl Bench {
    /// A repository without files in this directory.
    pub(crate) fn empty(dir: TempDir) -> Self {
        let bench = Self {
            workspaces: OnceLock::new(),
            dir,
        };
        std::fs::create_dir_all(bench.app()).expect("a repository directory");
        bench.git(&["init", "--quiet", "--initial-branch=main"]);
        bench
    }

    pub(crate) fn new() -> Self {
        let bench = Self::empty(tempfile::tempdir().expect("a directory"));
        bench.write("calc.py", "def add(a, b):\n    return a - b\n");
        bench.write("docs/guide.md", "# Guide\n");
        bench.commit("first");
        bench
    }

    pub(crate) fn app(&self) -> PathBuf {
        self.dir.path().join("root/app")
    }

    pub(crate) fn config(&self) -> pool::Workspace {
        pool::Workspace {
            dir: self.dir.path().join("work"),
            roots: vec![self.dir.path().join("root")],
            author_name: "Programmer Pool".to_owned(),
            author_email: "pool@localhost".to_owned(),
            fetch_timeout: Duration::from_secs(30),
            keep_trees_bytes: 1 << 30,
        }
    }

    pub(crate) fn workspaces(&self) -> Workspaces {
        Workspaces::open(&self.config()).expect("the workspace directory is writable")
    }

    /// The worktree of a new attempt.
    pub(crate) async fn prepare(&self, task: &Task) -> Result<Worktree, TaskFailure> {
        let workspaces = self.workspaces.get_or_init(|| self.workspaces());
        workspaces.prepare(task, new_id::<AttemptId>()).await
    }

    /// The worktree of a new attempt at [`task`].
    pub(crate) async fn worktree(&self) -> Worktree {
        self.prepare(&task()).await.expect("a worktree")
    }

    /// Applies a patch to the base commit in a clone, as a reader would, and returns the clone.
    pub(crate) fn apply(&self, changes: &WorktreeChanges) -> PathBuf {
        let (clone, patch) = (self.dir.path().join("clone"), self.dir.path().join("patch"));
        git(self.dir.path(), &["clone", "--quiet", "root/app", "clone"]);
        write(&patch, changes.patch.as_deref().expect("a patch"));
        let patch = patch.to_str().expect("a path");
        git(&clone, &["apply", "--index", patch]);
        clone
    }

    pub(crate) fn write(&self, path: &str, text: &str) {
        write(&self.app().join(path), text);
    }

    pub(crate) fn commit(&self, message: &str) -> String {
        self.git(&["add", "--all", "--force"]);
        self.git(&["commit", "--quiet", "--allow-empty", "-m", message]);
        self.git(&["rev-parse", "HEAD"])
    }

    /// Runs git in `app`, as its owner.
    pub(crate) fn git(&self, args: &[&str]) -> String {
        git(&self.app(), args)
    }
}

pub(crate) fn git(dir: &Path, args: &[&str]) -> String {
    let identity = ["-c", "user.name=Owner", "-c", "user.email=owner@localhost"];
    let done = Command::new("git")
        .args(identity)
        .args(args)
        .current_dir(dir)
        .output()
        .expect("git runs");
    assert!(
        done.status.success(),
        "git {args:?} failed: {}",
        String::from_utf8_lossy(&done.stderr)
    );
    String::from_utf8_lossy(&done.stdout).trim_end().to_owned()
}

pub(crate) fn write(path: &Path, text: impl AsRef<[u8]>) {
    std::fs::create_dir_all(path.parent().expect("a parent")).expect("its directory");
    std::fs::write(path, text).expect("a file");
}

/// A task for `repository`, with more fields as JSON (`, "base": "main"`).
pub(crate) fn task_on(repository: &str, more: &str) -> Task {
    let json = format!(
        r#"{{"instruction": "Fix add\n\nIt subtracts.", "repository": "{repository}"{more}}}"#
    );
    let message = TaskMessage::parse(json.as_bytes(), Timestamp(0)).expect("a valid task");
    Task::new(TaskId::new("task-1").expect("an id"), message)
}

pub(crate) fn task() -> Task {
    task_on("app", "")
}

pub(crate) fn llm() -> LlmName {
    LlmName::new("ollama/qwen2.5-coder:7b-instruct").expect("an LLM")
}

/// Commits the changes that the worktree collected, and returns the commit.
pub(crate) async fn commit(worktree: &Worktree) -> String {
    let credit = Credit {
        task: &task(),
        programmer: &ProgrammerId::new("003").expect("an id"),
        llm: &llm(),
    };
    worktree.commit(&credit).await.expect("a commit")
}
