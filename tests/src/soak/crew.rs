//! The processes of the soak: two dispatchers on fixed ports and four workers. A killed one is
//! started again.

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pool_broker::topology::{EVENTS_STREAM, HISTORY_STREAM};
use serde_json::{Value, json};
use tokio::process::{Child, Command};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, timeout};

use super::kinds::EDITS;
use super::plan::{Blow, Victim};
use crate::bench::connect;
use crate::faults::client::ready;
use crate::faults::node::Node;

/// The programmers of each worker, and whether their agent works in a worktree. (The other agent
/// does nothing, which is fast.)
pub const WORKERS: [(&str, bool); 4] = [
    ("001,002,003", false),
    ("004,005,006", false),
    ("007,008", true),
    ("009,010", true),
];
/// Programmers up to this number have fewer capabilities than the others.
const DO_NOTHING: u32 = 6;
pub const DISPATCHERS: usize = 2;
/// The directory for the marks of agents.
const MARKS: &str = "marks";
/// The time for a process to end after SIGTERM, beyond its drain time.
const ENDS_WITHIN: Duration = Duration::from_secs(60);
/// The time for a running broker to serve its streams.
const STREAMS_WITHIN: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// The most restarts of a broker that does not serve its streams.
const RESTARTS: usize = 3;
/// The agent of a task that crashes kills itself in the first two runs. It counts them by marks in
/// the directory of its second argument.
const AGENT: &str = r#"
sleep 0.1
name=$(sed -n 's/.*crash \([a-z0-9-]*\).*/\1/p' "$1" | head -n 1)
if [ -n "$name" ] && { mkdir "$2/$name" || mkdir "$2/$name/again"; } 2>/dev/null; then kill -9 $$; fi
if grep -q 'soak slow' "$1"; then sleep 2; fi
echo another line >>readme.txt
"#;

/// Paths and addresses of the run.
#[derive(Debug)]
pub struct Camp {
    /// The directory of `dispatcher` and `worker`.
    pub programs: PathBuf,
    pub dir: PathBuf,
    pub amqp_url: String,
    /// The ports of the dispatchers.
    pub ports: [u16; DISPATCHERS],
}

impl Camp {
    /// Writes the pool files (one for each agent) and the repository of the tasks.
    ///
    /// # Errors
    /// When they cannot be written.
    pub async fn pitch(&self) -> anyhow::Result<()> {
        let repository = self.dir.join("repositories/app");
        std::fs::create_dir_all(&repository).context("failed to make the repository")?;
        for name in ["logs", MARKS] {
            std::fs::create_dir_all(self.dir.join(name))
                .with_context(|| format!("failed to make {name}"))?;
        }
        std::fs::write(repository.join("readme.txt"), "one\ntwo\n")
            .context("failed to write into the repository")?;
        let identity = ["-c", "user.name=soak", "-c", "user.email=soak@example.org"];
        for arguments in [
            &["init", "--quiet"][..],
            &["add", "."],
            &["commit", "--quiet", "--message", "first"],
        ] {
            let mut git = Command::new("git");
            let done = git
                .arg("-C")
                .arg(&repository)
                .args(identity)
                .args(arguments)
                .status()
                .await;
            anyhow::ensure!(
                done.context("failed to run git")?.success(),
                "git {arguments:?} failed"
            );
        }
        for (works, name) in [(false, "noop.yaml"), (true, "working.yaml")] {
            std::fs::write(self.dir.join(name), self.pool_file(works)?.to_string())
                .context("failed to write a pool file")?;
        }
        Ok(())
    }

