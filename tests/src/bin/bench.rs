//! Measures the pool next to a bare publish-and-consume loop on the same broker, and prints the table of docs/operate/performance.md.
//! `scripts/bench` builds what it needs and runs it.

use std::io::Write as _;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Parser;
use pool_tests::bench::agents::Agents;
use pool_tests::bench::pool::{self, RunningPool, Setup, own_directory};
use pool_tests::bench::process::{load_average, total_cpu_ms, total_pss_mb};
use pool_tests::bench::raw::{self, Raw};
use pool_tests::bench::report::{self, Measured, percentile_ms};
use pool_tests::bench::submitter::Submitter;
use pool_tests::bench::workspace::{self, Workspace};

const RAW: &str = "bare lapin loop, one process";
const ONE: &str = "pool, one worker process";
const TEN: &str = "pool, ten worker processes";
const ONE_HTTP: &str = "one worker process, submitted over HTTP";
const TEN_HTTP: &str = "ten worker processes, submitted over HTTP";
const ACCEPTED: &str = "accepted/s";

/// Tasks per second, latency, memory and start-up of the pool with an agent that does nothing.
#[derive(Parser)]
#[command(name = "bench")]
struct Args {
    /// The broker; everything of a pool in it is deleted.
    #[arg(long, env = "AMQP_URL", hide_env_values = true)]
    amqp_url: String,
    /// The broker's pid, to measure its processor time.
    #[arg(long)]
    broker_pid: Option<u32>,
    /// Directory for the pool file and the logs.
    #[arg(long, default_value = ".pool/bench/run")]
    dir: PathBuf,
    /// Tasks of each burst.
    #[arg(long, default_value_t = 5000)]
    tasks: usize,
    /// Tasks that are submitted one at a time, to measure latency.
    #[arg(long, default_value_t = 200)]
    single: usize,
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Give all programmers the same capabilities, so that each has one queue instead of three.
    #[arg(long)]
    one_queue: bool,
    /// Finished tasks that are in the log and the history at the start of each round.
    #[arg(long, default_value_t = 0)]
    history: usize,
    /// Measure only these cases: raw, one, ten; or ten runs of aider at once: agents.
    #[arg(long, value_delimiter = ',', default_value = "raw,one,ten")]
    only: Vec<String>,
    /// The aider of `--only agents`.
    #[arg(long, env = "POOL_AIDER", default_value = ".pool/aider/bin/aider")]
    aider: PathBuf,
}

struct Bench {
    args: Args,
    setup: Setup,
    measured: Measured,
}

/// How long a task waits for its worktree, beside git.
#[derive(Parser)]
#[command(name = "bench workspace")]
struct WorkspaceArgs {
    #[command(flatten)]
    choice: workspace::Choice,
    /// A directory for the repository and the pool.
    #[arg(long, default_value = ".pool/bench/run")]
    dir: PathBuf,
    #[arg(long, default_value_t = 3)]
    rounds: usize,
}

async fn measure_workspace(args: WorkspaceArgs) -> anyhow::Result<()> {
    let workspace = Workspace::new(args.choice, &args.dir)?;
    for round in 1..=args.rounds {
        eprintln!("round {round} of {}", args.rounds);
        for row in workspace.round().await? {
            print(&serde_json::to_string(&row)?)?;
        }
    }
    Ok(())
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    if std::env::args().nth(1).as_deref() == Some("workspace") {
        return measure_workspace(WorkspaceArgs::parse_from(std::env::args().skip(1))).await;
    }
    let args = Args::parse();
    let mut setup = Setup::new(
        own_directory()?,
        args.amqp_url.clone(),
        args.dir.clone(),
        args.one_queue,
    )?;
    setup.history = args.history;
    let mut bench = Bench {
        args,
        setup,
        measured: Measured::default(),
    };
    for round in 1..=bench.args.rounds {
        bench.round(round).await?;
    }
    if bench.args.only == ["agents"] {
        return Ok(());
    }
    print(&bench.report())
}

fn print(text: &str) -> anyhow::Result<()> {
    writeln!(std::io::stdout(), "{text}").context("failed to write to stdout")
}

impl Bench {
    async fn round(&mut self, round: usize) -> anyhow::Result<()> {
        for case in self.args.only.clone() {
            eprintln!("round {round} of {}: {case} …", self.args.rounds);
            self.measured.add("", report::LOAD, load_average()?);
            match case.as_str() {
                "raw" => self.raw().await.context("the bare loop")?,
                "one" => self
                    .pool(ONE, ONE_HTTP, 1)
                    .await
                    .context("one worker process")?,
                "ten" => self
                    .pool(TEN, TEN_HTTP, 10)
                    .await
                    .context("ten worker processes")?,
                "agents" => self.agents().await.context("ten runs of aider")?,
                other => anyhow::bail!("unknown case {other:?} in --only; known: raw, one, ten"),
            }
        }
        Ok(())
    }

