//! Reports of the stages to the process that launched them, over a socket that keeps the
//! boundaries of messages.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};

use crate::exceeded::Exceeded;
use crate::network::NetworkAttempts;

/// The longest message. The texts of messages are short.
const LONGEST: usize = 16 * 1024;

/// A message of a stage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StageMessage {
    /// The gateway's socket is open inside. The listener comes with this message.
    Listening,
    /// The fork server could not start the program. It is started in the usual way, and this is why.
    Cold(String),
    /// All layers are in place and the program runs.
    Started,
    /// A layer could not be set up, so the program was not started.
    Refused(SetupError),
    /// The layers are in place, but the program could not be started.
    NotStarted(String),
    /// The connections that the run tried in vain. It comes before [`Self::Ended`], if there was anything.
    NetworkAttempts(NetworkAttempts),
    /// The program ended. Other processes of the run may still be alive.
    Ended {
        status: Option<i32>,
        signal: Option<i32>,
        /// The limit of the run that ended it.
        limit: Option<Exceeded>,
    },
}

/// Which step of the set-up failed, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("cannot {step}: {problem}")]
pub struct SetupError {
    pub step: SetupStep,
    pub problem: String,
    /// The error number of the kernel, if the kernel refused something.
    #[serde(default)]
    pub errno: Option<i32>,
    /// The file or directory of the machine that could not be shown, if that was the problem.
    #[serde(default)]
    pub path: Option<PathBuf>,
}

impl SetupError {
    /// The path that is to blame. If the machine has no room left, none is.
    pub fn blamed_path(&self) -> Option<&Path> {
        use nix::errno::Errno::{EAGAIN, EMFILE, ENFILE, ENOMEM, ENOSPC};
        let no_room = [EAGAIN, EMFILE, ENFILE, ENOMEM, ENOSPC];
        let is_full = no_room
            .iter()
            .any(|errno| self.errno == Some(*errno as i32));
        self.path.as_deref().filter(|_| !is_full)
    }

    /// The next step of the person who runs the worker.
    pub fn remedy(&self) -> &'static str {
        match self.step {
            SetupStep::Plan => "start the worker again: its program may have been replaced",
            SetupStep::View => {
                "check the paths in `sandbox.read`, `sandbox.write` and `workspace.dir`, and run \
                 `worker sandbox`"
            }
            SetupStep::Namespaces
            | SetupStep::Network
            | SetupStep::Proc
            | SetupStep::Rights
            | SetupStep::Landlock
            | SetupStep::Seccomp => {
                "run `worker sandbox`: it says which `sandbox.level` works on this machine"
            }
        }
    }
}

/// The steps of a set-up, as far as a person can do something about them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SetupStep {
    Plan,
    Namespaces,
    Network,
    View,
    Proc,
    Rights,
    Landlock,
    Seccomp,
}

impl SetupStep {
    /// In the order of a set-up.
    pub const ALL: [Self; 8] = [
        Self::Plan,
        Self::Namespaces,
        Self::Network,
        Self::View,
        Self::Proc,
        Self::Rights,
        Self::Landlock,
        Self::Seccomp,
    ];

    /// The word in metrics.
    pub fn word(self) -> &'static str {
        match self {
            Self::Plan => "plan",
            Self::Namespaces => "namespaces",
            Self::Network => "network",
            Self::View => "view",
            Self::Proc => "proc",
            Self::Rights => "rights",
            Self::Landlock => "landlock",
            Self::Seccomp => "seccomp",
        }
    }
}

impl std::fmt::Display for SetupStep {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Plan => "read the plan of the sandbox",
            Self::Namespaces => "make namespaces",
            Self::Network => "set up the network of the sandbox",
            Self::View => "set up the file system of the sandbox",
            Self::Proc => "mount /proc",
            Self::Rights => "give up rights",
            Self::Landlock => "restrict files (Landlock)",
            Self::Seccomp => "filter system calls (seccomp)",
        })
    }
}

/// Turns an error of a step into the message about it.
pub(crate) trait AtStep<T> {
    fn at(self, step: SetupStep) -> Result<T, SetupError>;
}

impl<T, E: std::error::Error + 'static> AtStep<T> for Result<T, E> {
    fn at(self, step: SetupStep) -> Result<T, SetupError> {
        self.map_err(|problem| SetupError {
            step,
            problem: problem.to_string(),
            errno: errno_of(&problem),
            path: path_of(&problem),
        })
    }
}

