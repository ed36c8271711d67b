//! Warm starts of Python agents: a **fork server** has imported the agent's modules already, and
//! each run is a child of it. [`agent_sandbox`] says how the child gets into its sandbox.
//!
//! A server is started in the background, when the worker starts, and again when the agent's files
//! change. It has a sandbox of its own without a network and without files to write, and it knows
//! no token and no task. A run that cannot be warm is started in the usual way, with the same
//! result. No run waits for a server.

mod installation;
mod server;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use agent_sandbox::{Plan, WarmRole, send_files};
use futures_util::future::BoxFuture;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::access::server_plan;
use super::{SandboxCommand, SandboxLauncher};
use crate::workspace::off_the_runtime;

use installation::LoadedFiles;
pub use installation::{is_python, python_of};

/// A server is replaced after about this number of runs: it serves until the next one is ready.
const MOST_RUNS: u32 = 500;
/// How long no other server is started after one that failed.
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
pub(super) async fn wire(
    sandbox: &SandboxLauncher,
    command: &SandboxCommand,
    plan: Option<Plan>,
) -> Wiring {
    let mut wiring = Wiring {
        plan,
        socket: None,
        start: StartKind::Usual,
    };
    let Some(plan) = &mut wiring.plan else {
        return wiring;
    };
    match &command.warm {
        WarmPart::None => {}
        WarmPart::Server(socket) => {
            *plan = server_plan(plan.clone());
            wiring.socket = Some(Arc::clone(socket));
        }
        WarmPart::Run(start) => match servers_of(sandbox) {
            None => {}
            Some(servers) => match servers.take(sandbox, start).await {
                Ok(socket) => {
                    plan.warm = Some(WarmRole::Run);
                    wiring.socket = Some(Arc::new(socket));
                    wiring.start = StartKind::Warm;
                }
                Err(why) => wiring.start = StartKind::Cold(why),
            },
        },
    }
    wiring
}

/// The servers of a sandbox that has warm starts. Only namespaces can be entered from outside, and
/// only those that belong to the server's.
fn servers_of(sandbox: &SandboxLauncher) -> Option<&Arc<WarmServers>> {
    let confinement = sandbox.confinement.as_ref()?;
    let servers = sandbox.warm.as_ref()?;
    confinement.gives_own_network().then_some(servers)
}

impl SandboxLauncher {
    /// Starts the fork server of a program, so that its first run can be warm. It does not wait
    /// until the server is ready.
    pub async fn warm_up(&self, start: &WarmStart) {
        if let Some(servers) = servers_of(self)
            && let Ok(seen) = servers.look(start).await
        {
            let _ = servers.choose(self, start, seen, |_| Ok(()));
        }
    }

    /// Whether a fork server of this program is ready.
    pub fn is_warm(&self, program: &Path) -> bool {
        servers_of(self).is_some_and(|servers| {
            let slots = servers.slots();
            slots
                .get(program)
                .is_some_and(|slot| slot.serving.is_some())
        })
    }
}

/// The directories of fork servers.
#[derive(Debug, Clone)]
pub struct WarmPlaces {
    /// Lists of modules, which stay.
    pub lists: PathBuf,
    /// Recorded runs. The directory is this process's own, and whoever made it removes it.
    pub records: PathBuf,
}

/// The fork servers of a worker, one for each program.
#[derive(Debug)]
pub(super) struct WarmServers {
    places: WarmPlaces,
    slots: Mutex<BTreeMap<PathBuf, ServerSlot>>,
}

/// The servers of one program.
#[derive(Debug, Default)]
struct ServerSlot {
    serving: Option<Serving>,
    next: NextServer,
}

/// A server that is ready.
#[derive(Debug)]
struct Serving {
    stamp: String,
    control: OwnedFd,
    files: Arc<LoadedFiles>,
    runs: u32,
    _life: Life,
}

/// The server that takes the place of the one that is serving.
#[derive(Debug, Default)]
enum NextServer {
    #[default]
    None,
    Starting {
        stamp: String,
        life: Life,
    },
    Failed {
        stamp: String,
        at: Instant,
        why: String,
    },
}

/// Ends a server when it is dropped.
#[derive(Debug)]
struct Life(CancellationToken);

impl Drop for Life {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

/// The installation of a program, as it is now.
struct InstallationState {
    /// A hash over the files and settings that a server is made from.
    stamp: String,
    /// A file that the serving process has loaded, and that has changed since.
    changed: Option<PathBuf>,
    has_memory: bool,
}

impl WarmServers {
    pub(super) fn new(places: WarmPlaces) -> Self {
        Self {
            places,
            slots: Mutex::default(),
        }
    }

