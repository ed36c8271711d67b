//! The files and the network of a program: the pool file, the toolchains of the machine and the needs of a
//! command, made into a plan for the kernel layers.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use agent_sandbox::installations::{ProgramLookup, ShownPaths, TrustMap};
use agent_sandbox::probe::{LevelUnavailable, Proven, prove};
use agent_sandbox::toolchains::{FoundToolchains, ThisMachine};
use agent_sandbox::{Layers, Level, Plan, RunLimits, WarmRole};
use pool_core::pool::{self, Pool, SandboxLevel, SandboxNetwork};

use super::SandboxCommand;
use super::hints::Walls;
use super::pinned::PinnedDirectory;
use super::trust::{Guarded, all_real, can_be_hidden, guarded, real, refuse_too_much};

/// Package managers that retry for a minute where there is no network.
const FAIL_FAST: [(&str, &str); 3] = [
    ("CARGO_NET_OFFLINE", "true"),
    ("PIP_RETRIES", "0"),
    ("npm_config_fetch_retries", "0"),
];

/// The paths and the gateway that a command may use besides its directory.
#[derive(Debug, Clone, Default)]
pub struct CommandAccess {
    pub read: Vec<PathBuf>,
    pub write: Vec<PathBuf>,
    /// Read like those in `read`. Others than the operator can put another directory in their place.
    pub pinned: Vec<PinnedDirectory>,
    /// Programs that the pool file names. They are shown with their installations. The program of a
    /// check is named by a submitter, and shows nothing.
    pub programs: Vec<PathBuf>,
    /// None: it needs no LLM.
    pub gateway: Option<GatewayServer>,
}

/// The LLM gateway, as a program reaches it.
#[derive(Clone)]
pub struct GatewayServer {
    pub port: u16,
    /// Serves a listener that was made in the program's own network.
    pub serve: Arc<dyn Fn(TcpListener) + Send + Sync>,
}

impl fmt::Debug for GatewayServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GatewayServer")
            .field("port", &self.port)
            .finish_non_exhaustive()
    }
}

/// How far programs are kept from the files of other runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Separation {
    /// They cannot reach them.
    Whole,
    /// They can change modes and attributes of files whose path they guess.
    ExceptAttributes,
}

/// The kernel layers of a worker, with what all its programs may see.
#[derive(Debug, Clone)]
pub(super) struct Confinement {
    layers: Layers,
    limits: RunLimits,
    read: Vec<PathBuf>,
    /// The part of `read` that the pool file names.
    configured_read: Vec<PathBuf>,
    write: Vec<PathBuf>,
    hide: Vec<PathBuf>,
    /// The home directory of the worker's user, without links.
    home: Option<PathBuf>,
    /// Without what a single run may write.
    trust: TrustMap,
}

impl Confinement {
    /// `layers` are those that the self-test has proven.
    pub(super) fn new(
        limits: &pool::Sandbox,
        layers: Layers,
        guarded: Guarded,
        found: &FoundToolchains,
    ) -> Self {
        let Guarded {
            places,
            workspace,
            repositories,
        } = guarded;
        let guarded: Vec<PathBuf> = places.into_iter().chain(found.guarded.clone()).collect();
        let mut read = found.read.clone();
        read.extend(limits.read.iter().cloned());
        Self {
            layers,
            limits: RunLimits {
                memory_bytes: limits.max_total_memory_bytes,
                processes: limits.max_processes,
                disk_bytes: limits.max_disk_bytes,
            },
            read,
            configured_read: limits.read.clone(),
            write: limits.write.clone(),
            trust: TrustMap {
                guarded: all_real(&guarded),
                written: all_real(workspace.iter().chain(&limits.write)),
                repositories: all_real(&repositories),
            },
            home: std::env::var_os("HOME").map(|home| real(Path::new(&home))),
            hide: guarded
                .into_iter()
                .filter(|path| can_be_hidden(path))
                .collect(),
        }
    }

    pub(super) fn layers(&self) -> Layers {
        self.layers
    }

    pub(super) fn gives_own_network(&self) -> bool {
        self.layers.level == Level::Strict && self.layers.own_network
    }

