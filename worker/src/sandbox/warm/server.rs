//! The life of one fork server: find its modules, start it in a sandbox of its own, wait until it
//! is ready, and notice its end.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::Duration;

use agent_sandbox::{receive_bytes, send_files};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use serde::Deserialize;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Modules, Recording, ServerState, WarmPart, WarmServers, WarmStart};
use crate::sandbox::{
    CommandAccess, Exit, Finished, LaunchError, SandboxCommand, SandboxLauncher, Watch,
};
use crate::workspace::{Directory, make_directory, off_the_runtime, remove_tree};

pub(super) const SOURCE: &str = include_str!("server.py");
pub(super) const RECORDER: &str = include_str!("record.py");
/// Takes the program from the worker, so that the list of processes stays readable.
const BOOT: &str = "import socket;control=socket.socket(fileno=3);\
    exec(compile(control.recv(1<<20),'<warm>','exec'),{'__name__':'warm','control':control})";
/// Importing 3,000 modules takes 4 s on an idle machine.
const READY_WITHIN: Duration = Duration::from_secs(120);
/// The longest list of modules.
const LONGEST_LIST: u64 = 4 * 1024 * 1024;
/// The port of a made-up run, in a network of its own.
const PORT: u16 = 18_080;

/// Starts a server in the background.
pub(super) fn spawn(
    servers: Weak<WarmServers>,
    sandbox: &SandboxLauncher,
    start: WarmStart,
    stamp: String,
    ending: CancellationToken,
) {
    let Some(directory) = servers.upgrade().map(|servers| servers.directory.clone()) else {
        return;
    };
    // Without the servers, which this task must not keep alive.
    let sandbox = SandboxLauncher {
        warm: None,
        ..sandbox.clone()
    };
    tokio::spawn(async move {
        let life = ServerLife {
            sandbox,
            start,
            stamp,
            ending,
        };
        let why = life.live(&directory, &servers).await;
        if let Some(servers) = servers.upgrade().filter(|_| !life.ending.is_cancelled()) {
            let program = life.start.program.display();
            tracing::warn!("no warm starts of {program} for a while: {why}");
            let at = Instant::now();
            servers.set(
                &life.start.program,
                &life.ending,
                ServerState::Failed { at, why },
            );
        }
    });
}

struct ServerLife {
    sandbox: SandboxLauncher,
    start: WarmStart,
    stamp: String,
    ending: CancellationToken,
}

/// The first message of a server.
#[derive(Debug, Deserialize)]
struct Answer {
    /// Why it cannot serve; None: it can.
    refused: Option<String>,
}

