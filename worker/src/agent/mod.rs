//! The programs that edit code: how the worker calls each, and how it judges their runs.
//!
//! An agent is not trusted. It runs through the sandbox, in a worktree, with one loopback address
//! and one token. [`judge()`] decides the outcome of a run from evidence: the gateway's record comes
//! first, and the agent's own word counts last.

mod aider;
mod command;
mod evidence;
mod hide;
mod judge;
mod noop;
mod program;

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::time::Duration;

use futures_util::future::BoxFuture;
use pool_core::id::LlmName;
use pool_core::pool::{self, AgentKind, Secret};
use pool_core::result::{ErrorKind, TaskFailure};
use pool_core::source::RelativePath;
use pool_telemetry::catalog;

use crate::sandbox::warm::{StartKind, WarmPart, WarmStart};
use crate::sandbox::{
    CommandAccess, CommandOutput, Denials, Exit, Finished, LaunchError, SandboxCommand,
    SandboxLauncher, Watch,
};
use crate::workspace::{Directory, bound_git, failure, off_the_runtime};

pub use evidence::AiderEvidence;
pub use judge::{Edit, judge, no_llm_left, silent};
pub(crate) use program::{absolute_path_entries, is_program};

/// Where an agent finds programs, unless `env_allow` lets the worker's own `PATH` through.
const AGENT_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// The directories in an agent's scratch directory.
const HOME: &str = "home";
const TEMPORARY: &str = "tmp";

/// One run of an agent.
#[derive(Debug, Clone)]
pub struct Job {
    /// The directory that it works in.
    pub worktree: PathBuf,
    /// A directory outside of the worktree, for its home, its temporary files and its prompt.
    pub scratch: PathBuf,
    /// A directory that it is not shown. The worker keeps files there that it must not see.
    pub hidden: PathBuf,
    /// The job, in words.
    pub prompt: String,
    /// The files to begin with.
    pub files: Vec<RelativePath>,
    /// The address of the gateway, with `/v1`.
    pub base_url: String,
    /// The token that admits only this run to the gateway.
    pub token: Secret,
    /// The LLM that the agent asks for. The gateway decides which LLM answers.
    pub model: LlmName,
    /// The tokens that a prompt and its answer may have together.
    pub context_limit: u64,
    /// The limit in wall-clock time.
    pub timeout: Duration,
    pub no_output_timeout: Duration,
    /// Variables of the sandbox, and the worker's own that the agent may see: [`allowed_env`].
    pub env: Vec<(OsString, OsString)>,
    /// The paths and the gateway that the agent may use besides its worktree.
    pub access: CommandAccess,
}

/// The facts about a run that is over.
#[derive(Debug, Clone)]
pub struct AgentRun {
    pub exit: Exit,
    pub output: CommandOutput,
    pub evidence: AgentEvidence,
    pub duration: Duration,
    pub start: StartKind,
    /// Whether a process of it may be alive.
    pub may_live: bool,
    /// The refusals of the sandbox.
    pub denials: Denials,
}

impl AgentRun {
    fn of(finished: Finished, evidence: AgentEvidence) -> Self {
        count_start(&finished.start);
        Self {
            start: finished.start,
            may_live: finished.may_live,
            exit: finished.exit,
            output: finished.output,
            evidence,
            duration: finished.duration,
            denials: finished.denials,
        }
    }
}

fn count_start(start: &StartKind) {
    let word = match start {
        StartKind::Usual => "usual",
        StartKind::Warm => "warm",
        StartKind::Cold(why) => {
            tracing::info!("the agent started cold: {why}");
            "cold"
        }
    };
    catalog::AGENT_STARTS.add([word], 1);
}

/// Evidence from an agent's own records, for the kinds of agents that keep some.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AgentEvidence {
    Aider(AiderEvidence),
    /// The worker stopped it in silence before it had printed its last event.
    NoLastEvent,
    None,
}

/// A kind of agent.
pub trait CodingAgent: Send + Sync {
    /// Runs it once. An error means that it did not run at all ([`ErrorKind::AgentConfig`],
    /// [`ErrorKind::Workspace`]). [`judge()`] judges everything else.
    fn run<'a>(
        &'a self,
        job: &'a Job,
        sandbox: &'a SandboxLauncher,
        watch: &'a Watch,
    ) -> BoxFuture<'a, Result<AgentRun, TaskFailure>>;

    /// How a fork server starts its runs, if one can. All runs have these variables.
    fn warm_start(&self, variables: &[(OsString, OsString)]) -> Option<WarmStart>;
}

