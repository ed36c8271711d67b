//! The worker's side of a sandboxed command: start the helper, listen, and decide when it has to stop.

use std::io;
use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::net::{UnixStream, unix};
use tokio::process::Child;
use tokio::time::{Instant, sleep_until, timeout};

use super::processes::{session_of, signal_all};
use super::report::Report;
use super::{Command, Exit, Finished, GRACE, HELPER_COMMAND, LaunchError, Output, Sandbox, Watch};

/// How much longer than its grace the helper may take before it is killed itself.
const HELPER_MARGIN: Duration = Duration::from_secs(15);
/// For what is still in the pipe when the helper has gone.
const DRAIN: Duration = Duration::from_secs(1);

/// A started helper. Dropping `lifeline` tells it to end the program.
struct Started {
    helper: Child,
    lifeline: unix::OwnedWriteHalf,
    reports: unix::OwnedReadHalf,
    output: pipe::Receiver,
}

pub(super) async fn run(sandbox: &Sandbox, command: Command, watch: &Watch) -> Result<Finished, LaunchError> {
    let begin = Instant::now();
    let started =
        start(sandbox, &command).map_err(|source| LaunchError::Helper { helper: sandbox.helper.clone(), source })?;
    let Started { mut helper, lifeline, reports, output: mut pipe } = started;
    let pid = helper.id();
    let mut output = Output::new(sandbox.limits.max_output_bytes);
    let mut listener = Listener { begin, heard: begin, lifeline: Some(lifeline), stopped: None };
    let report = listener.listen(&command, watch, reports, &mut pipe, &mut output).await;
    let report = report.flatten();
    if report.is_none() {
        kill_session(pid);
    }
    drain(&mut pipe, &mut output, watch).await;
    let status = timeout(HELPER_MARGIN, helper.wait()).await;
    let (exit, stragglers) = match (listener.stopped, report) {
        (_, Some(Report::Failed(problem))) => return Err(LaunchError::Program { program: program(&command), problem }),
        (Some(stopped), Some(Report::Ended { stragglers, .. })) => (stopped, stragglers),
        (Some(stopped), None) => (stopped, 0),
        (None, Some(Report::Ended { status: Some(status), stragglers, .. })) => (Exit::Status(status), stragglers),
        (None, Some(Report::Ended { signal, stragglers, .. })) => {
            (Exit::Signal(signal.unwrap_or(nix::libc::SIGKILL)), stragglers)
        }
        (None, None) => return Err(LaunchError::NoReport(format!("{status:?}"))),
    };
    Ok(Finished { exit, output, duration: begin.elapsed(), stragglers })
}

fn program(command: &Command) -> String {
    command.argv.first().map(|program| program.to_string_lossy().into_owned()).unwrap_or_default()
}

fn start(sandbox: &Sandbox, command: &Command) -> io::Result<Started> {
    let (line, helper_line) = std::os::unix::net::UnixStream::pair()?;
    line.set_nonblocking(true)?;
    let (reader, writer) = io::pipe()?;
    let limits = &sandbox.limits;
    let helper = tokio::process::Command::new(&sandbox.helper)
        .arg(HELPER_COMMAND)
        .args(["--as".to_owned(), limits.max_memory_bytes.to_string()])
        .args(["--fsize".to_owned(), limits.max_file_bytes.to_string()])
        .args(["--nproc".to_owned(), limits.max_processes.to_string()])
        .args(["--grace-ms".to_owned(), GRACE.as_millis().to_string()])
        .arg("--")
        .args(&command.argv)
        .current_dir(&command.cwd)
        .env_clear()
        .envs(command.env.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::from(OwnedFd::from(helper_line)))
        .stdout(Stdio::from(writer.try_clone()?))
        .stderr(Stdio::from(writer))
        .spawn()?;
    let (reports, lifeline) = UnixStream::from_std(line)?.into_split();
    Ok(Started { helper, lifeline, reports, output: pipe::Receiver::from_owned_fd(reader.into())? })
}

/// What is known while the command runs.
struct Listener {
    begin: Instant,
    /// When it last gave a sign of life.
    heard: Instant,
    lifeline: Option<unix::OwnedWriteHalf>,
    /// Why the worker has told it to stop.
    stopped: Option<Exit>,
}

impl Listener {
    /// Until the helper closes the line. None: it did not although it was told to; `Some(None)`: it said nothing.
    async fn listen(
        &mut self,
        command: &Command,
        watch: &Watch,
        mut reports: unix::OwnedReadHalf,
        pipe: &mut pipe::Receiver,
        output: &mut Output,
    ) -> Option<Option<Report>> {
        let mut said = Vec::new();
        let mut buffer = vec![0; 16 * 1024];
        let mut open = true;
        let mut deadline = deadline_of(self.begin, command.timeout);
        loop {
            let tick = Instant::now() + tick_of(command.silence);
            tokio::select! {
                read = reports.read_buf(&mut said) => match read {
                    Ok(0) | Err(_) => return Some(serde_json::from_slice(&said).ok()),
                    Ok(_) => {}
                },
                read = pipe.read(&mut buffer), if open => match read {
                    Ok(0) | Err(_) => open = false,
                    Ok(count) => {
                        output.push(&buffer[..count]);
                        (watch.listen)(&buffer[..count]);
                        self.heard = Instant::now();
                    }
                },
                () = watch.cancel.cancelled(), if self.stopped.is_none() => deadline = self.stop(Exit::Cancelled),
                () = sleep_until(deadline) => {
                    if self.stopped.is_some() {
                        return None;
                    }
                    deadline = self.stop(Exit::TimedOut);
                }
                () = sleep_until(tick), if self.stopped.is_none() && command.silence.is_some() => {
                    if self.is_silent(command, watch) {
                        deadline = self.stop(Exit::Silent);
                    }
                }
            }
        }
    }

    /// Tells the helper to end everything, and says when to stop waiting for it.
    fn stop(&mut self, why: Exit) -> Instant {
        self.stopped = Some(why);
        self.lifeline = None;
        Instant::now() + GRACE + HELPER_MARGIN
    }

    fn is_silent(&mut self, command: &Command, watch: &Watch) -> bool {
        let now = Instant::now();
        if (watch.busy)() {
            self.heard = now;
        }
        command.silence.is_some_and(|silence| now.duration_since(self.heard) >= silence)
    }
}

/// A century is as good as any longer time-out, and does not overflow.
fn deadline_of(begin: Instant, timeout: Duration) -> Instant {
    begin + timeout.min(Duration::from_secs(100 * 365 * 24 * 60 * 60))
}

fn tick_of(silence: Option<Duration>) -> Duration {
    silence.map_or(Duration::from_secs(1), |silence| {
        (silence / 8).clamp(Duration::from_millis(10), Duration::from_millis(250))
    })
}

/// What was printed last: the end of the helper may be seen before it.
async fn drain(pipe: &mut pipe::Receiver, output: &mut Output, watch: &Watch) {
    let mut buffer = vec![0; 16 * 1024];
    let all = async {
        while let Ok(count) = pipe.read(&mut buffer).await {
            if count == 0 {
                break;
            }
            output.push(&buffer[..count]);
            (watch.listen)(&buffer[..count]);
        }
    };
    // Only a process that escaped the helper could hold the pipe open; nobody waits for it.
    let _ = timeout(DRAIN, all).await;
}

/// The last resort, for a helper that was killed or does not answer: everything in its session.
fn kill_session(helper: Option<u32>) {
    if let Some(pid) = helper.and_then(|id| i32::try_from(id).ok()) {
        signal_all(&session_of(Pid::from_raw(pid)), Signal::SIGKILL);
    }
}
