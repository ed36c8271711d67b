//! The HTTP API does what `GET /openapi.json` says. schemathesis, which searches for differences,
//! sends it hundreds of right and wrong requests from a fixed seed.

use std::process::Command;

use pool_core::result::ErrorKind;
use reqwest::StatusCode;
use serde_json::json;

use crate::support::machine::schemathesis;
use crate::support::pool::{task, tasks};
use crate::support::{Pool, PoolFile, SOON};

/// Its settings; `tests/schemathesis.toml` gives the reasons.
const CONFIGURATION: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/schemathesis.toml");

#[tokio::test(flavor = "multi_thread")]
async fn the_api_keeps_to_its_description_whatever_is_sent() {
    let pool = Pool::start(
        &PoolFile::sample().with("cost_optimization", json!({"max_daily_spend_usd": 50})),
    )
    .await;
    let api = pool.api();
    // Data for the API to show: a task with a result, and a dead letter.
    api.submit(&json!(tasks("there", 3))).await;
    api.result("there-3", SOON).await;
    let mut submitter = pool.submitter("me").await;
    submitter
        .publish("any", "no task", submitter.properties())
        .await;
    assert_eq!(
        submitter.reply(SOON).await.error.map(|e| e.kind),
        Some(ErrorKind::InvalidTask),
        "it is a dead letter"
    );

    let mut command = Command::new(schemathesis());
    command.args([
        "--config-file",
        CONFIGURATION,
        "run",
        &format!("{}/openapi.json", pool.url()),
    ]);
    command.current_dir(pool.path());
    let done = tokio::task::spawn_blocking(move || command.output())
        .await
        .expect("a thread");
    let done = done.expect("schemathesis runs");
    let said = String::from_utf8_lossy(&done.stdout);
    assert!(
        done.status.success(),
        "{said}{}",
        String::from_utf8_lossy(&done.stderr)
    );
    assert!(
        said.contains("No issues found"),
        "schemathesis has tested the API: {said}"
    );
    let (status, answer) = api.try_get("/ready").await;
    assert_eq!(
        status,
        StatusCode::OK,
        "the dispatcher is as well as before: {answer}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_cannot_be_parsed_is_answered_with_a_problem_too() {
    let pool = Pool::start(&PoolFile::sample().only(&["001"])).await;
    let (http, url) = (reqwest::Client::new(), pool.url());
    let post = |body: Vec<u8>| {
        http.post(format!("{url}/tasks"))
            .header("content-type", "application/json")
            .body(body)
    };
    let large = vec![b' '; 64 * 1024 * 1024 + 1];
    for (what, request, status) in [
        (
            "a path that is not UTF-8",
            http.get(format!("{url}/tasks/%ff")),
            400,
        ),
        (
            "a status that no task can have",
            http.get(format!("{url}/tasks?status=foo")),
            400,
        ),
        (
            "a query that cannot be parsed",
            http.get(format!("{url}/tasks?limit=many")),
            400,
        ),
        (
            "an unknown parameter",
            http.get(format!("{url}/report?sinse=7d")),
            400,
        ),
        (
            "another content type",
            http.post(format!("{url}/tasks")).body("{}"),
            415,
        ),
        ("no JSON", post(b"{".to_vec()), 400),
        ("a request that is too large", post(large), 413),
        ("another method", http.put(format!("{url}/tasks")), 405),
        ("another path", http.get(format!("{url}/tusks")), 404),
    ] {
        let answer = request
            .send()
            .await
            .unwrap_or_else(|error| panic!("{what} is answered: {error}"));
        assert_eq!(answer.status().as_u16(), status, "{what}");
        assert_eq!(
            answer.headers()["content-type"],
            "application/problem+json",
            "{what}"
        );
        let problem: serde_json::Value = answer.json().await.expect("a problem");
        assert!(
            problem["detail"]
                .as_str()
                .is_some_and(|detail| detail.len() > 10),
            "{what}: {problem}"
        );
    }
    pool.api().submit(&task("afterwards")).await;
}
