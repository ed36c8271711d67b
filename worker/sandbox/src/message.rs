//! Reports of the stages to the process that launched them, over a socket that keeps the
//! boundaries of messages.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

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

impl<T, E: std::fmt::Display> AtStep<T> for Result<T, E> {
    fn at(self, step: SetupStep) -> Result<T, SetupError> {
        self.map_err(|problem| SetupError {
            step,
            problem: problem.to_string(),
        })
    }
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