    /// How far programs are kept from the files of other runs; None: not reliably. A program that
    /// can pass an open file to a process outside of its run could change that file later.
    pub(super) fn separation(&self) -> Option<Separation> {
        if !self.layers.seccomp || !self.layers.own_network {
            return None;
        }
        match self.layers.level {
            Level::Strict => {
                let is_private = self.write.is_empty()
                    && self.configured_read.iter().all(|path| is_private(path));
                is_private.then_some(Separation::Whole)
            }
            Level::Files => (self.layers.landlock > 0).then_some(Separation::ExceptAttributes),
        }
    }

    /// The layers of a command, with what they must keep.
    pub(super) fn walls(&self, command: &SandboxCommand) -> Walls {
        Walls {
            plan: self.plan(command),
            guarded: self.trust.guarded.clone(),
            home: self.home.clone(),
        }
    }

    fn plan(&self, command: &SandboxCommand) -> Plan {
        let access = &command.access;
        let shown = self.programs(command);
        let mut read = self.read.clone();
        read.extend(access.read.iter().cloned());
        read.extend(shown.read);
        let mut write = self.write.clone();
        write.push(command.cwd.clone());
        write.extend(access.write.iter().cloned());
        let pinned = access.pinned.iter().map(PinnedDirectory::pin).collect();
        let mut hide = self.hide.clone();
        hide.extend(shown.hide);
        Plan {
            layers: self.layers,
            gateway_port: access.gateway.as_ref().map(|gateway| gateway.port),
            read,
            write,
            pinned,
            hide,
            directory: command.cwd.clone(),
            limits: self.limits,
            warm: None,
        }
    }

    /// The paths that the programs of a command need. Those in the directories of `PATH` and those that the
    /// pool file names count, and others only if they are shown already.
    fn programs(&self, command: &SandboxCommand) -> ShownPaths {
        let mut trust = self.trust.clone();
        let own = command.access.write.iter().chain([&command.cwd]);
        trust.written.extend(own.map(|path| real(path)));
        // The pool file is the operator's, so its programs may lie among the repositories.
        let operators = TrustMap {
            repositories: Vec::new(),
            ..trust.clone()
        };
        let mut named = ProgramLookup {
            machine: &ThisMachine,
            trust: &operators,
            shown: ShownPaths::default(),
        };
        for program in &command.access.programs {
            named.show_program(program);
        }
        let mut lookup = ProgramLookup {
            trust: &trust,
            ..named
        };
        let path = command.env.iter().find(|(name, _)| name == "PATH");
        let path = path.map(|(_, value)| value.as_os_str());
        let directories: Vec<PathBuf> = std::env::split_paths(path.unwrap_or_default())
            .filter(|directory| directory.is_absolute())
            .collect();
        for directory in &directories {
            lookup.show_directory(directory);
        }
        let program = command.argv.first();
        let program = program.and_then(|word| look_up(word, &directories));
        if let Some(program) = program.filter(|file| lookup.is_in_sight(file, &self.read)) {
            lookup.show_program(&program);
        }
        lookup.shown
    }
}

/// The plan of a fork server, made of the plan of its command. Its children apply Landlock and
/// seccomp themselves, and the rules would stand in their way.
pub(super) fn server_plan(plan: Plan) -> Plan {
    Plan {
        layers: Layers {
            landlock: 0,
            seccomp: false,
            ..plan.layers
        },
        write: Vec::new(),
        limits: RunLimits::default(),
        warm: Some(WarmRole::Server),
        ..plan
    }
}

/// Whether only root and the worker's user can make files, and so sockets, in a place.
fn is_private(path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    const OTHERS_WRITE: u32 = 0o022;
    let own = rustix::process::geteuid().as_raw();
    path.metadata().is_ok_and(|found| {
        [0, own].contains(&found.uid()) && (found.is_file() || found.mode() & OTHERS_WRITE == 0)
    })
}

/// The file of a program. A relative path starts in the worktree, where an agent decides.
fn look_up(program: &OsStr, directories: &[PathBuf]) -> Option<PathBuf> {
    let program = Path::new(program);
    if program.components().count() > 1 {
        return Some(program.to_owned()).filter(|program| program.is_absolute());
    }
    let files = directories.iter().map(|directory| directory.join(program));
    files.into_iter().find(|file| file.is_file())
}

pub(super) fn own_network(limits: &pool::Sandbox) -> bool {
    match limits.network {
        SandboxNetwork::Gateway => true,
        SandboxNetwork::Host => false,
    }
}

