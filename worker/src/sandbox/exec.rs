//! `worker sandbox-exec`: the process between the worker and every program that it runs (see the
//! module above).
//!
//! It is single-threaded and synchronous, and does five things: give up rights, start the program
//! behind the layers of its plan, wait for the program or the line, end every descendant, report.
//! Its standard input is the line to the worker.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use agent_sandbox::processes::{descendants, others_than_stages, signal_all};
use agent_sandbox::{
    Exceeded, Launched, Level, NetworkAttempts, Plan, SetupError, Spawn, StageMessage,
    hide_process, launch, receive, receive_bytes, send_bytes, spawn,
};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, setsid};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use tokio::time::Instant;

use super::LESS_IMPORTANT;
use super::limits::{HelperOrder, Limiter, OomScore};
use super::orphans;
use super::report::HelperReport;

/// The time between two rounds of SIGKILL against a process that forks as fast as it is killed.
const ROUND_MS: u16 = 10;
/// A process that survives SIGKILL for this long hangs in the kernel, and waiting does not help.
const KILL_LIMIT: Duration = Duration::from_secs(5);

/// The arguments: limits (0 = unlimited), then `--`, then the program with its arguments.
#[derive(Debug, Default, PartialEq, Eq)]
struct HelperArguments {
    memory_bytes: u64,
    file_bytes: u64,
    processes: u64,
    grace: Duration,
    /// The length of the order that comes first on the line; 0: no kernel layers and no limits.
    order_bytes: usize,
    argv: Vec<OsString>,
}

#[derive(Debug, thiserror::Error)]
enum ExecError {
    #[error(
        "usage: worker sandbox-exec [--as BYTES] [--fsize BYTES] [--nproc N] [--grace-ms MS] [--order BYTES] -- PROGRAM [ARG…]"
    )]
    Usage,
    #[error("cannot {0}: {1}")]
    System(&'static str, Errno),
    #[error("{0}")]
    Start(io::Error),
    #[error("{0}")]
    NotStarted(String),
    #[error("{0}")]
    Refused(SetupError),
}

/// Acts on the arguments after `sandbox-exec` and ends the process. `main` calls it before anything
/// else.
pub fn main(args: impl Iterator<Item = OsString>) -> ! {
    close_inherited_files();
    // If the kernel refuses, the process keeps its priority.
    let _ = rustix::process::nice(LESS_IMPORTANT);
    let report = HelperArguments::parse(args)
        .and_then(|arguments| arguments.carry_out())
        .unwrap_or_else(|error| {
            // For a person who typed the command; the worker reads the report.
            let _ = writeln!(io::stderr(), "{error}");
            match error {
                ExecError::Refused(refused) => HelperReport::Refused(refused),
                ExecError::Usage
                | ExecError::System(..)
                | ExecError::Start(_)
                | ExecError::NotStarted(_) => HelperReport::Failed(error.to_string()),
            }
        });
    let sent = send_report(&report, None);
    std::process::exit(i32::from(
        sent.is_err() || !matches!(report, HelperReport::Ended { .. }),
    ))
}

fn send_report(report: &HelperReport, listener: Option<OwnedFd>) -> io::Result<()> {
    let mut bytes = serde_json::to_vec(report)?;
    bytes.push(b'\n');
    send_bytes(line()?, &bytes, listener.as_ref().map(OwnedFd::as_fd))
}

/// Closes all files but the first three. The process that started the worker may have left files
/// open (a lock, say), which the program would inherit. At this moment this process has opened no
/// file of its own.
fn close_inherited_files() {
    let open = std::fs::read_dir("/proc/self/fd").into_iter().flatten();
    let inherited: Vec<i32> = open
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|descriptor| *descriptor > 2)
        .collect();
    for descriptor in inherited {
        // One of them was the directory that has just been read, so closing may fail.
        let _ = nix::unistd::close(descriptor);
    }
}

fn line() -> io::Result<OwnedFd> {
    io::stdin().as_fd().try_clone_to_owned()
}

