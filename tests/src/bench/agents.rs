//! `bench agents`: ten runs of the real aider at once in `strict`, started cold and warm, with the
//! scripted LLM.
//!
//! It runs the real programs, so the time is that of a user: from handing ten tasks in until all have
//! succeeded. Both cases do the same tasks in the same run.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use serde::Deserialize;
use serde_json::json;
use tokio::time::{Instant, interval, sleep};

use super::patiently;
use super::pool::{RunningPool, Setup, own_directory};
use super::process::{pss_mb, tree_below, tree_cpu_ms};
use super::record::Settings;
use super::row::{Case, Measure, Row};
use super::run::Benchmark;
use crate::scripted_llm::{Script, ScriptedLlm};

/// Runs at once, and programmers.
const RUNS: u16 = 10;
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// The memory of ten runs of aider is read in about 30 ms.
const SAMPLE_EVERY: Duration = Duration::from_millis(250);
/// The repository of all tasks.
const REPOSITORY: &str = "app";

const COLD: Case = Case::cold("ten runs of aider at once");
const WARM: Case = Case::warm("ten runs of aider at once");
/// From handing all tasks in until the last one has succeeded.
const WALL: Measure = Measure::lower("wall time", "", "s");
/// Of everything that the worker has started.
const CPU: Measure = Measure::lower("CPU per run", "", "s");
/// The most memory of all agents together, the fork server included. MB of 1,000,000 bytes; shared
/// pages count once.
const MEMORY: Measure = Measure::lower("peak memory", "", "MB");

/// Ten runs of aider at once, started cold and warm.
#[derive(Debug, Clone, Args)]
pub struct Choice {
    /// The broker; everything of a pool in it is deleted.
    #[arg(long, env = "AMQP_URL", hide_env_values = true)]
    amqp_url: String,
    /// The aider executable.
    #[arg(long, env = "POOL_AIDER", default_value = ".pool/aider/bin/aider")]
    aider: PathBuf,
}

/// The benchmark with its directory.
pub struct Agents {
    choice: Choice,
    /// For the pool files, the logs and all files of the pools.
    dir: PathBuf,
}

impl Benchmark for Agents {
    const NAME: &'static str = "agents";
    const BASE: Option<Case> = Some(COLD);

    fn settings(&self) -> Settings {
        Settings::from([("runs at once".to_owned(), RUNS.to_string())])
    }

    /// Fails when a task does not succeed in the way that the case says.
    async fn round(&mut self) -> anyhow::Result<Vec<Row>> {
        let llm = ScriptedLlm::start(Script::default(), 0).await?;
        let mut rows = self.measure(COLD, &llm).await.context("cold")?;
        rows.extend(self.measure(WARM, &llm).await.context("warm")?);
        Ok(rows)
    }
}

impl Agents {
    /// # Errors
    /// When there is no such aider.
    pub fn new(choice: Choice, dir: &Path) -> anyhow::Result<Self> {
        let aider = std::path::absolute(&choice.aider)?;
        if !aider.exists() {
            bail!(
                "{} is missing: scripts/quickstart installs it",
                aider.display()
            );
        }
        Ok(Self {
            choice: Choice { aider, ..choice },
            dir: dir.to_owned(),
        })
    }

    async fn measure(&self, case: Case, llm: &ScriptedLlm) -> anyhow::Result<Vec<Row>> {
        let warm = case == WARM;
        let setup = self.setup(warm, llm)?;
        let pool = RunningPool::start(&setup, 1).await?;
        let worker = *pool.worker_pids().first().context("no worker runs")?;
        let log = setup.dir.join("worker-0.log");
        if warm {
            patiently("starting the fork server", warm_start(&log)).await?;
        }
        let client = Client::of(&setup)?;
        let cpu = tree_cpu_ms(worker)?;
        let began = Instant::now();
        client.submit().await?;
        let finished = patiently("ten runs of aider", client.all_succeeded());
        let (finished, memory_mb) = peak_memory_mb(worker, finished).await;
        finished?;
        let wall_s = began.elapsed().as_secs_f64();
        let cpu_s_per_run = (tree_cpu_ms(worker)? - cpu) / 1000.0 / f64::from(RUNS);
        pool.stop().await?;
        let said = std::fs::read_to_string(&log)?;
        if warm && said.contains("the agent started cold") {
            bail!("not every run was warm: {}", log.display());
        }
        let values = [(WALL, wall_s), (CPU, cpu_s_per_run), (MEMORY, memory_mb)];
        let row = |(measure, value)| Row::new(case.clone(), measure, value);
        Ok(values.map(row).into())
    }