    fn slots(&self) -> MutexGuard<'_, BTreeMap<PathBuf, ServerSlot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has a server fork a child. Returns the socket to that child, or the reason for a cold start.
    async fn take(
        self: &Arc<Self>,
        sandbox: &SandboxLauncher,
        start: &WarmStart,
    ) -> Result<OwnedFd, String> {
        let seen = self.look(start).await?;
        self.choose(sandbox, start, seen, |serving| {
            serving.runs += 1;
            fork(&serving.control).map_err(|error| format!("its fork server is gone: {error}"))
        })
    }

    async fn look(&self, start: &WarmStart) -> Result<InstallationState, String> {
        let serving = |slot: &ServerSlot| Some(Arc::clone(&slot.serving.as_ref()?.files));
        let files = self.slots().get(&start.program).and_then(serving);
        let start = start.clone();
        let look = move || {
            let stamp = installation::stamp(&start).ok_or_else(|| {
                io::Error::other(format!("{} is not as usual", start.interpreter.display()))
            })?;
            let changed = files.as_ref().and_then(|files| files.changed());
            Ok(InstallationState {
                stamp,
                changed: changed.map(Path::to_owned),
                has_memory: available_memory().is_none_or(|bytes| bytes >= LEAST_MEMORY),
            })
        };
        off_the_runtime(look)
            .await
            .map_err(|error| error.to_string())
    }

    /// Uses the server of this program, or returns the reason why no server can be used. Starts a
    /// new server for later runs if the current one is missing, outdated or used up.
    fn choose<T>(
        self: &Arc<Self>,
        sandbox: &SandboxLauncher,
        start: &WarmStart,
        seen: InstallationState,
        use_it: impl FnOnce(&mut Serving) -> Result<T, String>,
    ) -> Result<T, String> {
        let mut slots = self.slots();
        if !seen.has_memory {
            slots.remove(&start.program);
            return Err("the machine has little memory left".to_owned());
        }
        let slot = slots.entry(start.program.clone()).or_default();
        let used = slot.use_server(&seen, use_it);
        if slot.needs_next(&seen.stamp) {
            let life = CancellationToken::new();
            server::spawn(
                Arc::downgrade(self),
                sandbox,
                start.clone(),
                seen.stamp.clone(),
                life.clone(),
            );
            slot.next = NextServer::Starting {
                stamp: seen.stamp,
                life: Life(life),
            };
        }
        used
    }

    /// A server is ready. One that has been given up in the meantime is not used.
    fn ready(
        &self,
        program: &Path,
        life: &CancellationToken,
        control: OwnedFd,
        files: LoadedFiles,
    ) {
        let mut slots = self.slots();
        let Some(slot) = slots.get_mut(program).filter(|_| !life.is_cancelled()) else {
            return;
        };
        if let NextServer::Starting { stamp, life } = std::mem::take(&mut slot.next) {
            slot.serving = Some(Serving {
                stamp,
                control,
                files: Arc::new(files),
                runs: 0,
                _life: life,
            });
        }
    }

    /// A server has ended by itself.
    fn ended(&self, program: &Path, life: &CancellationToken, stamp: &str, end: ServerEnd) {
        let mut slots = self.slots();
        let Some(slot) = slots.get_mut(program).filter(|_| !life.is_cancelled()) else {
            return;
        };
        let served = match end.was_ready {
            true => slot.serving.take().is_some_and(|serving| serving.runs > 0),
            false => false,
        };
        // A server that has served is replaced at once. After another one, the next may fail, too.
        if !served {
            slot.next = NextServer::Failed {
                stamp: stamp.to_owned(),
                at: Instant::now(),
                why: end.why,
            };
        }
    }
}

/// Why a server has ended, or did not start.
struct ServerEnd {
    was_ready: bool,
    why: String,
}

impl ServerSlot {
    fn use_server<T>(
        &mut self,
        seen: &InstallationState,
        use_it: impl FnOnce(&mut Serving) -> Result<T, String>,
    ) -> Result<T, String> {
        let Some(serving) = &mut self.serving else {
            return Err(match &self.next {
                NextServer::Failed { why, .. } => why.clone(),
                NextServer::None | NextServer::Starting { .. } => {
                    "its fork server is starting".to_owned()
                }
            });
        };
        let used = match &seen.changed {
            _ if serving.stamp != seen.stamp => Err("its installation has changed".to_owned()),
            Some(path) => Err(format!("its installation has changed: {}", path.display())),
            None => use_it(serving),
        };
        if used.is_err() {
            self.serving = None;
        }
        used
    }

    fn needs_next(&self, stamp: &str) -> bool {
        match &self.next {
            NextServer::None => {
                let serving = self.serving.as_ref();
                serving.is_none_or(|serving| serving.runs >= MOST_RUNS)
            }
            NextServer::Starting { stamp: its, .. } => its != stamp,
            NextServer::Failed { stamp: its, at, .. } => {
                its != stamp || at.elapsed() >= TRY_AGAIN_AFTER
            }
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