impl HelperArguments {
    fn parse(mut args: impl Iterator<Item = OsString>) -> Result<Self, ExecError> {
        let mut arguments = Self::default();
        while let Some(word) = args.next() {
            if word == "--" {
                arguments.argv = args.collect();
                return if arguments.argv.is_empty() {
                    Err(ExecError::Usage)
                } else {
                    Ok(arguments)
                };
            }
            let value = args
                .next()
                .and_then(|value| value.to_str()?.parse().ok())
                .ok_or(ExecError::Usage)?;
            match word.to_str() {
                Some("--as") => arguments.memory_bytes = value,
                Some("--fsize") => arguments.file_bytes = value,
                Some("--nproc") => arguments.processes = value,
                Some("--grace-ms") => arguments.grace = Duration::from_millis(value),
                Some("--order") => {
                    arguments.order_bytes = usize::try_from(value).map_err(|_| ExecError::Usage)?;
                }
                Some(_) | None => return Err(ExecError::Usage),
            }
        }
        Err(ExecError::Usage)
    }

    fn carry_out(&self) -> Result<HelperReport, ExecError> {
        // Fails only for a group leader. A helper that the worker has started is not one.
        let _ = setsid();
        orphans::mark();
        prctl::set_child_subreaper(true).map_err(|e| ExecError::System("become subreaper", e))?;
        prctl::set_no_new_privs().map_err(|e| ExecError::System("give up privileges", e))?;
        let oom_score = OomScore::open();
        // Otherwise a program without kernel layers could take the line, and report what it likes.
        hide_process().map_err(ExecError::Start)?;
        let (mut order, warm) = self.read_order().map_err(ExecError::Start)?;
        let limiter = Limiter::new(&mut order, oom_score);
        let mut family = Family::new(limiter)?;
        self.limit()?;
        family.start(&self.argv, order.plan.as_ref(), warm)?;
        family.wait_for_the_end()?;
        let stragglers = if family.ended.is_some() && family.limit.is_none() {
            family.others().len()
        } else {
            0
        };
        if family.ended.is_none() {
            family.end_gently(self.grace)?;
        }
        family.kill_all()?;
        let (status, signal) = family.ended.unwrap_or((None, None));
        Ok(HelperReport::Ended {
            status,
            signal,
            stragglers,
            limit: family.limit,
            cold: family.cold,
            setup: family.setup,
            network: family.network,
        })
    }

    /// Reads the order from the line. The socket for a warm start comes with its first byte.
    fn read_order(&self) -> io::Result<(HelperOrder, Option<OwnedFd>)> {
        if self.order_bytes == 0 {
            return Ok((HelperOrder::default(), None));
        }
        let (line, mut order) = (line()?, vec![0; self.order_bytes]);
        let (count, warm) = receive_bytes(&line, &mut order)?;
        let rest = order.get_mut(count..).unwrap_or_default();
        UnixStream::from(line).read_exact(rest)?;
        Ok((serde_json::from_slice(&order)?, warm))
    }

    /// Limits this process. Its children inherit the limits.
    fn limit(&self) -> Result<(), ExecError> {
        let set = |resource, limit, what| {
            setrlimit(resource, limit, limit).map_err(|e| ExecError::System(what, e))
        };
        set(Resource::RLIMIT_CORE, 0, "limit core files")?;
        for (resource, limit, what) in [
            (
                Resource::RLIMIT_AS,
                self.memory_bytes,
                "limit the address space",
            ),
            (
                Resource::RLIMIT_FSIZE,
                self.file_bytes,
                "limit the size of files",
            ),
            (
                Resource::RLIMIT_NPROC,
                self.processes,
                "limit the number of processes",
            ),
        ] {
            if limit > 0 {
                set(resource, limit, what)?;
            }
        }
        Ok(())
    }
}

/// The program and all of its descendants.
struct Family {
    signals: SignalFd,
    line: OwnedFd,
    /// The program or, with a file system of its own, the first stage of its sandbox.
    program: Option<Pid>,
    /// Whether `program` is a stage.
    in_namespaces: bool,
    /// The messages of the stages that stay around the program, as long as some come.
    stages: Option<OwnedFd>,
    /// The limit of the run that was exceeded.
    limit: Option<Exceeded>,
    limiter: Limiter,
    /// Why the fork server did not start the program.
    cold: Option<String>,
    /// How long the layers took until the program ran.
    setup: Option<Duration>,
    /// The connections that the run tried in vain.
    network: NetworkAttempts,
    /// The program's exit status or signal, once it has ended.
    ended: Option<(Option<i32>, Option<i32>)>,
}

