//! Starts the first stage, and hands the plan on from stage to stage.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};

use nix::unistd::Pid;
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use crate::message::{AtStep as _, SetupError, SetupStep, StageMessage, send};
use crate::plan::{Level, Plan};
use crate::spawn::{Spawn, spawn};
use crate::warm::{WarmRole, send_files};
use crate::word;

/// A stage is this process's own executable, also after the file was replaced.
const SELF: &str = "/proc/self/exe";
/// The number of the descriptor with the plan.
const PLAN: i32 = 3;

/// A program behind its layers, or on the way there.
#[derive(Debug)]
pub struct Launched {
    /// The first stage. With `files` it becomes the program.
    pub pid: Pid,
    /// The messages of the stages. With `files` the end of the messages means that the program
    /// runs.
    pub messages: OwnedFd,
}

/// Starts `argv` behind the layers of the plan. The stages and the program get this environment, the
/// output of this process, and no input. `warm` is the socket for the plan's part in warm starts.
///
/// # Errors
/// If the first stage does not start. A later failure is a message.
pub fn launch(
    plan: &Plan,
    argv: &[OsString],
    environment: Vec<(OsString, OsString)>,
    warm: Option<OwnedFd>,
) -> io::Result<Launched> {
    let (messages, inside) = socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?;
    let mut file = File::from(memfd_create("plan", MemfdFlags::CLOEXEC)?);
    file.write_all(&serde_json::to_vec(plan)?)?;
    let stage = match plan.layers.level {
        Level::Strict => word::NAMESPACES,
        Level::Files => word::ENTER,
    };
    let words = stage_argv(stage, argv);
    let pid = spawn(Spawn {
        program: OsStr::new(SELF),
        argv: &words,
        environment,
        files: &[(inside.as_fd(), 0), (file.as_fd(), PLAN)],
    })?;
    // One for the first stage of a run, and one for process 1.
    let repeats = match plan.warm {
        None => 0,
        Some(WarmRole::Server) => 1,
        Some(WarmRole::Run) => 2,
    };
    if let Some(warm) = warm {
        for _ in 0..repeats {
            send_files(&messages, b"warm", &[warm.as_fd()])?;
        }
    }
    Ok(Launched { pid, messages })
}

fn stage_argv(stage: &str, argv: &[OsString]) -> Vec<OsString> {
    let mut words: Vec<OsString> = vec![SELF.into(), stage.into()];
    words.extend(argv.iter().cloned());
    words
}

/// The arguments of a stage.
pub(crate) struct SandboxStage {
    pub(crate) plan: Plan,
    pub(crate) messages: OwnedFd,
    file: File,
}

impl SandboxStage {
    /// Takes over what [`launch()`] handed to this process.
    pub(crate) fn begin() -> Result<Self, SetupError> {
        let messages = io::stdin()
            .as_fd()
            .try_clone_to_owned()
            .at(SetupStep::Plan)?;
        // Opened anew: a stage reads it from the beginning.
        let file = File::open(format!("/proc/self/fd/{PLAN}")).at(SetupStep::Plan)?;
        let plan = serde_json::from_reader(&file).at(SetupStep::Plan)?;
        nix::unistd::close(PLAN).at(SetupStep::Plan)?;
        let nothing = File::open("/dev/null").at(SetupStep::Plan)?;
        rustix::stdio::dup2_stdin(nothing).at(SetupStep::Plan)?;
        Ok(Self {
            plan,
            messages,
            file,
        })
    }

    pub(crate) fn next(&self, stage: &str, argv: &[OsString]) -> io::Result<Pid> {
        spawn(Spawn {
            program: OsStr::new(SELF),
            argv: &stage_argv(stage, argv),
            environment: std::env::vars_os().collect(),
            files: &[(self.messages.as_fd(), 0), (self.file.as_fd(), PLAN)],
        })
    }

    pub(crate) fn report(&self, message: &StageMessage) {
        // Without a listener for the message nobody waits for the program either.
        let _ = send(&self.messages, message, None);
    }
}

/// Ends a stage that could not do its work.
pub(crate) fn refuse(stage: Option<&SandboxStage>, refused: SetupError) -> ! {
    let message = StageMessage::Refused(refused);
    match stage {
        Some(stage) => stage.report(&message),
        None => drop(send(io::stdin(), &message, None)),
    }
    std::process::exit(1)
}