    /// A pool with ten programmers, whose agent is aider, and a repository.
    fn setup(&self, warm: bool, llm: &ScriptedLlm) -> anyhow::Result<Setup> {
        let (name, warm) = match warm {
            true => ("agents-warm", "auto"),
            false => ("agents-cold", "off"),
        };
        let dir = std::path::absolute(self.dir.join(name))?;
        if dir.exists() {
            std::fs::remove_dir_all(&dir)?;
        }
        repository(&dir.join("repositories").join(REPOSITORY))?;
        let programmers: Vec<_> = (1..=RUNS)
            .map(|number| {
                json!({"id": format!("{number:03}"), "port": 0, "primary_llm": "scripted/model", "capabilities": ["fast"]})
            })
            .collect();
        let file = json!({
            "programmers": programmers,
            "defaults": {"timeout_s": 600, "max_duration_per_job_s": 300},
            "providers": {"scripted": {"base_url": llm.base_url(), "free": true}},
            "agent": {"kind": "aider", "program": self.choice.aider, "warm": warm},
            "workspace": {"dir": "work", "roots": ["repositories"]},
            "sandbox": {"level": "strict"},
        });
        let pool_file = dir.join("pool.yaml");
        std::fs::write(&pool_file, file.to_string()).context("failed to write the pool file")?;
        let pool = pool_config::load(&pool_file, &pool_config::Env::of_process())
            .map_err(|mistakes| anyhow::anyhow!("a pool file of the benchmark: {mistakes}"))?;
        Ok(Setup {
            programs: own_directory()?,
            amqp_url: self.choice.amqp_url.clone(),
            dir,
            pool_file,
            pool,
            history: 0,
        })
    }
}

fn repository(dir: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(dir)?;
    std::fs::write(dir.join("calc.py"), "def add(a, b):\n    return a - b\n")?;
    let author = ["-c", "user.name=bench", "-c", "user.email=bench@localhost"];
    for step in [
        &["init", "--quiet"][..],
        &["add", "."],
        &["commit", "--quiet", "-m", "first"],
    ] {
        let mut git = Command::new("git");
        let done = git.args(author).args(step).current_dir(dir).status()?;
        if !done.success() {
            bail!("git {step:?} failed");
        }
    }
    Ok(())
}

/// Waits until the worker's log tells how its fork server got on.
async fn warm_start(log: &Path) -> anyhow::Result<()> {
    loop {
        let said = std::fs::read_to_string(log)?;
        let mut lines = said.lines();
        match lines.find(|line| line.contains("the fork server for ")) {
            Some(line) if line.contains("is ready") => return Ok(()),
            Some(line) => bail!("no warm starts: {line}"),
            None => {}
        }
        sleep(LOOK_EVERY).await;
    }
}

/// The most memory of everything below this process until `done` is over.
async fn peak_memory_mb<T>(root: u32, done: impl Future<Output = T>) -> (T, f64) {
    tokio::pin!(done);
    let (mut ticks, mut most) = (interval(SAMPLE_EVERY), 0.0);
    loop {
        tokio::select! {
            done = &mut done => return (done, most),
            _ = ticks.tick() => {
                // A process that has ended in the meantime has none.
                let now = tree_below(root).into_iter().filter_map(|pid| pss_mb(pid).ok());
                most = f64::max(most, now.sum());
            }
        }
    }
}

/// Hands tasks in over HTTP.
struct Client {
    api: String,
    http: reqwest::Client,
}

impl Client {
    fn of(setup: &Setup) -> anyhow::Result<Self> {
        let http = reqwest::Client::builder().no_proxy().tls_certs_only([]);
        Ok(Self {
            api: std::fs::read_to_string(setup.dir.join("url"))?,
            http: http.build()?,
        })
    }

    async fn submit(&self) -> anyhow::Result<()> {
        let edit = json!({"say": "I swap the sign.", "edits": [
            {"file": "calc.py", "search": "    return a - b", "replace": "    return a + b"},
        ]});
        let task = |number| {
            json!({
                "id": format!("agent-{number}"), "repository": REPOSITORY, "files": ["calc.py"],
                "instruction": format!("Fix add.\nSCRIPT: {edit}"),
            })
        };
        let tasks: Vec<_> = (0..RUNS).map(task).collect();
        let request = self.http.post(format!("{}/tasks", self.api));
        let request = request.header("content-type", "application/json");
        let answer = request.body(json!(tasks).to_string()).send().await?;
        if !answer.status().is_success() {
            bail!("the dispatcher refused: {}", answer.text().await?);
        }
        Ok(())
    }

    async fn count(&self, status: &str) -> anyhow::Result<u64> {
        #[derive(Deserialize)]
        struct List {
            total: u64,
        }
        let url = format!("{}/tasks?status={status}&limit=1", self.api);
        let list: List = self.http.get(url).send().await?.json().await?;
        Ok(list.total)
    }

    async fn all_succeeded(&self) -> anyhow::Result<()> {
        while self.count("succeeded").await? < u64::from(RUNS) {
            if self.count("failed").await? > 0 {
                bail!("a task has failed: see {}/tasks?status=failed", self.api);
            }
            sleep(LOOK_EVERY).await;
        }
        Ok(())
    }
}
