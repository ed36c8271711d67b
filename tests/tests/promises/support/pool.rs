//! A pool of real processes: a dispatcher and workers on a virtual host, in a directory of their own.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::broker::Vhost;
use super::machine::{Cores, all_cores, program, share_cores};
use super::process::Running;
use super::{Api, EventLog, PoolFile, Repository, SOON, Submitter, eventually};

/// Dropping it ends its processes; after a failed test their logs are printed and the directory stays.
#[derive(Debug)]
pub(crate) struct Pool {
    workers: Vec<Running>,
    dispatchers: Vec<Running>,
    started: usize,
    file: PathBuf,
    directory: Option<TempDir>,
    vhost: Vhost,
    _cores: Cores,
}

impl Pool {
    /// A dispatcher and one worker with all programmers, ready to work.
    pub(crate) async fn start(file: &PoolFile) -> Self {
        Self::ready(share_cores().await, file).await
    }

    /// The same, while no other test runs.
    pub(crate) async fn start_alone(file: &PoolFile) -> Self {
        Self::ready(all_cores().await, file).await
    }

    async fn ready(cores: Cores, file: &PoolFile) -> Self {
        let mut pool = Self::set_up(cores, file).await;
        pool.start_dispatcher().await;
        pool.start_worker(&["--all"]);
        pool.all_consume().await;
        pool
    }

    /// The directory, the repository `app` and the virtual host; no process yet.
    pub(crate) async fn set_up_shared(file: &PoolFile) -> Self {
        Self::set_up(share_cores().await, file).await
    }

    async fn set_up(cores: Cores, file: &PoolFile) -> Self {
        let directory = TempDir::with_prefix("pool-test-").expect("a directory for a test");
        std::fs::create_dir_all(directory.path().join("logs")).expect("a directory for logs");
        let path = directory.path().join("config/pool.yaml");
        file.write(&path);
        let vhost = Vhost::create().await;
        let pool = Self {
            workers: Vec::new(),
            dispatchers: Vec::new(),
            started: 0,
            file: path,
            directory: Some(directory),
            vhost,
            _cores: cores,
        };
        Repository::create(&pool.repository("app"), &[("readme.txt", "one\ntwo\nthree\n")]);
        pool
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.as_ref().expect("the directory is there until the end").path()
    }

    /// Another pool file for the processes that are started from now on.
    pub(crate) fn rewrite(&self, file: &PoolFile) {
        file.write(&self.file);
    }

    /// Where a repository has to be for tasks to name it like this.
    pub(crate) fn repository(&self, name: &str) -> PathBuf {
        self.path().join("repositories").join(name)
    }

    pub(crate) fn amqp_url(&self) -> String {
        self.vhost.url()
    }

    /// A process of the pool, its command line and pool file as given.
    fn spawn(&mut self, binary: &str, args: &[&str], file: &Path) -> Running {
        self.started += 1;
        let name = format!("{binary}-{}", self.started);
        let mut command = Command::new(program(binary));
        command.args(args).arg("--pool").arg(file);
        command.env("AMQP_URL", self.vhost.url()).env_remove("PROGRAMMER_ID").env_remove("POOL_FILE");
        command.env("RUST_LOG", std::env::var("POOL_TEST_LOG").unwrap_or_else(|_| "info".to_owned()));
        Running::start(&name, &self.path().join("logs"), &command)
    }

    /// Starts a dispatcher and waits until it serves.
    pub(crate) async fn start_dispatcher(&mut self) {
        let url_file = self.path().join("url");
        let _ = std::fs::remove_file(&url_file);
        let arguments = ["serve", "--listen", "127.0.0.1:0", "--url-file", url_file.to_str().expect("a path in UTF-8")];
        let dispatcher = self.spawn("dispatcher", &arguments, &self.file.clone());
        self.dispatchers.push(dispatcher);
        eventually("the dispatcher serves", SOON, async || {
            std::fs::read_to_string(&url_file).ok().filter(|url| !url.is_empty())
        })
        .await;
    }

    /// Starts a worker; gives its place among the workers.
    pub(crate) fn start_worker(&mut self, which: &[&str]) -> usize {
        let arguments = [&["run"], which].concat();
        let worker = self.spawn("worker", &arguments, &self.file.clone());
        self.workers.push(worker);
        self.workers.len() - 1
    }

    pub(crate) fn worker(&mut self, index: usize) -> &mut Running {
        &mut self.workers[index]
    }

    /// SIGKILL.
    pub(crate) fn kill_worker(&mut self, index: usize) {
        self.workers.remove(index).kill();
    }

    /// SIGKILL.
    pub(crate) fn kill_dispatcher(&mut self) {
        self.dispatchers.pop().expect("a dispatcher").kill();
    }

    pub(crate) fn api(&self) -> Api {
        Api::at(std::fs::read_to_string(self.path().join("url")).expect("the dispatcher's URL"))
    }

    /// Waits until every programmer of the pool file may take tasks.
    pub(crate) async fn all_consume(&self) {
        let api = self.api();
        eventually("every programmer is idle", SOON, async || {
            let status = api.status().await;
            (status["pool_size"].is_u64() && status["available"] == status["pool_size"]).then_some(())
        })
        .await;
    }

    /// Waits until a worker has printed this.
    pub(crate) async fn worker_prints(&self, worker: usize, text: &str) {
        let worker = &self.workers[worker];
        let what = format!("{} prints {text:?}", worker.name);
        eventually(&what, SOON, async || worker.log().contains(text).then_some(())).await;
    }

    /// The commit of a branch, which is set a moment after the outcome.
    pub(crate) async fn branch(&self, repository: &str, branch: &str) -> String {
        let repository = Repository::at(&self.repository(repository));
        let what = format!("the branch {branch} is set");
        eventually(&what, SOON, async || repository.commit_of(branch)).await
    }

    pub(crate) async fn event_log(&self) -> EventLog {
        EventLog::open(&self.amqp_url()).await
    }

    /// Somebody who submits over AMQP and has the reply queue `results.<name>`.
    pub(crate) async fn submitter(&self, name: &str) -> Submitter {
        Submitter::join(&self.amqp_url(), name).await
    }
}

/// The smallest task on the repository `app`.
pub(crate) fn task(id: &str) -> Value {
    json!({"id": id, "instruction": "change something", "repository": "app"})
}

impl Drop for Pool {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for process in self.dispatchers.iter().chain(&self.workers) {
                eprintln!("{}", process.last_words());
            }
            if let Some(directory) = self.directory.take() {
                eprintln!("the directory of the test stays: {}", directory.keep().display());
            }
        }
    }
}
