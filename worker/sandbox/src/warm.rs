//! Hands a run over to a process that a fork server has forked: a warm start.
//!
//! The server is an interpreter that has imported what an agent needs. It runs in namespaces of its
//! own, without a network and with nothing to write, but among the machine's processes, because a
//! process can enter only namespaces of processes below its own. For each run it forks a child, and
//! the two ends of a socket join that child with the stages of the run:
//!
//! 1. The child sends the server's user namespace. The first stage enters it before it makes its
//!    own. So the server owns the run's namespaces, and no others.
//! 2. Process 1 of the run builds everything as for a cold start. Then it sends the namespaces, the
//!    Landlock ruleset, the seccomp filters, the limits, the environment and the arguments.
//! 3. The child enters the namespaces, forks, and ends. Process 1 adopts the new process.
//! 4. That process gives up its rights and says so. Process 1 asks the kernel whether it is true,
//!    and sends the word to begin.
//!
//! Until that word nothing of the run has happened, so every failure before it means a cold start.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, IoSlice, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::time::Duration;

use nix::sched::{CloneFlags, setns};
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::stat::{Mode, umask};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use rustix::fs::{AtFlags, MemfdFlags, fstat, memfd_create, statat};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, Shutdown, sendmsg, shutdown,
};
use serde::{Deserialize, Serialize};

use crate::message::receive_bytes;
use crate::plan::Plan;
use crate::show::Entries;
use crate::{filter, rules};

/// How long a stage waits for each answer of the server's child.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// The number of the descriptor by which a fork server hears of runs.
pub(crate) const CONTROL: i32 = 3;
/// The most descriptors of a message.
const MOST: usize = 16;
/// The namespaces of a run, by their names in `/proc/PID/ns`.
const NAMESPACES: [&str; 7] = ["user", "cgroup", "mnt", "net", "ipc", "uts", "pid"];
/// The name of the rules of Landlock in an offer.
const LANDLOCK: &str = "landlock";

/// The part of a sandbox in warm starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WarmRole {
    /// Its program is a fork server. It stays among the machine's processes.
    Server,
    /// A fork server starts its program, if all goes well.
    Run,
}

/// The limits that a program inherits.
const LIMITS: [Resource; 16] = [
    Resource::RLIMIT_CPU,
    Resource::RLIMIT_FSIZE,
    Resource::RLIMIT_DATA,
    Resource::RLIMIT_STACK,
    Resource::RLIMIT_CORE,
    Resource::RLIMIT_RSS,
    Resource::RLIMIT_NPROC,
    Resource::RLIMIT_NOFILE,
    Resource::RLIMIT_MEMLOCK,
    Resource::RLIMIT_AS,
    Resource::RLIMIT_LOCKS,
    Resource::RLIMIT_SIGPENDING,
    Resource::RLIMIT_MSGQUEUE,
    Resource::RLIMIT_NICE,
    Resource::RLIMIT_RTPRIO,
    Resource::RLIMIT_RTTIME,
];

/// The facts for the new process. Bytes are written in hexadecimal digits.
#[derive(Debug, Serialize)]
struct Program {
    argv: Vec<String>,
    environment: Vec<(String, String)>,
    directory: String,
    umask: u32,
    /// The number of a limit, the soft and the hard one; -1: unlimited.
    limits: Vec<(i32, i64, i64)>,
    filters: Vec<String>,
}

