//! `scripts/local-pool` runs a pool in the background. It starts a whole pool, starts missing processes
//! again, restarts the pool without losing a task, and leaves nothing behind.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::support::bench::is_alive;
use crate::support::checkout::Checkout;
use crate::support::machine::program;
use crate::support::pool::task;
use crate::support::repository::Repository;
use crate::support::{PoolFile, SOON, eventually};

fn dispatcher(checkout: &Checkout, arguments: &[&str]) -> String {
    let done = checkout.run(&program("pool"), arguments);
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(
        done.status.success(),
        "{arguments:?}: {said}{}",
        String::from_utf8_lossy(&done.stderr)
    );
    said
}

async fn kill_process(checkout: &Checkout, name: &str) {
    let pid = checkout.pid(name);
    kill(pid, Signal::SIGKILL).expect("a signal");
    gone(pid).await;
}

fn status_of(checkout: &Checkout, task: &str) -> Value {
    let shown = dispatcher(checkout, &["show", task, "--format", "json"]);
    serde_json::from_str::<Value>(&shown).expect("JSON")["status"].take()
}

async fn gone(pid: Pid) {
    eventually(&format!("{pid} is gone"), SOON, async || {
        (!is_alive(pid.as_raw().unsigned_abs())).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_background_pool_is_repaired_and_restarted_without_losing_a_task() {
    let checkout = Checkout::make().await;
    Repository::create(
        &checkout.path().join("repositories/app"),
        &[("readme.txt", "one\n")],
    );
    let agent = ["/bin/sh", "-c", "echo two >>readme.txt"];
    PoolFile::sample()
        .only(&["001", "006"])
        .command(&agent)
        .write(&checkout.path().join("config/own.yaml"));
    let (status, said) = checkout.pool(&["env"]);
    assert_eq!(
        (status, said.contains("scripts/local-pool start")),
        (Some(1), true),
        "no pool runs yet: {said}"
    );

    let own = checkout.path().join("config/own.yaml");
    let (status, said) =
        checkout.pool(&["start", "--pool", own.to_str().expect("a path in UTF-8")]);
    assert_eq!(
        (status, said.contains("the pool is ready after")),
        (Some(0), true),
        "{said}"
    );
    let (status, said) = checkout.pool(&["start"]);
    assert_eq!(
        (status, said.contains("running already")),
        (Some(0), true),
        "a second start does nothing: {said}"
    );

    let wrong = checkout.path().join("config/wrong.yaml");
    std::fs::write(&wrong, "programmers: []\n").expect("a file");
    let (status, said) = checkout.pool(&[
        "restart",
        "--pool",
        wrong.to_str().expect("a path in UTF-8"),
    ]);
    assert_eq!(
        (status, said.contains("programmers")),
        (Some(1), true),
        "the mistake is shown: {said}"
    );
    let (status, said) = checkout.pool(&["status"]);
    assert_eq!(
        status,
        Some(0),
        "nothing was stopped before the file was checked: {said}"
    );

    // One process after the other dies, and a start brings back only that one.
    for (killed, left) in [("worker", "dispatcher"), ("dispatcher", "worker")] {
        let (stays, url) = (checkout.pid(left), checkout.value("POOL_URL"));
        kill_process(&checkout, killed).await;
        let (status, said) = checkout.pool(&["status"]);
        assert_eq!(status, Some(3), "without the {killed}: {said}");
        assert!(
            said.lines()
                .any(|line| line.starts_with(killed) && line.contains("stopped")),
            "{said}"
        );
        let (status, said) = checkout.pool(&["start"]);
        assert_eq!(status, Some(0), "{said}");
        assert!(
            said.contains(&format!("starting the missing ones: {killed}")),
            "{said}"
        );
        assert_eq!(
            (checkout.pid(left), checkout.value("POOL_URL")),
            (stays, url),
            "the {left} stays"
        );
        let (status, said) = checkout.pool(&["status"]);
        assert_eq!(status, Some(0), "all of it runs: {said}");
    }

    dispatcher(&checkout, &["pause", "--all"]);
    let file = checkout.path().join("task.json");
    std::fs::write(&file, task("waits").to_string()).expect("a file");
    dispatcher(
        &checkout,
        &["submit", file.to_str().expect("a path in UTF-8")],
    );
    let (before, url) = (
        ["dispatcher", "worker"].map(|name| checkout.pid(name)),
        checkout.value("POOL_URL"),
    );
    let (status, said) = checkout.pool(&["restart"]);
    assert_eq!(
        (status, said.contains("these pauses are still in force")),
        (Some(0), true),
        "{said}"
    );
    for pid in before {
        gone(pid).await;
    }
    assert_eq!(
        checkout.value("POOL_URL"),
        url,
        "the dispatcher has its old address"
    );
    assert_eq!(
        status_of(&checkout, "waits"),
        "queued",
        "the task still waits"
    );
    dispatcher(&checkout, &["resume", "--all"]);
    eventually("it is done", SOON, async || {
        (status_of(&checkout, "waits") == "succeeded").then_some(())
    })
    .await;

    let all = ["dispatcher", "worker"].map(|name| checkout.pid(name));
    let (status, said) = checkout.pool(&["stop"]);
    assert_eq!(status, Some(0), "{said}");
    for pid in all {
        gone(pid).await;
    }
    let (status, said) = checkout.pool(&["status"]);
    assert_eq!(
        (status, said.contains("running")),
        (Some(3), false),
        "no process of the pool runs: {said}"
    );

    let (status, said) = checkout.pool(&["start"]);
    assert_eq!(
        (status, said.contains("config/own.yaml")),
        (Some(0), true),
        "it uses the file of the last start: {said}"
    );
    assert_eq!(
        status_of(&checkout, "waits"),
        "succeeded",
        "it uses the broker of the last start"
    );
}
