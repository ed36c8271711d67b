//! The only place that starts agents and acceptance checks, and all that they run.
//!
//! Nobody has reviewed their code, so none of it runs as a direct child of the worker. Between them
//! is a helper, `worker sandbox-exec` ([`exec`]). It is a small process that limits itself, starts
//! the program, and is responsible for all of the program's descendants. One socket, the *line*,
//! joins helper and worker:
//!
//! - If the worker closes its end, the helper ends every descendant of the program: SIGTERM first,
//!   SIGKILL after [`GRACE`]. The worker does so on a time-out, silence, the last event or a
//!   cancellation. The kernel does so if the worker dies, in whatever way.
//! - If the program ends, the helper kills the processes that are left, reports how the program
//!   ended, and exits.
//!
//! The helper is the *subreaper* of its descendants. So it also finds a process that changed its
//! group or its session, or lost its parent. A parent-death signal would not suffice: it fires when
//! the *thread* that forked ends, it reaches only the direct child, and it misses a process that
//! starts in the meantime.
//!
//! With the levels `strict` and `files` the helper starts the program behind the kernel layers of
//! the crate `agent_sandbox`. [`access`] decides what a program may see and reach.

pub mod access;
pub mod cgroup;
mod denials;
pub mod exec;
mod health;
mod hints;
mod last_event;
mod life;
mod limits;
mod orphans;
mod output;
mod pinned;
mod report;
mod run;
pub mod settled;
pub(crate) mod telemetry;
pub mod trial;
pub(crate) mod trust;
pub mod warm;

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use agent_sandbox::SetupError;
use agent_sandbox::toolchains::{self, ThisMachine};
use agent_sandbox::{Exceeded, Layers, Level, Plan, RunLimits, landlock_abi};
use pool_core::pool::{self, LastEvent, Pool, SandboxLevel};
use pool_core::result::ErrorKind;
use tokio_util::sync::CancellationToken;

pub use access::{CommandAccess, GatewayServer};
pub use cgroup::LimitsBy;
pub use health::{FIRST_WAIT, SandboxHealth};
pub use hints::Denials;
pub use output::CommandOutput;
pub use pinned::PinnedDirectory;

use access::Confinement;
pub(crate) use access::Separation;
use cgroup::Delegation;
use hints::Walls;
use limits::HelperOrder;
use telemetry::{LayersSetUp, LimitExceeded, SetupFailed};
use trust::Guarded;
use warm::{StartKind, WarmPart, WarmPlaces, WarmServers};

/// How long after SIGTERM the remaining processes get SIGKILL.
pub const GRACE: Duration = Duration::from_secs(5);

/// The niceness that is added to everything that works on a task. On busy cores the worker itself
/// goes first, because it passes tasks on and talks to the broker.
pub const LESS_IMPORTANT: i32 = 5;

/// The word in the worker's argument list that makes it the helper.
pub const HELPER_COMMAND: &str = "sandbox-exec";

/// Starts programs within the limits and behind the layers of the pool file.
#[derive(Debug, Clone)]
pub struct SandboxLauncher {
    helper: PathBuf,
    limits: pool::Sandbox,
    /// None: no kernel layers.
    confinement: Option<Confinement>,
    variables: Vec<(OsString, OsString)>,
    /// None: every program starts in the usual way.
    warm: Option<Arc<WarmServers>>,
    /// None: the limits of whole runs are watched.
    groups: Option<&'static Delegation>,
    /// How many runs the user of this process may have at once.
    runs: u64,
    health: SandboxHealth,
}

impl SandboxLauncher {
    /// The running worker itself is the helper. `/proc/self/exe` stays right if the file is
    /// replaced. `layers` are those that the self-test has proven.
    pub fn new(pool: &Pool, layers: Option<Layers>) -> Self {
        let helper = PathBuf::from("/proc/self/exe");
        Self {
            groups: cgroup::delegation().ok(),
            runs: pool.programmers.len() as u64,
            ..Self::build(&pool.sandbox, layers, trust::guarded(pool), helper)
        }
    }

    /// The same, with fork servers that keep their files in these places.
    #[must_use]
    pub fn with_warm_starts(self, places: WarmPlaces) -> Self {
        Self {
            warm: Some(Arc::new(WarmServers::new(places))),
            ..self
        }
    }

    /// Another worker executable is the helper, and the layers are all that this kernel has; for
    /// tests.
    pub fn with_helper(limits: &pool::Sandbox, helper: PathBuf) -> Self {
        Self::with_landlock(limits, helper, landlock_abi())
    }

    /// The same for a kernel with this version of Landlock.
    pub fn with_landlock(limits: &pool::Sandbox, helper: PathBuf, landlock: u32) -> Self {
        let level = match limits.level {
            SandboxLevel::Auto | SandboxLevel::Strict => Some(Level::Strict),
            SandboxLevel::Files => Some(Level::Files),
            SandboxLevel::Off => None,
        };
        let layers = level.map(|level| Layers {
            own_network: access::own_network(limits),
            ..Layers::all(level, landlock)
        });
        Self::build(limits, layers, Guarded::default(), helper)
    }