/// The variables of every program: those by which it finds the toolchains of the worker's user,
/// those that make package managers fail at once where there is no network, and those of the pool
/// file.
pub(super) fn variables(
    limits: &pool::Sandbox,
    confinement: Option<&Confinement>,
    found: FoundToolchains,
) -> Vec<(OsString, OsString)> {
    let mut variables = found.variables;
    if confinement.is_some_and(|confinement| confinement.layers.own_network) {
        variables.extend(FAIL_FAST.map(|(name, value)| (name.into(), value.into())));
    }
    let own = limits.env.iter();
    variables.extend(own.map(|(name, value)| (name.into(), value.into())));
    variables
}

/// Why the worker does not start.
#[derive(Debug, thiserror::Error)]
pub enum SettleError {
    #[error("{0}")]
    Unavailable(LevelUnavailable),
    #[error(
        "neither level of the sandbox works on this machine:\n- {strict}\n- {files}\nIf the worker runs in a virtual machine of \
         its own, write `sandbox: {{level: \"off\"}}` in the pool file"
    )]
    Nothing {
        strict: LevelUnavailable,
        files: LevelUnavailable,
    },
    #[error(
        "sandbox.{key}: {path:?} would show {shown:?}, which holds secrets or other tasks' files; name a part of it in \
         `sandbox.{key}`"
    )]
    ShowsTooMuch {
        key: &'static str,
        path: PathBuf,
        shown: PathBuf,
    },
}

/// The level that a worker uses, and why not a stronger one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettledLevel {
    pub level: SandboxLevel,
    /// None: the level is `off`.
    pub proven: Option<Proven>,
    pub not_stronger: Option<LevelUnavailable>,
}

/// Tries the level of the pool file on this machine, with a worktree in its workspace directory.
/// `auto` takes the strongest level that works.
///
/// # Errors
/// If the machine cannot give the level, or the pool file shows too much.
pub fn settle(pool: &Pool) -> Result<SettledLevel, SettleError> {
    let limits = &pool.sandbox;
    refuse_too_much(limits, &guarded(pool).places)?;
    let prove = |level| prove(level, own_network(limits), &pool.workspace.dir);
    choose(limits.level, |level| patiently(|| prove(level), pause))
}

/// Chooses a level. A level that only failed this time is no reason to take a weaker one.
fn choose(
    wanted: SandboxLevel,
    prove: impl Fn(Level) -> Result<Proven, LevelUnavailable>,
) -> Result<SettledLevel, SettleError> {
    let proven = |level| prove(level).map_err(SettleError::Unavailable);
    let (level, proven, not_stronger) = match wanted {
        SandboxLevel::Off => (SandboxLevel::Off, None, None),
        SandboxLevel::Strict => (SandboxLevel::Strict, Some(proven(Level::Strict)?), None),
        SandboxLevel::Files => (SandboxLevel::Files, Some(proven(Level::Files)?), None),
        SandboxLevel::Auto => match prove(Level::Strict) {
            Ok(proven) => (SandboxLevel::Strict, Some(proven), None),
            Err(strict) if strict.is_transient => return Err(SettleError::Unavailable(strict)),
            Err(strict) => match prove(Level::Files) {
                Ok(proven) => (SandboxLevel::Files, Some(proven), Some(strict)),
                Err(files) if files.is_transient => return Err(SettleError::Unavailable(files)),
                Err(files) => return Err(SettleError::Nothing { strict, files }),
            },
        },
    };
    Ok(SettledLevel {
        level,
        proven,
        not_stronger,
    })
}

/// Tries again after a failure that may pass. `pause` gets the number of tries so far.
fn patiently(
    prove: impl Fn() -> Result<Proven, LevelUnavailable>,
    pause: impl Fn(u32),
) -> Result<Proven, LevelUnavailable> {
    const TRIES: u32 = 4;
    let mut tries = 1;
    loop {
        match prove() {
            Err(failure) if failure.is_transient && tries < TRIES => pause(tries),
            settled => return settled,
        }
        tries += 1;
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the worker has only just started, and there is no runtime"
)]
fn pause(tries: u32) {
    std::thread::sleep(Duration::from_millis(250) * tries);
}

#[cfg(test)]
#[path = "access_tests.rs"]
mod tests;
