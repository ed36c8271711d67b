//! A pool as users run it: the release programs, their default settings, logs in files. Only the
//! agent does nothing.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use lapin::options::{QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Connection};
use pool_broker::topology::{
    DEAD_QUEUE, EVENTS_STREAM, HISTORY_STREAM, REPLIES, RESULTS_QUEUE, TASKS, UNROUTABLE,
};
use pool_core::pool::Pool;
use pool_core::routing::Routes;
use tokio::process::{Child, Command};
use tokio::time::Instant;

use super::submitter::{Address, task};
use super::{connect, fresh_queue, history, patiently};

pub const ADDRESS: Address = Address {
    exchange: TASKS,
    key: "any",
    reply_to: "results.bench",
};
/// The queue that every programmer listens on.
const EVERYBODYS_QUEUE: &str = "tasks.any";
const LOOK_EVERY: Duration = Duration::from_millis(2);
const POLL_API_EVERY: Duration = Duration::from_millis(100);

/// The settings of a run of the pool.
pub struct Setup {
    /// The directory of `dispatcher` and `worker`.
    pub programs: PathBuf,
    pub amqp_url: String,
    /// The directory for the pool file, the logs and all files of the pool.
    pub dir: PathBuf,
    pub pool_file: PathBuf,
    /// The content of the pool file.
    pub pool: Pool,
    /// The number of finished tasks that the log and the history have at the beginning.
    pub history: usize,
}

impl Setup {
    /// Writes a pool file with the sample pool's ten programmers and an agent that does nothing.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn new(
        programs: PathBuf,
        amqp_url: String,
        dir: PathBuf,
        one_queue: bool,
    ) -> anyhow::Result<Self> {
        Self::with_pool_file(programs, amqp_url, dir, &pool_yaml(one_queue))
    }

    /// The same with another pool file.
    ///
    /// # Errors
    /// Those of [`Self::new`].
    pub fn with_pool_file(
        programs: PathBuf,
        amqp_url: String,
        dir: PathBuf,
        yaml: &str,
    ) -> anyhow::Result<Self> {
        std::fs::create_dir_all(&dir)
            .with_context(|| format!("failed to make {}", dir.display()))?;
        let pool_file = dir.join("pool.yaml");
        std::fs::write(&pool_file, yaml).context("failed to write the pool file")?;
        let pool =
            pool_config::load(&pool_file, &pool_config::Env::of_process()).map_err(|mistakes| {
                anyhow::anyhow!("the pool file of the benchmark is wrong: {mistakes}")
            })?;
        Ok(Self {
            programs,
            amqp_url,
            dir,
            pool_file,
            pool,
            history: 0,
        })
    }

    fn spawn(&self, program: &str, log: &str, arguments: &[&str]) -> anyhow::Result<Child> {
        let path = self.programs.join(program);
        let log =
            std::fs::File::create(self.dir.join(log)).context("failed to create a log file")?;
        let mut command = Command::new(&path);
        command.args(arguments).arg("--pool").arg(&self.pool_file);
        command
            .env("AMQP_URL", &self.amqp_url)
            .env_remove("RUST_LOG")
            .env_remove("PROGRAMMER_ID");
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true);
        command
            .spawn()
            .with_context(|| format!("failed to start {}", path.display()))
    }
}

/// The capabilities of the sample pool, where every programmer has three queues. With `one_queue`
/// all programmers have the same.
fn pool_yaml(one_queue: bool) -> String {
    let mut yaml = "pool_size: 10\nprogrammers:\n".to_owned();
    for number in 1..=10 {
        let capabilities = match number {
            _ if one_queue => "fast",
            1..=5 => "fast, local, free",
            6..=7 => "premium, reasoning, paid",
            8 => "premium, openai, paid",
            _ => "deepseek, local, free",
        };
        // Writing to a String cannot fail.
        let _ = writeln!(
            yaml,
            "  - {{id: \"{number:03}\", port: 0, primary_llm: bench/none, backup_llm: bench/none-either, capabilities: [{capabilities}]}}"
        );
    }
    yaml.push_str("providers:\n  bench: {base_url: \"http://127.0.0.1:9/v1\", free: true}\n");
    // All tasks of a round wait at the same time.
    yaml.push_str("load_balancing: {max_queue_per_programmer: 100000}\n");
    yaml.push_str(
        "agent: {kind: noop}\nworkspace: {dir: work, roots: [.]}\nsandbox: {level: \"off\"}\n",
    );
    yaml
}

/// A running pool. Dropping it ends its processes.
pub struct RunningPool {
    dispatcher: Child,
    workers: Vec<Child>,
    pub dispatcher_start: Duration,
    pub workers_start: Duration,
    api: String,
    http: reqwest::Client,
    finished: usize,
}

impl RunningPool {
    /// Empties the broker and starts a dispatcher, then ten programmers in `workers` processes.
    /// Returns when all are idle.
    ///
    /// # Errors
    /// When something does not start.
    pub async fn start(setup: &Setup, processes: usize) -> anyhow::Result<Self> {
        let connection = connect(&setup.amqp_url).await?;
        let channel = connection.create_channel().await?;
        wipe(&channel, &setup.pool).await?;
        // Fails only if a provider was chosen before, which works as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder()
            .no_proxy()
            .tls_certs_only([])
            .build()
            .context("failed to set up HTTP")?;
        if setup.history > 0 {
            let (mut first, ..) =
                patiently("declaring the queues", start_dispatcher(setup, &http)).await?;
            first.kill().await?;
            history::write(&setup.amqp_url, setup.history).await?;
        }
        let (dispatcher, api, dispatcher_start) =
            patiently("starting the dispatcher", start_dispatcher(setup, &http)).await?;
        let began = Instant::now();
        let workers = start_workers(setup, processes)?;
        patiently(
            "starting the workers",
            all_listening(&connection, setup.pool.programmers.len()),
        )
        .await?;
        let workers_start = began.elapsed();
        fresh_queue(&channel, ADDRESS.reply_to).await?;
        let options = QueueBindOptions::default();
        let reply = ADDRESS.reply_to;
        channel
            .queue_bind(
                reply.into(),
                REPLIES.into(),
                reply.into(),
                options,
                FieldTable::default(),
            )
            .await?;
        Ok(Self {
            dispatcher,
            workers,
            dispatcher_start,
            workers_start,
            api,
            http,
            finished: setup.history,
        })
    }

