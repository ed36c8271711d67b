//! A RabbitMQ for one test, which may stop it, start it and put it under alarm; and processes that
//! use it.

use std::collections::HashMap;
use std::process::{Command, ExitStatus};

use pool_tests::faults::node::Node;
use reqwest::StatusCode;
use serde_json::Value;
use tempfile::TempDir;

use super::broker::{Access, Vhost};
use super::machine::{checkout, program};
use super::process::Running;
use super::{Api, PoolFile, Repository, SOON, eventually};

/// A private node; stopped when dropped.
#[derive(Debug)]
pub(crate) struct OwnBroker {
    node: Node,
    _data: TempDir,
    printed: String,
    values: HashMap<String, String>,
}

impl OwnBroker {
    /// `config` has lines for its rabbitmq.conf.
    pub(crate) async fn start(config: &str) -> Self {
        Self::start_in(Self::place(), config).await
    }

    /// A directory that the node can use. A broker of another system (`scripts/broker --root`) sees
    /// only `node` in it.
    pub(crate) fn place() -> TempDir {
        TempDir::with_prefix("pool-test-broker-").expect("a directory for a broker")
    }

    /// The same in such a directory, which may hold files for it already.
    pub(crate) async fn start_in(data: TempDir, config: &str) -> Self {
        std::fs::write(data.path().join("test.conf"), config).expect("the broker's configuration");
        let (script, config) = (
            checkout().join("scripts/broker"),
            data.path().join("test.conf"),
        );
        let node = Node::new(script, data.path().join("node"), Some(config));
        let mut broker = Self {
            node,
            _data: data,
            printed: String::new(),
            values: HashMap::new(),
        };
        broker.start_again().await;
        broker
    }

    /// Starts it again on the same port, with the same data.
    pub(crate) async fn start_again(&mut self) {
        self.printed = self.node.start().await.expect("a broker of the test's own");
        let values = self.printed.lines().filter_map(|line| line.split_once('='));
        self.values = values
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
    }

    /// A virtual host in it, for a pool.
    pub(crate) async fn vhost(&self) -> Vhost {
        Vhost::at(Access::printed(&self.printed)).await
    }

    /// Stops it in order, as for an upgrade.
    pub(crate) async fn stop(&self) {
        self.node.stop().await.expect("the broker stops");
    }

    fn value(&self, name: &str) -> &str {
        self.values
            .get(name)
            .unwrap_or_else(|| panic!("scripts/broker printed no {name}"))
    }

    /// `amqp://pool:password@127.0.0.1:port/%2f`
    pub(crate) fn url(&self) -> &str {
        self.value("AMQP_URL")
    }

    pub(crate) fn password(&self) -> &str {
        self.value("MANAGEMENT_PASSWORD")
    }

    /// The port for AMQP without TLS.
    pub(crate) fn port(&self) -> &str {
        let (_, rest) = self.url().rsplit_once(':').expect("a port");
        rest.split_once('/').expect("a virtual host").0
    }

    /// Runs `rabbitmqctl` on the node.
    pub(crate) async fn control(&self, arguments: &[&str]) -> String {
        self.node
            .control(arguments)
            .await
            .expect("rabbitmqctl does it")
    }
}

impl Drop for OwnBroker {
    fn drop(&mut self) {
        let mut command = Command::new(checkout().join("scripts/broker"));
        let stopped = command
            .args(["stop", "--now", "--data"])
            .arg(self.node.data())
            .output();
        if !stopped.is_ok_and(|done| done.status.success()) && !std::thread::panicking() {
            panic!(
                "the broker in {} was not stopped",
                self.node.data().display()
            );
        }
    }
}

/// A dispatcher and a worker with programmer `001`, at any broker.
#[derive(Debug)]
pub(crate) struct Pair {
    url: String,
    directory: TempDir,
}

impl Pair {
    /// The pool file is the sample's with this section `broker`.
    pub(crate) fn at(url: impl Into<String>, broker: Value) -> Self {
        let directory = TempDir::with_prefix("pool-test-pair-").expect("a directory for a test");
        std::fs::create_dir_all(directory.path().join("logs")).expect("a directory for logs");
        PoolFile::sample()
            .only(&["001"])
            .with("broker", broker)
            .write(&directory.path().join("config/pool.yaml"));
        Repository::create(
            &directory.path().join("repositories/app"),
            &[("readme.txt", "one\n")],
        );
        Self {
            url: url.into(),
            directory,
        }
    }

    fn spawn(&self, name: &str, arguments: &[&str]) -> Running {
        let mut command = Command::new(program(name));
        command
            .args(arguments)
            .arg("--pool")
            .arg(self.directory.path().join("config/pool.yaml"));
        command
            .env("AMQP_URL", &self.url)
            .env("RUST_LOG", "info,lapin=off");
        command.env_remove("PROGRAMMER_ID").env_remove("POOL_FILE");
        Running::start(name, &self.directory.path().join("logs"), &command)
    }

    pub(crate) fn dispatcher(&self) -> Running {
        let url_file = self.directory.path().join("url");
        let url_file = url_file.to_str().expect("a path in UTF-8");
        self.spawn(
            "dispatcher",
            &["serve", "--listen", "127.0.0.1:0", "--url-file", url_file],
        )
    }

    pub(crate) fn worker(&self) -> Running {
        self.spawn("worker", &["run", "--all"])
    }

    /// The dispatcher's API, once it is up.
    pub(crate) async fn api(&self) -> Api {
        let url_file = self.directory.path().join("url");
        let url = eventually("the dispatcher serves", SOON, async || {
            std::fs::read_to_string(&url_file)
                .ok()
                .filter(|url| !url.is_empty())
        });
        Api::at(url.await)
    }

    /// The API of the worker's programmer: `/health`, `/ready`, `/metrics`.
    pub(crate) async fn programmer(&self, api: &Api) -> Api {
        let port = eventually("the programmer has a port", SOON, async || {
            api.status().await["programmers"][0]["port"]
                .as_u64()
                .filter(|port| *port > 0)
        });
        Api::at(format!("http://127.0.0.1:{}", port.await))
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for log in std::fs::read_dir(self.directory.path().join("logs"))
                .into_iter()
                .flatten()
                .flatten()
            {
                let text = std::fs::read_to_string(log.path()).unwrap_or_default();
                eprintln!("----- {} -----\n{text}", log.path().display());
            }
        }
    }
}

/// Runs a process that must end at once by itself; gives its status and its output.
pub(crate) async fn refused(mut process: Running) -> (ExitStatus, String) {
    let status = process.ended().await;
    (status, process.log())
}

/// Waits until this `/health` shows the broker in this state; gives the object.
pub(crate) async fn broker_is(api: &Api, state: &str) -> Value {
    eventually(&format!("the broker is {state}"), SOON, async || {
        let broker = api.get("/health").await["broker"].clone();
        (broker["state"] == state).then_some(broker)
    })
    .await
}

/// Waits until `/ready` is 200.
pub(crate) async fn ready(api: &Api) {
    eventually("it is ready", SOON * 2, async || {
        (api.try_get("/ready").await.0 == StatusCode::OK).then_some(())
    })
    .await;
}

/// The number of times that a process has printed this.
pub(crate) fn count(log: &str, text: &str) -> usize {
    log.lines().filter(|line| line.contains(text)).count()
}
