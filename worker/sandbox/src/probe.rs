//! The self-test: runs a program behind the layers, and sees what it can do.
//!
//! The self-test of a machine does not read its settings. A container, a security module or a service
//! manager may refuse a layer for reasons that no setting shows. So a small program tries what must
//! work (write to its worktree, reach its gateway) and what must not.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

use crate::launch::{Launched, launch};
use crate::message::{SetupError, SetupStep, StageMessage, receive};
use crate::plan::{Layers, Level, Plan, RunLimits};
use crate::rules::{LEAST_ABI, landlock_abi};
use crate::word;

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
}

impl std::fmt::Display for LevelUnavailable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            level,
            cause,
            remedy,
        } = self;
        write!(
            f,
            "sandbox level {} is not available: {cause}; {remedy}",
            level.name()
        )
    }
}

/// Tries all layers of a level. `own_network: false` leaves the machine's network open. The test
/// needs a directory for some files: the system's temporary directory, or else `directory`.
///
/// # Errors
/// [`LevelUnavailable`] with the cause and the remedy.
pub fn prove(
    level: Level,
    own_network: bool,
    directory: &Path,
) -> Result<Proven, LevelUnavailable> {
    let layers = Layers {
        own_network,
        ..Layers::all(level, landlock_abi())
    };
    if level == Level::Files && layers.landlock == 0 {
        return Err(without_landlock(landlock_abi()));
    }
    try_layers(layers, directory).map_err(|failure| match failure {
        ProbeFailure::Refused(refused) => explain(level, &refused, &KernelSettings::look()),
        ProbeFailure::Other(problem) => LevelUnavailable {
            level,
            cause: problem,
            remedy: "report this, or choose another level".to_owned(),
        },
    })
}

enum ProbeFailure {
    Refused(SetupError),
    Other(String),
}

impl From<io::Error> for ProbeFailure {
    fn from(error: io::Error) -> Self {
        Self::Other(format!("the self-test failed: {error}"))
    }
}

/// Tries these layers, which may be fewer than those of the level.
fn try_layers(layers: Layers, directory: &Path) -> Result<Proven, ProbeFailure> {
    let place = ProbeDirectory::new(&std::env::temp_dir())
        .or_else(|_| fs::create_dir_all(directory).and_then(|()| ProbeDirectory::new(directory)))?;
    let executable = std::env::current_exe()?;
    let (forbidden, gateway) = (listen()?, listen()?);
    let port = gateway.local_addr()?.port();
    let plan = Plan {
        layers,
        gateway_port: Some(port),
        read: vec![executable.clone()],
        write: vec![place.tree()],
        hide: Vec::new(),
        directory: place.tree(),
        limits: RunLimits::default(),
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
    let mut running = Running(Some(launch(&plan, &argv, Vec::new())?));
    let inside = running.until_started()?;
    answer(inside.as_ref().unwrap_or(&gateway))?;
    running.until_ended()?;
    match fs::read_to_string(place.tree().join(VERDICT))?.as_str() {
        "own" => Ok(Proven {
            layers,
            own_proc: true,
        }),
        "shared" => Ok(Proven {
            layers,
            own_proc: false,
        }),
        problem => Err(ProbeFailure::Other(format!(
            "in the self-test a program {problem}"
        ))),
    }
}

fn listen() -> io::Result<TcpListener> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
}

fn wait_for(descriptor: impl AsFd) -> io::Result<()> {
    let mut one = [PollFd::new(descriptor.as_fd(), PollFlags::POLLIN)];
    let limit = PollTimeout::try_from(PATIENCE).unwrap_or(PollTimeout::MAX);
    match poll(&mut one, limit)? {
        0 => Err(io::ErrorKind::TimedOut.into()),
        _ => Ok(()),
    }
}

/// Serves the gateway's one connection.
fn answer(gateway: &TcpListener) -> Result<(), ProbeFailure> {
    wait_for(gateway).map_err(|error| {
        ProbeFailure::Other(format!("a program did not reach its gateway: {error}"))
    })?;
    let (mut stream, _) = gateway.accept()?;
    Ok(stream.write_all(ANSWER)?)
}

/// Directories of one self-test: a worktree and a secret beside it.
struct ProbeDirectory(PathBuf);

