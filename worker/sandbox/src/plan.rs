//! The plan of a confined run. The worker makes it, and the stages carry it out.

use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;

use rustix::fs::fstat;
use serde::{Deserialize, Serialize};

use crate::warm::WarmRole;

/// A combination of layers that has a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Namespaces with a file system of their own, Landlock where the kernel has it, seccomp.
    Strict,
    /// Landlock and seccomp.
    Files,
}

impl Level {
    pub fn name(self) -> &'static str {
        match self {
            Self::Strict => "strict",
            Self::Files => "files",
        }
    }
}

/// The layers around a program. Each one can be left out, so that tests can see what it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layers {
    pub level: Level,
    /// The highest ABI of Landlock to use; 0: no Landlock.
    pub landlock: u32,
    pub seccomp: bool,
    /// With `strict`: a network of its own. Without it the program shares the machine's network.
    pub own_network: bool,
}

impl Layers {
    /// All layers of a level. `landlock` is the kernel's ABI.
    pub fn all(level: Level, landlock: u32) -> Self {
        Self {
            level,
            landlock: if landlock >= crate::rules::LEAST_ABI {
                landlock
            } else {
                0
            },
            seccomp: true,
            own_network: true,
        }
    }

    /// Whether the program can signal other processes of its user, among them its launcher.
    pub fn opens_signals(&self) -> bool {
        self.level == Level::Files && self.landlock < crate::rules::SCOPES_SINCE
    }

    /// Whether the program can open connections to the machine's network by itself.
    pub fn opens_network(&self) -> bool {
        !self.own_network
    }
}

/// Limits of all processes of a run together; 0: unlimited.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunLimits {
    pub memory_bytes: u64,
    pub processes: u64,
    pub disk_bytes: u64,
}

/// Tells a file from every other one that exists at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    /// # Errors
    /// Those of the system.
    pub fn of(file: impl AsFd) -> io::Result<Self> {
        let status = fstat(file)?;
        Ok(Self {
            device: status.st_dev,
            inode: status.st_ino,
        })
    }
}

/// A path that others than the operator can change, and the directory that was found there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinnedPath {
    pub path: PathBuf,
    pub file: FileId,
}

/// Everything that a stage needs to know, apart from the program and its environment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    pub layers: Layers,
    /// The port of 127.0.0.1 on which the program finds its LLM gateway.
    pub gateway_port: Option<u16>,
    /// Shown besides the system's directories, and never writable.
    pub read: Vec<PathBuf>,
    pub write: Vec<PathBuf>,
    /// Shown like those in `read`, and only as long as they are still the same directories.
    pub pinned: Vec<PinnedPath>,
    /// Hidden although they lie in a directory that is shown.
    pub hide: Vec<PathBuf>,
    /// The program's current directory.
    pub directory: PathBuf,
    pub limits: RunLimits,
    /// None: the sandbox has nothing to do with a fork server.
    pub warm: Option<WarmRole>,
}