impl Family {
    fn new(limiter: Limiter) -> Result<Self, ExecError> {
        // Blocked here and read from a descriptor; the program starts with an empty mask.
        let mask: SigSet = [
            Signal::SIGCHLD,
            Signal::SIGTERM,
            Signal::SIGINT,
            Signal::SIGHUP,
        ]
        .into_iter()
        .collect();
        mask.thread_block()
            .map_err(|e| ExecError::System("block signals", e))?;
        let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
            .map_err(|e| ExecError::System("listen to signals", e))?;
        Ok(Self {
            signals,
            line: line().map_err(ExecError::Start)?,
            program: None,
            in_namespaces: false,
            stages: None,
            limit: None,
            limiter,
            cold: None,
            setup: None,
            network: NetworkAttempts::default(),
            ended: None,
        })
    }

    fn start(
        &mut self,
        argv: &[OsString],
        plan: Option<&Plan>,
        warm: Option<OwnedFd>,
    ) -> Result<(), ExecError> {
        let Some(plan) = plan else {
            let program = argv.first().map_or(OsStr::new(""), OsString::as_os_str);
            let files = &[];
            let started = spawn(Spawn {
                program,
                argv,
                environment: std::env::vars_os().collect(),
                files,
            });
            self.program = Some(started.map_err(ExecError::Start)?);
            return self.limiter.started().map_err(ExecError::Start);
        };
        let begin = Instant::now();
        let Launched { pid, messages } =
            launch(plan, argv, std::env::vars_os().collect(), warm).map_err(ExecError::Start)?;
        self.program = Some(pid);
        self.limiter.started().map_err(ExecError::Start)?;
        loop {
            match receive(&messages).map_err(ExecError::Start)? {
                Some((StageMessage::Listening, listener)) => {
                    send_report(&HelperReport::Listening, listener).map_err(ExecError::Start)?;
                }
                Some((StageMessage::Refused(refused), _)) => {
                    return Err(ExecError::Refused(refused));
                }
                Some((StageMessage::NotStarted(why), _)) => return Err(ExecError::NotStarted(why)),
                Some((StageMessage::Cold(why), _)) => self.cold = Some(why),
                Some((
                    StageMessage::Started
                    | StageMessage::NetworkAttempts(_)
                    | StageMessage::Ended { .. },
                    _,
                ))
                | None => break,
            }
        }
        self.setup = Some(begin.elapsed());
        // A stage that hangs in the kernel must not hold this process up.
        set_socket_timeout(&messages, Timeout::Recv, Some(KILL_LIMIT))
            .map_err(|error| ExecError::Start(error.into()))?;
        self.in_namespaces = plan.layers.level == Level::Strict;
        self.stages = self.in_namespaces.then_some(messages);
        Ok(())
    }

    /// All descendants that are not stages of the sandbox.
    fn others(&self) -> Vec<Pid> {
        match self.program {
            Some(first) if self.in_namespaces => others_than_stages(first),
            Some(_) | None => descendants(),
        }
    }

    /// Takes the message about the program's end.
    fn hear_stages(&mut self) {
        let heard = self.stages.as_ref().map(receive);
        match heard {
            Some(Ok(Some((
                StageMessage::Ended {
                    status,
                    signal,
                    limit,
                },
                _,
            )))) => {
                self.ended = Some((status, signal));
                self.limit = limit;
            }
            Some(Ok(Some((StageMessage::NetworkAttempts(attempts), _)))) => self.network = attempts,
            // The end of the stages shows in `reap`.
            Some(Ok(None) | Err(_)) => self.stages = None,
            Some(Ok(Some(_))) | None => {}
        }
    }

