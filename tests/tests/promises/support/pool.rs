//! A pool of real processes: a dispatcher and workers with their own virtual host and directory.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use pool_core::id::ProgrammerId;
use pool_core::result::Status;
use pool_tests::faults::proxy::Proxy;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::broker::Vhost;
use super::machine::{Cores, all_cores, program, share_cores, share_cores_as};
use super::pool_file::numbered;
use super::private::PrivateBroker;
use super::process::Running;
use super::status::PoolStatus;
use super::{Api, EventLog, PoolFile, Repository, SOON, Submitter, eventually};

/// A pool with many programmers or processes takes the places of so many tests.
const LARGE: usize = 3;

/// Dropping it ends its processes; after a failed test their logs are printed and the directory stays.
#[derive(Debug)]
pub(crate) struct Pool {
    workers: Vec<Running>,
    /// The ids that each worker was given, in the order of the workers.
    told: Vec<Vec<String>>,
    dispatchers: Vec<Running>,
    started: usize,
    file: PathBuf,
    directory: Option<TempDir>,
    vhost: Vhost,
    /// The broker's URL for processes that start from now on, if it is not that of the virtual
    /// host.
    way: Option<String>,
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

    /// A dispatcher and workers with `001`, `002`, … of the pool file, this many in each, ready to
    /// work.
    pub(crate) async fn start_processes(file: &PoolFile, processes: usize, each: usize) -> Self {
        Self::ready_in_processes(share_cores().await, file, (processes, each)).await
    }

    /// The same for many of them.
    pub(crate) async fn start_processes_large(
        file: &PoolFile,
        processes: usize,
        each: usize,
    ) -> Self {
        Self::ready_in_processes(share_cores_as(LARGE).await, file, (processes, each)).await
    }

    /// The same, while no other test runs.
    pub(crate) async fn start_processes_alone(
        file: &PoolFile,
        processes: usize,
        each: usize,
    ) -> Self {
        Self::ready_in_processes(all_cores().await, file, (processes, each)).await
    }

    async fn ready_in_processes(
        cores: Cores,
        file: &PoolFile,
        (processes, each): (usize, usize),
    ) -> Self {
        let mut pool = Self::set_up(cores, file).await;
        pool.start_dispatcher().await;
        pool.start_workers(processes, each);
        pool.all_are_held().await;
        pool
    }

    /// Starts workers with `001`, `002`, …, this many in each.
    pub(crate) fn start_workers(&mut self, processes: usize, each: usize) {
        let ids: Vec<String> = numbered(processes * each).collect();
        for of_one in ids.chunks(each) {
            self.start_worker(&["--programmers", &of_one.join(",")]);
        }
    }

    async fn ready(cores: Cores, file: &PoolFile) -> Self {
        let mut pool = Self::set_up(cores, file).await;
        pool.start_dispatcher().await;
        pool.start_worker(&["--all"]);
        pool.all_consume().await;
        pool
    }

    /// The directory, the repository `app` and the virtual host, without a process.
    pub(crate) async fn set_up_shared(file: &PoolFile) -> Self {
        Self::set_up(share_cores().await, file).await
    }

    /// The same, while no other test runs.
    pub(crate) async fn set_up_alone(file: &PoolFile) -> Self {
        Self::set_up(all_cores().await, file).await
    }

    /// The same for a pool with many processes.
    pub(crate) async fn set_up_large(file: &PoolFile) -> Self {
        Self::set_up(share_cores_as(LARGE).await, file).await
    }

    /// The same, at a broker that may be broken.
    pub(crate) async fn set_up_at(broker: &PrivateBroker, file: &PoolFile) -> Self {
        Self::set_up_in(broker.vhost().await, file).await
    }

    /// The same, in this virtual host.
    pub(crate) async fn set_up_in(vhost: Vhost, file: &PoolFile) -> Self {
        Self::set_up_on(share_cores().await, file, vhost).await
    }