/// Sends bytes with descriptors over a socket.
///
/// # Errors
/// Those of the socket.
pub fn send_files(socket: impl AsFd, bytes: &[u8], files: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !files.is_empty() && !control.push(SendAncillaryMessage::ScmRights(files)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    sendmsg(
        socket,
        &[IoSlice::new(bytes)],
        &mut control,
        SendFlags::NOSIGNAL,
    )?;
    Ok(())
}

/// Takes the descriptor that the launcher sends to each stage of a warm sandbox.
pub(crate) fn take_descriptor(messages: &OwnedFd) -> io::Result<OwnedFd> {
    let (_, descriptor) = receive_bytes(messages, &mut [0; 8])?;
    descriptor.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

/// The first stage: enters the user namespace of the server. If it cannot, it closes the
/// connection, and the start is a cold one.
pub(crate) fn enter_server_namespace(messages: &OwnedFd) -> io::Result<()> {
    let server = take_descriptor(messages)?;
    let entered = (|| {
        set_socket_timeout(&server, Timeout::Recv, Some(ANSWER_WITHIN))?;
        let (_, namespace) = receive_bytes(&server, &mut [0; 64])?;
        let namespace = namespace.ok_or(io::ErrorKind::UnexpectedEof)?;
        // Opened with this process's rights, as the kernel wants it. Without a group of the run
        // there is nothing to open.
        let group = own_group();
        setns(namespace, CloneFlags::CLONE_NEWUSER)?;
        let files: Vec<BorrowedFd<'_>> = group.iter().map(AsFd::as_fd).collect();
        send_files(&server, b"{}", &files)
    })();
    if entered.is_err() {
        let _ = shutdown(&server, Shutdown::Both);
    }
    Ok(())
}

/// The file by which a process enters this process's control group.
fn own_group() -> Option<File> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let file = format!("/sys/fs/cgroup/{path}/cgroup.procs");
    File::options().write(true).open(file).ok()
}

/// Everything that the server's child gets from process 1.
pub(crate) struct Offer {
    server: OwnedFd,
    names: Vec<&'static str>,
    files: Vec<OwnedFd>,
    /// The number of seccomp filters.
    filters: usize,
}

impl Offer {
    /// Process 1 prepares it while it may still open everything.
    pub(crate) fn prepare(
        server: OwnedFd,
        plan: &Plan,
        shown: &Entries,
        argv: &[OsString],
    ) -> io::Result<Self> {
        let mut offer = Self {
            server,
            names: Vec::new(),
            files: Vec::new(),
            filters: 0,
        };
        for name in NAMESPACES {
            match File::open(format!("/proc/self/ns/{name}")) {
                Ok(file) => offer.add(name, file.into()),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        if plan.layers.landlock > 0 {
            let rules = rules::ruleset(plan, shown).map_err(io::Error::other)?;
            let rules: Option<OwnedFd> = rules.into();
            offer.add(LANDLOCK, rules.ok_or(io::ErrorKind::Unsupported)?);
        }
        offer.add("input", File::open("/dev/null")?.into());
        offer.add("output", io::stdout().as_fd().try_clone_to_owned()?);
        offer.add("errors", io::stderr().as_fd().try_clone_to_owned()?);
        let mut file = File::from(memfd_create("warm", MemfdFlags::CLOEXEC)?);
        let program = program(plan, argv)?;
        offer.filters = program.filters.len();
        file.write_all(&serde_json::to_vec(&program)?)?;
        offer.add("plan", file.into());
        Ok(offer)
    }

    fn add(&mut self, name: &'static str, file: OwnedFd) {
        self.names.push(name);
        self.files.push(file);
    }

    /// Has the child become the program. It is a child of this process then.
    pub(crate) fn hand_over(&self) -> Result<Pid, ColdReason> {
        let files: Vec<BorrowedFd<'_>> = self.files.iter().map(AsFd::as_fd).collect();
        send_files(&self.server, &serde_json::to_vec(&self.names)?, &files)?;
        let mut buffer = [0; 256];
        let (count, status) = receive_bytes(&self.server, &mut buffer)?;
        let ready: Ready = serde_json::from_slice(buffer.get(..count).unwrap_or_default())?;
        if let Some(error) = ready.error {
            return Err(ColdReason(format!(
                "the fork server's child failed: {error}"
            )));
        }
        let mut text = String::new();
        File::from(status.ok_or_else(gone)?).read_to_string(&mut text)?;
        check(&text, ready.pid, self.filters)?;
        // The kernel tells nobody else about Landlock, so this is the process's own word. Only
        // `false` is against the rules: where nothing can be tried, the kernel has said yes.
        if self.names.contains(&LANDLOCK) && ready.landlock == Some(false) {
            return Err(ColdReason(
                "Landlock does not hold the new process".to_owned(),
            ));
        }
        let mut group = String::new();
        File::from(self.next_file()?).read_to_string(&mut group)?;
        if group != fs::read_to_string("/proc/self/cgroup")? {
            return Err(ColdReason(
                "the new process is in another control group".to_owned(),
            ));
        }
        self.check_namespaces(&self.next_file()?)?;
        let program = Pid::from_raw(ready.pid);
        match waitpid(program, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) => {}
            Ok(_) | Err(_) => return Err(ColdReason("the new process has ended".to_owned())),
        }
        send_files(&self.server, b"go", &[])?;
        Ok(program)
    }

    fn next_file(&self) -> io::Result<OwnedFd> {
        let (_, file) = receive_bytes(&self.server, &mut [0; 256])?;
        file.ok_or_else(gone)
    }

    /// Whether the new process, whose directory of namespaces this is, is in all those of the run.
    fn check_namespaces(&self, directory: &OwnedFd) -> Result<(), ColdReason> {
        let pairs = self.names.iter().zip(&self.files);
        for (name, file) in pairs.filter(|(name, _)| NAMESPACES.contains(name)) {
            let its = statat(directory, *name, AtFlags::empty()).map_err(io::Error::from)?;
            let own = fstat(file).map_err(io::Error::from)?;
            if (its.st_dev, its.st_ino) != (own.st_dev, own.st_ino) {
                return Err(ColdReason(format!(
                    "the new process is in another {name} namespace"
                )));
            }
        }
        Ok(())
    }
}

#[derive(Debug, Deserialize)]
struct Ready {
    pid: i32,
    /// The reason why the server cannot be used.
    error: Option<String>,
    /// Whether Landlock holds it. None: that cannot be tried.
    landlock: Option<bool>,
}

/// Why a start was a cold one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ColdReason(pub(crate) String);

impl From<io::Error> for ColdReason {
    fn from(error: io::Error) -> Self {
        const GONE: [io::ErrorKind; 3] = [
            io::ErrorKind::UnexpectedEof,
            io::ErrorKind::BrokenPipe,
            io::ErrorKind::ConnectionReset,
        ];
        let kind = error.kind();
        Self(if kind == io::ErrorKind::WouldBlock {
            let limit = ANSWER_WITHIN.as_secs();
            format!("the fork server did not answer within {limit} s")
        } else if GONE.contains(&kind) {
            "the fork server gave up".to_owned()
        } else {
            error.to_string()
        })
    }
}

impl From<serde_json::Error> for ColdReason {
    fn from(error: serde_json::Error) -> Self {
        match error.classify() {
            serde_json::error::Category::Eof => {
                io::Error::from(io::ErrorKind::UnexpectedEof).into()
            }
            serde_json::error::Category::Io
            | serde_json::error::Category::Syntax
            | serde_json::error::Category::Data => Self(error.to_string()),
        }
    }
}

fn gone() -> io::Error {
    io::ErrorKind::UnexpectedEof.into()
}

fn program(plan: &Plan, argv: &[OsString]) -> io::Result<Program> {
    let soft_and_hard = |resource: Resource| {
        let (soft, hard) = getrlimit(resource)?;
        let number = |limit: u64| i64::try_from(limit).unwrap_or(-1);
        Ok((resource as i32, number(soft), number(hard)))
    };
    let mask = umask(Mode::empty());
    umask(mask);
    let filters = if plan.layers.seccomp {
        filter::programs(&plan.layers, plan.gateway_port.is_some()).map_err(io::Error::other)?
    } else {
        Vec::new()
    };
    Ok(Program {
        argv: argv.iter().map(|word| hex(word.as_bytes())).collect(),
        environment: std::env::vars_os()
            .map(|(name, value)| (hex(name.as_bytes()), hex(value.as_bytes())))
            .collect(),
        directory: hex(plan.directory.as_os_str().as_bytes()),
        umask: mask.bits(),
        limits: LIMITS
            .into_iter()
            .map(soft_and_hard)
            .collect::<io::Result<_>>()?,
        filters: filters.iter().map(|one| hex(one)).collect(),
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Whether a process has given up its rights, by the kernel's `/proc/PID/status`.
fn check(status: &str, pid: i32, filters: usize) -> Result<(), ColdReason> {
    /// Since Linux 5.9. It includes the filters of a container.
    const FILTERS: &str = "Seccomp_filters";
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.map_or("", |rest| rest.trim_start_matches(':').trim())
    };
    let is_none = |name: &str| u64::from_str_radix(field(name), 16) == Ok(0);
    let has_rights = ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"]
        .into_iter()
        .find(|name| !is_none(name));
    let wrong = if field("NSpid").split_whitespace().last() != Some(pid.to_string().as_str()) {
        Some("NSpid")
    } else if has_rights.is_some() {
        has_rights
    } else if !is_none("SigBlk") {
        Some("SigBlk")
    } else if field("NoNewPrivs") != "1" {
        Some("NoNewPrivs")
    } else if field("Threads") != "1" {
        Some("Threads")
    } else if filters > 0 && field("Seccomp") != "2" {
        Some("Seccomp")
    } else if field(FILTERS).parse().is_ok_and(|own: usize| own < filters) {
        Some(FILTERS)
    } else {
        None
    };
    match wrong {
        None => Ok(()),
        Some(name) => Err(ColdReason(format!(
            "the new process has the wrong {name}: {:?}",
            field(name)
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "Name:\taider\nNSpid:\t4711\t3\nThreads:\t1\nSigBlk:\t0000000000000000\nCapInh:\t0000000000000000\n\
        CapPrm:\t0000000000000000\nCapEff:\t0000000000000000\nCapBnd:\t0000000000000000\nCapAmb:\t0000000000000000\n\
        NoNewPrivs:\t1\nSeccomp:\t2\nSeccomp_filters:\t3\n";

    #[test]
    fn a_process_with_any_right_left_is_refused() {
        assert_eq!(check(GOOD, 3, 3), Ok(()), "nothing is left");
        for (from, to, name) in [
            ("4711\t3", "4711", "NSpid"),
            ("4711\t3", "3\t4711", "NSpid"),
            (
                "CapInh:\t0000000000000000",
                "CapInh:\t0000000000000001",
                "CapInh",
            ),
            (
                "CapPrm:\t0000000000000000",
                "CapPrm:\t000001ffffffffff",
                "CapPrm",
            ),
            (
                "CapEff:\t0000000000000000",
                "CapEff:\t0000000000200000",
                "CapEff",
            ),
            (
                "CapBnd:\t0000000000000000",
                "CapBnd:\t8000000000000000",
                "CapBnd",
            ),
            ("CapAmb:\t0000000000000000", "", "CapAmb"),
            (
                "SigBlk:\t0000000000000000",
                "SigBlk:\t0000000000004000",
                "SigBlk",
            ),
            ("NoNewPrivs:\t1", "NoNewPrivs:\t0", "NoNewPrivs"),
            ("Threads:\t1", "Threads:\t2", "Threads"),
            ("Seccomp:\t2", "Seccomp:\t0", "Seccomp"),
            ("filters:\t3", "filters:\t2", "Seccomp_filters"),
        ] {
            let refused = check(&GOOD.replace(from, to), 3, 3).expect_err(name);
            assert!(refused.0.contains(name), "{name}: {refused:?}");
        }
        let without = GOOD.replace("Seccomp:\t2", "Seccomp:\t0");
        assert_eq!(check(&without, 3, 0), Ok(()), "filters are left out");
        let old = GOOD.replace("Seccomp_filters:\t3\n", "");
        assert_eq!(check(&old, 3, 3), Ok(()), "Linux before 5.9");
    }
}
