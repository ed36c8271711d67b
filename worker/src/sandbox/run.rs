//! The worker's side of a sandboxed command: start the helper, read its output, and decide when it
//! has to stop.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use agent_sandbox::processes::{is_stopped, session_of, signal_all};
use agent_sandbox::{SetupError, receive_bytes, send_files};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use pool_core::result::NetworkAttempts;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::unix::pipe;
use tokio::net::{UnixStream, unix};
use tokio::process::Child;
use tokio::time::error::Elapsed;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};

use super::cgroup::RunGroup;
use super::hints;
use super::last_event::Finder;
use super::life::ProcessorSample;
use super::orphans::{end_orphans, forget_helper, pid_of, start_helper};
use super::report::HelperReport;
use super::warm::{StartKind, Wiring, wire};
use super::{
    CommandOutput, Denials, Exit, Finished, GRACE, GatewayServer, HELPER_COMMAND, HelperEnd,
    LaunchError, SandboxCommand, SandboxLauncher, Watch,
};

/// How much longer than its grace the helper may take before the worker kills it.
const HELPER_MARGIN: Duration = Duration::from_secs(15);
/// How long to read the rest of the pipe after the helper has gone.
const DRAIN: Duration = Duration::from_secs(1);

/// A started helper. Dropping `lifeline` makes it end the program.
struct Started {
    /// The part of the order that the helper has not got yet.
    order: Vec<u8>,
    helper: Child,
    lifeline: unix::OwnedWriteHalf,
    reports: unix::OwnedReadHalf,
    output: pipe::Receiver,
    start: StartKind,
    group: Option<RunGroup>,
}

pub(super) async fn run(
    sandbox: &SandboxLauncher,
    command: SandboxCommand,
    watch: &Watch,
) -> Result<Finished, LaunchError> {
    let begin = Instant::now();
    let walls = sandbox.walls(&command);
    let plan = walls.as_ref().map(|walls| walls.plan.clone());
    let wiring = wire(sandbox, &command, plan).await;
    let started = start(sandbox, &command, wiring).map_err(|source| LaunchError::Helper {
        helper: sandbox.helper.clone(),
        source,
    })?;
    let Started {
        order,
        mut helper,
        mut lifeline,
        reports,
        output: mut pipe,
        start: mut kind,
        group,
    } = started;
    let pid = pid_of(&helper);
    // It may be longer than the socket's buffer, so the helper must run. If the helper does not
    // take the order, it sends no report either.
    let _ = timeout(HELPER_MARGIN, lifeline.write_all(&order)).await;
    let mut output = CommandOutput::new(sandbox.limits.max_output_bytes);
    let mut monitor = CommandMonitor::new(&command, watch, begin, pid, lifeline);
    let report = monitor.listen(reports, &mut pipe, &mut output).await;
    let report = report.flatten();
    if report.is_none() {
        kill_session(pid);
        if let Some(group) = group {
            // Without a report nobody knows whether the helper has removed it.
            let _ = tokio::task::spawn_blocking(move || group.end()).await;
        }
    }
    drain(&mut pipe, &mut output, watch).await;
    let status = timeout(HELPER_MARGIN, helper.wait()).await;
    if status.is_ok() {
        forget_helper(pid);
    }
    if sandbox.leaves_orphans() {
        let _ = tokio::task::spawn_blocking(end_orphans).await;
    }
    let stopped = monitor.stopped;
    if let Some(HelperReport::Ended {
        cold: Some(why), ..
    }) = &report
    {
        kind = StartKind::Cold(why.clone());
    }
    if let Some(HelperReport::Ended {
        limit: Some(limit), ..
    }) = &report
    {
        let note = format!("\n[ended by the sandbox: it {limit}]\n");
        output.push(note.as_bytes());
        (watch.listen)(note.as_bytes());
    }
    let may_live = !report.as_ref().is_some_and(tells_the_end);
    let (setup, network) = traces(report.as_ref());
    let (exit, stragglers) = match (stopped, report) {
        (_, Some(HelperReport::Failed(problem))) => {
            return Err(LaunchError::Program {
                program: program(&command),
                problem,
            });
        }
        (_, Some(HelperReport::Refused(refused))) => return Err(not_set_up(&command, refused)),
        (Some(stopped), Some(HelperReport::Ended { stragglers, .. })) => (stopped, stragglers),
        (Some(stopped), Some(HelperReport::Listening) | None) => (stopped, 0),
        (
            None,
            Some(HelperReport::Ended {
                limit: Some(limit),
                stragglers,
                ..
            }),
        ) => (Exit::Limit(limit), stragglers),
        (
            None,
            Some(HelperReport::Ended {
                status: Some(status),
                stragglers,
                ..
            }),
        ) => (Exit::Status(status), stragglers),
        (
            None,
            Some(HelperReport::Ended {
                signal, stragglers, ..
            }),
        ) => (
            Exit::Signal(signal.unwrap_or(nix::libc::SIGKILL)),
            stragglers,
        ),
        (None, Some(HelperReport::Listening) | None) => {
            return Err(LaunchError::NoReport(helper_end(sandbox, status)));
        }
    };
    let duration = begin.elapsed();
    let hints = match walls {
        Some(walls) => hints::look(walls, exit, &output).await,
        None => Vec::new(),
    };
    Ok(Finished {
        exit,
        output,
        duration,
        stragglers,
        may_live,
        start: kind,
        setup,
        denials: Denials { network, hints },
    })
}

