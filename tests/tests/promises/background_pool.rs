//! `scripts/pool` runs a pool in the background: it is started whole, mended when it runs in part, begun anew without the
//! loss of a task, and leaves nothing behind.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use crate::support::bench::is_alive;
use crate::support::machine::{Cores, checkout, program, share_cores};
use crate::support::pool::task;
use crate::support::repository::Repository;
use crate::support::{PoolFile, SOON, eventually};

/// A checkout of its own, with the scripts of this one and the programs of this build.
struct Checkout {
    directory: TempDir,
    _cores: Cores,
}

impl Checkout {
    async fn make() -> Self {
        let cores = share_cores().await;
        let directory = TempDir::with_prefix("pool-background-").expect("a directory");
        let root = directory.path();
        for part in ["scripts", "config"] {
            let copied = Command::new("cp").arg("-r").arg(checkout().join(part)).arg(root).status();
            assert!(copied.expect("cp runs").success(), "{part} is copied");
        }
        Repository::create(&root.join("repositories/app"), &[("readme.txt", "one\n")]);
        let agent = ["/bin/sh", "-c", "echo two >>readme.txt"];
        PoolFile::sample().only(&["001", "006"]).command(&agent).write(&root.join("config/own.yaml"));
        Self { directory, _cores: cores }
    }

    fn run(&self, program: &Path, arguments: &[&str]) -> Output {
        let mut command = Command::new(program);
        command.args(arguments).env("CARGO_TARGET_DIR", target()).env("POOL_PROFILE", profile());
        command.env_remove("AMQP_URL").env("POOL_URL", self.value("POOL_URL").unwrap_or_default());
        command.output().expect("it runs")
    }

    /// `scripts/pool …`; its exit status, and what it said.
    fn pool(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let done = self.run(&self.directory.path().join("scripts/pool"), arguments);
        let said = [&done.stdout[..], &done.stderr].map(String::from_utf8_lossy).concat();
        (done.status.code(), said)
    }

    fn dispatcher(&self, arguments: &[&str]) -> String {
        let done = self.run(&program("dispatcher"), arguments);
        let said = String::from_utf8_lossy(&done.stdout).into_owned();
        assert!(done.status.success(), "{arguments:?}: {said}{}", String::from_utf8_lossy(&done.stderr));
        said
    }

    /// Of `scripts/pool env`, past the script.
    fn value(&self, name: &str) -> Option<String> {
        let values = std::fs::read_to_string(self.directory.path().join(".pool/run/env")).ok()?;
        values.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('=')).map(str::to_owned)
    }

    fn pid(&self, name: &str) -> Pid {
        let file = self.directory.path().join(format!(".pool/run/{name}.pid"));
        let text = std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let pid = text.split_whitespace().next().and_then(|pid| pid.parse().ok());
        Pid::from_raw(pid.unwrap_or_else(|| panic!("{} begins with a pid: {text:?}", file.display())))
    }

    async fn kill(&self, name: &str) {
        let pid = self.pid(name);
        kill(pid, Signal::SIGKILL).expect("a signal");
        gone(pid).await;
    }

    fn status_of(&self, task: &str) -> Value {
        let shown = self.dispatcher(&["show", task, "--format", "json"]);
        serde_json::from_str::<Value>(&shown).expect("JSON")["status"].take()
    }
}

impl Drop for Checkout {
    fn drop(&mut self) {
        let (status, said) = self.pool(&["stop", "--now"]);
        if status != Some(0) {
            eprintln!("scripts/pool stop --now: {said}");
        }
    }
}

/// Where `program` finds them.
fn target() -> PathBuf {
    program("dispatcher").ancestors().nth(2).expect("target/<profile>/dispatcher").to_owned()
}

fn profile() -> String {
    let directory = program("dispatcher").parent().expect("a directory").to_owned();
    directory.file_name().expect("a name").to_string_lossy().into_owned()
}