    async fn set_up(cores: Cores, file: &PoolFile) -> Self {
        Self::set_up_on(cores, file, Vhost::create().await).await
    }

    async fn set_up_on(cores: Cores, file: &PoolFile, vhost: Vhost) -> Self {
        let directory = TempDir::with_prefix("pool-test-").expect("a directory for a test");
        for name in ["logs", "signs"] {
            std::fs::create_dir(directory.path().join(name)).expect("a directory");
        }
        let path = directory.path().join("config/pool.yaml");
        file.write(&path);
        let pool = Self {
            workers: Vec::new(),
            told: Vec::new(),
            dispatchers: Vec::new(),
            started: 0,
            file: path,
            directory: Some(directory),
            vhost,
            way: None,
            _cores: cores,
        };
        Repository::create(
            &pool.repository("app"),
            &[("readme.txt", "one\ntwo\nthree\n")],
        );
        pool
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory
            .as_ref()
            .expect("the directory is there until the end")
            .path()
    }

    /// The directory in which agents and tests leave signs for each other.
    pub(crate) fn signs(&self) -> PathBuf {
        self.path().join("signs")
    }

    /// Another pool file for processes that start from now on.
    pub(crate) fn rewrite(&self, file: &PoolFile) {
        file.write(&self.file);
    }

    /// The path of a repository that tasks name like this.
    pub(crate) fn repository(&self, name: &str) -> PathBuf {
        self.path().join("repositories").join(name)
    }

    /// From now on each process uses the user of its role, with the permissions of
    /// `config/definitions.json`.
    pub(crate) async fn make_users(&mut self) {
        self.vhost.make_users().await;
    }

    /// Deletes its virtual host while its processes run.
    pub(crate) async fn delete_vhost(&self) {
        self.vhost.delete().await;
    }

    /// Makes the virtual host again, empty. [`Self::make_users`] gives the processes access.
    pub(crate) async fn make_vhost(&self) {
        self.vhost.make().await;
    }

    /// The URL for a user of `config/definitions.json`.
    pub(crate) fn amqp_url_of(&self, role: &str) -> String {
        self.vhost.url_of(role)
    }

    pub(crate) fn amqp_url(&self) -> String {
        self.vhost.url()
    }

    /// Whether its broker serves tasks of high priority first.
    pub(crate) async fn has_priorities(&self) -> bool {
        self.vhost.major_version().await >= 4
    }

    /// The name of its virtual host.
    pub(crate) fn vhost(&self) -> String {
        let url = self.amqp_url();
        url.rsplit_once('/')
            .map(|(_, vhost)| vhost.to_owned())
            .expect("a URL with a virtual host")
    }

    /// Processes that start from now on reach the broker through this proxy.
    pub(crate) fn go_through(&mut self, proxy: &Proxy) {
        self.way = Some(proxy.url(&self.vhost.url()).expect("a URL with a login"));
    }

    /// Processes that start from now on reach the broker directly again.
    pub(crate) fn go_directly(&mut self) {
        self.way = None;
    }

    /// A process of the pool with this command line and environment.
    fn spawn(&mut self, binary: &str, args: &[&str], env: &[(&str, &str)]) -> Running {
        self.started += 1;
        let name = format!("{binary}-{}", self.started);
        let mut command = Command::new(program(binary));
        command
            .args(args)
            .env_remove("POOL_API_TOKEN")
            .envs(env.iter().copied());
        self.start_process(&name, command)
    }

    fn start_process(&self, name: &str, mut command: Command) -> Running {
        command.arg("--pool").arg(&self.file);
        let role = name.split('-').next().unwrap_or_default();
        command.env(
            "AMQP_URL",
            self.way.clone().unwrap_or_else(|| self.vhost.url_of(role)),
        );
        command.env_remove("PROGRAMMER_ID").env_remove("POOL_FILE");
        command.env(
            "RUST_LOG",
            std::env::var("POOL_TEST_LOG").unwrap_or_else(|_| "info".to_owned()),
        );
        Running::start(name, &self.path().join("logs"), &command)
    }

