//! `worker sandbox-exec`: the process between the worker and every program that it runs (see the
//! module above).
//!
//! It is single-threaded and synchronous, and does five things: give up rights, start the program,
//! wait for the program or the line, end every descendant, report. Its standard input is the line
//! to the worker.

use std::ffi::{CString, OsString};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, PosixSpawnFlags, posix_spawnp};
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, setsid};
use tokio::time::Instant;

use super::LESS_IMPORTANT;
use super::processes::{descendants, signal_all};
use super::report::HelperReport;

/// The time between two rounds of SIGKILL against a process that forks as fast as it is killed.
const ROUND_MS: u16 = 10;
/// A process that survives SIGKILL for this long hangs in the kernel, and waiting does not help.
const KILL_LIMIT: Duration = Duration::from_secs(5);

/// The arguments: limits (0 = unlimited), then `--`, then the program with its arguments.
#[derive(Debug, Default, PartialEq, Eq)]
struct Plan {
    memory_bytes: u64,
    file_bytes: u64,
    processes: u64,
    grace: Duration,
    argv: Vec<OsString>,
}

#[derive(Debug, thiserror::Error)]
enum ExecError {
    #[error(
        "usage: worker sandbox-exec [--as BYTES] [--fsize BYTES] [--nproc N] [--grace-ms MS] -- PROGRAM [ARG…]"
    )]
    Usage,
    #[error("cannot {0}: {1}")]
    System(&'static str, Errno),
    #[error("{0}")]
    Start(io::Error),
}

