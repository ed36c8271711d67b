//! `bench workspace`: how long a task waits for its worktree, from its submission to an idle pool until its agent
//! starts, on a large repository. `git worktree add` and `git clone --shared` are measured in the
//! same run, on the same repository.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail, ensure};
use futures_util::StreamExt;
use lapin::options::{BasicAckOptions, BasicConsumeOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Connection, Consumer};
use pool_core::result::ResultMessage;
use pool_telemetry::clock::wall_clock;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::pool::{ADDRESS, RunningPool, Setup, own_directory};
use super::record::Settings;
use super::row::{Case, Measure, Row};
use super::run::Benchmark;
use super::submitter::{persistent, publish};
use super::{confirmed_channel, connect, patiently};

/// The repository below the directory of the benchmark.
const REPOSITORY: &str = "repositories/large";
const FILE_BYTES: usize = 4096;
const FILES_OF_A_DIRECTORY: usize = 50;
/// How many programmers the pool has, and how many tasks there are at once.
const AT_ONCE: usize = 10;

/// How long a task waits for the files of a large repository, beside git.
#[derive(Debug, Clone, clap::Args)]
pub struct Choice {
    /// The broker; everything of a pool in it is deleted.
    #[arg(long, env = "AMQP_URL", hide_env_values = true)]
    pub amqp_url: String,
    /// Files of the repository, with 4 KiB each.
    #[arg(long, default_value_t = 50_000)]
    pub files: usize,
    /// Tasks one after the other, after the first one.
    #[arg(long, default_value_t = 3)]
    pub tasks: usize,
}

const BY_WORKTREE: Case = Case::new("git worktree add");
const BY_CLONE: Case = Case::new("git clone --shared");
const NEW: Case = Case::cold("pool");
const AGAIN: Case = Case::warm("pool");
const ONE: Measure = Measure::lower("wait", "one", "s");
/// Until the last of ten has its files.
const TEN: Measure = Measure::lower("wait", "ten at once", "s");
const WORKTREE: [&str; 4] = ["worktree", "add", "--quiet", "--detach"];
const CLONE: [&str; 3] = ["clone", "--quiet", "--shared"];

/// A large repository, and the pool that works on it.
pub struct Workspace {
    choice: Choice,
    dir: PathBuf,
    repository: PathBuf,
}

impl Benchmark for Workspace {
    const NAME: &'static str = "workspace";
    const BASE: Option<Case> = Some(BY_WORKTREE);

    fn settings(&self) -> Settings {
        Settings::from([
            ("files".to_owned(), self.choice.files.to_string()),
            ("bytes of a file".to_owned(), FILE_BYTES.to_string()),
        ])
    }

    async fn round(&mut self) -> anyhow::Result<Vec<Row>> {
        let mut rows = Vec::new();
        for (case, args) in [(BY_WORKTREE, &WORKTREE[..]), (BY_CLONE, &CLONE[..])] {
            for (measure, count) in [(ONE, 1), (TEN, AT_ONCE)] {
                eprintln!("  {}: {} …", case.title(), measure.title());
                let seconds = self.with_git(args, count).await?;
                rows.push(Row::new(case.clone(), measure, seconds));
            }
        }
        rows.extend(self.with_pool().await?);
        Ok(rows)
    }
}

impl Workspace {
    /// Makes the repository, unless an earlier run has.
    ///
    /// # Errors
    /// When git fails.
    pub fn new(choice: Choice, dir: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("failed to make {}", dir.display()))?;
        let dir = dir.canonicalize()?;
        let repository = dir.join(format!("{REPOSITORY}-{}", choice.files));
        if !repository.join("done").exists() {
            make_repository(&repository, choice.files)?;
        }
        Ok(Self {
            choice,
            dir,
            repository,
        })
    }

    /// The time until git has made `count` trees at once. They are removed afterwards.
    async fn with_git(&self, args: &[&str], count: usize) -> anyhow::Result<f64> {
        let places: Vec<PathBuf> = (0..count)
            .map(|number| self.dir.join(format!("by-git-{number}")))
            .collect();
        let mut running = JoinSet::new();
        let began = Instant::now();
        for place in &places {
            let mut command = tokio::process::Command::new("git");
            command.arg("-C").arg(&self.repository).args(args);
            if args.first() == Some(&"clone") {
                command.arg(".");
            }
            command.arg(place).stdin(Stdio::null());
            running.spawn(async move { command.status().await });
        }
        for ended in running.join_all().await {
            ensure!(ended?.success(), "git {args:?} failed");
        }
        let seconds = began.elapsed().as_secs_f64();
        for place in places {
            fs::remove_dir_all(place)?;
        }
        git(&self.repository, &["worktree", "prune"])?;
        Ok(seconds)
    }

    async fn with_pool(&self) -> anyhow::Result<Vec<Row>> {
        let work = self.dir.join("work");
        if work.exists() {
            fs::remove_dir_all(&work)?;
        }
        let amqp_url = self.choice.amqp_url.clone();
        let setup =
            Setup::with_pool_file(own_directory()?, amqp_url, self.dir.clone(), &pool_yaml())?;
        let pool = RunningPool::start(&setup, 1).await?;
        let mut client = Client::open(&setup.amqp_url, &self.repository).await?;
        let mut rows = Vec::new();
        let mut measure = async |case: Case, measure: Measure, count| {
            eprintln!("  {}: {} …", case.title(), measure.title());
            let seconds = client.last_start(count).await?;
            rows.push(Row::new(case, measure, seconds));
            anyhow::Ok(())
        };
        measure(NEW, ONE, 1).await?;
        for _ in 0..self.choice.tasks {
            measure(AGAIN, ONE, 1).await?;
        }
        measure(NEW, TEN, AT_ONCE).await?;
        for _ in 0..self.choice.tasks {
            measure(AGAIN, TEN, AT_ONCE).await?;
        }
        pool.stop().await?;
        Ok(rows)
    }
}