/// Whether the machine is to blame for a sandbox that could not be set up, or this command.
fn not_set_up(command: &SandboxCommand, refused: SetupError) -> LaunchError {
    match refused.blamed_path().map(Path::to_owned) {
        Some(path) if command.has_for_itself(&path) => LaunchError::OwnPath { refused, path },
        Some(_) | None => LaunchError::Sandbox(refused),
    }
}

fn helper_end(
    sandbox: &SandboxLauncher,
    status: Result<io::Result<ExitStatus>, Elapsed>,
) -> HelperEnd {
    let killed = matches!(&status, Ok(Ok(status)) if status.signal().is_some());
    HelperEnd {
        how: match status {
            Ok(Ok(status)) => status.to_string(),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "it did not end".to_owned(),
        },
        by_program: killed && sandbox.opens_signals(),
    }
}

/// Whether the helper has seen the end of the program and of everything that it started.
fn tells_the_end(report: &HelperReport) -> bool {
    match report {
        HelperReport::Ended { status, signal, .. } => status.is_some() || signal.is_some(),
        HelperReport::Failed(_) | HelperReport::Refused(_) => true,
        HelperReport::Listening => false,
    }
}

/// How long the layers took, and what the run tried to reach.
fn traces(report: Option<&HelperReport>) -> (Option<Duration>, NetworkAttempts) {
    let Some(HelperReport::Ended { setup, network, .. }) = report else {
        return (None, NetworkAttempts::default());
    };
    let agent_sandbox::NetworkAttempts {
        addresses,
        names,
        local_ports,
    } = *network;
    let network = NetworkAttempts {
        addresses,
        names,
        local_ports,
    };
    (*setup, network)
}

fn program(command: &SandboxCommand) -> String {
    command
        .argv
        .first()
        .map(|program| program.to_string_lossy().into_owned())
        .unwrap_or_default()
}