    fn build(
        limits: &pool::Sandbox,
        layers: Option<Layers>,
        guarded: Guarded,
        helper: PathBuf,
    ) -> Self {
        let found = toolchains::find(&ThisMachine);
        let confinement = layers.map(|layers| Confinement::new(limits, layers, guarded, &found));
        Self {
            helper,
            limits: limits.clone(),
            variables: access::variables(limits, confinement.as_ref(), found),
            confinement,
            warm: None,
            groups: None,
            runs: 1,
            health: SandboxHealth::default(),
        }
    }

    pub fn health(&self) -> &SandboxHealth {
        &self.health
    }

    /// The variables of every program. They were found when the worker started, as the files that
    /// programs see.
    pub fn variables(&self) -> &[(OsString, OsString)] {
        &self.variables
    }

    /// Whether a program gets a network of its own, in which the gateway is served separately.
    pub fn gives_own_network(&self) -> bool {
        self.confinement
            .as_ref()
            .is_some_and(Confinement::gives_own_network)
    }

    /// How far programs are kept from the files of other runs; None: not reliably.
    pub(crate) fn separation(&self) -> Option<Separation> {
        self.confinement.as_ref()?.separation()
    }

    /// The kernel layers of this command; None: there are none.
    fn walls(&self, command: &SandboxCommand) -> Option<Walls> {
        Some(self.confinement.as_ref()?.walls(command))
    }

    /// Whether programs can signal their helper.
    fn opens_signals(&self) -> bool {
        let confinement = self.confinement.as_ref();
        confinement.is_none_or(|confinement| confinement.layers().opens_signals())
    }

    /// Whether a process that outlives its helper outlives the run.
    fn leaves_orphans(&self) -> bool {
        let confinement = self.confinement.as_ref();
        confinement.is_none_or(|confinement| confinement.layers().level == Level::Files)
    }

    /// The order to the helper about this command.
    fn order(&self, command: &SandboxCommand, plan: Option<Plan>) -> HelperOrder {
        let limits = RunLimits {
            memory_bytes: self.limits.max_total_memory_bytes,
            processes: self.limits.max_processes,
            disk_bytes: self.limits.max_disk_bytes,
        };
        let mut write = vec![command.cwd.clone()];
        write.extend(command.access.write.iter().cloned());
        HelperOrder {
            write: plan.as_ref().map_or(write, |plan| plan.write.clone()),
            plan,
            limits,
            group: self.groups.map(|groups| groups.next_run(limits)),
        }
    }

    /// How many processes the user may have; 0: unlimited. It is more than `max_processes`, so that a
    /// run is ended with that cause before the kernel refuses one. In `strict` process 1 sets a
    /// limit that counts only the run.
    fn user_processes(&self, order: &HelperOrder) -> u64 {
        const MORE: u64 = 64;
        let strict = order
            .plan
            .as_ref()
            .is_some_and(|plan| plan.layers.level == Level::Strict);
        if strict || order.group.is_some() || self.limits.max_processes == 0 {
            return 0;
        }
        self.limits.max_processes.saturating_mul(self.runs) + MORE
    }

    /// Runs a command until it ends in any way. None of its processes is alive afterwards.
    ///
    /// Dropping the future ends the command as well, but without waiting. To be sure that it is
    /// gone, cancel `watch` and wait.
    ///
    /// # Errors
    /// [`LaunchError`] if the program could not be started at all.
    pub async fn run(
        &self,
        command: SandboxCommand,
        watch: &Watch,
    ) -> Result<Finished, LaunchError> {
        let finished = run::run(self, command, watch).await;
        match &finished {
            Ok(finished) => {
                if let Some(took) = finished.setup {
                    LayersSetUp { took }.emit();
                }
                if let Exit::Limit(Exceeded { limit, .. }) = finished.exit {
                    LimitExceeded { limit }.emit();
                }
            }
            Err(error @ LaunchError::Sandbox(refused)) => {
                SetupFailed { refused }.emit();
                self.health.broke(error.to_string());
            }
            // Other tasks have other paths.
            Err(LaunchError::OwnPath { refused, .. }) => SetupFailed { refused }.emit(),
            Err(_) => {}
        }
        finished
    }
}

/// A command to start. Its environment has these variables and no other; its standard input is
/// empty.
#[derive(Debug, Clone)]
pub struct SandboxCommand {
    /// Program and arguments; no shell is involved. A program without a slash is looked up in the
    /// given `PATH`.
    pub argv: Vec<OsString>,
    pub cwd: PathBuf,
    pub env: Vec<(OsString, OsString)>,
    /// The limit in wall-clock time, from the start.
    pub timeout: Duration,
    /// Stops a command that has printed nothing and whose processes have not computed for this
    /// long, while [`Watch::busy`] returned false.
    pub silence: Option<Duration>,
    /// Its rights besides its directory, which is writable.
    pub access: CommandAccess,
    pub warm: WarmPart,
}