fn make_repository(dir: &Path, files: usize) -> anyhow::Result<()> {
    eprintln!("  making a repository of {files} files …");
    if dir.exists() {
        fs::remove_dir_all(dir)?;
    }
    for number in 0..files {
        let directory = number / FILES_OF_A_DIRECTORY;
        let place = dir.join(format!("part-{}/module-{directory}", directory / 20));
        if number % FILES_OF_A_DIRECTORY == 0 {
            fs::create_dir_all(&place)?;
        }
        let line = format!("file {number}: a line of text that differs from all others\n");
        let text = line.repeat(FILE_BYTES / line.len() + 1);
        fs::write(place.join(format!("file-{number}.txt")), text)?;
    }
    git(dir, &["init", "--quiet"])?;
    git(dir, &["add", "--all"])?;
    let identity = ["-c", "user.name=bench", "-c", "user.email=bench@localhost"];
    let commit = ["commit", "--quiet", "-m", "all files"];
    git(dir, &[&identity[..], &commit[..]].concat())?;
    git(dir, &["gc", "--quiet"])?;
    fs::write(dir.join("done"), "")?;
    Ok(())
}

fn git(dir: &Path, args: &[&str]) -> anyhow::Result<()> {
    let status = Command::new("git").args(args).current_dir(dir).status()?;
    ensure!(status.success(), "git {args:?} failed");
    Ok(())
}

/// Ten programmers whose agent says when it starts, and changes a file.
fn pool_yaml() -> String {
    let programmers: String = (1..=AT_ONCE)
        .map(|number| format!("  - {{id: \"{number:03}\", port: 0, primary_llm: bench/none, capabilities: [fast]}}\n"))
        .collect();
    format!(
        "pool_size: {AT_ONCE}\nprogrammers:\n{programmers}\
         providers:\n  bench: {{base_url: \"http://127.0.0.1:9/v1\", free: true}}\n\
         agent: {{kind: command, command: [/bin/sh, -c, \"date +started=%s%N; echo changed >changed\"]}}\n\
         workspace: {{dir: work, roots: [repositories]}}\n"
    )
}

/// Submits tasks, and reads in their results when their agents started.
struct Client {
    repository: String,
    submitted: usize,
    publish: Channel,
    results: Consumer,
    _connections: [Connection; 2],
}

impl Client {
    async fn open(url: &str, repository: &Path) -> anyhow::Result<Self> {
        let (publishing, consuming) = (connect(url).await?, connect(url).await?);
        let channel = consuming.create_channel().await?;
        let options = BasicConsumeOptions::default();
        let queue = ADDRESS.reply_to.into();
        let results = channel.basic_consume(queue, "".into(), options, FieldTable::default());
        let name = repository.file_name().context("a name")?;
        Ok(Self {
            repository: name.to_string_lossy().into_owned(),
            submitted: 0,
            publish: confirmed_channel(&publishing).await?,
            results: results.await?,
            _connections: [publishing, consuming],
        })
    }

    /// The seconds until the last agent of `count` tasks started.
    async fn last_start(&mut self, count: usize) -> anyhow::Result<f64> {
        let ids: HashSet<String> = (0..count)
            .map(|number| format!("workspace-{}", self.submitted + number))
            .collect();
        self.submitted += count;
        let began = wall_clock();
        for id in &ids {
            let body = format!(
                r#"{{"id":"{id}","instruction":"x","repository":"{}","capabilities":[]}}"#,
                self.repository
            );
            let properties = persistent(id).with_reply_to(ADDRESS.reply_to.into());
            let to = (ADDRESS.exchange, ADDRESS.key);
            publish(&self.publish, to, body.as_bytes(), properties).await?;
        }
        let mut last: u64 = 0;
        for _ in 0..count {
            last = last.max(patiently("a task", self.next_start()).await?);
        }
        let since = last.saturating_sub(began.0.saturating_mul(1_000_000));
        Ok(std::time::Duration::from_nanos(since).as_secs_f64())
    }

    /// When the agent of the next result started, in nanoseconds since 1970.
    async fn next_start(&mut self) -> anyhow::Result<u64> {
        let delivery = self.results.next().await.context("the results ended")??;
        delivery.ack(BasicAckOptions::default()).await?;
        let result: ResultMessage = serde_json::from_slice(&delivery.data)?;
        if let Some(error) = result.error {
            bail!("a task failed: {}", error.message);
        }
        let said = result.log_tail.lines();
        let mut starts = said.filter_map(|line| line.strip_prefix("started="));
        let start = starts
            .next()
            .context("the agent did not say when it started")?;
        start.trim().parse().context("a time")
    }
}
