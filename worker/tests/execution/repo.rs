//! Real repositories for tests, made with the git of this machine.
#![expect(clippy::expect_used, reason = "a helper that fails fails the test")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use pool_core::id::{LlmName, ProgrammerId, TaskId};
use pool_core::pool;
use pool_core::task::{Task, TaskMessage};
use pool_core::time::Timestamp;
use tempfile::TempDir;
use worker::workspace::{Credit, Workspaces};

/// A root with the repository `app`, and a workspace directory next to it.
pub(crate) struct Bench {
    pub(crate) dir: TempDir,
}

impl Bench {
    pub(crate) fn new() -> Self {
        let bench = Self {
            dir: tempfile::tempdir().expect("a directory"),
        };
        std::fs::create_dir_all(bench.app()).expect("a repository directory");
        bench.git(&["init", "--quiet", "--initial-branch=main"]);
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

pub(crate) fn programmer() -> ProgrammerId {
    ProgrammerId::new("003").expect("an id")
}

pub(crate) fn llm() -> LlmName {
    LlmName::new("ollama/qwen2.5-coder:7b-instruct").expect("an LLM")
}

pub(crate) fn credit<'a>(
    task: &'a Task,
    programmer: &'a ProgrammerId,
    llm: &'a LlmName,
) -> Credit<'a> {
    Credit {
        task,
        programmer,
        llm,
    }
}