    /// Waits until the program ends, the worker closes the line, or a signal asks this process to
    /// stop.
    fn wait_for_the_end(&mut self) -> Result<(), ExecError> {
        loop {
            self.reap()?;
            if self.ended.is_some() {
                self.limit = self.limit.or_else(|| self.limiter.refused());
                return Ok(());
            }
            let urgent = || {
                let mut heard = [
                    PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
                    PollFd::new(self.line.as_fd(), PollFlags::POLLIN),
                ];
                poll(&mut heard, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
            };
            if let Some(exceeded) = self.limiter.exceeded(urgent) {
                self.limit = Some(exceeded);
                self.ended = Some((None, Some(Signal::SIGKILL as i32)));
                return Ok(());
            }
            let mut heard = vec![
                PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.line.as_fd(), PollFlags::POLLIN),
            ];
            if let Some(stages) = &self.stages {
                heard.push(PollFd::new(stages.as_fd(), PollFlags::POLLIN));
            }
            match poll(&mut heard, self.limiter.pause()) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => return Err(ExecError::System("wait", error)),
            }
            let has = |number: usize| {
                let events = heard.get(number).and_then(PollFd::revents);
                events.is_some_and(|events| !events.is_empty())
            };
            let (line_closed, stages_spoke) = (has(1), has(2));
            // A program that ended at the same moment counts as ended by itself.
            if stages_spoke {
                self.hear_stages();
            }
            if self.told_to_stop() || line_closed {
                return self.reap().map(|_| ());
            }
        }
    }

    fn told_to_stop(&mut self) -> bool {
        let mut stop = false;
        while let Ok(Some(signal)) = self.signals.read_signal() {
            stop |= signal.ssi_signo.cast_signed() != Signal::SIGCHLD as i32;
        }
        stop
    }

    /// Collects every child that has ended. False: no child is left, alive or dead. Orphaned
    /// descendants become children of a subreaper, so no descendant is left either.
    fn reap(&mut self) -> Result<bool, ExecError> {
        loop {
            let (pid, how) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, status)) => (pid, (Some(status), None)),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, (None, Some(signal as i32))),
                Ok(WaitStatus::StillAlive) => return Ok(true),
                Ok(_) | Err(Errno::EINTR) => continue,
                Err(Errno::ECHILD) => return Ok(false),
                Err(error) => return Err(ExecError::System("collect children", error)),
            };
            if Some(pid) == self.program && self.ended.is_none() {
                self.ended = Some(self.said_by_stages().unwrap_or(how));
            }
        }
    }

    /// How the program ended, if a stage has said that before the first stage ended. A sandbox that
    /// ends without a message was killed.
    fn said_by_stages(&mut self) -> Option<(Option<i32>, Option<i32>)> {
        if !self.in_namespaces {
            return None;
        }
        while self.stages.is_some() && self.ended.is_none() {
            self.hear_stages();
        }
        self.ended.or(Some((None, Some(Signal::SIGKILL as i32))))
    }

    fn end_gently(&mut self, grace: Duration) -> Result<(), ExecError> {
        let deadline = Instant::now() + grace;
        for signal in [Signal::SIGTERM, Signal::SIGCONT] {
            // A stopped process acts on SIGTERM only when it continues.
            signal_all(&self.others(), signal);
        }
        while self.reap()? && Instant::now() < deadline {
            self.pause();
        }
        Ok(())
    }

    /// Kills in rounds, because a process can fork between being listed and being killed.
    fn kill_all(&mut self) -> Result<(), ExecError> {
        let deadline = Instant::now() + KILL_LIMIT;
        self.limiter.kill();
        while self.reap()? && Instant::now() < deadline {
            signal_all(&descendants(), Signal::SIGKILL);
            self.pause();
        }
        Ok(())
    }

    /// Waits for a moment, or until a child ends.
    fn pause(&mut self) {
        let mut signals = [PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
        let _ = poll(&mut signals, PollTimeout::from(ROUND_MS));
        self.told_to_stop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<HelperArguments, ExecError> {
        HelperArguments::parse(words.iter().map(OsString::from))
    }

    #[test]
    fn everything_after_the_dashes_is_the_program() {
        let arguments = parse(&["--as", "10", "--grace-ms", "7", "--", "sh", "--as", "x"])
            .expect("good arguments");
        assert_eq!(
            (arguments.memory_bytes, arguments.grace),
            (10, Duration::from_millis(7)),
            "limits"
        );
        assert_eq!(
            arguments.argv,
            ["sh", "--as", "x"],
            "the program keeps its own options"
        );
    }

    #[test]
    fn anything_else_is_refused() {
        for bad in [
            &["--as", "10"][..],
            &["--as", "ten", "--", "sh"],
            &["--what", "1", "--", "sh"],
            &["--"],
            &[],
        ] {
            assert!(parse(bad).is_err(), "{bad:?} must be refused");
        }
    }
}
