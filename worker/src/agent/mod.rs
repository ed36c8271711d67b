//! The programs that edit code: how each is called, and what can be said about a run of it.
//!
//! An agent is not trusted: it runs through the sandbox, in a worktree, with one loopback address and one token. What
//! came of a run is decided by [`judge()`] from evidence, the gateway's record first; an agent's own word counts last.

mod aider;
mod command;
mod evidence;
mod hide;
mod judge;
mod noop;
mod program;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use futures_util::future::BoxFuture;
use pool_shared::config::{self, AgentKind, Secret};
use pool_shared::id::LlmName;
use pool_shared::result::{ErrorKind, TaskFailure};
use pool_shared::source::RelativePath;

use crate::sandbox::{Command, Exit, LaunchError, Output, Sandbox, Watch};
use crate::workspace::{bound_git, make_directory, off_the_runtime, write_new};

pub use evidence::AiderEvidence;
pub use judge::{Edit, judge, no_llm_left, silent};
pub(crate) use program::absolute_path_entries;

/// Where an agent finds programs, unless `env_allow` lets the worker's own `PATH` through.
const AGENT_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// One run of an agent.
#[derive(Debug, Clone)]
pub struct Job {
    /// The directory that it works in.
    pub worktree: PathBuf,
    /// Outside of the worktree: its home, its temporary files, its prompt.
    pub scratch: PathBuf,
    /// What it is to do.
    pub prompt: String,
    /// Files to begin with.
    pub files: Vec<RelativePath>,
    /// Of the gateway, with `/v1`.
    pub base_url: String,
    /// Lets this run, and no other, in at the gateway.
    pub token: Secret,
    /// What the agent is told; the gateway decides which LLM answers.
    pub model: LlmName,
    /// Tokens that a prompt and its answer may have together.
    pub context_limit: u64,
    /// Wall clock.
    pub timeout: Duration,
    pub no_output_timeout: Duration,
    /// Variables of the worker that it may see: [`allowed_env`].
    pub env: Vec<(OsString, OsString)>,
}

/// What is known of a run when it is over.
#[derive(Debug, Clone)]
pub struct AgentRun {
    pub exit: Exit,
    pub output: Output,
    pub evidence: Evidence,
    pub duration: Duration,
}

/// What an agent's own records say, for the kinds of agents that keep some.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Evidence {
    Aider(AiderEvidence),
    /// It was ended in silence before it had printed its last event.
    NoLastEvent,
    None,
}

/// A kind of agent.
pub trait Agent: Send + Sync {
    /// Runs it once. An error means that it did not run at all ([`ErrorKind::AgentConfig`], [`ErrorKind::Workspace`]);
    /// anything else is for [`judge()`].
    fn run<'a>(
        &'a self,
        job: &'a Job,
        sandbox: &'a Sandbox,
        watch: &'a Watch,
    ) -> BoxFuture<'a, Result<AgentRun, TaskFailure>>;
}

/// The agent that the pool file asks for.
pub fn from_config(config: &config::Agent) -> Box<dyn Agent> {
    match &config.kind {
        AgentKind::Aider {
            program,
            edit_format,
        } => Box::new(aider::Aider::new(program.clone(), edit_format.clone())),
        AgentKind::Command { argv, env } => {
            Box::new(command::CommandAgent::new(argv.clone(), env.clone()))
        }
        AgentKind::Noop => Box::new(noop::Noop),
    }
}

/// Those of the worker's variables that the pool file lets an agent see.
pub fn allowed_env(names: &[String]) -> Vec<(OsString, OsString)> {
    names
        .iter()
        .filter_map(|name| Some((name.into(), std::env::var_os(name)?)))
        .collect()
}

impl Job {
    fn home(&self) -> PathBuf {
        self.scratch.join("home")
    }

    fn temporary(&self) -> PathBuf {
        self.scratch.join("tmp")
    }

    /// The environment of every agent: a home to throw away, and nothing of the worker's but what is allowed.
    fn base_env(&self) -> Vec<(OsString, OsString)> {
        let mut env: Vec<(OsString, OsString)> = vec![
            ("PATH".into(), AGENT_PATH.into()),
            ("HOME".into(), self.home().into()),
            ("TMPDIR".into(), self.temporary().into()),
            ("LANG".into(), "C.UTF-8".into()),
            ("TERM".into(), "dumb".into()),
        ];
        for (name, value) in &self.env {
            env.retain(|(known, _)| known != name);
            env.push((name.clone(), value.clone()));
        }
        env
    }

    fn command(&self, argv: Vec<OsString>, mut env: Vec<(OsString, OsString)>) -> Command {
        bound_git(&mut env, &self.worktree);
        Command {
            argv,
            cwd: self.worktree.clone(),
            env,
            timeout: self.timeout,
            silence: Some(self.no_output_timeout),
        }
    }

    /// Makes the directories and files of a run in `scratch`, whatever an earlier run has put in their places.
    async fn furnish(&self, files: &[(PathBuf, String)]) -> Result<(), TaskFailure> {
        let (directories, files) = ([self.home(), self.temporary()], files.to_vec());
        let make = move || {
            directories
                .iter()
                .try_for_each(|directory| make_directory(directory))?;
            files
                .iter()
                .try_for_each(|(path, text)| write_new(path, text.as_bytes()))
        };
        off_the_runtime(make).await.map_err(|error| {
            TaskFailure::new(
                ErrorKind::Workspace,
                format!("cannot write the agent's files: {error}"),
            )
        })
    }
}

fn launch_failure(error: &LaunchError) -> TaskFailure {
    TaskFailure::new(
        ErrorKind::AgentConfig,
        format!("the agent did not start: {error}"),
    )
}
