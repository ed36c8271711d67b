//! The one place that starts anything an agent or an acceptance check runs.
//!
//! Both are code that nobody has read, so nothing of theirs runs as a direct child of the worker. Between them stands
//! a helper, `worker sandbox-exec` ([`exec`]): a small process of its own that limits itself, starts the program,
//! and answers for everything that comes out of it. Helper and worker are joined by one socket, the *line*:
//!
//! - the worker closes its end (time-out, silence, its last event, cancellation, or because the worker died, however it died): the
//!   helper ends every descendant of the program, SIGTERM first, SIGKILL after [`GRACE`];
//! - the program ends: the helper kills what it left behind, says how it ended, and exits.
//!
//! The helper is the *subreaper* of its descendants, so a process that changed its group or its session, or lost its
//! parent, is still found. A parent-death signal would not do: it fires when the *thread* that forked ends, it hits
//! the direct child only, and a process that was started in the meantime escapes it.
//!
//! Here belongs the kernel sandbox, too: the helper is where it will be applied.

pub mod exec;
mod last_event;
mod life;
mod output;
mod processes;
mod report;
mod run;

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use pool_core::pool::{self, LastEvent};
use tokio_util::sync::CancellationToken;

pub use output::Output;

/// How long after SIGTERM everything that is left gets SIGKILL.
pub const GRACE: Duration = Duration::from_secs(5);

/// What is added to the niceness of everything that works on a task: with busy cores, the worker itself, which hands
/// tasks on and talks to the broker, goes first.
pub const LESS_IMPORTANT: i32 = 5;

/// The word in the worker's argument list that makes it the helper.
pub const HELPER_COMMAND: &str = "sandbox-exec";

/// Starts programs within the limits of the pool file.
#[derive(Debug, Clone)]
pub struct Sandbox {
    helper: PathBuf,
    limits: pool::Sandbox,
}

impl Sandbox {
    /// With the running worker itself as the helper. `/proc/self/exe` stays right when the file was replaced.
    pub fn new(limits: &pool::Sandbox) -> Self {
        Self::with_helper(limits, PathBuf::from("/proc/self/exe"))
    }

    /// With another worker executable as the helper, for tests.
    pub fn with_helper(limits: &pool::Sandbox, helper: PathBuf) -> Self {
        Self {
            helper,
            limits: limits.clone(),
        }
    }

    /// Runs a command to its end, whatever that is; nothing that it started is alive afterwards.
    ///
    /// Dropping the future ends the command as well, but then nobody waits for it: to be sure that it is gone, cancel
    /// `watch` and wait.
    ///
    /// # Errors
    /// [`LaunchError`] when the program could not be started at all.
    pub async fn run(&self, command: Command, watch: &Watch) -> Result<Finished, LaunchError> {
        run::run(self, command, watch).await
    }
}

/// What to start. The environment holds these variables and no other; standard input is empty.
#[derive(Debug, Clone)]
pub struct Command {
    /// Program and arguments; never through a shell. A program without a slash is looked up in the given `PATH`.
    pub argv: Vec<OsString>,
    pub cwd: PathBuf,
    pub env: Vec<(OsString, OsString)>,
    /// Wall clock, from the start.
    pub timeout: Duration,
    /// Ends a command that has printed nothing and whose processes have not computed for so long while [`Watch::busy`] said
    /// no.
    pub silence: Option<Duration>,
}

/// Hears the bytes that a running command prints.
pub type Listener = Arc<dyn Fn(&[u8]) + Send + Sync>;

/// What can be heard of a command while it runs.
#[derive(Clone)]
pub struct Watch {
    /// Asked several times a second: is an LLM call open (or has one been since the last time)? Then silence is fine.
    pub busy: Arc<dyn Fn() -> bool + Send + Sync>,
    pub cancel: CancellationToken,
    /// By what it is known that the command has finished, besides its exit.
    pub last_words: Option<LastWords>,
    /// Hears what the command prints, while it runs; it must not wait for anything.
    pub listen: Listener,
}

impl Watch {
    /// Never busy; ended by `cancel`; nobody hears it.
    pub fn new(cancel: CancellationToken) -> Self {
        Self {
            busy: Arc::new(|| false),
            cancel,
            last_words: None,
            listen: Arc::new(|_| ()),
        }
    }
}

/// A command that says that it has finished, and whose process may go on all the same.
#[derive(Clone)]
pub struct LastWords {
    pub event: LastEvent,
    /// How many LLM calls it has begun. A call that begins after the event shows that the command goes on: a file that it
    /// printed may look like its last event.
    pub calls: Arc<dyn Fn() -> u64 + Send + Sync>,
    /// How long it may take to exit by itself.
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
    /// By a signal that the worker did not send.
    Signal(i32),
    /// The wall clock ran out.
    TimedOut,
    /// It printed nothing, called no LLM and did not compute for too long.
    Silent,
    /// It had printed its last event and did not exit.
    Done,
    Cancelled,
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => write!(f, "exited with status {status}"),
            Self::Signal(signal) => write!(f, "was ended by signal {signal}"),
            Self::TimedOut => f.write_str("ran out of time"),
            Self::Silent => f.write_str("printed nothing for too long"),
            Self::Done => f.write_str("had finished and did not exit"),
            Self::Cancelled => f.write_str("was cancelled"),
        }
    }
}

#[derive(Debug, Clone)]
pub struct Finished {
    pub exit: Exit,
    /// Standard output and standard error, in the order in which they were written.
    pub output: Output,
    pub duration: Duration,
    /// Processes that were still alive when the program had ended; they were killed.
    pub stragglers: usize,
}

/// A command that never ran.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    #[error("cannot start {program:?}: {problem}")]
    Program { program: String, problem: String },
    #[error("cannot start the sandbox helper {helper:?}: {source}")]
    Helper {
        helper: PathBuf,
        source: std::io::Error,
    },
    #[error("the sandbox helper ended without a report ({0})")]
    NoReport(String),
}