    /// Starts a dispatcher and waits until it serves.
    pub(crate) async fn start_dispatcher(&mut self) {
        self.start_dispatcher_with(&[]).await;
    }

    /// The same, with these variables in its environment.
    pub(crate) async fn start_dispatcher_with(&mut self, env: &[(&str, &str)]) {
        self.start_dispatcher_at("127.0.0.1:0", env).await;
    }

    /// The same, at this address and with these variables in its environment.
    pub(crate) async fn start_dispatcher_at(&mut self, listen: &str, env: &[(&str, &str)]) {
        let url_file = self.launch_dispatcher(listen, env);
        eventually("the dispatcher serves", SOON, async || {
            std::fs::read_to_string(&url_file)
                .ok()
                .filter(|url| !url.is_empty())
        })
        .await;
    }

    /// The same without waiting; gives the file in which its URL will be.
    pub(crate) fn launch_dispatcher(&mut self, listen: &str, env: &[(&str, &str)]) -> PathBuf {
        let url_file = self.path().join("url");
        let _ = std::fs::remove_file(&url_file);
        let arguments = [
            "serve",
            "--listen",
            listen,
            "--url-file",
            url_file.to_str().expect("a path in UTF-8"),
        ];
        let dispatcher = self.spawn("dispatcher", &arguments, env);
        self.dispatchers.push(dispatcher);
        url_file
    }

    /// Starts a worker; gives its index among the workers.
    pub(crate) fn start_worker(&mut self, which: &[&str]) -> usize {
        self.start_worker_with(which, &[])
    }

    /// The same, with these variables in its environment.
    pub(crate) fn start_worker_with(&mut self, which: &[&str], env: &[(&str, &str)]) -> usize {
        let arguments = [&["run"], which].concat();
        let worker = self.spawn("worker", &arguments, env);
        self.workers.push(worker);
        self.told.push(
            which
                .last()
                .map(|ids| ids.split(',').map(ToOwned::to_owned).collect())
                .unwrap_or_default(),
        );
        self.workers.len() - 1
    }

    /// The same, on a host of another name, from which HTTP reaches loopback only.
    pub(crate) fn start_worker_on_a_host_without_egress(
        &mut self,
        host: &str,
        which: &[&str],
    ) -> usize {
        let mut wrapper = vec!["unshare"];
        if !nix::unistd::geteuid().is_root() {
            wrapper.extend(["--user", "--map-root-user"]);
        }
        let rename = format!("echo {host} > /proc/sys/kernel/hostname && exec \"$@\"");
        wrapper.extend(["--uts", "--", "sh", "-c", &rename, "sh"]);
        // The nearest port without a listener: `discard`.
        self.start_worker_by(&wrapper, which, &[("HTTP_PROXY", "http://127.0.0.1:9")])
    }

    /// The same, started by a program that execs it in the end.
    pub(crate) fn start_worker_by(
        &mut self,
        wrapper: &[&str],
        which: &[&str],
        env: &[(&str, &str)],
    ) -> usize {
        self.started += 1;
        let (first, rest) = wrapper.split_first().expect("a program");
        let mut command = Command::new(first);
        command
            .args(rest)
            .arg(program("worker"))
            .arg("run")
            .args(which)
            .envs(env.iter().copied());
        let worker = self.start_process(&format!("worker-{}", self.started), command);
        self.workers.push(worker);
        self.told.push(
            which
                .last()
                .map(|ids| ids.split(',').map(ToOwned::to_owned).collect())
                .unwrap_or_default(),
        );
        self.workers.len() - 1
    }

    /// The output of the dispatcher that was started last.
    pub(crate) fn dispatcher_log(&self) -> String {
        self.dispatchers
            .last()
            .map(Running::log)
            .unwrap_or_default()
    }