    /// All times are short, so that a lost process is noticed soon.
    fn pool_file(&self, works: bool) -> anyhow::Result<Value> {
        let offered = |number| {
            if number > DO_NOTHING {
                json!([EDITS, "fast"])
            } else {
                json!(["fast"])
            }
        };
        let programmer = |number| json!({"id": format!("{number:03}"), "port": 0, "primary_llm": "soak/none", "capabilities": offered(number)});
        let marks = self.dir.join(MARKS);
        let marks = marks
            .to_str()
            .context("a directory whose name is not UTF-8")?;
        let agent = match works {
            true => {
                json!({"kind": "command", "command": ["/bin/sh", "-c", AGENT, "agent", "{prompt_file}", marks]})
            }
            false => json!({"kind": "noop"}),
        };
        Ok(json!({
            "programmers": (1..=10).map(programmer).collect::<Vec<Value>>(),
            "providers": {"soak": {"base_url": "http://127.0.0.1:9/v1", "free": true}},
            "agent": agent,
            "workspace": {"dir": "work", "roots": ["repositories"]},
            "sandbox": {"write": [MARKS]},
            "broker": {"heartbeat_s": 4, "timeout_s": 5},
            "events": {"tick_s": 1, "stale_s": 5},
            "load_balancing": {"health_check_interval_s": 1},
            // A task that loses its worker again and again must not count as poison here.
            "dispatcher": {"max_attempts": 100, "retry_delay_s": 1, "drain_timeout_s": 10},
        }))
    }

    pub fn urls(&self) -> Vec<String> {
        self.ports
            .iter()
            .map(|port| format!("http://127.0.0.1:{port}"))
            .collect()
    }

    fn spawn(
        &self,
        name: &str,
        program: &str,
        arguments: &[&str],
        works: bool,
    ) -> anyhow::Result<Child> {
        let path = self.programs.join(program);
        let log = self.dir.join("logs").join(name);
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(&log)
            .context("failed to open a log file")?;
        let mut command = Command::new(&path);
        command
            .args(arguments)
            .arg("--pool")
            .arg(
                self.dir
                    .join(if works { "working.yaml" } else { "noop.yaml" }),
            );
        command
            .env("AMQP_URL", &self.amqp_url)
            .env_remove("PROGRAMMER_ID")
            .env_remove("POOL_FILE");
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true);
        command
            .spawn()
            .with_context(|| format!("failed to start {}", path.display()))
    }

    fn spawn_dispatcher(&self, number: usize) -> anyhow::Result<Child> {
        let listen = format!("127.0.0.1:{}", self.ports[number]);
        self.spawn(
            &format!("dispatcher-{number}.log"),
            "dispatcher",
            &["serve", "--listen", &listen],
            false,
        )
    }

    fn spawn_worker(&self, number: usize) -> anyhow::Result<Child> {
        let (ids, works) = WORKERS[number];
        self.spawn(
            &format!("worker-{number}.log"),
            "worker",
            &["run", "--programmers", ids],
            works,
        )
    }
}

/// All processes. Dropping it ends them, except the broker. Only one of a kind is killed at a time;
/// a broker that is slow to come back does not keep the others from being killed.
#[derive(Debug)]
pub struct Crew {
    camp: Camp,
    node: Mutex<Node>,
    dispatchers: Mutex<Vec<Child>>,
    workers: Mutex<Vec<Child>>,
}