/// The agent that the pool file names.
pub fn from_config(config: &pool::Agent) -> Box<dyn CodingAgent> {
    match &config.kind {
        AgentKind::Aider {
            program,
            edit_format,
        } => Box::new(aider::Aider {
            program: program.clone(),
            edit_format: edit_format.clone(),
            is_warm: config.warm,
        }),
        AgentKind::Command { argv, env } => Box::new(command::CommandAgent {
            template: argv.clone(),
            env: env.clone(),
            modules: if config.warm {
                config.warm_modules.clone()
            } else {
                Vec::new()
            },
        }),
        AgentKind::Noop => Box::new(noop::Noop),
    }
}

/// The worker's variables that the pool file lets an agent see.
pub fn allowed_env(names: &[String]) -> Vec<(OsString, OsString)> {
    names
        .iter()
        .filter_map(|name| Some((name.into(), std::env::var_os(name)?)))
        .collect()
}

impl Job {
    fn home(&self) -> PathBuf {
        self.scratch.join(HOME)
    }

    fn temporary(&self) -> PathBuf {
        self.scratch.join(TEMPORARY)
    }

    /// The environment of every agent: a temporary home, and only the allowed variables of the
    /// worker.
    fn base_env(&self) -> Vec<(OsString, OsString)> {
        base_env(self.home(), self.temporary(), &self.env)
    }

    fn command(&self, argv: Vec<OsString>, mut env: Vec<(OsString, OsString)>) -> SandboxCommand {
        bound_git(&mut env, &self.worktree);
        let mut access = self.access.clone();
        access.programs.extend(argv.first().map(PathBuf::from));
        SandboxCommand {
            argv,
            cwd: self.worktree.clone(),
            env,
            timeout: self.timeout,
            silence: Some(self.no_output_timeout),
            access,
            warm: WarmPart::None,
        }
    }

    /// Makes the directories and files of a run in `scratch`. They replace those of an earlier run.
    async fn write_files(&self, files: &[(&'static str, String)]) -> Result<(), TaskFailure> {
        let (scratch, files) = (self.scratch.clone(), files.to_vec());
        let make = move || {
            let scratch = Directory::open(&scratch)?;
            [HOME, TEMPORARY]
                .iter()
                .try_for_each(|name| scratch.ensure(name.as_ref()))?;
            files
                .iter()
                .try_for_each(|(name, text)| scratch.write(name, text.as_bytes()))
        };
        off_the_runtime(make)
            .await
            .map_err(|error| failure("cannot write the agent's files", error))
    }
}

fn base_env(
    home: PathBuf,
    temporary: PathBuf,
    variables: &[(OsString, OsString)],
) -> Vec<(OsString, OsString)> {
    let mut env: Vec<(OsString, OsString)> = vec![
        ("PATH".into(), AGENT_PATH.into()),
        ("HOME".into(), home.into()),
        ("TMPDIR".into(), temporary.into()),
        ("LANG".into(), "C.UTF-8".into()),
        ("TERM".into(), "dumb".into()),
    ];
    for (name, value) in variables {
        set(&mut env, name, value);
    }
    env
}

/// The environment of a fork server. A path that a module makes of these variables at its import
/// must exist in every sandbox.
fn server_env(variables: &[(OsString, OsString)]) -> Vec<(OsString, OsString)> {
    let mut env = base_env("/tmp".into(), "/tmp".into(), variables);
    for name in ["HOME", "TMPDIR"] {
        set(&mut env, name, "/tmp");
    }
    env
}

/// Sets a variable, which replaces an earlier one.
fn set(env: &mut Vec<(OsString, OsString)>, name: impl AsRef<OsStr>, value: impl Into<OsString>) {
    let name = name.as_ref();
    env.retain(|(known, _)| known != name);
    env.push((name.to_owned(), value.into()));
}

fn launch_failure(error: &LaunchError) -> TaskFailure {
    let kind = match error {
        LaunchError::Sandbox(_) | LaunchError::OwnPath { .. } => ErrorKind::Sandbox,
        LaunchError::Program { .. } | LaunchError::Helper { .. } => ErrorKind::AgentConfig,
        LaunchError::NoReport(end) => {
            let message = format!("the agent did not come to its end: {end}");
            return TaskFailure::new(end.kind(ErrorKind::AgentCrashed), message);
        }
    };
    TaskFailure::new(kind, format!("the agent did not start: {error}"))
}
