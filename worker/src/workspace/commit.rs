//! The message of the worker's commits, and the repository that keeps them.

use std::path::PathBuf;
use std::time::Duration;

use pool_broker::process::host_name;
use pool_core::id::{AttemptId, LlmName, ProgrammerId, TaskId};
use pool_core::result::{ErrorKind, TaskFailure};
use pool_core::task::Task;
use pool_core::time::Timestamp;

use super::git::Git;

const SUBJECT_CHARS: usize = 72;
/// How many days the refs of attempts without a branch keep their commits. The worker of such an
/// attempt died, or no branch may be set.
pub const KEPT_DAYS: u64 = 7;
const ATTEMPT_REF_AGE: Duration = Duration::from_secs(KEPT_DAYS * 24 * 60 * 60);
const ATTEMPT_REFS: &str = "refs/pool/attempts/";

/// The authors of a change: programmer and LLM.
#[derive(Debug, Clone, Copy)]
pub struct Credit<'a> {
    pub task: &'a Task,
    pub programmer: &'a ProgrammerId,
    pub llm: &'a LlmName,
}

impl Credit<'_> {
    /// The commit message. Subject: the first line of the instruction. Trailers: task, programmer,
    /// LLM.
    pub(super) fn message(&self) -> String {
        let Self {
            task,
            programmer,
            llm,
        } = self;
        let subject = subject(&task.message.instruction);
        format!(
            "{subject}\n\nPool-Task: {}\nPool-Programmer: {}\nPool-LLM: {llm}\n",
            task.id,
            programmer.display_name()
        )
    }
}

fn subject(instruction: &str) -> String {
    let first = instruction
        .lines()
        .map(str::trim)
        .find(|line| !line.is_empty())
        .unwrap_or("change");
    let words: Vec<&str> = first
        .split(|c: char| c.is_whitespace() || c.is_control())
        .filter(|w| !w.is_empty())
        .collect();
    let line = words.join(" ");
    if line.chars().count() <= SUBJECT_CHARS {
        return line;
    }
    let cut: String = line.chars().take(SUBJECT_CHARS - 1).collect();
    format!("{}…", cut.trim_end())
}

pub(super) fn attempt_ref(attempt: AttemptId) -> String {
    format!("{ATTEMPT_REFS}{attempt}")
}

/// The repository of a task: the local one, or the mirror of its URL. It outlives the worktree.
#[derive(Debug, Clone)]
pub struct RepositoryHandle {
    pub(super) git: Git,
    pub(super) git_dir: PathBuf,
}

impl RepositoryHandle {
    /// Host and git directory, as `git fetch` takes them over SSH.
    pub fn place(&self) -> String {
        format!("{}:{}", host_name(), self.git_dir.display())
    }

    /// The name of a task's branch: `pool/<task id>`. Where a branch `pool` exists, git allows no
    /// such name, and the branch is `pool-<task id>`.
    pub async fn branch_of(&self, task: &TaskId) -> String {
        let args = ["show-ref", "--verify", "--quiet", "refs/heads/pool"];
        match self.git.at(&self.git_dir).run(&args).await {
            Ok(_) => format!("pool-{task}"),
            Err(_) => format!("pool/{task}"),
        }
    }

    /// Sets the task's branch to a commit and returns the branch's name. Doing it twice is
    /// harmless.
    ///
    /// # Errors
    /// [`ErrorKind::Workspace`] if the commit does not exist or git refuses the branch.
    pub async fn set_branch(&self, task: &TaskId, commit: &str) -> Result<String, TaskFailure> {
        let branch = self.branch_of(task).await;
        let failure = |problem: String| {
            TaskFailure::new(ErrorKind::Workspace, format!("branch {branch}: {problem}"))
        };
        if !(40..=64).contains(&commit.len())
            || !commit.bytes().all(|byte| byte.is_ascii_hexdigit())
        {
            return Err(failure(format!("{commit:?} is not a commit id")));
        }
        let args = [
            "update-ref",
            "--no-deref",
            &format!("refs/heads/{branch}"),
            commit,
        ];
        self.git
            .at(&self.git_dir)
            .run(&args)
            .await
            .map_err(|error| failure(error.to_string()))?;
        Ok(branch)
    }

    /// Removes the ref of an attempt's commit: its branch has been set, or the commit is not
    /// wanted. Git later removes objects that nothing else refers to. A failure is logged and
    /// otherwise harmless.
    pub async fn forget(&self, attempt: AttemptId) {
        self.delete_ref(&attempt_ref(attempt)).await;
    }

    /// Removes the refs of attempts that are long over.
    pub(super) async fn forget_old(&self, now: Timestamp) {
        let listed = self
            .git
            .at(&self.git_dir)
            .line(&["for-each-ref", "--format=%(refname)", ATTEMPT_REFS])
            .await;
        let names = listed.unwrap_or_default();
        for name in names
            .lines()
            .filter(|name| made_at(name).is_some_and(|made| now.since(made) > ATTEMPT_REF_AGE))
        {
            self.delete_ref(name).await;
        }
    }

    async fn delete_ref(&self, name: &str) {
        if let Err(error) = self
            .git
            .at(&self.git_dir)
            .run(&["update-ref", "--no-deref", "-d", name])
            .await
        {
            tracing::warn!(repository = %self.git_dir.display(), name, %error, "cannot remove the ref of an attempt");
        }
    }
}

/// The time in an attempt's id.
fn made_at(name: &str) -> Option<Timestamp> {
    let id: uuid::Uuid = name.strip_prefix(ATTEMPT_REFS)?.parse().ok()?;
    let (seconds, nanoseconds) = id.get_timestamp()?.to_unix();
    Some(Timestamp(
        seconds * 1000 + u64::from(nanoseconds / 1_000_000),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_is_one_short_line() {
        assert_eq!(
            subject("\n  Fix the\tbug \n\nPool-Task: forged"),
            "Fix the bug",
            "the first line that says something"
        );
        let long = subject(&"word ".repeat(40));
        assert!(
            long.chars().count() <= 72 && long.ends_with('…'),
            "a long one is cut: {long}"
        );
        assert_eq!(subject("a\u{7}b"), "a b", "no control characters");
    }

    #[test]
    fn the_age_of_an_attempt_is_in_its_id() {
        let name = attempt_ref(AttemptId::from_u128(
            0x019b_7c0e_5b6e_7000_8000_0000_0000_0000,
        ));
        assert_eq!(
            made_at(&name),
            Some(Timestamp(0x019b_7c0e_5b6e)),
            "UUID version 7, milliseconds"
        );
        assert_eq!(made_at("refs/heads/main"), None, "not an attempt");
    }
}
