//! `bench queue`: the speed of the pool with an agent that does nothing, beside the least that any
//! such system asks of the broker.

use std::time::Duration;

use anyhow::Context;
use clap::{Args, ValueEnum};

use super::pool::{self, RunningPool, Setup};
use super::process::{total_cpu_ms, total_pss_mb};
use super::raw::{self, Raw};
use super::record::Settings;
use super::row::{Case, Measure, Row};
use super::run::Benchmark;
use super::statistics::percentile_ms;
use super::submitter::Submitter;

const RAW: Case = Case::new("bare lapin loop, one process");
const ONE: Case = Case::new("pool, one worker process");
const TEN: Case = Case::new("pool, ten worker processes");
const ONE_HTTP: Case = Case::new("one worker process, submitted over HTTP");
const TEN_HTTP: Case = Case::new("ten worker processes, submitted over HTTP");

const RATE: Measure = Measure::higher("throughput", "", "tasks/s");
const ACCEPTED: Measure = Measure::higher("accepted over HTTP", "", "tasks/s");
const P50: Measure = Measure::lower("latency", "p50", "ms");
const P99: Measure = Measure::lower("latency", "p99", "ms");
const READY: [Measure; 2] = [
    Measure::lower("ready after", DISPATCHER, "s"),
    Measure::lower("ready after", WORKERS, "s"),
];
const IDLE: [Measure; 2] = [
    Measure::lower("memory idle", DISPATCHER, "MB"),
    Measure::lower("memory idle", WORKERS, "MB"),
];
const AFTER: [Measure; 2] = [
    Measure::lower("memory after", DISPATCHER, "MB"),
    Measure::lower("memory after", WORKERS, "MB"),
];
const CPU: [Measure; 4] = [
    Measure::lower("CPU per task", "broker", "ms"),
    Measure::lower("CPU per task", "submitter", "ms"),
    Measure::lower("CPU per task", DISPATCHER, "ms"),
    Measure::lower("CPU per task", WORKERS, "ms"),
];
const DISPATCHER: &str = "dispatcher";
const WORKERS: &str = "workers";

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    Raw,
    One,
    Ten,
}

/// Tasks per second, latency, memory and start-up of the pool with an agent that does nothing.
#[derive(Debug, Clone, Args)]
pub struct Choice {
    /// The broker; everything of a pool in it is deleted.
    #[arg(long, env = "AMQP_URL", hide_env_values = true)]
    amqp_url: String,
    /// The broker's pid, to measure its processor time.
    #[arg(long)]
    broker_pid: Option<u32>,
    /// Tasks of each burst.
    #[arg(long, default_value_t = 5000)]
    tasks: usize,
    /// Tasks that are submitted one at a time, to measure latency.
    #[arg(long, default_value_t = 200)]
    single: usize,
    /// Give all programmers the same capabilities, so that each has one queue instead of three.
    #[arg(long)]
    one_queue: bool,
    /// Finished tasks that are in the log and the history at the start of each round.
    #[arg(long, default_value_t = 0)]
    history: usize,
    /// Measure only these cases.
    #[arg(long, value_delimiter = ',', default_value = "raw,one,ten")]
    only: Vec<Part>,
}

/// The benchmark with its pool file.
pub struct Queue {
    choice: Choice,
    setup: Setup,
    rows: Vec<Row>,
}

/// The processes whose processor time is measured, in the order of [`CPU`].
type Pids<'a> = [&'a [u32]; 4];

impl Queue {
    /// # Errors
    /// When the pool file cannot be written to `dir`.
    pub fn new(choice: Choice, dir: &std::path::Path) -> anyhow::Result<Self> {
        let mut setup = Setup::new(
            pool::own_directory()?,
            choice.amqp_url.clone(),
            dir.to_owned(),
            choice.one_queue,
        )?;
        setup.history = choice.history;
        Ok(Self {
            choice,
            setup,
            rows: Vec::new(),
        })
    }

    fn add(&mut self, case: &Case, measure: Measure, value: f64) {
        self.rows.push(Row::new(case.clone(), measure, value));
    }

