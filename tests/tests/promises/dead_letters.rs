//! A message that cannot be handled is kept with its reason. Looking at it changes nothing, and it
//! can be retried.

use std::path::PathBuf;
use std::time::Duration;

use futures_util::future::join_all;
use lapin::BasicProperties;
use lapin::options::{BasicPublishOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use pool_core::result::{ErrorKind, Status};
use pool_telemetry::clock::wall_clock;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::amqp::{channel, give_back};
use crate::support::pool::task;
use crate::support::{Api, Pool, PoolFile, SOON, eventually};

/// Ends without a change until the file `go` exists, then makes one.
const AGENT: &str = r#"[ -e "$1/go" ] && echo four >>readme.txt; true"#;
/// Makes a change as soon as the file `go` exists.
const PATIENT_AGENT: &str = r#"until [ -e "$1/go" ]; do sleep 0.05; done; echo four >>readme.txt"#;

/// A pool file with one programmer and this agent, and the directory of the file that it waits for.
fn with_agent(pool: &Pool, agent: &str) -> (PoolFile, PathBuf) {
    let signs = pool.signs();
    let directory = signs.to_str().expect("a path in UTF-8");
    (
        PoolFile::sample()
            .only(&["001"])
            .command(&["/bin/sh", "-c", agent, "agent", directory]),
        signs,
    )
}

async fn dead(api: &Api) -> Vec<Value> {
    api.get("/dead").await["letters"]
        .as_array()
        .cloned()
        .unwrap_or_default()
}

/// Gets a message out of a queue and returns it this many times, as workers do that die before they
/// can claim it.
async fn return_to_queue(url: &str, queue: &str, times: usize) {
    let (_connection, channel) = channel(url).await;
    for _ in 0..times {
        let back = async || give_back(&channel, queue).await.then_some(());
        eventually("the message is in its queue", SOON, back).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_cannot_be_handled_is_shown_with_its_reason_and_dropped_or_refused_a_retry()
{
    let pool = Pool::start(&PoolFile::sample().only(&["001"])).await;
    let mut submitter = pool.submitter("me").await;
    submitter
        .publish(
            "any",
            "hello",
            submitter.properties().with_message_id("broken".into()),
        )
        .await;
    assert_eq!(
        submitter.reply(SOON).await.error.map(|e| e.kind),
        Some(ErrorKind::InvalidTask),
        "its submitter gets a result"
    );

    let api = pool.api();
    let letters = eventually("it is in pool.dead", SOON, async || {
        Some(dead(&api).await).filter(|all| !all.is_empty())
    })
    .await;
    let [letter] = &letters[..] else {
        panic!("there is one message: {letters:?}")
    };
    let id = letter["id"].as_str().expect("an id");
    assert!(
        letter["reason"]
            .as_str()
            .is_some_and(|reason| reason.starts_with("invalid_task: ")),
        "{letter}"
    );
    assert!(
        letter["from"]
            .as_str()
            .is_some_and(|from| from.contains("any")),
        "the letter names the queue that it came from: {letter}"
    );
    assert_eq!(
        (&letter["task_id"], &letter["bytes"]),
        (&json!("broken"), &json!(5)),
        "{letter}"
    );

    let shown = pool.command_line(&["dead", "show", id]).await;
    for words in [
        "hello",
        "invalid_task",
        "reply_to: results.me",
        "message_id: broken",
    ] {
        assert!(shown.contains(words), "`dead show` says {words:?}: {shown}");
    }
    let retried = pool.try_command_line(&["dead", "retry", id]).await;
    let said = String::from_utf8_lossy(&retried.stderr);
    assert!(
        !retried.status.success() && said.contains("is not a task"),
        "a message that is not a task stays: {said}"
    );
    assert_eq!(dead(&api).await.len(), 1, "the letter is still there");
    let dropped = pool.command_line(&["dead", "drop", id]).await;
    assert!(dropped.contains("1 message"), "{dropped}");
    assert!(
        pool.command_line(&["dead", "list"]).await.contains("empty"),
        "no letter is left"
    );
    let (status, said) = api
        .send(Method::DELETE, &format!("/dead/{id}"), &Value::Null)
        .await;
    assert_eq!(status, StatusCode::NOT_FOUND, "the letter is gone: {said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_of_an_older_version_is_named_at_the_start_with_what_to_do() {
    let pool = Pool::set_up_shared(&PoolFile::sample().only(&["001"])).await;
    let (_connection, channel) = channel(&pool.amqp_url()).await;
    let mut arguments = FieldTable::default();
    arguments.insert(
        "x-queue-type".into(),
        AMQPValue::LongString("quorum".into()),
    );
    let options = QueueDeclareOptions {
        durable: true,
        ..QueueDeclareOptions::default()
    };
    channel
        .queue_declare("pool.dead".into(), options, arguments)
        .await
        .expect("a queue with the arguments of an older version");
    let started = pool.try_program("dispatcher", &["topology"]).await;
    let said = String::from_utf8_lossy(&started.stderr).into_owned();
    assert!(
        !started.status.success(),
        "the dispatcher does not start: {said}"
    );
    assert!(
        said.contains("pool.dead") && said.contains("rabbitmqctl delete_queue pool.dead"),
        "{said}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn looking_at_dead_letters_changes_neither_their_number_nor_their_order() {
    let mut pool = Pool::set_up_shared(&PoolFile::sample().only(&["001"])).await;
    pool.start_dispatcher().await;
    let (_connection, channel) = channel(&pool.amqp_url()).await;
    for n in 0..30 {
        let properties = BasicProperties::default()
            .with_delivery_mode(2)
            .with_message_id(format!("m{n:02}").into());
        let body = format!("message {n}");
        let options = BasicPublishOptions::default();
        let publish = channel.basic_publish(
            "pool.dlx".into(),
            "".into(),
            options,
            body.as_bytes(),
            properties,
        );
        publish.await.expect("a publish").await.expect("a confirm");
    }
    let api = pool.api();
    let ids = async || -> Vec<String> {
        dead(&api)
            .await
            .iter()
            .map(|letter| letter["task_id"].to_string())
            .collect()
    };
    let first = ids().await;
    assert_eq!(first.len(), 30, "all letters are shown: {first:?}");
    for _ in 0..25 {
        assert_eq!(
            ids().await,
            first,
            "the same letters are shown in the same order"
        );
    }
    for seen in join_all((0..10).map(|_| ids())).await {
        assert_eq!(seen, first, "ten readers at once take turns");
    }
    let letters = dead(&api).await;
    let middle = letters[15]["id"].as_str().expect("an id");
    pool.command_line(&["dead", "drop", middle]).await;
    let mut rest = first.clone();
    rest.remove(15);
    assert_eq!(
        ids().await,
        rest,
        "one letter is gone, the others are unchanged"
    );
    let dropped = pool
        .command_line(&["dead", "drop", "--all", "--format", "json"])
        .await;
    assert!(dropped.contains("\"dropped\": 29"), "{dropped}");
    assert_eq!(ids().await, [""; 0], "no letter is left");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_of_a_task_without_an_outcome_goes_on_and_one_with_an_outcome_becomes_a_new_task()
 {
    let mut pool = Pool::set_up_shared(&PoolFile::sample().only(&["001"])).await;
    pool.start_dispatcher().await;
    let mut submitter = pool.submitter("me").await;
    let mine = || submitter.properties().with_correlation_id("mine".into());

    // Workers died ten times before they could claim it, so it is rejected as poison.
    submitter
        .publish("any", task("poison").to_string(), mine())
        .await;
    return_to_queue(&pool.amqp_url(), "tasks.any", 10).await;
    // This one is not in the log.
    let (_connection, channel) = channel(&pool.amqp_url()).await;
    let (options, body) = (BasicPublishOptions::default(), task("fresh").to_string());
    let publish = channel.basic_publish(
        "pool.dlx".into(),
        "".into(),
        options,
        body.as_bytes(),
        mine(),
    );
    publish.await.expect("a publish").await.expect("a confirm");
    pool.start_worker(&["--all"]);
    let rejected = submitter.reply(SOON).await;
    assert_eq!(
        rejected.error.map(|error| error.kind),
        Some(ErrorKind::Poison),
        "never started"
    );

    let api = pool.api();
    let letters = eventually("both are in pool.dead", SOON, async || {
        Some(dead(&api).await).filter(|all| all.len() == 2)
    })
    .await;
    let id_of = |task: &str| {
        let letter = letters.iter().find(|letter| letter["task_id"] == task);
        letter
            .and_then(|letter| letter["id"].as_str())
            .unwrap_or_else(|| panic!("{task} is there: {letters:?}"))
            .to_owned()
    };
    let said = pool.command_line(&["dead", "retry", &id_of("fresh")]).await;
    assert!(said.contains("task fresh is back in its queue"), "{said}");
    let result = submitter.reply(SOON).await;
    assert_eq!(
        (result.task_id.as_ref().map(|id| id.as_str()), result.status),
        (Some("fresh"), Status::Succeeded),
        "the task succeeds"
    );

    let said = pool
        .command_line(&["dead", "retry", &id_of("poison"), "--format", "json"])
        .await;
    let said: Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!(
        said[0]["retry_of"], "poison",
        "the answer names the old id: {said}"
    );
    let delivery = submitter.next(SOON).await.expect("a result");
    let correlation = delivery
        .properties
        .correlation_id()
        .as_ref()
        .map(ToString::to_string);
    assert_eq!(
        correlation.as_deref(),
        Some("mine"),
        "the submitter gets the result of the new task, too"
    );
    let result: pool_core::result::ResultMessage =
        serde_json::from_slice(&delivery.data).expect("a result");
    assert_eq!(
        json!(result.task_id),
        said[0]["task_id"],
        "the result has the new id"
    );
    assert_eq!(result.status, Status::Succeeded, "{result:?}");
    assert_eq!(dead(&api).await, [Value::Null; 0], "no letter is left");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_reached_the_brokers_delivery_limit_without_a_start_is_issued_again_and_done()
 {
    let mut pool = Pool::set_up_shared(&PoolFile::sample().only(&["001"])).await;
    pool.start_dispatcher().await;
    pool.set_policy("^tasks\\.", &json!({"delivery-limit": 3}))
        .await;
    let mut submitter = pool.submitter("me").await;
    submitter.submit("any", &task("returned")).await;
    // The policy must be in force before the fourth return sends the message to pool.dead.
    let mut log = pool.event_log().await;
    let (_connection, channel) = channel(&pool.amqp_url()).await;
    let reissued = async {
        log.follow("the message is published again", SOON, |entries| {
            entries
                .iter()
                .find(|entry| entry.is("reissued") && entry.text("task") == "returned")
                .map(|_| ())
        })
        .await;
    };
    let returning = async {
        loop {
            if !give_back(&channel, "tasks.any").await {
                tokio::task::yield_now().await;
            }
        }
    };
    tokio::select! {
        () = reissued => {}
        () = returning => {}
    }
    // This submitter may have got the new message, too.
    channel
        .close(200, "done".into())
        .await
        .expect("an unacknowledged message returns");
    pool.start_worker(&["--all"]);
    let result = submitter.reply(SOON).await;
    assert_eq!(
        result.status,
        Status::Succeeded,
        "the task succeeds: {result:?}"
    );
    let left = submitter.depth_if_any("pool.dead").await;
    assert_eq!(left, Some(0), "the dispatcher took it out of pool.dead");
    log.read().await;
    assert_eq!(log.starts("returned").len(), 1, "done once");
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_tasks_are_submitted_again_as_new_ones() {
    let mut pool = Pool::set_up_shared(&PoolFile::sample()).await;
    let (file, signs) = with_agent(&pool, AGENT);
    pool.rewrite(&file);
    pool.start_dispatcher().await;
    pool.start_worker(&["--all"]);
    let api = pool.api();
    let labelled = |id: &str, run: &str| {
        let mut task = task(id);
        task["labels"] = json!({"run_id": run});
        task
    };
    api.submit(&json!([
        labelled("a", "7"),
        labelled("b", "7"),
        labelled("c", "8")
    ]))
    .await;
    for id in ["a", "b", "c"] {
        let result = api.result(id, SOON).await;
        assert_eq!(
            result.error.map(|error| error.kind),
            Some(ErrorKind::NoChange),
            "{id} fails"
        );
    }
    std::fs::write(signs.join("go"), "").expect("the sign");

    let said = pool
        .command_line(&[
            "retry", "--failed", "--label", "run_id=7", "--format", "json",
        ])
        .await;
    let said: Vec<Value> = serde_json::from_str(&said).expect("JSON");
    let mut old: Vec<&str> = said
        .iter()
        .filter_map(|one| one["retry_of"].as_str())
        .collect();
    old.sort_unstable();
    assert_eq!(
        old,
        ["a", "b"],
        "the failed tasks of the run are retried: {said:?}"
    );
    for one in &said {
        let id = one["task_id"].as_str().expect("an id");
        assert_eq!(
            api.result(id, SOON).await.status,
            Status::Succeeded,
            "{one}"
        );
        assert_eq!(
            api.get(&format!("/tasks/{id}")).await["task"]["retry_of"],
            one["retry_of"],
            "the new task names the old one"
        );
    }
    let twice = pool
        .try_command_line(&["retry", "--failed", "--label", "run_id=7"])
        .await;
    let words = String::from_utf8_lossy(&twice.stderr).into_owned();
    assert!(
        words.contains("2 failed tasks were retried before"),
        "{words}"
    );
    assert_eq!(
        String::from_utf8_lossy(&twice.stdout),
        "0 tasks submitted again\n",
        "a second identical command retries nothing"
    );
    let done = said[0]["task_id"].as_str().expect("an id");
    let again = pool.try_command_line(&["retry", done]).await;
    let words = String::from_utf8_lossy(&again.stderr).into_owned();
    assert!(
        !again.status.success() && words.contains("has succeeded") && words.contains("--force"),
        "{words}"
    );
    let said = pool
        .command_line(&["retry", "--force", done, "c", "a"])
        .await;
    assert!(
        said.contains("3 tasks submitted again"),
        "--force retries succeeded and already retried tasks, too: {said}"
    );
    let before: Vec<&str> = said
        .lines()
        .filter(|line| line.contains("and was retried before as"))
        .collect();
    assert!(
        matches!(before[..], [line] if line.starts_with("task a (failed)")),
        "the output names the earlier retry: {said}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_whose_deadline_passes_behind_busy_programmers_expires_without_a_start() {
    let mut pool = Pool::set_up_shared(&PoolFile::sample()).await;
    let (file, signs) = with_agent(&pool, PATIENT_AGENT);
    pool.rewrite(&file);
    pool.start_dispatcher().await;
    pool.start_worker(&["--all"]);
    let api = pool.api();
    let mut log = pool.event_log().await;
    api.submit(&task("long")).await;
    log.started("long").await;
    let deadline = wall_clock().plus(Duration::from_secs(2));
    let mut late = task("late");
    late["limits"] = json!({"deadline": deadline});
    api.submit(&late).await;

    let result = api.result("late", SOON).await;
    assert_eq!(result.status, Status::Expired, "{result:?}");
    let message = result.error.map(|error| error.message).unwrap_or_default();
    assert!(
        message.contains(&deadline.to_string()),
        "the message names the deadline: {message}"
    );
    let ended = log
        .until("its outcome", SOON, |entries| {
            entries
                .iter()
                .find(|entry| entry.is_end_of("late"))
                .map(|entry| entry.at)
        })
        .await;
    let after = ended.since(deadline);
    assert!(
        ended >= deadline && after < Duration::from_secs(5),
        "the task expires soon after its deadline: {after:?}"
    );
    std::fs::write(signs.join("go"), "").expect("the sign");
    assert_eq!(
        api.result("long", SOON).await.status,
        Status::Succeeded,
        "the other task is done"
    );
    let submitter = pool.submitter("auditor").await;
    eventually("the task's message is dropped", SOON, async || {
        (submitter.depth_if_any("tasks.any").await == Some(0)).then_some(())
    })
    .await;
    log.read().await;
    assert_eq!(log.starts("late").len(), 0, "no programmer has started it");
    assert_eq!(log.outcomes("late"), [Status::Expired], "one outcome");
}