/// The error number of the kernel that an error comes from.
fn errno_of(error: &(dyn std::error::Error + 'static)) -> Option<i32> {
    std::iter::successors(Some(error), |error| error.source()).find_map(|error| {
        let of_io = error.downcast_ref::<io::Error>();
        let of_nix = error.downcast_ref::<nix::errno::Errno>();
        let of_rustix = error.downcast_ref::<rustix::io::Errno>();
        of_io
            .and_then(io::Error::raw_os_error)
            .or(of_nix.map(|errno| *errno as i32))
            .or(of_rustix.map(|errno| errno.raw_os_error()))
    })
}

/// The path that an error is about.
fn path_of(error: &(dyn std::error::Error + 'static)) -> Option<PathBuf> {
    let about = error.downcast_ref::<io::Error>()?.get_ref()?;
    about.downcast_ref::<About>()?.path.clone()
}

/// An error of the kernel about a path, or about another thing.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {source}")]
struct About {
    what: String,
    path: Option<PathBuf>,
    source: io::Error,
}

/// Says what an error is about. Its number stays.
pub(crate) fn named<T>(what: &str, result: io::Result<T>) -> io::Result<T> {
    about(what.to_owned(), None, result)
}

/// Says which path an error is about. Its number stays.
pub(crate) fn at_path<T>(path: &Path, result: io::Result<T>) -> io::Result<T> {
    about(path.display().to_string(), Some(path), result)
}

fn about<T>(what: String, path: Option<&Path>, result: io::Result<T>) -> io::Result<T> {
    let path = path.map(Path::to_owned);
    result.map_err(|source| io::Error::new(source.kind(), About { what, path, source }))
}

/// Sends a message, with a listener if it announces one.
pub(crate) fn send(
    socket: impl AsFd,
    message: &StageMessage,
    listener: Option<&TcpListener>,
) -> io::Result<()> {
    send_bytes(
        socket,
        &serde_json::to_vec(message)?,
        listener.map(AsFd::as_fd),
    )
}

/// Sends bytes over a socket, with a descriptor for the receiver.
///
/// # Errors
/// Those of the socket, and an end that comes in the middle of the bytes.
pub fn send_bytes(
    socket: impl AsFd,
    bytes: &[u8],
    descriptor: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors = descriptor.map(|one| [one]);
    if let Some(descriptors) = &descriptors {
        control.push(SendAncillaryMessage::ScmRights(descriptors));
    }
    let sent = sendmsg(
        socket,
        &[IoSlice::new(bytes)],
        &mut control,
        SendFlags::NOSIGNAL,
    )?;
    if sent == bytes.len() {
        Ok(())
    } else {
        Err(io::ErrorKind::WriteZero.into())
    }
}

/// Bytes from a socket, with the descriptor that came along. Accepts at most one descriptor: the
/// kernel drops what does not fit.
///
/// # Errors
/// Those of the socket, among them [`io::ErrorKind::WouldBlock`].
pub fn receive_bytes(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(
        socket,
        &mut [IoSliceMut::new(buffer)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let mut descriptor = None;
    for part in control.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = part {
            descriptor = descriptors.into_iter().next();
        }
    }
    if received.flags.contains(ReturnFlags::TRUNC) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok((received.bytes, descriptor))
}

/// The next message; None: the stages have closed the socket.
///
/// # Errors
/// When the socket fails, or when a message cannot be read.
pub fn receive(socket: impl AsFd) -> io::Result<Option<(StageMessage, Option<OwnedFd>)>> {
    let mut buffer = vec![0; LONGEST];
    let (count, descriptor) = receive_bytes(socket, &mut buffer)?;
    if count == 0 {
        return Ok(None);
    }
    let message = serde_json::from_slice(buffer.get(..count).unwrap_or_default())?;
    Ok(Some((message, descriptor)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_keeps_its_number_on_the_way() {
        let refused = || io::Error::from(nix::errno::Errno::EAGAIN);
        let about = at_path(Path::new("/x"), named::<()>("copy", Err(refused())));
        let errors = [
            Err::<(), _>(refused()).at(SetupStep::View),
            about.at(SetupStep::View),
            Err(nix::errno::Errno::EAGAIN).at(SetupStep::View),
            Err(rustix::io::Errno::AGAIN).at(SetupStep::View),
        ];
        for error in errors {
            let error = error.expect_err("an error");
            assert_eq!(
                error.errno,
                Some(nix::errno::Errno::EAGAIN as i32),
                "{error}"
            );
        }
        let error = Err::<(), _>(io::Error::other("x")).at(SetupStep::View);
        assert_eq!(error.expect_err("an error").errno, None, "not the kernel's");
    }

    #[test]
    fn a_path_is_to_blame_unless_the_machine_is_full() {
        use nix::errno::Errno::{EACCES, EINVAL, ENOMEM, ENOSPC};
        let path = Path::new("/srv/app/objects");
        let refused = |errno| Err::<(), _>(io::Error::from(errno));
        let link = Err(io::Error::other("is a link now"));
        for (result, expected) in [
            (at_path(path, named("remount", refused(EINVAL))), Some(path)),
            (at_path(path, refused(EACCES)), Some(path)),
            (at_path(path, link), Some(path)),
            (at_path(path, refused(ENOMEM)), None),
            (at_path(path, refused(ENOSPC)), None),
            (named("make mounts private", refused(EINVAL)), None),
            (refused(EINVAL), None),
        ] {
            let error = result.at(SetupStep::View).expect_err("an error");
            assert_eq!(error.blamed_path(), expected, "{error}");
        }
    }
}