fn start(
    sandbox: &SandboxLauncher,
    command: &SandboxCommand,
    wiring: Wiring,
) -> io::Result<Started> {
    let (line, helper_line) = std::os::unix::net::UnixStream::pair()?;
    line.set_nonblocking(true)?;
    let order = sandbox.order(command, wiring.plan);
    let group = order.group.clone();
    let user_processes = sandbox.user_processes(&order);
    let mut order = serde_json::to_vec(&order)?;
    let mut sent = 0;
    if let (Some(socket), Some(first)) = (&wiring.socket, order.get(..1)) {
        send_files(&line, first, &[socket.as_fd()])?;
        sent = 1;
    }
    let (reader, writer) = io::pipe()?;
    let limits = &sandbox.limits;
    let mut helper = tokio::process::Command::new(&sandbox.helper);
    helper
        .arg(HELPER_COMMAND)
        .args(["--order".to_owned(), order.len().to_string()])
        .args(["--as".to_owned(), limits.max_memory_bytes.to_string()])
        .args(["--fsize".to_owned(), limits.max_file_bytes.to_string()])
        .args(["--nproc".to_owned(), user_processes.to_string()])
        .args(["--grace-ms".to_owned(), GRACE.as_millis().to_string()])
        .arg("--")
        .args(&command.argv)
        .current_dir(&command.cwd)
        .env_clear()
        .envs(command.env.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::from(OwnedFd::from(helper_line)))
        .stdout(Stdio::from(writer.try_clone()?))
        .stderr(Stdio::from(writer));
    let helper = start_helper(&mut helper)?;
    let (reports, lifeline) = UnixStream::from_std(line)?.into_split();
    Ok(Started {
        order: order.split_off(sent),
        helper,
        lifeline,
        reports,
        output: pipe::Receiver::from_owned_fd(reader.into())?,
        start: wiring.start,
        group,
    })
}

/// The state of a running command.
struct CommandMonitor<'a> {
    command: &'a SandboxCommand,
    watch: &'a Watch,
    begin: Instant,
    helper: Option<Pid>,
    /// When the command last gave a sign of life.
    heard: Instant,
    sample: ProcessorSample,
    finder: Option<Finder>,
    /// When the command printed its last event, and how many LLM calls it had begun by then.
    finished: Option<(Instant, u64)>,
    lifeline: Option<unix::OwnedWriteHalf>,
    /// Why the worker is stopping the command.
    stopped: Option<Exit>,
    /// The gateway, until it serves the listener that the helper made.
    gateway: Option<&'a GatewayServer>,
}

/// The output of the helper so far: reports, one on each line.
#[derive(Default)]
struct HelperReports {
    bytes: Vec<u8>,
}

impl HelperReports {
    fn last(&self) -> Option<HelperReport> {
        let last = self
            .bytes
            .trim_ascii_end()
            .rsplit(|byte| *byte == b'\n')
            .next();
        serde_json::from_slice(last?).ok()
    }
}

/// Bytes from the line, with the descriptor that came along.
async fn read(
    line: &unix::OwnedReadHalf,
    buffer: &mut [u8],
) -> io::Result<(usize, Option<OwnedFd>)> {
    let stream: &UnixStream = line.as_ref();
    loop {
        stream.readable().await?;
        let received = stream.try_io(Interest::READABLE, || receive_bytes(stream, buffer));
        match received {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            other => return other,
        }
    }
}

impl<'a> CommandMonitor<'a> {
    fn new(
        command: &'a SandboxCommand,
        watch: &'a Watch,
        begin: Instant,
        helper: Option<Pid>,
        lifeline: unix::OwnedWriteHalf,
    ) -> Self {
        Self {
            command,
            watch,
            begin,
            helper,
            heard: begin,
            sample: ProcessorSample::at(begin, Duration::ZERO),
            finder: watch
                .last_words
                .as_ref()
                .map(|words| Finder::new(words.event.clone())),
            finished: None,
            lifeline: Some(lifeline),
            stopped: None,
            gateway: command.access.gateway.as_ref(),
        }
    }

