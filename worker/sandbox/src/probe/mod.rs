//! The self-test: runs a program behind the layers, and sees what it can do.
//!
//! The self-test of a machine does not read its settings. A container, a security module or a service
//! manager may refuse a layer for reasons that no setting shows. So a small program tries what must
//! work (write to its worktree, reach its gateway) and what must not.

mod cause;
mod directory;
mod inside;
mod stages;

use std::ffi::OsString;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::time::Duration;

use crate::launch::launch;
use crate::plan::{Layers, Level, Plan, RunLimits};
use crate::rules::landlock_abi;
use crate::word;

use cause::{KernelSettings, ProbeFailure, without_landlock};
use directory::ProbeDirectory;
pub(crate) use inside::inside;
use inside::{ProbeTask, ProbeVerdict};
use stages::{Running, answer};

/// The longest wait for a step of the self-test.
const PATIENCE: Duration = Duration::from_secs(10);
const ANSWER: &[u8] = b"ok";
const VERDICT: &str = "verdict";

/// A level that works on this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Proven {
    pub layers: Layers,
    /// False: `/proc` is the container's, so names of its processes can be seen.
    pub own_proc: bool,
}

/// Why a level does not work on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LevelUnavailable {
    pub level: Level,
    pub cause: String,
    /// The remedy: a command, or a line of a file.
    pub remedy: String,
    /// False: this machine cannot give the level. True: it did not this time, for example because
    /// it had too many processes.
    pub is_transient: bool,
}

impl std::fmt::Display for LevelUnavailable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            level,
            cause,
            remedy,
            is_transient: _,
        } = self;
        write!(
            f,
            "sandbox level {} is not available: {cause}; {remedy}",
            level.name()
        )
    }
}

/// Tries all layers of a level, with a worktree in the workspace directory, as a run has it.
/// `own_network: false` leaves the machine's network open.
///
/// # Errors
/// [`LevelUnavailable`] with the cause and the remedy.
pub fn prove(
    level: Level,
    own_network: bool,
    workspace: &Path,
) -> Result<Proven, LevelUnavailable> {
    let layers = Layers {
        own_network,
        ..Layers::all(level, landlock_abi())
    };
    if level == Level::Files && layers.landlock == 0 {
        return Err(without_landlock(landlock_abi()));
    }
    let place = ProbeDirectory::with_room(workspace).map_err(|error| LevelUnavailable {
        level,
        cause: format!(
            "the self-test cannot write to the workspace directory {}: {error}",
            workspace.display()
        ),
        remedy: "name a directory of this user in `workspace.dir`, or run this command as the \
                 worker's user"
            .to_owned(),
        is_transient: true,
    })?;
    try_layers(layers, workspace, &place)
        .map_err(|failure| failure.explain(level, &KernelSettings::look()))
}

/// Tries these layers, which may be fewer than those of the level.
fn try_layers(
    layers: Layers,
    workspace: &Path,
    place: &ProbeDirectory,
) -> Result<Proven, ProbeFailure> {
    let executable = std::env::current_exe()?;
    let (forbidden, gateway) = (listen()?, listen()?);
    let port = gateway.local_addr()?.port();
    let plan = Plan {
        layers,
        gateway_port: Some(port),
        read: vec![executable.clone()],
        write: vec![place.tree()],
        pinned: Vec::new(),
        hide: vec![workspace.to_owned()],
        directory: place.tree(),
        limits: RunLimits::default(),
        warm: None,
    };
    let argv: Vec<OsString> = vec![
        executable.into(),
        word::PROBE.into(),
        serde_json::to_string(&ProbeTask {
            secret: place.secret(),
            gateway: port,
            forbidden: forbidden.local_addr()?.port(),
            layers,
        })
        .map_err(io::Error::from)?
        .into(),
    ];
    let mut running = Running::new(launch(&plan, &argv, Vec::new(), None)?);
    let inside = running.until_started()?;
    answer(inside.as_ref().unwrap_or(&gateway))?;
    running.until_ended()?;
    let verdict = fs::read(place.tree().join(VERDICT))?;
    match serde_json::from_slice(&verdict).map_err(io::Error::from)? {
        ProbeVerdict::Holds { own_proc } => Ok(Proven { layers, own_proc }),
        ProbeVerdict::Open(problem) => Err(ProbeFailure::Open(problem)),
        ProbeVerdict::Hindered(hindrance) => Err(hindrance.into()),
    }
}

fn listen() -> io::Result<TcpListener> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
}
