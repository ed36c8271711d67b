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

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

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

enum ProbeFailure {
    Refused(SetupError),
    /// A layer does not do what it must.
    Open(String),
    /// The self-test did not come to its end.
    Hindered(Hindrance),
}

/// Something that must work and does not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Hindrance {
    problem: String,
    errno: Option<i32>,
}

impl Hindrance {
    fn new(what: &str, error: &io::Error) -> Self {
        Self {
            problem: format!("{what}: {error}"),
            errno: error.raw_os_error(),
        }
    }
}

impl From<Hindrance> for ProbeFailure {
    fn from(hindrance: Hindrance) -> Self {
        Self::Hindered(hindrance)
    }
}

impl From<io::Error> for ProbeFailure {
    fn from(error: io::Error) -> Self {
        Hindrance::new("the self-test failed", &error).into()
    }
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
    let mut running = Running(Some(launch(&plan, &argv, Vec::new(), None)?));
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
    wait_for(gateway)
        .map_err(|error| Hindrance::new("a program did not reach its gateway", &error))?;
    let (mut stream, _) = gateway.accept()?;
    Ok(stream.write_all(ANSWER)?)
}

/// Makes directories that only this user can enter.
fn private() -> fs::DirBuilder {
    let mut builder = fs::DirBuilder::new();
    builder.mode(0o700);
    builder
}

/// Directories of one self-test: a worktree and a secret beside it.
struct ProbeDirectory(PathBuf);

impl ProbeDirectory {
    /// A full disk must not keep a worker from its start: its tasks fail by name until there is room.
    /// So the worktree of the self-test then lies in the directory for temporary files.
    fn with_room(workspace: &Path) -> io::Result<Self> {
        let is_full = |error: &io::Error| {
            matches!(
                error.kind(),
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
            )
        };
        match Self::new(workspace) {
            Err(error) if is_full(&error) => Self::new(&std::env::temp_dir()).map_err(|_| error),
            made => made,
        }
    }

