//! Bad input gets a message that names the mistake. Nothing is lost, and the next good task
//! succeeds.

use std::collections::HashMap;

use lapin::BasicProperties;
use lapin::message::Delivery;
use pool_core::result::{ErrorKind, ResultMessage, Status};
use serde_json::{Value, json};

use crate::support::pool::task;
use crate::support::{Api, Pool, PoolFile, SOON, Submitter};

/// Changes a file in every repository.
const AGENT: [&str; 3] = ["/bin/sh", "-c", "echo four >>readme.txt"];
const NINE: [&str; 9] = ["a", "b", "c", "d", "e", "f", "g", "h", "i"];
/// A task one byte larger than the limit; one field holds almost all of it.
fn too_large() -> String {
    let mut task = task("large");
    task["instruction"] = Value::from("x".repeat(pool_core::task::MAX_BODY_BYTES));
    task.to_string()
}

/// A task with one field set.
fn with(field: &str, value: Value) -> Value {
    let mut task = task(&format!("bad-{}", field.replace('.', "-")));
    match field.split_once('.') {
        Some((outer, inner)) => task[outer] = json!({inner: value}),
        None => task[field] = value,
    }
    task
}

fn without(field: &str) -> Value {
    let mut task = task("bad-incomplete");
    task.as_object_mut().expect("an object").remove(field);
    task
}