    /// Waits until the helper closes the line. None: the helper did not stop in time. `Some(None)`:
    /// it sent no report.
    async fn listen(
        &mut self,
        reports: unix::OwnedReadHalf,
        pipe: &mut pipe::Receiver,
        output: &mut CommandOutput,
    ) -> Option<Option<HelperReport>> {
        let mut said = HelperReports::default();
        let mut line = vec![0; 16 * 1024];
        let mut buffer = vec![0; 16 * 1024];
        let mut open = true;
        let mut deadline = deadline_of(self.begin, self.command.timeout);
        // Ticks regularly, whether or not there is output.
        let mut tick = interval(tick_of(self.command.silence));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                read = read(&reports, &mut line) => match read {
                    Ok((0, _)) | Err(_) => return Some(said.last()),
                    Ok((count, descriptor)) => {
                        said.bytes.extend_from_slice(&line[..count]);
                        self.serve(&said, descriptor);
                    }
                },
                read = pipe.read(&mut buffer), if open => match read {
                    Ok(0) | Err(_) => open = false,
                    Ok(count) => {
                        output.push(&buffer[..count]);
                        (self.watch.listen)(&buffer[..count]);
                        self.hear(&buffer[..count]);
                    }
                },
                () = self.watch.cancel.cancelled(), if self.stopped.is_none() => deadline = self.stop(Exit::Cancelled),
                () = sleep_until(deadline) => {
                    if self.stopped.is_some() {
                        return None;
                    }
                    deadline = self.stop(Exit::TimedOut);
                }
                _ = tick.tick(), if self.stopped.is_none() => {
                    if let Some(why) = self.is_over().await {
                        deadline = self.stop(why);
                    }
                }
            }
        }
    }

    /// Gives the gateway's listener to its server. The helper sends it before the program starts,
    /// so it is the only descriptor that counts.
    fn serve(&mut self, said: &HelperReports, descriptor: Option<OwnedFd>) {
        let Some((gateway, descriptor)) = self.gateway.take().zip(descriptor) else {
            return;
        };
        if said.last() == Some(HelperReport::Listening) {
            (gateway.serve)(descriptor.into());
        }
    }

    /// Makes the helper end everything. Returns when to stop waiting for it.
    fn stop(&mut self, why: Exit) -> Instant {
        self.stopped = Some(why);
        self.lifeline = None;
        Instant::now() + GRACE + HELPER_MARGIN
    }

    fn hear(&mut self, bytes: &[u8]) {
        self.heard = Instant::now();
        if let (Some(finder), Some(words)) = (&mut self.finder, &self.watch.last_words)
            && finder.push(bytes)
        {
            self.finished = Some((self.heard, (words.calls)()));
        }
    }

    /// Why to stop a command that would go on by itself.
    async fn is_over(&mut self) -> Option<Exit> {
        // A program may have stopped it, so that nobody watches the limits.
        if let Some(helper) = self.helper.filter(|helper| is_stopped(*helper)) {
            signal_all(&[helper], Signal::SIGCONT);
        }
        let (now, busy) = (Instant::now(), (self.watch.busy)());
        if let (Some((at, calls)), Some(words)) = (self.finished, &self.watch.last_words) {
            if (words.calls)() > calls {
                self.finished = None;
            } else if !busy && now.duration_since(at) >= words.grace {
                return Some(Exit::Done);
            }
        }
        let silence = self.command.silence?;
        if busy {
            self.heard = now;
        }
        let is_silent = |heard| now.duration_since(heard) >= silence;
        if now >= self.sample.next(silence) || is_silent(self.heard) {
            self.take_sample().await;
        }
        is_silent(self.heard).then_some(Exit::Silent)
    }

    async fn take_sample(&mut self) {
        let Some(helper) = self.helper else { return };
        let sample = ProcessorSample::now(helper).await;
        if sample.shows_work_since(self.sample) {
            self.heard = sample.at;
        }
        self.sample = sample;
    }
}

/// The deadline. Longer time-outs count as a century, which does not overflow.
fn deadline_of(begin: Instant, timeout: Duration) -> Instant {
    begin + timeout.min(Duration::from_secs(100 * 365 * 24 * 60 * 60))
}

fn tick_of(silence: Option<Duration>) -> Duration {
    silence.map_or(Duration::from_secs(1), |silence| {
        (silence / 8).clamp(Duration::from_millis(10), Duration::from_millis(250))
    })
}

/// Reads the last output, because the worker may see the helper's end before it.
async fn drain(pipe: &mut pipe::Receiver, output: &mut CommandOutput, watch: &Watch) {
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
    // Only a process that escaped the helper could keep the pipe open, so do not wait for it.
    let _ = timeout(DRAIN, all).await;
}

/// Kills everything in the helper's session: the last resort if the helper was killed or does not
/// answer.
fn kill_session(helper: Option<Pid>) {
    if let Some(helper) = helper {
        signal_all(&session_of(helper), Signal::SIGKILL);
    }
}
