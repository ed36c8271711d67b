//! People see which sandbox each worker has, and what it refused.

use std::path::Path;

use pool_core::result::ResultMessage;
use pool_tests::places::lasting_directory;
use serde_json::{Value, json};

use crate::dashboard::{go, open};
use crate::support::status::PoolStatus;
use crate::support::{Api, Browser, Pool, PoolFile, SOON, eventually};

const LEVELS: [(&str, &str); 2] = [("001", "strict"), ("002", "files")];

/// `001` behind all layers, and `002` with the level `files`.
async fn two_levels() -> Pool {
    let agent = ["/bin/sh", "-c", "echo more >>readme.txt"];
    let file = PoolFile::sample().only(&["001", "002"]).command(&agent);
    let mut pool = Pool::set_up_shared(&file).await;
    pool.start_dispatcher().await;
    for (id, level) in LEVELS {
        pool.rewrite(&file.clone().set("sandbox.level", json!(level)));
        pool.start_worker(&["--programmers", id]);
        // The worker has read its file by then.
        pool.status_where("the programmer is idle", |status| {
            let mut programmers = status.programmers().iter();
            programmers.any(|one| one["id"] == id && one["state"] == "idle")
        })
        .await;
    }
    pool
}

/// The worker of a programmer.
fn worker_of(programmer: &Value) -> Api {
    let port = programmer["port"].as_u64().expect("a port");
    Api::at(format!("http://127.0.0.1:{port}"))
}

/// Checks the status, the command line, the health and the metrics.
async fn levels_are_told(pool: &Pool, status: &PoolStatus) {
    for (programmer, (id, level)) in status.programmers().iter().zip(LEVELS) {
        assert_eq!(
            programmer["sandbox"]["level"], level,
            "the status of {id}: {programmer}"
        );
        let worker = worker_of(programmer);
        let health = worker.get("/health").await;
        assert_eq!(health["sandbox"]["level"], level, "its health: {health}");
        let metrics = worker.text("/metrics").await;
        let info = format!("pool_sandbox_info{{level=\"{level}\"");
        assert!(metrics.contains(&info), "{info} is in {metrics}");
    }
    let why = &status.programmers()[1]["sandbox"]["why"];
    let why = why.as_str().expect("a reason for `files`");
    let said = pool.command_line(&["status"]).await;
    assert!(
        said.contains("sandbox of 002: files (Landlock") && said.contains(why),
        "the weaker one has a line with the reason: {said}"
    );
    assert!(
        !said.contains("sandbox of 001"),
        "the whole one has none: {said}"
    );
}

/// Checks the cards of the dashboard.
async fn the_page_marks_the_weaker_one(browser: &Browser) {
    let marked = browser.text("[data-id=\"002\"]").await;
    assert!(marked.contains("sandbox files"), "a mark: {marked}");
    let whole = browser.text("[data-id=\"001\"]").await;
    assert!(!whole.contains("sandbox"), "no mark: {whole}");
}

/// Makes `001` run a task whose check asks another machine, and reads a file that only this machine has.
async fn refused(pool: &Pool, data: &Path) -> ResultMessage {
    pool.command_line(&["pause", "--programmer", "002"]).await;
    let script = "(exec 3<>/dev/tcp/10.1.2.3/80) 2>/dev/null; cat \"$0\"";
    let check = json!([{"name": "reads", "run": ["/bin/bash", "-c", script, data]}]);
    let task =
        json!({"id": "refused", "instruction": "x", "repository": "app", "acceptance": check});
    pool.api().submit(&task).await;
    pool.api().result("refused", SOON).await
}

#[tokio::test(flavor = "multi_thread")]
async fn people_see_which_sandbox_each_worker_has_and_what_it_refused() {
    let pool = two_levels().await;
    let status = pool.status().await;
    levels_are_told(&pool, &status).await;
    let browser = open(&pool).await;
    the_page_marks_the_weaker_one(&browser).await;

    let place = lasting_directory();
    let data = place.path().join("data.txt");
    std::fs::write(&data, "data").expect("a file");
    let result = refused(&pool, &data).await;
    assert!(
        result.sandbox.network_attempts.addresses > 0,
        "the kernel counted the attempt: {result:?}"
    );
    let hints = result.sandbox.hints.join("\n");
    let path = data.display().to_string();
    for part in ["sandbox.network: host", "sandbox.read", &path] {
        assert!(hints.contains(part), "{part:?} is in {result:?}");
    }
    for command in ["show", "why"] {
        let said = pool.command_line(&[command, "refused"]).await;
        assert!(
            said.contains("hint: ") && said.contains(&path),
            "{command} prints the hints: {said}"
        );
    }
    go(&browser, &pool, "tasks/refused").await;
    browser
        .until(
            "the page of the task has the hint",
            r#"document.querySelector(".why").innerText.includes("sandbox.read")"#,
        )
        .await;

    let worker = worker_of(&status.programmers()[0]);
    eventually("the refused connections are counted", SOON, async || {
        let metrics = worker.text("/metrics").await;
        let counted = |line: &str| {
            line.starts_with("pool_sandbox_refused_connections_total{programmer=\"001\"}")
                && !line.ends_with(" 0")
        };
        metrics.lines().any(counted).then_some(())
    })
    .await;
}