    async fn raw(&mut self) -> anyhow::Result<()> {
        let _raw = Raw::start(&self.args.amqp_url, self.setup.pool.programmers.len()).await?;
        let mut submitter = Submitter::open(&self.args.amqp_url, raw::ADDRESS).await?;
        self.drive(RAW, &mut submitter, (&[], &[])).await
    }

    /// Prints a line of JSON for each case.
    async fn agents(&self) -> anyhow::Result<()> {
        let agents = Agents {
            programs: self.setup.programs.clone(),
            amqp_url: self.args.amqp_url.clone(),
            dir: self.args.dir.clone(),
            aider: std::path::absolute(&self.args.aider)?,
        };
        for row in agents.round().await? {
            print(&serde_json::to_string(&row)?)?;
        }
        Ok(())
    }

    async fn pool(
        &mut self,
        line: &'static str,
        http: &'static str,
        processes: usize,
    ) -> anyhow::Result<()> {
        let mut pool = RunningPool::start(&self.setup, processes).await?;
        let (dispatcher, workers) = (pool.dispatcher_pids(), pool.worker_pids());
        self.measured.add(
            line,
            report::START_DISPATCHER,
            pool.dispatcher_start.as_secs_f64(),
        );
        self.measured.add(
            line,
            report::START_WORKERS,
            pool.workers_start.as_secs_f64(),
        );
        self.measured
            .add(line, report::PSS_DISPATCHER, total_pss_mb(&dispatcher)?);
        self.measured
            .add(line, report::PSS_WORKERS, total_pss_mb(&workers)?);
        let mut submitter = Submitter::open(&self.args.amqp_url, pool::ADDRESS).await?;
        self.drive(line, &mut submitter, (&dispatcher, &workers))
            .await?;
        drop(submitter);
        pool.finished_elsewhere(self.args.single + self.args.tasks);
        let (accepted, finished) = pool.submit_over_http(self.args.tasks).await?;
        let tasks = f64::from(u32::try_from(self.args.tasks)?);
        self.measured
            .add(http, report::RATE, tasks / finished.as_secs_f64());
        self.measured
            .add(http, ACCEPTED, tasks / accepted.as_secs_f64());
        self.measured.add(
            line,
            report::PSS_DISPATCHER_AFTER,
            total_pss_mb(&dispatcher)?,
        );
        self.measured
            .add(line, report::PSS_WORKERS_AFTER, total_pss_mb(&workers)?);
        pool.stop().await
    }

    /// Measures single tasks, then a burst.
    async fn drive(
        &mut self,
        line: &'static str,
        submitter: &mut Submitter,
        (dispatcher, workers): (&[u32], &[u32]),
    ) -> anyhow::Result<()> {
        let times = submitter.one_by_one(self.args.single).await?;
        self.measured
            .add(line, report::P50, percentile_ms(&times, 50));
        self.measured
            .add(line, report::P99, percentile_ms(&times, 99));
        let broker: Vec<u32> = self.args.broker_pid.into_iter().collect();
        let parts: [(&str, &[u32]); 4] = [
            (report::CPU_BROKER, &broker),
            (report::CPU_DISPATCHER, dispatcher),
            (report::CPU_WORKERS, workers),
            (report::CPU_SUBMITTER, &[std::process::id()]),
        ];
        let before = parts
            .iter()
            .map(|(_, pids)| total_cpu_ms(pids))
            .collect::<anyhow::Result<Vec<f64>>>()?;
        let took = submitter.burst(self.args.tasks).await?;
        let tasks = f64::from(u32::try_from(self.args.tasks)?);
        for ((column, pids), before) in parts.iter().zip(before) {
            if !pids.is_empty() {
                self.measured
                    .add(line, column, (total_cpu_ms(pids)? - before) / tasks);
            }
        }
        eprintln!("  {line}: {:.0} tasks/s", tasks / took.as_secs_f64());
        self.measured
            .add(line, report::RATE, tasks / took.as_secs_f64());
        Ok(())
    }

    fn report(&self) -> String {
        let lines = [RAW, ONE, TEN, ONE_HTTP, TEN_HTTP];
        let mut text = self.measured.markdown(&lines, RAW);
        for line in [ONE_HTTP, TEN_HTTP] {
            if let Some(rate) = self.measured.median(line, ACCEPTED) {
                text.push_str(&format!(
                    "\n{line}: accepted {rate:.0} tasks/s (in the history, the log and the queue)"
                ));
            }
        }
        let load = self.measured.median("", report::LOAD).unwrap_or_default();
        let Args {
            rounds,
            tasks,
            single,
            one_queue,
            ..
        } = &self.args;
        let queues = if *one_queue {
            "one queue"
        } else {
            "three queues"
        };
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        text.push_str(&format!(
            "\n\nMedians of {rounds} interleaved rounds, {tasks} tasks of 500 bytes each (latency: {single} tasks, one at a time), \
             {queues} for each programmer, {cores} cores for everything, load average {load:.1}."
        ));
        text
    }
}