    fn new(directory: &Path) -> io::Result<Self> {
        private().recursive(true).create(directory)?;
        for number in 0..u32::MAX {
            let name = format!("sandbox-test-{}-{number}", std::process::id());
            let place = Self(directory.join(name));
            match private().create(&place.0) {
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
        // If this fails, a small directory remains in the workspace directory.
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
    let problem = match message {
        StageMessage::Refused(refused) => return ProbeFailure::Refused(refused),
        StageMessage::NotStarted(problem) => {
            format!("the program of the self-test did not start: {problem}")
        }
        StageMessage::Listening
        | StageMessage::Cold(_)
        | StageMessage::Started
        | StageMessage::NetworkAttempts(_)
        | StageMessage::Ended { .. } => {
            format!("the self-test ended in an unexpected way: {message:?}")
        }
    };
    let errno = None;
    Hindrance { problem, errno }.into()
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
#[derive(Debug, Serialize, Deserialize)]
struct ProbeTask {
    secret: PathBuf,
    gateway: u16,
    forbidden: u16,
    layers: Layers,
}

/// The findings of the program of a self-test.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ProbeVerdict {
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
            && (layers.level == Level::Strict || layers.landlock >= crate::rules::NETWORK_SINCE);
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
        is_transient: false,
    }
}

const OTHER_LEVEL: &str = "run the worker on a kernel that allows user namespaces, or write \
                           another level in `sandbox.level`";
const LATER: &str = "look for too many processes, too little memory or a full disk, and start the \
                     worker again";

/// Error numbers that say: this kernel, container or service never does this. After any other, for
/// example a lack of memory, the machine may do it a moment later.
fn says_never(errno: Option<i32>) -> bool {
    const NEVER: [Errno; 8] = [
        Errno::EPERM,
        Errno::EACCES,
        Errno::ENOSYS,
        Errno::EINVAL,
        Errno::EOPNOTSUPP,
        Errno::ENODEV,
        Errno::EXDEV,
        Errno::EUSERS,
    ];
    errno.is_some_and(|errno| NEVER.contains(&Errno::from_raw(errno)))
}

impl ProbeFailure {
    fn explain(self, level: Level, machine: &KernelSettings) -> LevelUnavailable {
        let (cause, remedy, is_transient) = match self {
            Self::Refused(refused) => return explain(level, &refused, machine),
            Self::Open(problem) => (problem, OTHER_LEVEL, false),
            Self::Hindered(Hindrance { problem, errno }) if says_never(errno) => {
                (problem, OTHER_LEVEL, false)
            }
            Self::Hindered(Hindrance { problem, .. }) => (problem, LATER, true),
        };
        LevelUnavailable {
            level,
            cause,
            remedy: remedy.to_owned(),
            is_transient,
        }
    }
}

/// Turns what a stage has reported into a cause and a remedy.
fn explain(level: Level, refused: &SetupError, machine: &KernelSettings) -> LevelUnavailable {
    let said = refused.to_string();
    let namespaces = match refused.step {
        SetupStep::Namespaces | SetupStep::Network | SetupStep::View | SetupStep::Rights => true,
        SetupStep::Plan | SetupStep::Proc | SetupStep::Landlock | SetupStep::Seccomp => false,
    };
    let lasts = says_never(refused.errno) || (namespaces && machine.no_user_namespaces);
    let (cause, remedy) = if !lasts {
        ("the machine could not do it this time", LATER)
    } else if namespaces && machine.no_user_namespaces {
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
        ("the kernel refuses it", OTHER_LEVEL)
    };
    LevelUnavailable {
        level,
        cause: format!("{cause} ({said})"),
        remedy: remedy.to_owned(),
        is_transient: !lasts,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(step: SetupStep, errno: Errno) -> SetupError {
        SetupError {
            step,
            problem: errno.to_string(),
            errno: Some(errno as i32),
            path: None,
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
            (machine, "kernel refuses", "sandbox.level"),
        ] {
            let explained = explain(
                Level::Strict,
                &refused(SetupStep::Namespaces, Errno::EPERM),
                &machine,
            );
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
        let explained = explain(
            Level::Files,
            &refused(SetupStep::Landlock, Errno::EPERM),
            &machine,
        );
        assert!(!explained.cause.contains("namespaces"), "{explained}");
    }

    #[test]
    fn only_a_cause_that_lasts_says_that_the_machine_cannot() {
        let usual = KernelSettings::default();
        let without = KernelSettings {
            no_user_namespaces: true,
            ..usual.clone()
        };
        for (errno, machine, is_transient) in [
            (Errno::EPERM, &usual, false),
            (Errno::ENOSYS, &usual, false),
            (Errno::EINVAL, &usual, false),
            (Errno::EAGAIN, &usual, true),
            (Errno::ENOMEM, &usual, true),
            (Errno::EMFILE, &usual, true),
            // Too many namespaces: of this user, or of all users if there must be none.
            (Errno::ENOSPC, &usual, true),
            (Errno::ENOSPC, &without, false),
        ] {
            let step = refused(SetupStep::Namespaces, errno);
            let explained = explain(Level::Strict, &step, machine);
            assert_eq!(explained.is_transient, is_transient, "{explained}");
            let error = io::Error::from(errno);
            let hindered = ProbeFailure::from(error).explain(Level::Strict, &usual);
            let expected = is_transient || errno == Errno::ENOSPC;
            assert_eq!(hindered.is_transient, expected, "{hindered}");
        }
        let late = ProbeFailure::from(io::Error::from(io::ErrorKind::TimedOut));
        let late = late.explain(Level::Strict, &usual);
        assert!(late.is_transient, "a slow machine: {late}");
        let open = ProbeFailure::Open("could read".to_owned()).explain(Level::Strict, &usual);
        assert!(!open.is_transient, "a layer does not hold: {open}");
    }
}
