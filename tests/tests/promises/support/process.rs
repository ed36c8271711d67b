//! A program of the pool as a separate process: started, watched, ended by its pid.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use nix::sys::signal::Signal;

use super::{SOON, eventually};

/// A running process, killed when dropped. Its output goes into a file.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) name: String,
    child: Child,
    log: PathBuf,
}

impl Running {
    pub(crate) fn start(name: &str, log_directory: &Path, command: &Command) -> Self {
        let log = log_directory.join(format!("{name}.log"));
        let file = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .expect("a log file");
        let copy = file.try_clone().expect("a second handle on the log file");
        // If this test is killed, its processes go with it: the kernel ends them with the thread
        // that started them.
        let mut tied = Command::new("setpriv");
        tied.args(["--pdeathsig", "KILL", "--"])
            .arg(command.get_program())
            .args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => tied.env(name, value),
                None => tied.env_remove(name),
            };
        }
        tied.stdin(Stdio::null()).stdout(copy).stderr(file);
        let child = tied
            .spawn()
            .unwrap_or_else(|error| panic!("failed to start {name}: {error}"));
        Self {
            name: name.to_owned(),
            child,
            log,
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("a child of ours").is_none()
    }

    /// Sends SIGKILL and waits until the process is gone.
    pub(crate) fn kill(mut self) {
        self.end();
    }

    /// Ends it in order.
    pub(crate) fn terminate(&self) {
        self.signal(Signal::SIGTERM);
    }

    /// SIGSTOP: it keeps its connections and answers nothing.
    pub(crate) fn freeze(&self) {
        self.signal(Signal::SIGSTOP);
    }

    /// SIGCONT.
    pub(crate) fn thaw(&self) {
        self.signal(Signal::SIGCONT);
    }

    fn signal(&self, signal: Signal) {
        let pid = nix::unistd::Pid::from_raw(self.pid().cast_signed());
        nix::sys::signal::kill(pid, signal).expect("a signal to a child of ours");
    }

    /// Its exit status, if it has ended.
    pub(crate) fn has_ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child of ours")
    }

    /// Waits until it has ended by itself.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        let what = format!("{} ends by itself", self.name);
        eventually(&what, SOON * 2, async || self.has_ended()).await
    }

    fn end(&mut self) {
        // Both fail only if it is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// The end of its output, for a failed test.
    pub(crate) fn last_words(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        let tail = &lines[lines.len().saturating_sub(80)..];
        format!(
            "----- {} ({}) -----\n{}",
            self.name,
            self.log.display(),
            tail.join("\n")
        )
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}