    async fn raw(&mut self) -> anyhow::Result<()> {
        let _raw = Raw::start(&self.choice.amqp_url, self.setup.pool.programmers.len()).await?;
        let mut submitter = Submitter::open(&self.choice.amqp_url, raw::ADDRESS).await?;
        self.drive(&RAW, &mut submitter, [&[], &[]]).await
    }

    async fn pool(&mut self, case: &Case, http: &Case, processes: usize) -> anyhow::Result<()> {
        let mut pool = RunningPool::start(&self.setup, processes).await?;
        let parts = [pool.dispatcher_pids(), pool.worker_pids()];
        let idle = memory(&parts)?;
        let mut submitter = Submitter::open(&self.choice.amqp_url, pool::ADDRESS).await?;
        self.drive(case, &mut submitter, [&parts[0], &parts[1]])
            .await?;
        drop(submitter);
        pool.finished_elsewhere(self.choice.single + self.choice.tasks);
        let (accepted, finished) = pool.submit_over_http(self.choice.tasks).await?;
        self.add(http, RATE, self.rate(finished)?);
        self.add(http, ACCEPTED, self.rate(accepted)?);
        let ready = [pool.dispatcher_start, pool.workers_start].map(|time| time.as_secs_f64());
        let columns = [(IDLE, idle), (AFTER, memory(&parts)?), (READY, ready)];
        for (measures, values) in columns {
            for (measure, value) in measures.into_iter().zip(values) {
                self.add(case, measure, value);
            }
        }
        pool.stop().await
    }

    /// Measures single tasks, then a burst.
    async fn drive(
        &mut self,
        case: &Case,
        submitter: &mut Submitter,
        [dispatcher, workers]: [&[u32]; 2],
    ) -> anyhow::Result<()> {
        let times = submitter.one_by_one(self.choice.single).await?;
        let broker: Vec<u32> = self.choice.broker_pid.into_iter().collect();
        let own = [std::process::id()];
        let pids: Pids<'_> = [&broker, &own, dispatcher, workers];
        let before = cpu(pids)?;
        let took = submitter.burst(self.choice.tasks).await?;
        let used = cpu(pids)?;
        self.add(case, RATE, self.rate(took)?);
        self.add(case, P50, percentile_ms(&times, 50));
        self.add(case, P99, percentile_ms(&times, 99));
        let tasks = self.tasks()?;
        for (part, measure) in CPU.into_iter().enumerate() {
            if !pids[part].is_empty() {
                self.add(case, measure, (used[part] - before[part]) / tasks);
            }
        }
        Ok(())
    }

    fn tasks(&self) -> anyhow::Result<f64> {
        Ok(f64::from(u32::try_from(self.choice.tasks)?))
    }

    fn rate(&self, took: Duration) -> anyhow::Result<f64> {
        Ok(self.tasks()? / took.as_secs_f64())
    }
}

fn memory(parts: &[Vec<u32>; 2]) -> anyhow::Result<[f64; 2]> {
    Ok([total_pss_mb(&parts[0])?, total_pss_mb(&parts[1])?])
}

fn cpu(pids: Pids<'_>) -> anyhow::Result<[f64; 4]> {
    let mut used = [0.0; 4];
    for (value, pids) in used.iter_mut().zip(pids) {
        *value = total_cpu_ms(pids)?;
    }
    Ok(used)
}

impl Benchmark for Queue {
    const NAME: &'static str = "queue";
    const BASE: Option<Case> = Some(RAW);

    fn settings(&self) -> Settings {
        let queues = if self.choice.one_queue { 1 } else { 3 };
        let programmers = self.setup.pool.programmers.len();
        [
            ("tasks in a burst", self.choice.tasks),
            ("single tasks", self.choice.single),
            ("finished tasks before", self.choice.history),
            ("programmers", programmers),
            ("queues of a programmer", queues),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_string()))
        .into()
    }

    async fn round(&mut self) -> anyhow::Result<Vec<Row>> {
        for part in self.choice.only.clone() {
            match part {
                Part::Raw => self.raw().await.context("the bare loop")?,
                Part::One => self
                    .pool(&ONE, &ONE_HTTP, 1)
                    .await
                    .context("one worker process")?,
                Part::Ten => self
                    .pool(&TEN, &TEN_HTTP, 10)
                    .await
                    .context("ten worker processes")?,
            }
        }
        Ok(std::mem::take(&mut self.rows))
    }
}