/// Acts on the arguments after `sandbox-exec` and ends the process. `main` calls it before anything
/// else.
pub fn main(args: impl Iterator<Item = OsString>) -> ! {
    close_inherited_files();
    // If the kernel refuses, the process keeps its priority.
    let _ = rustix::process::nice(LESS_IMPORTANT);
    let report = Plan::parse(args)
        .and_then(|plan| plan.carry_out())
        .unwrap_or_else(|error| {
            // For a person who typed the command; the worker reads the report.
            let _ = writeln!(io::stderr(), "{error}");
            HelperReport::Failed(error.to_string())
        });
    let sent =
        line().and_then(|line| UnixStream::from(line).write_all(&serde_json::to_vec(&report)?));
    std::process::exit(i32::from(
        sent.is_err() || matches!(report, HelperReport::Failed(_)),
    ))
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

impl Plan {
    fn parse(mut args: impl Iterator<Item = OsString>) -> Result<Self, ExecError> {
        let mut plan = Self::default();
        while let Some(word) = args.next() {
            if word == "--" {
                plan.argv = args.collect();
                return if plan.argv.is_empty() {
                    Err(ExecError::Usage)
                } else {
                    Ok(plan)
                };
            }
            let value = args
                .next()
                .and_then(|value| value.to_str()?.parse().ok())
                .ok_or(ExecError::Usage)?;
            match word.to_str() {
                Some("--as") => plan.memory_bytes = value,
                Some("--fsize") => plan.file_bytes = value,
                Some("--nproc") => plan.processes = value,
                Some("--grace-ms") => plan.grace = Duration::from_millis(value),
                Some(_) | None => return Err(ExecError::Usage),
            }
        }
        Err(ExecError::Usage)
    }

    fn carry_out(&self) -> Result<HelperReport, ExecError> {
        // Fails only for a group leader. A helper that the worker has started is not one.
        let _ = setsid();
        prctl::set_child_subreaper(true).map_err(|e| ExecError::System("become subreaper", e))?;
        prctl::set_no_new_privs().map_err(|e| ExecError::System("give up privileges", e))?;
        let mut family = Family::new()?;
        self.limit()?;
        family.program = Some(start(&self.argv).map_err(ExecError::Start)?);
        family.wait_for_the_end()?;
        let stragglers = if family.ended.is_some() {
            descendants().len()
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
        })
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

/// Starts the program with this process's environment and output, an empty signal mask and default
/// dispositions. Otherwise the program and its children would inherit the blocked signals of this
/// process and the ignored signals of the worker.
fn start(argv: &[OsString]) -> io::Result<Pid> {
    let argv = argv
        .iter()
        .map(|word| CString::new(word.clone().into_vec()))
        .collect::<Result<Vec<_>, _>>()?;
    let variable = |(mut name, value): (OsString, OsString)| {
        name.push("=");
        name.push(value);
        CString::new(name.into_vec())
    };
    let environment = std::env::vars_os()
        .map(variable)
        .collect::<Result<Vec<_>, _>>()?;
    let program = argv.first().ok_or(io::ErrorKind::InvalidInput)?;
    let mut files = PosixSpawnFileActions::init()?;
    let nothing = File::open("/dev/null")?;
    files.add_dup2(nothing.as_raw_fd(), 0)?;
    let mut attributes = PosixSpawnAttr::init()?;
    // A group of its own, because `kill 0` in a script must not reach the helper.
    attributes.set_pgroup(Pid::from_raw(0))?;
    attributes.set_sigmask(&SigSet::empty())?;
    attributes.set_sigdefault(&SigSet::all())?;
    attributes.set_flags(
        PosixSpawnFlags::POSIX_SPAWN_SETPGROUP
            | PosixSpawnFlags::POSIX_SPAWN_SETSIGMASK
            | PosixSpawnFlags::POSIX_SPAWN_SETSIGDEF,
    )?;
    Ok(posix_spawnp(
        program,
        &files,
        &attributes,
        &argv,
        &environment,
    )?)
}

/// The program and all of its descendants.
struct Family {
    signals: SignalFd,
    line: OwnedFd,
    program: Option<Pid>,
    /// The program's exit status or signal, once it has ended.
    ended: Option<(Option<i32>, Option<i32>)>,
}

impl Family {
    fn new() -> Result<Self, ExecError> {
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
            ended: None,
        })
    }

    /// Waits until the program ends, the worker closes the line, or a signal asks this process to
    /// stop.
    fn wait_for_the_end(&mut self) -> Result<(), ExecError> {
        loop {
            self.reap()?;
            if self.ended.is_some() {
                return Ok(());
            }
            let mut heard = [
                PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.line.as_fd(), PollFlags::POLLIN),
            ];
            match poll(&mut heard, PollTimeout::NONE) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => return Err(ExecError::System("wait", error)),
            }
            let line_closed = heard[1].revents().is_some_and(|events| !events.is_empty());
            if self.told_to_stop() || line_closed {
                // A program that ended at the same moment counts as ended by itself.
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
            if Some(pid) == self.program {
                self.ended = Some(how);
            }
        }
    }

    fn end_gently(&mut self, grace: Duration) -> Result<(), ExecError> {
        let deadline = Instant::now() + grace;
        for signal in [Signal::SIGTERM, Signal::SIGCONT] {
            // A stopped process acts on SIGTERM only when it continues.
            signal_all(&descendants(), signal);
        }
        while self.reap()? && Instant::now() < deadline {
            self.pause();
        }
        Ok(())
    }

    /// Kills in rounds, because a process can fork between being listed and being killed.
    fn kill_all(&mut self) -> Result<(), ExecError> {
        let deadline = Instant::now() + KILL_LIMIT;
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

    fn parse(words: &[&str]) -> Result<Plan, ExecError> {
        Plan::parse(words.iter().map(OsString::from))
    }

    #[test]
    fn everything_after_the_dashes_is_the_program() {
        let plan = parse(&["--as", "10", "--grace-ms", "7", "--", "sh", "--as", "x"])
            .expect("good arguments");
        assert_eq!(
            (plan.memory_bytes, plan.grace),
            (10, Duration::from_millis(7)),
            "limits"
        );
        assert_eq!(
            plan.argv,
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