    pub fn dispatcher_pids(&self) -> Vec<u32> {
        self.dispatcher.id().into_iter().collect()
    }

    pub fn worker_pids(&self) -> Vec<u32> {
        self.workers.iter().filter_map(Child::id).collect()
    }

    /// Counts tasks that did not come over HTTP as finished.
    pub fn finished_elsewhere(&mut self, count: usize) {
        self.finished += count;
    }

    /// Submits tasks as one list. Gives the time until all are accepted, and until all are
    /// finished.
    ///
    /// # Errors
    /// When the dispatcher refuses, or a task does not succeed.
    pub async fn submit_over_http(&mut self, count: usize) -> anyhow::Result<(Duration, Duration)> {
        let tasks: Vec<String> = (0..count)
            .map(|number| task(&format!("http-{number}")))
            .collect();
        let body = format!("[{}]", tasks.join(","));
        let began = Instant::now();
        let request = self
            .http
            .post(format!("{}/tasks", self.api))
            .header("content-type", "application/json");
        let answer = request
            .body(body)
            .send()
            .await
            .context("failed to submit")?;
        if !answer.status().is_success() {
            bail!(
                "the dispatcher refused: {}",
                answer.text().await.unwrap_or_default()
            );
        }
        answer.bytes().await?;
        let accepted = began.elapsed();
        self.finished += count;
        while self.succeeded().await? < self.finished {
            tokio::time::sleep(POLL_API_EVERY).await;
        }
        Ok((accepted, began.elapsed()))
    }

    async fn succeeded(&self) -> anyhow::Result<usize> {
        #[derive(serde::Deserialize)]
        struct List {
            total: usize,
        }
        let answer = self
            .http
            .get(format!("{}/tasks?status=succeeded&limit=1", self.api))
            .send()
            .await?;
        let list: List = answer.json().await.context("GET /tasks")?;
        Ok(list.total)
    }

    /// Ends all processes.
    ///
    /// # Errors
    /// When one cannot be waited for.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        for child in self.workers.iter_mut().chain([&mut self.dispatcher]) {
            child.kill().await?;
        }
        Ok(())
    }
}

/// Removes the remains of earlier runs, so that every run begins with an empty log.
async fn wipe(channel: &Channel, pool: &Pool) -> anyhow::Result<()> {
    let routes = Routes::new(&pool.capabilities());
    let queues = routes.all().iter().map(pool_core::routing::Route::queue);
    let fixed = [
        EVENTS_STREAM,
        HISTORY_STREAM,
        RESULTS_QUEUE,
        UNROUTABLE,
        DEAD_QUEUE,
    ]
    .map(str::to_owned);
    for queue in queues.chain(fixed) {
        channel
            .queue_delete(queue.as_str().into(), QueueDeleteOptions::default())
            .await?;
    }
    Ok(())
}

async fn start_dispatcher(
    setup: &Setup,
    http: &reqwest::Client,
) -> anyhow::Result<(Child, String, Duration)> {
    let url_file = setup.dir.join("url");
    let _ = std::fs::remove_file(&url_file);
    let began = Instant::now();
    let url_argument = url_file.display().to_string();
    let arguments = [
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--url-file",
        url_argument.as_str(),
    ];
    let mut child = setup.spawn("dispatcher", "dispatcher.log", &arguments)?;
    loop {
        if let Some(status) = child.try_wait()? {
            bail!(
                "the dispatcher ended with {status}; see {}",
                setup.dir.display()
            );
        }
        if let Some(api) = std::fs::read_to_string(&url_file)
            .ok()
            .filter(|url| !url.is_empty())
            && let Ok(answer) = http.get(format!("{api}/ready")).send().await
            && answer.status().is_success()
        {
            return Ok((child, api, began.elapsed()));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn start_workers(setup: &Setup, processes: usize) -> anyhow::Result<Vec<Child>> {
    let ids: Vec<&str> = setup
        .pool
        .programmers
        .iter()
        .map(|programmer| programmer.id.as_str())
        .collect();
    ids.chunks(ids.len().div_ceil(processes))
        .enumerate()
        .map(|(number, ids)| {
            setup.spawn(
                "worker",
                &format!("worker-{number}.log"),
                &["run", "--programmers", &ids.join(",")],
            )
        })
        .collect()
}

/// Whether all its queues have answered a programmer that they are empty: then it is ready.
async fn all_listening(connection: &Connection, programmers: usize) -> anyhow::Result<()> {
    let channel = connection.create_channel().await?;
    loop {
        let options = QueueDeclareOptions {
            passive: true,
            durable: true,
            ..QueueDeclareOptions::default()
        };
        let queue = channel
            .queue_declare(EVERYBODYS_QUEUE.into(), options, FieldTable::default())
            .await?;
        if usize::try_from(queue.consumer_count())? >= programmers {
            return Ok(());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// The directory of this program's executable, which also holds the other programs.
///
/// # Errors
/// When the kernel does not tell.
pub fn own_directory() -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("failed to find this program")?;
    Ok(own.parent().unwrap_or(Path::new(".")).to_owned())
}
