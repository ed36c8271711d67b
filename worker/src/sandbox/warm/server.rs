//! The life of one fork server: find its modules, start it in a sandbox of its own, wait until it
//! is ready, and notice its end.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::Duration;

use agent_sandbox::{receive_bytes, send_files};
use pool_core::id::AttemptId;
use pool_telemetry::clock::new_id;
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use super::installation::LoadedFiles;
use super::{Modules, Recording, ServerEnd, WarmPart, WarmPlaces, WarmServers, WarmStart};
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
/// The lists that are kept: those of several pools and programs may share a directory.
const MOST_LISTS: usize = 16;
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
    let Some(places) = servers.upgrade().map(|servers| servers.places.clone()) else {
        return;
    };
    // Without the servers, which this task must not keep alive.
    let sandbox = SandboxLauncher {
        warm: None,
        ..sandbox.clone()
    };
    tokio::spawn(async move {
        let program = start.program.clone();
        let life = ServerLife {
            sandbox,
            start,
            stamp,
            ending,
        };
        tracing::info!("a fork server for {} is starting", program.display());
        let end = life.live(&places, &servers).await;
        if let Some(servers) = servers.upgrade().filter(|_| !life.ending.is_cancelled()) {
            let why = &end.why;
            tracing::warn!("the fork server for {} has ended: {why}", program.display());
            servers.ended(&program, &life.ending, &life.stamp, end);
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
struct Message {
    /// Why it cannot serve; None: it can.
    refused: Option<String>,
}

/// The same, with what came along.
enum Answer {
    Ready(OwnedFd, LoadedFiles),
    Refused(String),
}

impl ServerLife {
    /// Runs the server until it ends.
    async fn live(&self, places: &WarmPlaces, servers: &Weak<WarmServers>) -> ServerEnd {
        let end = |was_ready| move |why| ServerEnd { was_ready, why };
        let modules = match &self.start.modules {
            Modules::Named(names) => serde_json::to_vec(names).map_err(|error| error.to_string()),
            Modules::Recorded(recording) => self.recorded(places, recording).await,
        };
        let connected = modules.and_then(|list| connect(&list).map_err(|error| error.to_string()));
        let (control, inside) = match connected {
            Ok(connected) => connected,
            Err(why) => return end(false)(why),
        };
        let watch = Watch::new(self.ending.clone());
        let launcher = self.unlimited();
        let running = launcher.run(self.command(inside), &watch);
        tokio::pin!(running);
        let answer = tokio::select! {
            answer = off_the_runtime(move || answer(control)) => answer,
            ended = &mut running => return end(false)(how(ended)),
        };
        let (control, files) = match answer {
            Ok(Answer::Ready(control, files)) => (control, files),
            Ok(Answer::Refused(why)) => return end(false)(why),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let limit = READY_WITHIN.as_secs();
                return end(false)(format!("it was not ready within {limit} s"));
            }
            Err(error) => return end(false)(format!("it gave no answer: {error}")),
        };
        if let Some(servers) = servers.upgrade() {
            let program = &self.start.program;
            servers.ready(program, &self.ending, control, files);
            tracing::info!("the fork server for {} is ready", program.display());
        }
        end(true)(how(running.await))
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
    async fn recorded(
        &self,
        places: &WarmPlaces,
        recording: &Recording,
    ) -> Result<Vec<u8>, String> {
        let name = format!("{}.json", self.stamp);
        if let Ok(known) = read_list(&places.lists.join(&name)) {
            return Ok(known);
        }
        let place = places
            .records
            .join(format!("warm-{}", new_id::<AttemptId>()));
        let recorded = self.record(&place, recording).await;
        let (lists, made) = (places.lists.clone(), recorded.as_ref().ok().cloned());
        let kept = off_the_runtime(move || {
            let kept = made.map_or(Ok(()), |list| keep_list(&place, &lists, &name, &list));
            remove_tree(&place).and(kept)
        });
        // Without the list the next server records another one.
        kept.await.map_err(|error| error.to_string())?;
        recorded
    }

    async fn record(&self, place: &Path, recording: &Recording) -> Result<Vec<u8>, String> {
        let made = place.to_owned();
        let made = off_the_runtime(move || {
            if let Some(above) = made.parent() {
                make_directory(above)?;
            }
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

/// Keeps a list below the directory of lists. Another worker may read there at the same moment, so
/// the list is moved there as a whole.
fn keep_list(place: &Path, lists: &Path, name: &str, list: &[u8]) -> io::Result<()> {
    make_directory(lists)?;
    let (place, to) = (Directory::open(place)?, Directory::open(lists)?);
    place.write(name, list)?;
    place.rename(name.as_ref(), &to)?;
    remove_oldest(lists)
}

/// Lists of former installations are of no use.
fn remove_oldest(lists: &Path) -> io::Result<()> {
    let mut found = Vec::new();
    for entry in fs::read_dir(lists)? {
        let entry = entry?;
        found.push((entry.metadata()?.modified()?, entry.path()));
    }
    found.sort();
    let surplus = found.len().saturating_sub(MOST_LISTS);
    found
        .iter()
        .take(surplus)
        .try_for_each(|(_, path)| remove_tree(path))
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
fn answer(control: OwnedFd) -> io::Result<Answer> {
    set_socket_timeout(&control, Timeout::Recv, Some(READY_WITHIN))?;
    let mut buffer = vec![0; 16 * 1024];
    let (count, list) = receive_bytes(&control, &mut buffer)?;
    let message = serde_json::from_slice(buffer.get(..count).unwrap_or_default())?;
    if let Message { refused: Some(why) } = message {
        return Ok(Answer::Refused(why));
    }
    let list = File::from(list.ok_or(io::ErrorKind::UnexpectedEof)?);
    let files: LoadedFiles = serde_json::from_reader(io::BufReader::new(list))?;
    if let Some(path) = files.changed() {
        let path = path.display();
        return Ok(Answer::Refused(format!(
            "{path} is another file in its sandbox"
        )));
    }
    // From now on a server that hangs must not hold the worker up.
    rustix::io::ioctl_fionbio(&control, true)?;
    Ok(Answer::Ready(control, files))
}
