//! The second stage of `strict`, process 1 of its namespace: builds the file system, applies the
//! other layers, and starts the program. When it ends, the kernel kills everything inside.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::launch::{SandboxStage, refuse};
use crate::message::{AtStep as _, SetupError, SetupStep, StageMessage, at_path};
use crate::network::{self, NetworkAttempts};
use crate::plan::Plan;
use crate::show::Entries;
use crate::spawn::{Spawn, spawn};
use crate::warm::{CONTROL, ColdReason, Offer, WarmRole, take_descriptor};
use crate::watch::LimitWatch;
use crate::{filter, processes, rights, rules, show, view};

/// Directories that lie in memory.
const TEMPORARY: [&str; 2] = ["/tmp", "/dev/shm"];
/// The time between two looks at what the run uses. A look takes a fraction of a millisecond.
const LOOK_EVERY: Duration = Duration::from_millis(20);

pub(crate) fn main(argv: &[OsString]) -> ! {
    let stage = SandboxStage::begin().unwrap_or_else(|refused| refuse(None, refused));
    let (signals, warm) =
        confine(&stage, argv).unwrap_or_else(|refused| refuse(Some(&stage), refused));
    let watch = LimitWatch::new(stage.plan.limits, &stage.plan.write, &TEMPORARY);
    let started = start(&stage, argv, warm).unwrap_or_else(|refused| refuse(Some(&stage), refused));
    match started {
        Ok(program) => {
            stage.report(&StageMessage::Started);
            Init {
                stage,
                signals,
                program,
            }
            .wait_for_all(watch)
        }
        Err(error) => {
            stage.report(&StageMessage::NotStarted(error.to_string()));
            std::process::exit(1)
        }
    }
}

/// Starts the program, or has the fork server start it.
fn start(
    stage: &SandboxStage,
    argv: &[OsString],
    warm: Warm,
) -> Result<io::Result<Pid>, SetupError> {
    let control = match warm {
        Warm::No => None,
        Warm::Server(control) => Some(control),
        Warm::Run(offer, shown) => match offer.and_then(|offer| offer.hand_over()) {
            Ok(program) => return Ok(Ok(program)),
            Err(ColdReason(why)) => {
                stage.report(&StageMessage::Cold(why));
                restrict_files(&stage.plan, &shown)?;
                None
            }
        },
    };
    let files: Vec<_> = control.iter().map(|one| (one.as_fd(), CONTROL)).collect();
    let program = argv.first().map(OsString::as_os_str);
    Ok(spawn(Spawn {
        program: program.unwrap_or(OsStr::new("")),
        argv,
        environment: std::env::vars_os().collect(),
        files: &files,
    }))
}

fn restrict_files(plan: &Plan, shown: &Entries) -> Result<(), SetupError> {
    if plan.layers.landlock > 0 {
        rules::restrict(plan, shown).at(SetupStep::Landlock)?;
    }
    Ok(())
}

/// The part of this sandbox in warm starts.
enum Warm {
    No,
    Server(OwnedFd),
    /// The rules of Landlock are not in force yet. A process that has its own copy of them is a
    /// stranger to a process with another copy, which could not read how much memory it uses.
    Run(Result<Offer, ColdReason>, Entries),
}

impl Warm {
    fn prepare(stage: &SandboxStage, shown: &Entries, argv: &[OsString]) -> io::Result<Self> {
        let Some(role) = stage.plan.warm else {
            return Ok(Self::No);
        };
        let socket = take_descriptor(&stage.messages)?;
        Ok(match role {
            WarmRole::Server => Self::Server(socket),
            WarmRole::Run => {
                let offer = Offer::prepare(socket, &stage.plan, shown, argv);
                Self::Run(offer.map_err(ColdReason::from), shown.clone())
            }
        })
    }
}

fn confine(stage: &SandboxStage, argv: &[OsString]) -> Result<(SignalFd, Warm), SetupError> {
    let plan = &stage.plan;
    rights::outlive_the_program().at(SetupStep::Rights)?;
    // A signal that was sent before it is blocked does no harm: process 1 ignores it.
    let signals = SignalFd::with_flags(
        &SigSet::from(Signal::SIGCHLD),
        SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC,
    )
    .at(SetupStep::Rights)?;
    rights::limit_processes(plan.limits.processes).at(SetupStep::Rights)?;
    let shown = show::entries(plan);
    view::enter(plan, &shown)?;
    let started_in = std::env::set_current_dir(&plan.directory);
    at_path(&plan.directory, started_in).at(SetupStep::View)?;
    let warm = Warm::prepare(stage, &shown, argv).at(SetupStep::View)?;
    rights::keep_reading().at(SetupStep::Rights)?;
    rights::hide_process().at(SetupStep::Rights)?;
    if !matches!(warm, Warm::Run(..)) {
        restrict_files(plan, &shown)?;
    }
    if plan.layers.seccomp {
        filter::apply(&plan.layers, plan.gateway_port.is_some()).at(SetupStep::Seccomp)?;
    }
    Ok((signals, warm))
}

struct Init {
    stage: SandboxStage,
    signals: SignalFd,
    program: Pid,
}

impl Init {
    /// Waits until no process is left, the launcher has gone, or a limit is exceeded.
    fn wait_for_all(self, mut watch: Option<LimitWatch>) -> ! {
        let mut ended = false;
        loop {
            match self.reap(&mut ended) {
                Ok(true) => {}
                Ok(false) | Err(_) => std::process::exit(0),
            }
            let sources = || {
                [
                    PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
                    PollFd::new(self.stage.messages.as_fd(), PollFlags::POLLIN),
                ]
            };
            let urgent = || poll(&mut sources(), PollTimeout::ZERO).is_ok_and(|ready| ready > 0);
            let mut heard = sources();
            let pause = match watch {
                Some(_) => PollTimeout::try_from(LOOK_EVERY).unwrap_or(PollTimeout::MAX),
                None => PollTimeout::NONE,
            };
            let _ = poll(&mut heard, pause);
            // The launcher sends nothing, so this is its end.
            if heard[1].revents().is_some_and(|events| !events.is_empty()) {
                std::process::exit(1)
            }
            while let Ok(Some(_)) = self.signals.read_signal() {}
            if let Some(limit) = watch
                .as_mut()
                .and_then(|watch| watch.exceeded(processes::of_namespace, urgent))
            {
                self.report_network();
                self.stage.report(&StageMessage::Ended {
                    status: None,
                    signal: Some(Signal::SIGKILL as i32),
                    limit: Some(limit),
                });
                std::process::exit(1)
            }
        }
    }

    /// The counters of the machine's own network tell nothing about the run.
    fn report_network(&self) {
        let attempts = network::attempts();
        if self.stage.plan.layers.own_network && attempts != NetworkAttempts::default() {
            self.stage.report(&StageMessage::NetworkAttempts(attempts));
        }
    }

    /// Collects every child that has ended. False: none is left.
    fn reap(&self, ended: &mut bool) -> Result<bool, Errno> {
        loop {
            let (pid, status, signal) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, status)) => (pid, Some(status), None),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, None, Some(signal as i32)),
                Ok(WaitStatus::StillAlive) => return Ok(true),
                Ok(_) | Err(Errno::EINTR) => continue,
                Err(Errno::ECHILD) => return Ok(false),
                Err(error) => return Err(error),
            };
            if pid == self.program && !*ended {
                *ended = true;
                self.report_network();
                self.stage.report(&StageMessage::Ended {
                    status,
                    signal,
                    limit: None,
                });
            }
        }
    }
}
