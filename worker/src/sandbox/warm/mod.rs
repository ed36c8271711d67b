//! Warm starts of Python agents: a **fork server** has imported the agent's modules already, and
//! each run is a child of it. [`agent_sandbox`] says how the child gets into its sandbox.
//!
//! A server is started in the background, when the first run asks for it. It has a sandbox of its
//! own without a network and without files to write, and it knows no token and no task. A run that
//! cannot be warm is started in the usual way, with the same result.

mod installation;
mod server;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use agent_sandbox::{Plan, WarmRole, send_files};
use futures_util::future::BoxFuture;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::access::server_plan;
use super::{SandboxCommand, SandboxLauncher};

pub use installation::python_of;

/// A server is replaced after this number of runs.
const MOST_RUNS: u32 = 500;
/// How long a server that failed is not tried again.
const TRY_AGAIN_AFTER: Duration = Duration::from_secs(30);
/// A machine with less memory available runs without fork servers. One takes about 250 MiB.
const LEAST_MEMORY: u64 = 512 * 1024 * 1024;

/// How a command can be started warm.
#[derive(Debug, Clone)]
pub struct WarmStart {
    /// The interpreter that its program names.
    pub interpreter: PathBuf,
    /// The program, a file in Python.
    pub program: PathBuf,
    /// The variables that all runs have in common. Modules see these when they are imported.
    pub env: Vec<(OsString, OsString)>,
    pub modules: Modules,
}

/// The modules that a server imports.
#[derive(Clone)]
pub enum Modules {
    Named(Vec<String>),
    /// All modules that a made-up run loads.
    Recorded(Recording),
}

/// Makes the command of a made-up run in a directory, which must be given a subdirectory for its
/// scratch files. It may call an LLM at this port of 127.0.0.1.
pub type Recording =
    Arc<dyn Fn(PathBuf, u16) -> BoxFuture<'static, Result<SandboxCommand, String>> + Send + Sync>;

impl fmt::Debug for Modules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Named(names) => f.debug_tuple("Named").field(names).finish(),
            Self::Recorded(_) => f.write_str("Recorded"),
        }
    }
}

/// The part of a command in warm starts.
#[derive(Debug, Clone, Default)]
pub enum WarmPart {
    /// It starts in the usual way.
    #[default]
    None,
    Run(WarmStart),
    /// It is a server, which hears of runs over this socket.
    Server(Arc<OwnedFd>),
}

/// How a program was started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StartKind {
    /// Nobody asked for a warm start, or the level of the sandbox has none.
    Usual,
    Warm,
    /// A warm start was not possible. The text says why.
    Cold(String),
}

/// The plan of a command and its socket.
pub(super) struct Wiring {
    pub(super) plan: Option<Plan>,
    pub(super) socket: Option<Arc<OwnedFd>>,
    pub(super) start: StartKind,
}

/// Decides how a command with this plan starts.
pub(super) fn wire(
    sandbox: &SandboxLauncher,
    command: &SandboxCommand,
    plan: Option<Plan>,
) -> Wiring {
    let mut wiring = Wiring {
        plan,
        socket: None,
        start: StartKind::Usual,
    };
    let (Some(plan), Some(confinement)) = (&mut wiring.plan, &sandbox.confinement) else {
        return wiring;
    };
    match &command.warm {
        WarmPart::None => {}
        WarmPart::Server(socket) => {
            *plan = server_plan(plan.clone());
            wiring.socket = Some(Arc::clone(socket));
        }
        // Only namespaces can be entered from outside, and only those that belong to the server's.
        WarmPart::Run(start) if confinement.gives_own_network() => {
            let Some(servers) = &sandbox.warm else {
                return wiring;
            };
            match servers.take(sandbox, start) {
                Ok(socket) => {
                    plan.warm = Some(WarmRole::Run);
                    wiring.socket = Some(Arc::new(socket));
                    wiring.start = StartKind::Warm;
                }
                Err(why) => wiring.start = StartKind::Cold(why),
            }
        }
        WarmPart::Run(_) => {}
    }
    wiring
}

/// The fork servers of a worker, one for each program.
#[derive(Debug)]
pub(super) struct WarmServers {
    /// For lists of modules, and for runs that record them.
    directory: PathBuf,
    slots: Mutex<BTreeMap<PathBuf, Slot>>,
}

#[derive(Debug)]
struct Slot {
    /// A hash over the files and settings that the server was made from.
    stamp: String,
    state: ServerState,
    ending: CancellationToken,
}

#[derive(Debug)]
enum ServerState {
    Starting,
    Ready { control: OwnedFd, runs: u32 },
    Failed { at: Instant, why: String },
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.ending.cancel();
    }
}

impl WarmServers {
    pub(super) fn new(directory: PathBuf) -> Self {
        Self {
            directory,
            slots: Mutex::default(),
        }
    }

    /// Has a server fork a child. Returns the socket to that child, or the reason for a cold start.
    fn take(
        self: &Arc<Self>,
        sandbox: &SandboxLauncher,
        start: &WarmStart,
    ) -> Result<OwnedFd, String> {
        let stamp = installation::stamp(start)
            .ok_or_else(|| format!("{} is not as usual", start.interpreter.display()))?;
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if available_memory().is_some_and(|bytes| bytes < LEAST_MEMORY) {
            slots.remove(&start.program);
            return Err("the machine has little memory left".to_owned());
        }
        let (again, outcome) = match slots.get_mut(&start.program) {
            Some(slot) if slot.stamp == stamp => match &mut slot.state {
                ServerState::Starting => (false, Err("its fork server is starting".to_owned())),
                ServerState::Failed { at, why } => {
                    (at.elapsed() >= TRY_AGAIN_AFTER, Err(why.clone()))
                }
                ServerState::Ready { runs, .. } if *runs >= MOST_RUNS => {
                    (true, Err("its fork server is being replaced".to_owned()))
                }
                ServerState::Ready { control, runs } => {
                    *runs += 1;
                    match fork(control) {
                        Ok(socket) => (false, Ok(socket)),
                        Err(error) => (true, Err(format!("its fork server is gone: {error}"))),
                    }
                }
            },
            Some(_) => (true, Err("its installation has changed".to_owned())),
            None => (true, Err("its fork server is starting".to_owned())),
        };
        if again {
            let ending = CancellationToken::new();
            let slot = Slot {
                stamp: stamp.clone(),
                state: ServerState::Starting,
                ending: ending.clone(),
            };
            slots.insert(start.program.clone(), slot);
            server::spawn(Arc::downgrade(self), sandbox, start.clone(), stamp, ending);
        }
        outcome
    }

    /// Sets the state of a server, unless another one has taken its place.
    fn set(&self, program: &Path, ending: &CancellationToken, state: ServerState) {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = slots.get_mut(program).filter(|_| !ending.is_cancelled()) {
            slot.state = state;
        }
    }
}

/// Sends one end of a new socket to the server, which gives it to a new child.
fn fork(control: &OwnedFd) -> io::Result<OwnedFd> {
    let (inside, outside) = socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?;
    send_files(control, b"run", &[inside.as_fd()])?;
    Ok(outside)
}

/// The memory that programs can have without swapping, in bytes.
fn available_memory() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kibibytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kibibytes * 1024)
}