/// Mistakes in a task, whichever way it comes: a name, the body, words of the message.
pub(super) fn mistakes() -> Vec<(&'static str, String, &'static [&'static str])> {
    vec![
        (
            "malformed JSON",
            r#"{"id": "bad", "instruction": "#.to_owned(),
            &["ends"],
        ),
        ("text that is not JSON", "hello".to_owned(), &["expected"]),
        (
            "an unknown field",
            with("colour", json!("red")).to_string(),
            &["colour", "unknown field"],
        ),
        (
            "a wrong type",
            with("instruction", json!(5)).to_string(),
            &["instruction", "string"],
        ),
        (
            "no instruction",
            without("instruction").to_string(),
            &["instruction", "missing"],
        ),
        (
            "an empty instruction",
            with("instruction", json!(" ")).to_string(),
            &["instruction"],
        ),
        (
            "no repository",
            without("repository").to_string(),
            &["repository", "missing"],
        ),
        (
            "a command as repository",
            with("repository", json!("ext::sh -c id")).to_string(),
            &["repository", "ext::sh"],
        ),
        (
            "an option as repository",
            with("repository", json!("--upload-pack=id")).to_string(),
            &["repository"],
        ),
        (
            "an option as ref",
            with("base", json!("--output=x")).to_string(),
            &["base", "--output=x"],
        ),
        (
            "an option as file",
            with("files", json!(["-rf"])).to_string(),
            &["files[0]", "-rf"],
        ),
        (
            "a file outside",
            with("files", json!(["ok", "../x"])).to_string(),
            &["files[1]", "../x"],
        ),
        (
            "nine capabilities",
            with("capabilities", json!(NINE)).to_string(),
            &["capabilities", "9", "8"],
        ),
        (
            "a negative time",
            with("limits.timeout_s", json!(-1)).to_string(),
            &["limits.timeout_s", "-1"],
        ),
        (
            "a negative cost",
            with("limits.max_cost_usd", json!("-0.5")).to_string(),
            &["limits.max_cost_usd"],
        ),
        (
            "a check without a program",
            with("acceptance", json!([{"name": "c", "run": []}])).to_string(),
            &["acceptance[0].run"],
        ),
        (
            "an id like an option",
            with("id", json!("-x")).to_string(),
            &["id", "-x"],
        ),
        (
            "another version",
            with("version", json!(7)).to_string(),
            &["version", "7"],
        ),
        ("a body over the limit", too_large(), &["1048576"]),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_tasks_over_http_are_refused_with_the_name_of_the_field_and_nothing_is_taken() {
    let pool = Pool::start(&PoolFile::sample().only(&["001", "006"]).command(&AGENT)).await;
    let api = pool.api();
    for (what, body, words) in mistakes() {
        let (status, said) = post(&api, body).await;
        assert!([400, 413, 422].contains(&status), "{what}: {status} {said}");
        for word in words {
            assert!(
                said.contains(word),
                "the answer to {what} must name {word}: {said}"
            );
        }
    }
    let past = with("limits.deadline", json!("2020-01-01T00:00:00Z"));
    let nobody = with("capabilities", json!(["quantum"]));
    let never_together = with("capabilities", json!(["fast", "premium"]));
    for (body, word) in [
        (past, "limits.deadline"),
        (nobody, "quantum"),
        (never_together, "premium"),
    ] {
        let (status, said) = post(&api, body.to_string()).await;
        assert_eq!(status, 422, "{said}");
        assert!(said.contains(word), "the answer must name {word}: {said}");
    }
    let (status, said) = post(
        &api,
        json!([task("good"), with("colour", json!("red"))]).to_string(),
    )
    .await;
    assert_eq!(status, 422, "one bad task of a list: {said}");
    let said: Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!(
        said["errors"][0]["index"], 1,
        "the error says which: {said}"
    );
    let mut other = task("twice");
    other["instruction"] = "another".into();
    let twice = json!([with("colour", json!("red")), task("twice"), other]);
    let (_, said) = post(&api, twice.to_string()).await;
    let said: Value = serde_json::from_str(&said).expect("JSON");
    let indexes: Vec<_> = said["errors"]
        .as_array()
        .expect("errors")
        .iter()
        .map(|error| &error["index"])
        .collect();
    assert_eq!(
        indexes,
        [0, 2],
        "an id with two bodies, behind another mistake: {said}"
    );

    assert_eq!(api.get("/tasks").await["total"], 0, "nothing was taken");
    api.submit(&task("good")).await;
    let result = api.result("good", SOON).await;
    assert_eq!(
        result.status,
        Status::Succeeded,
        "a good task still succeeds: {result:?}"
    );
    let (submitter, expected) = (pool.submitter("auditor").await, Vec::<(String, u32)>::new());
    assert_eq!(
        left_over(&submitter).await,
        expected,
        "nothing is left in any queue"
    );
}

pub(super) async fn post(api: &Api, body: String) -> (u16, String) {
    let answer = api
        .post(body, &[("content-type", "application/json")])
        .await;
    (
        answer.status().as_u16(),
        answer.text().await.expect("a text"),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_that_is_used_again_is_the_same_task_or_a_conflict() {
    let pool = Pool::start(&PoolFile::sample().only(&["001"]).command(&AGENT)).await;
    let api = pool.api();
    api.submit(&task("once")).await;
    let result = api.result("once", SOON).await;
    let (status, again) = api.try_submit(&task("once")).await;
    assert_eq!(status, 200, "the same body is not a new task: {again}");
    assert_eq!(
        again["status"], "succeeded",
        "the answer has the present state of the task"
    );
    let mut other = task("once");
    other["instruction"] = "something else".into();
    let (status, said) = api.try_submit(&other).await;
    assert_eq!(status, 409, "another body is a conflict: {said}");
    assert!(
        said["detail"]
            .as_str()
            .is_some_and(|text| text.contains("once")),
        "the answer names the id: {said}"
    );

    let mut submitter = pool.submitter("me").await;
    submitter.submit("any", &other).await;
    let reply = submitter.reply(SOON).await;
    assert_eq!(
        reply.status,
        Status::Rejected,
        "it is rejected over AMQP, too"
    );
    assert_eq!(
        kind(&reply),
        Some(ErrorKind::IdConflict),
        "the result says why: {reply:?}"
    );
    let shown = api.result("once", SOON).await;
    assert_eq!(shown, result, "the task keeps its result");
    submitter.submit("any", &task("once")).await;
    let reply = submitter.reply(SOON).await;
    assert_eq!(
        reply.status,
        Status::Succeeded,
        "the same body brings the existing result: {reply:?}"
    );
    assert_eq!(
        reply.attempt, result.attempt,
        "it is the result of the one attempt"
    );
    let mut log = pool.event_log().await;
    log.read().await;
    assert_eq!(log.outcomes("once"), [Status::Succeeded], "one outcome");
    assert_eq!(log.starts("once").len(), 1, "one attempt");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_misuses_the_id_of_a_waiting_task_does_not_end_that_task() {
    let mut pool = Pool::set_up_shared(&PoolFile::sample().only(&["001"]).command(&AGENT)).await;
    pool.start_dispatcher().await;
    pool.api().submit(&task("waiting")).await;
    let mut submitter = pool.submitter("me").await;
    let mut other = task("waiting");
    other["capabilities"] = json!(["quantum"]);
    submitter.submit("quantum", &other).await;
    let reply = submitter.reply(SOON).await;
    assert_eq!(
        (reply.status, kind(&reply)),
        (Status::Rejected, Some(ErrorKind::Unroutable)),
        "{reply:?}"
    );
    assert_eq!(
        pool.api().get("/tasks/waiting").await["status"],
        "queued",
        "the task still waits"
    );
    pool.start_worker(&["--all"]);
    let result = pool.api().result("waiting", SOON).await;
    assert_eq!(
        result.status,
        Status::Succeeded,
        "the waiting task is done: {result:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_web_page_of_somebody_else_cannot_submit_tasks() {
    let pool = Pool::start(&PoolFile::sample().only(&["001"])).await;
    let api = pool.api();
    let body = task("foreign").to_string();
    let json = ("content-type", "application/json");
    for (what, headers, expected) in [
        (
            "another origin",
            vec![json, ("origin", "https://evil.example")],
            403,
        ),
        ("a sandboxed page", vec![json, ("origin", "null")], 403),
        (
            "the content type of a form",
            vec![("content-type", "text/plain")],
            415,
        ),
        (
            "a foreign name for loopback",
            vec![json, ("host", "rebound.example")],
            403,
        ),
    ] {
        let answer = api.post(body.clone(), &headers).await;
        assert_eq!(answer.status(), expected, "{what}");
    }
    assert_eq!(api.get("/tasks").await["total"], 0, "nothing was taken");
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_messages_that_are_published_directly_are_answered_and_kept() {
    let pool = Pool::start(&PoolFile::sample().only(&["001", "006"]).command(&AGENT)).await;
    let mut submitter = pool.submitter("me").await;
    let mistakes = mistakes();
    for (what, body, _) in &mistakes {
        submitter
            .publish(
                "any",
                body,
                submitter.properties().with_correlation_id((*what).into()),
            )
            .await;
    }
    let without_id = json!({"instruction": "x", "repository": "app"}).to_string();
    submitter
        .publish(
            "any",
            &without_id,
            submitter.properties().with_correlation_id("no id".into()),
        )
        .await;
    let mut replies = HashMap::new();
    for _ in 0..=mistakes.len() {
        let (correlation, result) = correlated(&mut submitter).await;
        replies.insert(correlation, result);
    }
    let expected = mistakes
        .iter()
        .map(|(what, _, words)| (*what, *words))
        .chain([("no id", &["id", "message_id"][..])]);
    for (what, words) in expected {
        let result = &replies
            .get(what)
            .unwrap_or_else(|| panic!("nobody answered {what}"));
        assert_eq!(
            (result.status, kind(result)),
            (Status::Rejected, Some(ErrorKind::InvalidTask)),
            "{what}: {result:?}"
        );
        let said = message(result);
        for word in words {
            assert!(
                said.contains(word),
                "the answer to {what} must name {word}: {said}"
            );
        }
    }
    let dead = submitter.drain_dead().await;
    assert_eq!(
        dead.len(),
        mistakes.len() + 1,
        "what could not be handled is kept"
    );
    for (what, body, _) in &mistakes {
        assert!(
            dead.contains(&body.as_bytes().to_vec()),
            "the message with {what} is in pool.dead as it was"
        );
    }
    still_works(&pool, &mut submitter).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_that_nobody_can_do_are_answered_with_the_reason() {
    let pool = Pool::start(&PoolFile::sample().only(&["001", "006"]).command(&AGENT)).await;
    let mut submitter = pool.submitter("me").await;
    let (outside, gone) = (
        with("repository", json!("/etc")),
        with("repository", json!("missing")),
    );
    let past = with("limits.deadline", json!("2020-01-01T00:00:00Z"));
    let (nobody, base) = (
        with("capabilities", json!(["quantum"])),
        with("base", json!("no-such-branch")),
    );
    let cases = [
        (
            "no programmer offers it",
            "quantum",
            &nobody,
            Status::Rejected,
            ErrorKind::Unroutable,
            "quantum",
        ),
        (
            "the key is not a set of capabilities",
            "Fast!",
            &task("key"),
            Status::Rejected,
            ErrorKind::Unroutable,
            "Fast!",
        ),
        (
            "outside of the roots",
            "any",
            &outside,
            Status::Failed,
            ErrorKind::Repository,
            "/etc",
        ),
        (
            "no such repository",
            "any",
            &gone,
            Status::Failed,
            ErrorKind::Repository,
            "missing",
        ),
        (
            "no such branch",
            "any",
            &base,
            Status::Failed,
            ErrorKind::Repository,
            "no-such-branch",
        ),
        (
            "too late",
            "any",
            &past,
            Status::Expired,
            ErrorKind::DeadlinePassed,
            "deadline",
        ),
    ];
    for (n, (what, key, task, status, error, word)) in cases.into_iter().enumerate() {
        let mut task = task.clone();
        task["id"] = format!("case-{n}").into();
        submitter.submit(key, &task).await;
        let reply = submitter.reply(SOON).await;
        assert_eq!(
            (reply.status, kind(&reply)),
            (status, Some(error)),
            "{what}: {reply:?}"
        );
        assert!(
            message(&reply).contains(word),
            "the answer to {what} must name {word}: {}",
            message(&reply)
        );
    }
    still_works(&pool, &mut submitter).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unsorted_routing_key_is_put_right() {
    let pool = Pool::start(&PoolFile::sample().only(&["001", "006"]).command(&AGENT)).await;
    let mut submitter = pool.submitter("me").await;
    let mut task = task("unsorted");
    task["capabilities"] = json!(["local", "fast"]);
    submitter.submit("local.fast", &task).await;
    let reply = submitter.reply(SOON).await;
    assert_eq!(
        reply.status,
        Status::Succeeded,
        "it found its programmer: {reply:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_address_that_could_be_anybodys_queue_is_refused_and_the_task_is_not_run() {
    let pool = Pool::start(&PoolFile::sample().only(&["001"]).command(&AGENT)).await;
    let mut submitter = pool.submitter("me").await;
    let body = task("misdirected").to_string();
    submitter
        .publish(
            "any",
            &body,
            BasicProperties::default().with_reply_to("tasks.any".into()),
        )
        .await;
    still_works(&pool, &mut submitter).await;
    assert_eq!(
        submitter.drain_dead().await,
        [body.into_bytes()],
        "the message is kept"
    );
    let mut log = pool.event_log().await;
    log.read().await;
    assert_eq!(log.starts("misdirected").len(), 0, "it was not run");
}

async fn correlated(submitter: &mut Submitter) -> (String, ResultMessage) {
    let delivery = submitter
        .next(SOON)
        .await
        .expect("a bad message is answered");
    (correlation(&delivery).to_owned(), result_in(&delivery))
}

pub(super) fn correlation(delivery: &Delivery) -> &str {
    delivery
        .properties
        .correlation_id()
        .as_ref()
        .expect("a correlation id")
        .as_str()
}

pub(super) fn result_in(delivery: &Delivery) -> ResultMessage {
    serde_json::from_slice(&delivery.data).expect("a result message")
}

pub(super) fn kind(result: &ResultMessage) -> Option<ErrorKind> {
    result.error.as_ref().map(|error| error.kind)
}

pub(super) fn message(result: &ResultMessage) -> &str {
    result.error.as_ref().map_or("", |error| &error.message)
}

/// Checks that a good task succeeds and that no message is left over afterwards.
async fn still_works(pool: &Pool, submitter: &mut Submitter) {
    submitter.submit("any", &task("good")).await;
    let reply = submitter.reply(SOON).await;
    assert_eq!(
        reply.task_id.as_ref().map(|id| id.as_str()),
        Some("good"),
        "no further result comes: {reply:?}"
    );
    assert_eq!(
        reply.status,
        Status::Succeeded,
        "a good task still succeeds: {reply:?}"
    );
    crate::support::eventually("no task is open", SOON, async || {
        (pool.api().status().await["open_tasks"] == 0).then_some(())
    })
    .await;
    let left: Vec<_> = left_over(submitter)
        .await
        .into_iter()
        .filter(|(queue, _)| queue != "pool.dead")
        .collect();
    assert_eq!(left, [], "nothing is left in any queue");
}

/// Queues that hold messages.
async fn left_over(submitter: &Submitter) -> Vec<(String, u32)> {
    let mut left = Vec::new();
    for queue in [
        "tasks.any",
        "tasks.fast",
        "tasks.paid",
        "results",
        "pool.unroutable",
        "pool.dead",
    ] {
        if let Some(depth) = submitter
            .depth_if_any(queue)
            .await
            .filter(|depth| *depth > 0)
        {
            left.push((queue.to_owned(), depth));
        }
    }
    left
}
