//! The files and the network of a program: the pool file, the toolchains of the machine and the needs of a
//! command, made into a plan for the kernel layers.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use agent_sandbox::probe::{LevelUnavailable, Proven, prove};
use agent_sandbox::toolchains::{self, FoundToolchains, ThisMachine};
use agent_sandbox::{Layers, Level, Plan, RunLimits, landlock_abi};
use pool_core::pool::{self, Pool, SandboxLevel, SandboxNetwork};

use super::SandboxCommand;
use super::hints::Walls;

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

/// The kernel layers of a worker, with what all its programs may see.
#[derive(Debug, Clone)]
pub(super) struct Confinement {
    layers: Layers,
    limits: RunLimits,
    read: Vec<PathBuf>,
    write: Vec<PathBuf>,
    hide: Vec<PathBuf>,
    /// Directories that are never shown as a part of an installation.
    guarded: Vec<PathBuf>,
}

impl Confinement {
    /// None: the level is `off`.
    pub(super) fn new(
        limits: &pool::Sandbox,
        guarded: &[PathBuf],
        found: &FoundToolchains,
    ) -> Option<Self> {
        let level = match limits.level {
            // A level that nobody has settled must not be weaker than the one that is meant.
            SandboxLevel::Auto | SandboxLevel::Strict => Level::Strict,
            SandboxLevel::Files => Level::Files,
            SandboxLevel::Off => return None,
        };
        let layers = Layers {
            own_network: own_network(limits),
            ..Layers::all(level, landlock_abi())
        };
        let mut guarded = guarded.to_vec();
        guarded.extend(found.guarded.iter().cloned());
        let mut read = found.read.clone();
        read.extend(limits.read.iter().cloned());
        Some(Self {
            layers,
            limits: RunLimits {
                memory_bytes: limits.max_total_memory_bytes,
                processes: limits.max_processes,
                disk_bytes: limits.max_disk_bytes,
            },
            read,
            write: limits.write.clone(),
            hide: guarded
                .iter()
                .filter(|path| can_be_hidden(path))
                .cloned()
                .collect(),
            guarded,
        })
    }

    /// The layers of a command, with what they must keep.
    pub(super) fn walls(&self, command: &SandboxCommand) -> Walls {
        Walls {
            plan: self.plan(command),
            guarded: self.guarded.clone(),
            home: std::env::var_os("HOME").map(PathBuf::from),
        }
    }

    fn plan(&self, command: &SandboxCommand) -> Plan {
        let access = &command.access;
        let path = command.env.iter().find(|(name, _)| name == "PATH");
        let directories: Vec<PathBuf> = path
            .map(|(_, value)| std::env::split_paths(value).collect())
            .unwrap_or_default();
        let mut read = self.read.clone();
        read.extend(access.read.iter().cloned());
        if let Some(program) = command
            .argv
            .first()
            .and_then(|word| look_up(word, &directories))
        {
            read.extend(toolchains::of_program(
                &ThisMachine,
                &program,
                &self.guarded,
            ));
        }
        let installations = directories
            .iter()
            .map(|directory| toolchains::of_directory(directory, &self.guarded));
        read.extend(installations);
        let mut write = self.write.clone();
        write.push(command.cwd.clone());
        write.extend(access.write.iter().cloned());
        Plan {
            layers: self.layers,
            gateway_port: access.gateway.as_ref().map(|gateway| gateway.port),
            read,
            write,
            hide: self.hide.clone(),
            directory: command.cwd.clone(),
            limits: self.limits,
        }
    }
}

fn look_up(program: &OsStr, directories: &[PathBuf]) -> Option<PathBuf> {
    let program = Path::new(program);
    if program.is_absolute() {
        return Some(program.to_owned());
    }
    let files = directories.iter().map(|directory| directory.join(program));
    files.into_iter().find(|file| file.is_file())
}

fn own_network(limits: &pool::Sandbox) -> bool {
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

/// Files and directories that programs must not see: the home directory, the workspace, the
/// repositories, the pool file, and the files with keys that the environment names.
pub(super) fn guarded(pool: &Pool) -> Vec<PathBuf> {
    let mut guarded: Vec<PathBuf> = std::env::vars_os()
        .filter(|(name, _)| name == "HOME" || name.as_encoded_bytes().ends_with(b"_FILE"))
        .map(|(_, value)| PathBuf::from(value))
        .collect();
    guarded.push(pool.workspace.dir.clone());
    guarded.extend(pool.workspace.roots.iter().cloned());
    // Keys and certificates lie beside the pool file.
    let directory = pool.file.parent().filter(|path| can_be_hidden(path));
    guarded.push(directory.unwrap_or(&pool.file).to_owned());
    guarded.retain(|path| path.is_absolute());
    guarded
}

/// False for directories that programs need: some users have one of them as their home.
fn can_be_hidden(path: &Path) -> bool {
    const NEEDED: [&str; 7] = [
        "/usr/bin",
        "/usr/sbin",
        "/usr/lib",
        "/bin",
        "/sbin",
        "/lib",
        "/etc",
    ];
    let depth = path.components().count();
    depth > 2
        && !NEEDED
            .iter()
            .any(|needed| Path::new(needed).starts_with(path))
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
        "sandbox.{key}: {path:?} would show {shown:?}, which holds secrets or other tasks' files; name a part of it"
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

/// Tries the level of the pool file on this machine. `auto` takes the strongest one that works.
///
/// # Errors
/// If the machine cannot give the level, or the pool file shows too much.
pub fn settle(pool: &Pool) -> Result<SettledLevel, SettleError> {
    let limits = &pool.sandbox;
    refuse_too_much(limits, &guarded(pool))?;
    let prove = |level| prove(level, own_network(limits), &pool.workspace.dir);
    let (level, proven, not_stronger) = match limits.level {
        SandboxLevel::Off => (SandboxLevel::Off, None, None),
        SandboxLevel::Strict => {
            let proven = prove(Level::Strict).map_err(SettleError::Unavailable)?;
            (SandboxLevel::Strict, Some(proven), None)
        }
        SandboxLevel::Files => {
            let proven = prove(Level::Files).map_err(SettleError::Unavailable)?;
            (SandboxLevel::Files, Some(proven), None)
        }
        SandboxLevel::Auto => match prove(Level::Strict) {
            Ok(proven) => (SandboxLevel::Strict, Some(proven), None),
            Err(strict) => match prove(Level::Files) {
                Ok(proven) => (SandboxLevel::Files, Some(proven), Some(strict)),
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

fn refuse_too_much(limits: &pool::Sandbox, guarded: &[PathBuf]) -> Result<(), SettleError> {
    for (key, paths) in [("read", &limits.read), ("write", &limits.write)] {
        for path in paths {
            if let Some(shown) = guarded.iter().find(|guarded| guarded.starts_with(path)) {
                return Err(SettleError::ShowsTooMuch {
                    key,
                    path: path.clone(),
                    shown: shown.clone(),
                });
            }
        }
    }
    Ok(())
}