async fn gone(pid: Pid) {
    eventually(&format!("{pid} is gone"), SOON, async || (!is_alive(pid.as_raw().unsigned_abs())).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_in_the_background_is_mended_and_begun_anew_without_the_loss_of_a_task() {
    let checkout = Checkout::make().await;
    let (status, said) = checkout.pool(&["env"]);
    assert_eq!((status, said.contains("scripts/pool start")), (Some(1), true), "nothing runs yet: {said}");

    let own = checkout.directory.path().join("config/own.yaml");
    let (status, said) = checkout.pool(&["start", "--pool", own.to_str().expect("a path in UTF-8")]);
    assert_eq!((status, said.contains("the pool is ready after")), (Some(0), true), "{said}");
    let (status, said) = checkout.pool(&["start"]);
    assert_eq!((status, said.contains("running already")), (Some(0), true), "a second start: {said}");

    let wrong = checkout.directory.path().join("config/wrong.yaml");
    std::fs::write(&wrong, "programmers: []\n").expect("a file");
    let (status, said) = checkout.pool(&["restart", "--pool", wrong.to_str().expect("a path in UTF-8")]);
    assert_eq!((status, said.contains("programmers")), (Some(1), true), "the mistake is shown: {said}");
    let (status, said) = checkout.pool(&["status"]);
    assert_eq!(status, Some(0), "and nothing was stopped for it: {said}");

    // One part after another dies, and a start brings back that one only.
    for (killed, left) in [("worker", "dispatcher"), ("dispatcher", "worker")] {
        let (stays, url) = (checkout.pid(left), checkout.value("POOL_URL"));
        checkout.kill(killed).await;
        let (status, said) = checkout.pool(&["status"]);
        assert_eq!(status, Some(3), "without the {killed}: {said}");
        assert!(said.lines().any(|line| line.starts_with(killed) && line.contains("stopped")), "{said}");
        let (status, said) = checkout.pool(&["start"]);
        assert_eq!(status, Some(0), "{said}");
        assert!(said.contains(&format!("starting what is missing: {killed}")), "{said}");
        assert_eq!((checkout.pid(left), checkout.value("POOL_URL")), (stays, url), "the {left} stays");
        let (status, said) = checkout.pool(&["status"]);
        assert_eq!(status, Some(0), "all of it runs: {said}");
    }

    checkout.dispatcher(&["pause", "--all"]);
    let file = checkout.directory.path().join("task.json");
    std::fs::write(&file, task("waits").to_string()).expect("a file");
    checkout.dispatcher(&["submit", file.to_str().expect("a path in UTF-8")]);
    let (before, url) = (["dispatcher", "worker"].map(|name| checkout.pid(name)), checkout.value("POOL_URL"));
    let (status, said) = checkout.pool(&["restart"]);
    assert_eq!((status, said.contains("it is paused, from before")), (Some(0), true), "{said}");
    for pid in before {
        gone(pid).await;
    }
    assert_eq!(checkout.value("POOL_URL"), url, "it is found where it was");
    assert_eq!(checkout.status_of("waits"), "queued", "the task is there as it was");
    checkout.dispatcher(&["resume", "--all"]);
    eventually("it is done", SOON, async || (checkout.status_of("waits") == "succeeded").then_some(())).await;

    let all = ["dispatcher", "worker"].map(|name| checkout.pid(name));
    let (status, said) = checkout.pool(&["stop"]);
    assert_eq!(status, Some(0), "{said}");
    for pid in all {
        gone(pid).await;
    }
    let (status, said) = checkout.pool(&["status"]);
    assert_eq!((status, said.contains("running")), (Some(3), false), "nothing of it runs: {said}");

    let (status, said) = checkout.pool(&["start"]);
    assert_eq!((status, said.contains("config/own.yaml")), (Some(0), true), "with the file of the last start: {said}");
    assert_eq!(checkout.status_of("waits"), "succeeded", "and at its broker");
}