impl ServerLife {
    /// Runs the server until it ends. Returns why it ended, or did not start.
    async fn live(&self, directory: &Path, servers: &Weak<WarmServers>) -> String {
        let modules = match &self.start.modules {
            Modules::Named(names) => serde_json::to_vec(names).map_err(|error| error.to_string()),
            Modules::Recorded(recording) => self.recorded(directory, recording).await,
        };
        let connected = modules.and_then(|list| connect(&list).map_err(|error| error.to_string()));
        let (control, inside) = match connected {
            Ok(connected) => connected,
            Err(why) => return why,
        };
        let watch = Watch::new(self.ending.clone());
        let launcher = self.unlimited();
        let running = launcher.run(self.command(inside), &watch);
        tokio::pin!(running);
        let answer = tokio::select! {
            answer = off_the_runtime(move || answer(control)) => answer,
            ended = &mut running => return how(ended),
        };
        let control = match answer {
            Ok((control, Answer { refused: None })) => control,
            Ok((_, Answer { refused: Some(why) })) => return why,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return format!("it was not ready within {} s", READY_WITHIN.as_secs());
            }
            Err(error) => return format!("it gave no answer: {error}"),
        };
        if let Some(servers) = servers.upgrade() {
            let state = ServerState::Ready { control, runs: 0 };
            servers.set(&self.start.program, &self.ending, state);
        }
        how(running.await)
    }

    /// The server's limits are those of its runs. It has none itself, because its children inherit
    /// them before they get their own.
    fn unlimited(&self) -> SandboxLauncher {
        let mut launcher = self.sandbox.clone();
        launcher.limits.max_memory_bytes = 0;
        launcher.limits.max_file_bytes = 0;
        launcher.limits.max_processes = 0;
        launcher.limits.max_total_memory_bytes = 0;
        launcher.limits.max_disk_bytes = 0;
        // It stays in the group of the worker, and each child joins the group of its run.
        launcher.groups = None;
        launcher
    }

    fn command(&self, inside: OwnedFd) -> SandboxCommand {
        SandboxCommand {
            argv: vec![
                self.start.interpreter.clone().into(),
                "-c".into(),
                BOOT.into(),
            ],
            cwd: "/".into(),
            env: self.start.env.clone(),
            timeout: Duration::MAX,
            silence: None,
            access: CommandAccess {
                read: vec![self.start.program.clone()],
                programs: vec![self.start.program.clone(), self.start.interpreter.clone()],
                ..CommandAccess::default()
            },
            warm: WarmPart::Server(Arc::new(inside)),
        }
    }

    /// The list of modules of this installation, from the directory or from a made-up run.
    async fn recorded(&self, directory: &Path, recording: &Recording) -> Result<Vec<u8>, String> {
        let name = format!("{}.json", self.stamp);
        if let Ok(known) = read_list(&directory.join(&name)) {
            return Ok(known);
        }
        let place = directory.join(format!("record-{}", std::process::id()));
        let recorded = self.record(&place, recording).await;
        let text = |error: io::Error| error.to_string();
        let tidied = place.clone();
        let removed = off_the_runtime(move || remove_tree(&tidied)).await;
        let recorded = recorded?;
        removed.map_err(text)?;
        let (directory, written) = (directory.to_owned(), recorded.clone());
        off_the_runtime(move || Directory::open(&directory)?.write(&name, &written))
            .await
            .map_err(text)?;
        Ok(recorded)
    }

    async fn record(&self, place: &Path, recording: &Recording) -> Result<Vec<u8>, String> {
        let made = place.to_owned();
        let made = off_the_runtime(move || {
            if let Some(above) = made.parent() {
                make_directory(above)?;
            }
            remove_tree(&made)?;
            make_directory(&made)
        });
        made.await.map_err(|error| error.to_string())?;
        let mut command = recording(place.to_owned(), PORT).await?;
        let list = place.join("scratch/modules.json");
        let mut argv = vec![
            self.start.interpreter.clone().into(),
            "-c".into(),
            RECORDER.into(),
            PORT.to_string().into(),
            list.clone().into(),
        ];
        argv.append(&mut command.argv);
        command.argv = argv;
        command.access.programs.push(self.start.interpreter.clone());
        let watch = Watch::new(self.ending.clone());
        let finished = self.sandbox.run(command, &watch).await;
        match finished {
            Ok(Finished {
                exit: Exit::Status(0),
                ..
            }) => read_list(&list).map_err(|error| format!("it left no list of modules: {error}")),
            ended => Err(format!(
                "the run that lists its modules failed: {}",
                how(ended)
            )),
        }
    }
}

fn how(ended: Result<Finished, LaunchError>) -> String {
    match ended {
        Ok(finished) => format!("it {}: {}", finished.exit, finished.output.text().trim()),
        Err(error) => error.to_string(),
    }
}

fn read_list(file: &Path) -> io::Result<Vec<u8>> {
    if file.metadata()?.len() > LONGEST_LIST {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    let bytes = fs::read(file)?;
    serde_json::from_slice::<Vec<String>>(&bytes)?;
    Ok(bytes)
}

/// The two ends of a socket to a server. It finds its program and its modules there.
fn connect(modules: &[u8]) -> io::Result<(OwnedFd, OwnedFd)> {
    let (outside, inside) = socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?;
    let mut list = File::from(memfd_create("modules", MemfdFlags::CLOEXEC)?);
    list.write_all(modules)?;
    send_files(&outside, SOURCE.as_bytes(), &[])?;
    send_files(&outside, b"modules", &[list.as_fd()])?;
    Ok((outside, inside))
}

/// Waits for the first message of a server.
fn answer(control: OwnedFd) -> io::Result<(OwnedFd, Answer)> {
    set_socket_timeout(&control, Timeout::Recv, Some(READY_WITHIN))?;
    let mut buffer = vec![0; 16 * 1024];
    let (count, _) = receive_bytes(&control, &mut buffer)?;
    let answer = serde_json::from_slice(buffer.get(..count).unwrap_or_default())?;
    // From now on a server that hangs must not hold the worker up.
    rustix::io::ioctl_fionbio(&control, true)?;
    Ok((control, answer))
}
