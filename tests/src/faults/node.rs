//! A private RabbitMQ node that can be killed, stopped, frozen and starved, by way of
//! `scripts/broker`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::Command;

/// A node with its data directory. It keeps running when this is dropped; its owner stops it.
#[derive(Debug, Clone)]
pub struct Node {
    script: PathBuf,
    data: PathBuf,
    config: Option<PathBuf>,
    /// Further arguments of its starts.
    more: Vec<OsString>,
}

impl Node {
    /// `script` is `scripts/broker`; `config` holds lines for `rabbitmq.conf`.
    pub fn new(script: PathBuf, data: PathBuf, config: Option<PathBuf>) -> Self {
        Self {
            script,
            data,
            config,
            more: Vec::new(),
        }
    }

    /// Adds arguments for `scripts/broker start`.
    #[must_use]
    pub fn with(mut self, arguments: &[&str]) -> Self {
        self.more.extend(arguments.iter().map(OsString::from));
        self
    }

    pub fn data(&self) -> &Path {
        &self.data
    }

    /// Starts the node unless it runs, waits until clients can log in, and gives what
    /// `scripts/broker` printed.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn start(&self) -> anyhow::Result<String> {
        let mut more = self.more.clone();
        if let Some(config) = &self.config {
            more.extend(["--config".into(), config.clone().into_os_string()]);
        }
        self.run("start", &more).await
    }

    /// SIGKILL: a crash of the machine, except that the disk's cache survives.
    ///
    /// # Errors
    /// When the script fails.
    pub async fn kill(&self) -> anyhow::Result<()> {
        self.run("stop", &["--now".into()]).await.map(drop)
    }

    /// Stops it in order.
    ///
    /// # Errors
    /// When the script fails.
    pub async fn stop(&self) -> anyhow::Result<()> {
        self.run("stop", &[]).await.map(drop)
    }

    /// SIGSTOP: it keeps its connections and answers nothing.
    ///
    /// # Errors
    /// When it does not run.
    pub fn freeze(&self) -> anyhow::Result<()> {
        self.signal(Signal::SIGSTOP)
    }

    /// SIGCONT.
    ///
    /// # Errors
    /// When it does not run.
    pub fn thaw(&self) -> anyhow::Result<()> {
        self.signal(Signal::SIGCONT)
    }

    /// Switches the memory alarm, during which the broker refuses publishes, on or off.
    ///
    /// # Errors
    /// When `rabbitmqctl` fails.
    pub async fn memory_alarm(&self, on: bool) -> anyhow::Result<()> {
        self.control(&[
            "set_vm_memory_high_watermark",
            if on { "0.0000001" } else { "0.8" },
        ])
        .await?;
        self.alarm_is("memory", on).await
    }

    /// Switches the disk alarm on or off.
    ///
    /// # Errors
    /// When `rabbitmqctl` fails.
    pub async fn disk_alarm(&self, on: bool) -> anyhow::Result<()> {
        self.control(&["set_disk_free_limit", if on { "100000GB" } else { "50MB" }])
            .await?;
        self.alarm_is("disk", on).await
    }

    /// The node looks at its memory and its disk every few seconds only. It waits itself: each `rabbitmqctl` costs half a
    /// second of processor time.
    async fn alarm_is(&self, which: &str, on: bool) -> anyhow::Result<()> {
        let waiting = format!(
            "Is = fun() -> lists:any(fun({{{{_, W, _}}, _}}) -> W == {which}; (_) -> false end, rabbit_alarm:get_alarms()) end, \
             Wait = fun Again(0) -> Is() == {on}; \
                        Again(N) -> Is() == {on} orelse begin timer:sleep(100), Again(N - 1) end end, \
             Wait(200)."
        );
        ensure!(
            self.control(&["eval", &waiting]).await?.trim() == "true",
            "the {which} alarm of {} does not become {on}",
            self.data.display()
        );
        Ok(())
    }

    /// Ends every alarm and takes the short time-outs of [`Self::set`] back.
    ///
    /// # Errors
    /// When `rabbitmqctl` fails.
    pub async fn repair(&self) -> anyhow::Result<()> {
        self.control(&[
            "eval",
            "vm_memory_monitor:set_vm_memory_high_watermark(0.8), \
             rabbit_disk_monitor:set_disk_free_limit(\"50MB\"), \
             application:set_env(rabbit, consumer_timeout, 86400000).",
        ])
        .await
        .map(drop)
    }

    /// Sets a value of the running node; open channels keep the old value.
    ///
    /// # Errors
    /// When `rabbitmqctl` fails.
    pub async fn set(&self, name: &str, value: &str) -> anyhow::Result<()> {
        self.control(&[
            "eval",
            &format!("application:set_env(rabbit, {name}, {value})."),
        ])
        .await
        .map(drop)
    }

    /// Runs `rabbitmqctl`; gives what it printed.
    ///
    /// # Errors
    /// When it fails.
    pub async fn control(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let mut more = vec!["--".into()];
        more.extend(arguments.iter().map(Into::into));
        self.run("ctl", &more).await
    }

    /// Stalls every channel that consumes this queue of a virtual host, for good: deliveries do not
    /// arrive, and requests on the channel get no answer. The other channels of the same
    /// connections work. Gives the number of stalled channels.
    ///
    /// # Errors
    /// When `rabbitmqctl` fails.
    pub async fn stall_readers(&self, vhost: &str, queue: &str) -> anyhow::Result<usize> {
        let queue = format!("{{resource, <<\"{vhost}\">>, queue, <<\"{queue}\">>}}");
        let channels = format!(
            "[C || {{{{Q, C, _}}, _, _, _, _, _, _}} <- ets:tab2list(consumer_created), Q =:= {queue}]"
        );
        let expression = format!("length([sys:suspend(C) || C <- {channels}]).");
        let stalled = self.control(&["eval", &expression]).await?;
        stalled
            .trim()
            .parse()
            .with_context(|| format!("rabbitmqctl did not print a number: {stalled}"))
    }

    /// Cuts its links to these nodes of its cluster, in both directions, as a network partition
    /// does. A changed cookie keeps the links down. Clients of both sides stay connected.
    ///
    /// # Errors
    /// When `rabbitmqctl` fails.
    pub async fn cut_off(&self, from: &[&str]) -> anyhow::Result<()> {
        let part =
            "[begin erlang:set_cookie(N, cut_off), erlang:disconnect_node(N) end || N <- NODES].";
        self.for_nodes(from, part).await
    }

    /// Ends [`Self::cut_off`].
    ///
    /// # Errors
    /// When `rabbitmqctl` fails.
    pub async fn join_again(&self, with: &[&str]) -> anyhow::Result<()> {
        self.for_nodes(
            with,
            "[erlang:set_cookie(N, erlang:get_cookie()) || N <- NODES].",
        )
        .await
    }

    async fn for_nodes(&self, names: &[&str], expression: &str) -> anyhow::Result<()> {
        let nodes: Vec<String> = names
            .iter()
            .map(|name| format!("'{name}@localhost'"))
            .collect();
        let nodes = format!("[{}]", nodes.join(", "));
        self.control(&["eval", &expression.replace("NODES", &nodes)])
            .await
            .map(drop)
    }

    fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        kill(Pid::from_raw(self.pid()?), signal)
            .with_context(|| format!("{signal} to {}", self.data.display()))
    }

    /// # Errors
    /// When it does not run.
    pub fn pid(&self) -> anyhow::Result<i32> {
        let file = self.data.join("broker.pid");
        let text = std::fs::read_to_string(&file)
            .with_context(|| format!("no node runs in {}", self.data.display()))?;
        let pid = text
            .split_whitespace()
            .next()
            .context("an empty pid file")?;
        pid.parse()
            .with_context(|| format!("{} holds no pid", file.display()))
    }

    async fn run(&self, what: &str, more: &[OsString]) -> anyhow::Result<String> {
        let mut command = Command::new(&self.script);
        command
            .arg(what)
            .arg("--data")
            .arg(&self.data)
            .args(more)
            .stdin(Stdio::null());
        let done = command
            .output()
            .await
            .with_context(|| format!("failed to run {}", self.script.display()))?;
        let said = String::from_utf8_lossy(&done.stderr);
        ensure!(
            done.status.success(),
            "{} {what} failed: {said}",
            self.script.display()
        );
        Ok(String::from_utf8_lossy(&done.stdout).into_owned())
    }
}