impl ProbeDirectory {
    fn new(directory: &Path) -> io::Result<Self> {
        for number in 0..u32::MAX {
            let name = format!("sandbox-test-{}-{number}", std::process::id());
            let place = Self(directory.join(name));
            match fs::DirBuilder::new().mode(0o700).create(&place.0) {
                Ok(()) => {
                    fs::create_dir(place.tree())?;
                    fs::write(place.secret(), "secret")?;
                    return Ok(place);
                }
                // Another process's, so it must not be removed.
                Err(error) => {
                    std::mem::forget(place);
                    if error.kind() != io::ErrorKind::AlreadyExists {
                        return Err(error);
                    }
                }
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    fn tree(&self) -> PathBuf {
        self.0.join("tree")
    }

    fn secret(&self) -> PathBuf {
        self.0.join("secret")
    }
}

impl Drop for ProbeDirectory {
    fn drop(&mut self) {
        // If this fails, an empty directory remains in the system's temporary directory.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The stages of a self-test. Dropping it ends them.
struct Running(Option<Launched>);

impl Running {
    fn next(&self) -> io::Result<Option<(StageMessage, Option<OwnedFd>)>> {
        let Some(launched) = &self.0 else {
            return Ok(None);
        };
        loop {
            wait_for(&launched.messages)?;
            match receive(&launched.messages)? {
                // The program tried a port that is not in its network.
                Some((StageMessage::NetworkAttempts(_), _)) => {}
                other => return Ok(other),
            }
        }
    }

    /// Waits until the program runs. Returns the gateway's listener if it was made inside.
    fn until_started(&self) -> Result<Option<TcpListener>, ProbeFailure> {
        let mut listener = None;
        loop {
            match self.next()? {
                Some((StageMessage::Listening, descriptor)) => {
                    listener = descriptor.map(Into::into)
                }
                Some((StageMessage::Started, _)) | None => return Ok(listener),
                Some((message, _)) => return Err(failure(message)),
            }
        }
    }

    fn until_ended(&mut self) -> Result<(), ProbeFailure> {
        match self.next()? {
            Some((
                StageMessage::Ended {
                    status: Some(0), ..
                },
                _,
            ))
            | None => {}
            Some((message, _)) => return Err(failure(message)),
        }
        if let Some(launched) = self.0.take() {
            waitpid(launched.pid, None).map_err(io::Error::from)?;
        }
        Ok(())
    }
}

fn failure(message: StageMessage) -> ProbeFailure {
    match message {
        StageMessage::Refused(refused) => ProbeFailure::Refused(refused),
        StageMessage::NotStarted(problem) => ProbeFailure::Other(format!(
            "the program of the self-test did not start: {problem}"
        )),
        StageMessage::Listening
        | StageMessage::Started
        | StageMessage::NetworkAttempts(_)
        | StageMessage::Ended { .. } => ProbeFailure::Other(format!(
            "the self-test ended in an unexpected way: {message:?}"
        )),
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(launched) = &self.0 {
            let _ = kill(launched.pid, Signal::SIGKILL);
            let _ = waitpid(launched.pid, None);
        }
    }
}

/// The attempts that the program of a self-test makes.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
struct ProbeTask {
    secret: PathBuf,
    gateway: u16,
    forbidden: u16,
    layers: Layers,
}

/// The program of the self-test.
pub(crate) fn inside(arguments: &[OsString]) -> ! {
    let task = arguments
        .first()
        .and_then(|word| serde_json::from_slice::<ProbeTask>(word.as_encoded_bytes()).ok());
    let Some(task) = task else {
        std::process::exit(2)
    };
    let verdict = match task.trouble() {
        Some(trouble) => trouble,
        None if sees_only_its_own_processes() => "own".to_owned(),
        None => "shared".to_owned(),
    };
    let written = fs::write(VERDICT, verdict);
    std::process::exit(i32::from(written.is_err()))
}

impl ProbeTask {
    /// The first thing that is not as it must be.
    fn trouble(&self) -> Option<String> {
        // First, because the worker waits for it.
        match greeting(self.gateway) {
            Ok(answer) if answer == ANSWER => {}
            Ok(_) => return Some("got another answer than its gateway's".to_owned()),
            Err(error) => return Some(format!("could not reach its gateway: {error}")),
        }
        if let Err(error) = moves_files(Path::new(".")) {
            return Some(format!("could not write to its worktree: {error}"));
        }
        let layers = &self.layers;
        let files = layers.level == Level::Strict || layers.landlock >= LEAST_ABI;
        if files && fs::read(&self.secret).is_ok() {
            return Some("could read a file outside of its worktree".to_owned());
        }
        let guards_network = layers.own_network
            && (layers.level == Level::Strict || layers.landlock >= crate::rules::NETWORK_SINCE);
        if guards_network && greeting(self.forbidden).is_ok() {
            return Some("could connect to another port than its gateway's".to_owned());
        }
        let namespace = nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWUSER);
        if layers.seccomp && namespace.is_ok() {
            return Some("could make a namespace of its own".to_owned());
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

/// The settings of a machine that explain why a layer was refused.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct KernelSettings {
    no_user_namespaces: bool,
    no_unprivileged_namespaces: bool,
    restricted_by_apparmor: bool,
    /// A container or a service manager filters this process's system calls.
    filtered: bool,
}

impl KernelSettings {
    fn look() -> Self {
        let is = |path: &str, value: &str| {
            fs::read_to_string(path).is_ok_and(|text| text.trim() == value)
        };
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        Self {
            no_user_namespaces: is("/proc/sys/user/max_user_namespaces", "0"),
            no_unprivileged_namespaces: is("/proc/sys/kernel/unprivileged_userns_clone", "0"),
            restricted_by_apparmor: is(
                "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
                "1",
            ),
            filtered: status.lines().any(|line| line == "Seccomp:\t2"),
        }
    }
}

fn without_landlock(abi: u32) -> LevelUnavailable {
    let cause = match abi {
        0 => "this kernel has no Landlock, or Landlock is switched off".to_owned(),
        abi => format!(
            "this kernel has Landlock {abi}, which does not let programs move files between \
             directories; {LEAST_ABI} is needed (Linux 5.19)"
        ),
    };
    LevelUnavailable {
        level: Level::Files,
        cause,
        remedy: "add `landlock` to the kernel parameter `lsm=`, or install a newer kernel"
            .to_owned(),
    }
}

/// Turns what a stage has reported into a cause and a remedy.
fn explain(level: Level, refused: &SetupError, machine: &KernelSettings) -> LevelUnavailable {
    let said = refused.to_string();
    let namespaces = match refused.step {
        SetupStep::Namespaces | SetupStep::Network | SetupStep::View | SetupStep::Rights => true,
        SetupStep::Plan | SetupStep::Proc | SetupStep::Landlock | SetupStep::Seccomp => false,
    };
    let (cause, remedy) = if namespaces && machine.no_user_namespaces {
        (
            "user namespaces are switched off (user.max_user_namespaces is 0)",
            "run `sudo sysctl -w user.max_user_namespaces=15000`",
        )
    } else if namespaces && machine.no_unprivileged_namespaces {
        (
            "user namespaces are only for root (kernel.unprivileged_userns_clone is 0)",
            "run `sudo sysctl -w kernel.unprivileged_userns_clone=1`",
        )
    } else if namespaces && machine.restricted_by_apparmor {
        (
            "AppArmor keeps user namespaces from this program",
            "run `sudo cp config/apparmor/programmer-pool-worker /etc/apparmor.d/ && sudo \
             apparmor_parser -r /etc/apparmor.d/programmer-pool-worker` with the path of this \
             program in the profile",
        )
    } else if namespaces && machine.filtered {
        (
            "the seccomp profile of this container or service forbids namespaces",
            "start the container with `security_opt: [seccomp=./config/docker-seccomp.json]`",
        )
    } else {
        (
            "the kernel refuses it",
            "run the worker on a kernel that allows user namespaces, or choose another level",
        )
    };
    LevelUnavailable {
        level,
        cause: format!("{cause} ({said})"),
        remedy: remedy.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(step: SetupStep) -> SetupError {
        SetupError {
            step,
            problem: "EPERM: Operation not permitted".to_owned(),
        }
    }

    #[test]
    fn the_cause_names_the_setting_and_the_command_that_changes_it() {
        let machine = KernelSettings::default();
        for (machine, cause, remedy) in [
            (
                KernelSettings {
                    no_user_namespaces: true,
                    ..machine.clone()
                },
                "user.max_user_namespaces",
                "sysctl -w user.max_user_namespaces",
            ),
            (
                KernelSettings {
                    no_unprivileged_namespaces: true,
                    ..machine.clone()
                },
                "kernel.unprivileged_userns_clone",
                "sysctl -w kernel.unprivileged_userns_clone=1",
            ),
            (
                KernelSettings {
                    restricted_by_apparmor: true,
                    ..machine.clone()
                },
                "AppArmor",
                "apparmor_parser",
            ),
            (
                KernelSettings {
                    filtered: true,
                    ..machine.clone()
                },
                "seccomp profile",
                "docker-seccomp.json",
            ),
            (machine, "kernel refuses", "another level"),
        ] {
            let explained = explain(Level::Strict, &refused(SetupStep::Namespaces), &machine);
            assert!(explained.cause.contains(cause), "{explained}");
            assert!(explained.remedy.contains(remedy), "{explained}");
            assert!(
                explained.to_string().contains("make namespaces"),
                "it names the step: {explained}"
            );
        }
    }

    #[test]
    fn a_setting_of_namespaces_does_not_explain_landlock() {
        let machine = KernelSettings {
            no_user_namespaces: true,
            ..KernelSettings::default()
        };
        let explained = explain(Level::Files, &refused(SetupStep::Landlock), &machine);
        assert!(!explained.cause.contains("namespaces"), "{explained}");
    }
}