impl SandboxCommand {
    /// Whether a path is at or below one that this command has for itself.
    fn has_for_itself(&self, path: &Path) -> bool {
        let access = &self.access;
        let pinned = access.pinned.iter().map(PinnedDirectory::path);
        let shown = access.read.iter().chain(&access.write).chain([&self.cwd]);
        let mut own = shown.map(PathBuf::as_path).chain(pinned);
        own.any(|own| path.starts_with(own) || path.starts_with(trust::real(own)))
    }
}

/// Receives the bytes that a running command prints.
pub type OutputListener = Arc<dyn Fn(&[u8]) + Send + Sync>;

/// The observers of a running command.
#[derive(Clone)]
pub struct Watch {
    /// Called several times a second: is an LLM call open, or has one been since the last call?
    /// Then silence is fine.
    pub busy: Arc<dyn Fn() -> bool + Send + Sync>,
    pub cancel: CancellationToken,
    /// How to tell that the command has finished, apart from its exit.
    pub last_words: Option<LastWords>,
    /// Receives the command's output while it runs. It must not block.
    pub listen: OutputListener,
}

impl Watch {
    /// Never busy; stopped by `cancel`; output goes nowhere.
    pub fn new(cancel: CancellationToken) -> Self {
        Self {
            busy: Arc::new(|| false),
            cancel,
            last_words: None,
            listen: Arc::new(|_| ()),
        }
    }
}

/// The last event of a command, after which its process may stay alive.
#[derive(Clone)]
pub struct LastWords {
    pub event: LastEvent,
    /// How many LLM calls the command has begun. A call after the event shows that the command goes
    /// on: a file that it printed may look like its last event.
    pub calls: Arc<dyn Fn() -> u64 + Send + Sync>,
    /// How long the command may take to exit by itself.
    pub grace: Duration,
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch")
            .field("cancelled", &self.cancel.is_cancelled())
            .finish_non_exhaustive()
    }
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    Status(i32),
    /// The program died by a signal that the worker did not send.
    Signal(i32),
    /// The wall-clock limit was reached.
    TimedOut,
    /// The command printed nothing, called no LLM and did not compute for too long.
    Silent,
    /// The command had printed its last event and did not exit.
    Done,
    /// The run used more than it may.
    Limit(Exceeded),
    Cancelled,
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => write!(f, "exited with status {status}"),
            Self::Signal(signal) => write!(f, "was killed by signal {signal}"),
            Self::TimedOut => f.write_str("ran out of time"),
            Self::Silent => f.write_str("printed nothing for too long"),
            Self::Done => f.write_str("had finished and did not exit"),
            Self::Limit(exceeded) => write!(f, "{exceeded}"),
            Self::Cancelled => f.write_str("was cancelled"),
        }
    }
}

#[derive(Debug, Clone)]
pub struct Finished {
    pub exit: Exit,
    /// Standard output and standard error, in the order in which they were written.
    pub output: CommandOutput,
    pub duration: Duration,
    /// The number of processes that outlived the program and were killed.
    pub stragglers: usize,
    /// Whether a process of the command may be alive: the helper has not reported the end of all.
    pub may_live: bool,
    pub start: StartKind,
    /// How long the kernel layers took until the program ran; None: there are none.
    pub setup: Option<Duration>,
    /// The refusals of the kernel layers.
    pub denials: Denials,
}

/// Why a command never ran.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    #[error("cannot start {program:?}: {problem}")]
    Program { program: String, problem: String },
    #[error("cannot start the sandbox helper {helper:?}: {source}")]
    Helper {
        helper: PathBuf,
        source: std::io::Error,
    },
    #[error("{0}; {remedy}", remedy = .0.remedy())]
    Sandbox(SetupError),
    /// The sandbox could not be set up because of a path that only this command has.
    #[error(
        "{refused}; only tasks like this one need {}: see that the worker's user can read it, and what is mounted there",
        path.display()
    )]
    OwnPath { refused: SetupError, path: PathBuf },
    #[error("{0}")]
    NoReport(HelperEnd),
}

/// The end of a helper that sent no report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HelperEnd {
    how: String,
    /// A signal ended it, and the program could send that signal.
    by_program: bool,
}

impl HelperEnd {
    /// The error kind of the task. A program that ends its helper does so again in another attempt.
    pub fn kind(&self, otherwise: ErrorKind) -> ErrorKind {
        match self.by_program {
            true => ErrorKind::Policy,
            false => otherwise,
        }
    }
}

impl fmt::Display for HelperEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { how, by_program } = self;
        write!(f, "the sandbox helper ended without a report ({how}); ")?;
        f.write_str(match by_program {
            true => {
                "the program or one of its processes has killed it, or memory ran out (see \
                 `dmesg`). With `sandbox.level: strict` no program can reach its helper"
            }
            false => "see in the log of the kernel (`dmesg`) whether memory ran out",
        })
    }
}
