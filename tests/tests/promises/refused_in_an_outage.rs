//! A request that is answered "nothing was changed" while the broker is away has changed nothing,
//! also after the broker is back.

use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::support::machine::share_cores;
use crate::support::own_broker::{OwnBroker, Pair, broker_is, ready};
use crate::support::pool::task;
use crate::support::{Api, SOON, eventually};

/// Less than the time-out for a confirm.
const AT_ONCE: Duration = Duration::from_secs(3);

async fn is_refused(api: &Api, method: Method, path: &str, body: &Value) {
    let asked = Instant::now();
    let (status, answer) = api.send(method, path, body).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{path}: {answer}");
    assert!(
        asked.elapsed() < AT_ONCE,
        "{path} is refused at once: {:?}",
        asked.elapsed()
    );
    let detail = answer["detail"].as_str().unwrap_or_default();
    assert!(
        detail.starts_with("nothing was changed: the broker: reconnecting since "),
        "{path}: {answer}"
    );
    assert!(
        answer["retry_after_s"].is_u64(),
        "{path} says when to try again: {answer}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operators_command_while_the_broker_is_away_is_refused_at_once_and_never_takes_effect() {
    let _cores = share_cores().await;
    let mut broker = OwnBroker::start("").await;
    let pair = Pair::at(broker.url(), json!({}));
    let _processes = (pair.dispatcher(), pair.worker());
    let api = pair.api().await;
    ready(&api).await;
    api.submit(&task("done")).await;
    api.result("done", SOON).await;
    let held = json!({"what": "programmer", "id": "001"});
    api.send(
        Method::POST,
        "/programmer_pool/pause",
        &json!({"target": held}),
    )
    .await;
    api.submit(&task("waits")).await;
    eventually(
        "the programmer has said that it is paused",
        SOON,
        async || {
            let shut = api.status().await["programmers"][0]["shut"].clone();
            (shut == "paused").then_some(())
        },
    )
    .await;
    let limit = api.get("/budget").await["max_daily_spend_usd"].clone();

    broker.stop().await;
    broker_is(&api, "reconnecting").await;
    let all = json!({"target": {"what": "all"}});
    let asked = [
        (Method::POST, "/programmer_pool/pause", all),
        (
            Method::POST,
            "/programmer_pool/resume",
            json!({"target": held}),
        ),
        (
            Method::POST,
            "/budget",
            json!({"limit_usd": "0.01", "for": "today"}),
        ),
        (Method::DELETE, "/tasks/waits", Value::Null),
        (Method::POST, "/tasks/waits/requeue", json!({})),
        (Method::POST, "/tasks/done/retry", json!({"force": true})),
    ];
    for (method, path, body) in asked {
        is_refused(&api, method, path, &body).await;
    }
    eventually(
        "the present state of the programmer is unknown",
        SOON,
        async || {
            let unknown = api.status().await["programmers"][0]["unknown"].clone();
            (unknown == true).then_some(())
        },
    )
    .await;
    let why = api.get("/tasks/waits/why").await;
    assert_eq!(
        why["programmers"][0]["state"], "paused",
        "the answer has the state at the loss of the broker: {why:#}"
    );

    broker.start_again().await;
    ready(&api).await;
    // A request that had waited in this process would be in the log before this one.
    api.submit(&task("afterwards")).await;
    let pauses = api.get("/programmer_pool/pauses").await["pauses"].clone();
    assert_eq!(
        pauses.as_array().map(Vec::len),
        Some(1),
        "the pauses are unchanged: {pauses}"
    );
    assert_eq!(
        pauses[0]["target"], held,
        "neither paused nor resumed: {pauses}"
    );
    assert_eq!(
        api.get("/budget").await["max_daily_spend_usd"],
        limit,
        "the limit of the pool file"
    );
    assert_eq!(
        api.get("/tasks/waits").await["status"],
        "queued",
        "not cancelled"
    );
    assert_eq!(
        api.get("/tasks").await["total"],
        3,
        "no task was submitted again"
    );
}
