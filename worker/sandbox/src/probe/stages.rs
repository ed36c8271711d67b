//! The stages of a self-test, as the process that launched them sees them.

use std::io::{self, Write as _};
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;

use super::cause::{Hindrance, ProbeFailure};
use super::{ANSWER, PATIENCE};
use crate::launch::Launched;
use crate::message::{StageMessage, receive};

fn wait_for(descriptor: impl AsFd) -> io::Result<()> {
    let mut one = [PollFd::new(descriptor.as_fd(), PollFlags::POLLIN)];
    let limit = PollTimeout::try_from(PATIENCE).unwrap_or(PollTimeout::MAX);
    match poll(&mut one, limit)? {
        0 => Err(io::ErrorKind::TimedOut.into()),
        _ => Ok(()),
    }
}

/// Serves the gateway's one connection.
pub(super) fn answer(gateway: &TcpListener) -> Result<(), ProbeFailure> {
    wait_for(gateway)
        .map_err(|error| Hindrance::new("a program did not reach its gateway", &error))?;
    let (mut stream, _) = gateway.accept()?;
    Ok(stream.write_all(ANSWER)?)
}

/// The stages of a self-test. Dropping it ends them.
pub(super) struct Running(Option<Launched>);

impl Running {
    pub(super) fn new(launched: Launched) -> Self {
        Self(Some(launched))
    }

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
    pub(super) fn until_started(&self) -> Result<Option<TcpListener>, ProbeFailure> {
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

    pub(super) fn until_ended(&mut self) -> Result<(), ProbeFailure> {
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
