//! The program of a self-test: tries what must work behind the layers, and what must not.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Read as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::cause::Hindrance;
use super::{ANSWER, PATIENCE, VERDICT};
use crate::plan::{Layers, Level};
use crate::rules::{LEAST_ABI, NETWORK_SINCE};

/// The attempts that the program of a self-test makes.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ProbeTask {
    pub(super) secret: PathBuf,
    pub(super) gateway: u16,
    pub(super) forbidden: u16,
    pub(super) layers: Layers,
}

/// The findings of the program of a self-test.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum ProbeVerdict {
    Holds { own_proc: bool },
    Open(String),
    Hindered(Hindrance),
}

/// The program of the self-test.
pub(crate) fn inside(arguments: &[OsString]) -> ! {
    let task = arguments
        .first()
        .and_then(|word| serde_json::from_slice::<ProbeTask>(word.as_encoded_bytes()).ok());
    let Some(task) = task else {
        std::process::exit(2)
    };
    let verdict = serde_json::to_vec(&task.verdict()).unwrap_or_default();
    let written = fs::write(VERDICT, verdict);
    std::process::exit(i32::from(written.is_err()))
}

impl ProbeTask {
    fn verdict(&self) -> ProbeVerdict {
        // First, because the worker waits for it.
        if let Err(hindrance) = self.does_what_it_must() {
            return ProbeVerdict::Hindered(hindrance);
        }
        match self.gap() {
            Some(gap) => ProbeVerdict::Open(format!("in the self-test a program {gap}")),
            None => ProbeVerdict::Holds {
                own_proc: sees_only_its_own_processes(),
            },
        }
    }

    fn does_what_it_must(&self) -> Result<(), Hindrance> {
        let greeted = match greeting(self.gateway) {
            Ok(answer) if answer == ANSWER => Ok(()),
            Ok(_) => Err(io::Error::other("another server answered")),
            Err(error) => Err(error),
        };
        greeted.map_err(|error| Hindrance::new("a program cannot reach its gateway", &error))?;
        moves_files(Path::new("."))
            .map_err(|error| Hindrance::new("a program cannot write to its worktree", &error))
    }

    /// The first thing that works and must not.
    fn gap(&self) -> Option<&'static str> {
        let layers = &self.layers;
        let files = layers.level == Level::Strict || layers.landlock >= LEAST_ABI;
        if files && fs::read(&self.secret).is_ok() {
            return Some("could read a file outside of its worktree");
        }
        let guards_network = layers.own_network
            && (layers.level == Level::Strict || layers.landlock >= NETWORK_SINCE);
        if guards_network && greeting(self.forbidden).is_ok() {
            return Some("could connect to another port than its gateway's");
        }
        let namespace = nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWUSER);
        if layers.seccomp && namespace.is_ok() {
            return Some("could make a namespace of its own");
        }
        None
    }
}

/// The first words of a server. The forbidden server says nothing, but accepts.
fn greeting(port: u16) -> io::Result<Vec<u8>> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    let mut answer = vec![0; ANSWER.len()];
    match stream.read(&mut answer) {
        Ok(count) => answer.truncate(count),
        Err(_) => answer.clear(),
    }
    Ok(answer)
}

/// Moves files between directories, as compilers and package managers do.
fn moves_files(directory: &Path) -> io::Result<()> {
    let (from, into) = (directory.join("file"), directory.join("directory"));
    fs::write(&from, "text")?;
    fs::create_dir(&into)?;
    fs::rename(&from, into.join("file"))?;
    fs::remove_dir_all(&into)
}

fn sees_only_its_own_processes() -> bool {
    fs::read_link("/proc/self")
        .ok()
        .and_then(|link| link.to_str()?.parse().ok())
        .is_some_and(|pid: i32| Pid::from_raw(pid) == nix::unistd::getpid())
}