impl Crew {
    /// # Errors
    /// When a process does not start.
    pub fn start(camp: Camp, node: Node) -> anyhow::Result<Self> {
        let dispatchers: Vec<Child> = (0..DISPATCHERS)
            .map(|number| camp.spawn_dispatcher(number))
            .collect::<Result<_, _>>()?;
        let workers: Vec<Child> = (0..WORKERS.len())
            .map(|number| camp.spawn_worker(number))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            camp,
            node: node.into(),
            dispatchers: dispatchers.into(),
            workers: workers.into(),
        })
    }

    /// Kills or stops one process, and starts it again.
    ///
    /// # Errors
    /// When it does not end or does not start, or when another one of its kind has ended by itself.
    pub async fn hit(&self, victim: Victim, blow: Blow) -> anyhow::Result<()> {
        match victim {
            Victim::Worker(number) => {
                let mut workers = self.workers.lock().await;
                self.nobody_gave_up(&mut workers)?;
                end(&mut workers[number], blow)
                    .await
                    .with_context(|| format!("worker {number}"))?;
                workers[number] = self.camp.spawn_worker(number)?;
            }
            Victim::Dispatcher(number) => {
                let mut dispatchers = self.dispatchers.lock().await;
                self.nobody_gave_up(&mut dispatchers)?;
                end(&mut dispatchers[number], blow)
                    .await
                    .with_context(|| format!("dispatcher {number}"))?;
                dispatchers[number] = self.camp.spawn_dispatcher(number)?;
            }
            Victim::Broker => {
                let node = self.node.lock().await;
                match blow {
                    Blow::Kill => node.kill().await?,
                    Blow::Stop => node.stop().await?,
                }
                node.start().await?;
                self.streams_are_up(&node).await?;
            }
        }
        Ok(())
    }

    /// Waits until the node serves its streams again. A node that is stopped before can leave them
    /// stuck for as long as it runs (3.10.8); it is then restarted once more, as an operator would.
    async fn streams_are_up(&self, node: &Node) -> anyhow::Result<()> {
        for _ in 0..RESTARTS {
            let deadline = Instant::now() + STREAMS_WITHIN;
            while Instant::now() < deadline {
                if self.has_streams().await.unwrap_or(false) {
                    return Ok(());
                }
                sleep(LOOK_EVERY).await;
            }
            eprintln!(
                "soak: the broker did not serve its streams within {STREAMS_WITHIN:?}; restarting it"
            );
            node.stop().await?;
            node.start().await?;
        }
        bail!(
            "the broker does not serve its streams; see its log in {}",
            self.camp.dir.display()
        )
    }

    async fn has_streams(&self) -> anyhow::Result<bool> {
        let connection = connect(&self.camp.amqp_url).await?;
        for stream in [EVENTS_STREAM, HISTORY_STREAM] {
            if ready(&connection, stream).await?.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Fails if a process has ended by itself: an outage of the broker must not end it.
    fn nobody_gave_up(&self, children: &mut [Child]) -> anyhow::Result<()> {
        for (number, child) in children.iter_mut().enumerate() {
            if let Some(status) = child.try_wait()? {
                bail!(
                    "number {number} has ended by itself with {status}; see {}",
                    self.camp.dir.display()
                );
            }
        }
        Ok(())
    }

    /// Ends all processes in order, workers first.
    ///
    /// # Errors
    /// When one does not end, or had ended before.
    pub async fn stop(&self) -> anyhow::Result<()> {
        for children in [&self.workers, &self.dispatchers] {
            let mut children = children.lock().await;
            self.nobody_gave_up(&mut children)?;
            for child in children.iter_mut() {
                end(child, Blow::Stop).await?;
            }
        }
        Ok(())
    }
}

async fn end(child: &mut Child, blow: Blow) -> anyhow::Result<ExitStatus> {
    let pid = child
        .id()
        .and_then(|pid| i32::try_from(pid).ok())
        .context("the process has ended by itself")?;
    let signal = match blow {
        Blow::Kill => Signal::SIGKILL,
        Blow::Stop => Signal::SIGTERM,
    };
    kill(Pid::from_raw(pid), signal).with_context(|| format!("{signal} to {pid}"))?;
    let ended = timeout(ENDS_WITHIN, child.wait()).await;
    ended
        .with_context(|| format!("{pid} did not end within {ENDS_WITHIN:?} after {signal}"))?
        .context("failed to wait for the process")
}

/// A free port for each dispatcher, which keeps it when it is started again.
///
/// # Errors
/// When no port is free.
pub fn free_ports() -> anyhow::Result<[u16; DISPATCHERS]> {
    let mut ports = [0; DISPATCHERS];
    let mut kept = Vec::new();
    for port in &mut ports {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).context("no free port")?;
        *port = listener.local_addr()?.port();
        kept.push(listener);
    }
    Ok(ports)
}

/// The script of the checkout from which this program was built.
pub fn broker_script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/broker")
}