    /// The pid of the dispatcher that was started last.
    pub(crate) fn dispatcher_pid(&self) -> u32 {
        self.dispatchers.last().expect("a dispatcher").pid()
    }

    pub(crate) fn worker(&mut self, index: usize) -> &mut Running {
        &mut self.workers[index]
    }

    /// SIGKILL.
    pub(crate) fn kill_worker(&mut self, index: usize) {
        self.told.remove(index);
        self.workers.remove(index).kill();
    }

    /// Sends SIGKILL to the worker that was given this programmer; gives all its programmers.
    pub(crate) fn kill_worker_of(&mut self, programmer: &ProgrammerId) -> Vec<String> {
        let has_it = |ids: &Vec<String>| ids.iter().any(|id| id == programmer.as_str());
        let index = self
            .told
            .iter()
            .position(has_it)
            .unwrap_or_else(|| panic!("no worker was given {programmer}"));
        let told = self.told[index].clone();
        self.kill_worker(index);
        told
    }

    /// Takes a worker that has ended, or will end, out of the pool.
    pub(crate) fn take_worker(&mut self, index: usize) -> Running {
        self.told.remove(index);
        self.workers.remove(index)
    }

    /// The same for the dispatcher that was started first.
    pub(crate) fn take_first_dispatcher(&mut self) -> Running {
        self.dispatchers.remove(0)
    }

    /// The same for the dispatcher that was started last.
    pub(crate) fn take_dispatcher(&mut self) -> Running {
        self.dispatchers.pop().expect("a dispatcher")
    }

    /// Ends every process in order, workers first.
    pub(crate) async fn stop(&mut self) {
        for mut process in self.workers.drain(..).chain(self.dispatchers.drain(..)) {
            process.terminate();
            process.ended().await;
        }
        self.told.clear();
    }

    /// SIGKILL to every process of the pool.
    pub(crate) fn kill_all(&mut self) {
        while !self.workers.is_empty() {
            self.kill_worker(0);
        }
        while !self.dispatchers.is_empty() {
            self.kill_dispatcher();
        }
    }

    /// Runs the dispatcher's command line against this pool; gives its output.
    pub(crate) async fn command_line(&self, arguments: &[&str]) -> String {
        let done = self.try_command_line(arguments).await;
        let said = String::from_utf8_lossy(&done.stdout).into_owned();
        assert!(
            done.status.success(),
            "pool {arguments:?}: {said}{}",
            String::from_utf8_lossy(&done.stderr)
        );
        said
    }

    /// The same, whatever its exit status.
    pub(crate) async fn try_command_line(&self, arguments: &[&str]) -> Output {
        self.try_program("pool", arguments).await
    }

    /// Runs one of the programs to its end, with the pool file and the addresses of this pool.
    pub(crate) async fn try_program(&self, name: &str, arguments: &[&str]) -> Output {
        let mut command = Command::new(program(name));
        let url = std::fs::read_to_string(self.path().join("url")).unwrap_or_default();
        command
            .args(arguments)
            .env("POOL_URL", url.trim_end())
            .env("AMQP_URL", self.vhost.url());
        command.env("POOL_FILE", &self.file);
        let done = tokio::task::spawn_blocking(move || command.output())
            .await
            .expect("a thread");
        done.expect("the program runs")
    }

    /// Sets a policy of the virtual host for the queues whose names match.
    pub(crate) async fn set_policy(&self, pattern: &str, definition: &Value) {
        self.vhost.set_policy(pattern, definition).await;
    }

    /// The queue and the key of each binding of `pool.tasks`, in order.
    pub(crate) async fn bindings_of_tasks(&self) -> Vec<(String, String)> {
        self.vhost.bindings("pool.tasks").await
    }

    /// SIGKILL.
    pub(crate) fn kill_dispatcher(&mut self) {
        self.dispatchers.pop().expect("a dispatcher").kill();
    }

    /// Ends the newest dispatcher in order.
    pub(crate) async fn end_dispatcher(&mut self) -> std::process::ExitStatus {
        let mut dispatcher = self.dispatchers.pop().expect("a dispatcher");
        dispatcher.terminate();
        dispatcher.ended().await
    }

    pub(crate) fn url(&self) -> String {
        std::fs::read_to_string(self.path().join("url")).expect("the dispatcher's URL")
    }

    pub(crate) fn api(&self) -> Api {
        Api::at(self.url())
    }

    /// Waits until every programmer of the pool file may take tasks.
    pub(crate) async fn all_consume(&self) {
        let api = self.api();
        eventually("every programmer is idle", SOON, async || {
            let status = api.status().await;
            (status["pool_size"].is_u64() && status["available"] == status["pool_size"])
                .then_some(())
        })
        .await;
    }

    /// Waits until a worker holds every programmer of the pool file, whether or not it may take
    /// tasks.
    pub(crate) async fn all_are_held(&self) {
        let api = self.api();
        eventually("every programmer is held", SOON * 2, async || {
            let status = api.status().await;
            let programmers = status["programmers"].as_array()?;
            programmers
                .iter()
                .all(|programmer| programmer["state"] != "down")
                .then_some(())
        })
        .await;
    }

    /// Waits until the status fits, and gives it.
    pub(crate) async fn status_where(
        &self,
        what: &str,
        fits: impl Fn(&PoolStatus) -> bool,
    ) -> PoolStatus {
        let api = self.api();
        eventually(what, SOON, async || {
            let status = PoolStatus(api.status().await);
            (!status.programmers().is_empty() && fits(&status)).then_some(status)
        })
        .await
    }

    pub(crate) async fn status(&self) -> PoolStatus {
        self.status_where("the dispatcher gives a status", |_| true)
            .await
    }

    /// Checks that the tasks `<name>-1`, `<name>-2`, … have one outcome each, in the log and for
    /// their submitter: success.
    pub(crate) async fn all_succeeded(&self, log: &mut EventLog, name: &str, count: usize) {
        log.read().await;
        for id in (1..=count).map(|n| format!("{name}-{n}")) {
            assert_eq!(
                log.outcomes(&id),
                [Status::Succeeded],
                "{id} has one outcome, and it is a success"
            );
            let result = self.api().result(&id, SOON).await;
            assert_eq!(result.status, Status::Succeeded, "{id}: {result:?}");
        }
    }

    /// The log of a worker so far.
    pub(crate) fn worker_log(&self, worker: usize) -> String {
        self.workers[worker].log()
    }

    /// Waits until a worker has printed this.
    pub(crate) async fn worker_prints(&self, worker: usize, text: &str) {
        let worker = &self.workers[worker];
        let what = format!("{} prints {text:?}", worker.name);
        eventually(&what, SOON, async || {
            worker.log().contains(text).then_some(())
        })
        .await;
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

    /// A submitter over AMQP with the reply queue `results.<name>`.
    pub(crate) async fn submitter(&self, name: &str) -> Submitter {
        Submitter::join(&self.amqp_url(), name).await
    }
}

/// The smallest task on the repository `app`.
pub(crate) fn task(id: &str) -> Value {
    json!({"id": id, "instruction": "change something", "repository": "app"})
}

/// This many tasks `<name>-1`, `<name>-2`, …. Each has its id in the instruction, so that its LLM
/// calls show it.
pub(crate) fn tasks(name: &str, count: usize) -> Vec<Value> {
    let numbered = (1..=count).map(|n| format!("{name}-{n}"));
    let one = |id: String| json!({"id": id, "instruction": format!("{id}: change something"), "repository": "app"});
    numbered.map(one).collect()
}

impl Drop for Pool {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for process in self.dispatchers.iter().chain(&self.workers) {
                eprintln!("{}", process.last_words());
            }
            if let Some(directory) = self.directory.take() {
                eprintln!(
                    "the directory of the test stays: {}",
                    directory.keep().display()
                );
            }
        }
    }
}
