//! An accepted task is done even if its message is lost; and several dispatchers work as one.

use std::collections::BTreeMap;
use std::path::PathBuf;

use futures_util::future::join_all;
use lapin::BasicProperties;
use lapin::options::{BasicPublishOptions, QueueDeleteOptions};
use pool_core::event::{Event, TaskSubmitted};
use pool_core::id::TaskId;
use pool_core::result::Status;
use pool_core::task::{Task, TaskMessage};
use pool_core::time::Timestamp;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::amqp::channel;
use crate::support::pool::{task, tasks};
use crate::support::{Pool, PoolFile, SOON, eventually};

/// Makes a change as soon as the file `go` exists.
const AGENT: &str = r#"until [ -e "$1/go" ]; do sleep 0.05; done; echo four >>readme.txt"#;

/// A pool with these programmers that repairs after a second, and the file that its agents wait
/// for.
async fn with(programmers: &[&str]) -> (Pool, PathBuf) {
    let mut pool = Pool::set_up_shared(&PoolFile::sample()).await;
    let signs = pool.signs();
    let directory = signs.to_str().expect("a path in UTF-8");
    let file = PoolFile::sample()
        .only(programmers)
        .command(&["/bin/sh", "-c", AGENT, "agent", directory]);
    pool.rewrite(&file.set("dispatcher.repair_after_s", json!(1)));
    pool.start_dispatcher().await;
    (pool, signs.join("go"))
}

fn go(sign: &PathBuf) {
    std::fs::write(sign, "").expect("the sign");
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_whose_queue_is_deleted_under_them_are_done() {
    let (mut pool, sign) = with(&["001"]).await;
    pool.start_worker(&["--all"]);
    pool.all_consume().await;
    let mut log = pool.event_log().await;
    pool.api().submit(&task("running")).await;
    log.started("running").await;
    pool.api().submit(&json!(tasks("waiting", 3))).await;
    let (_connection, channel) = channel(&pool.amqp_url()).await;
    let deleted = channel
        .queue_delete("tasks.any".into(), QueueDeleteOptions::default())
        .await;
    assert_eq!(
        deleted.expect("the queue is there"),
        3,
        "the queue is deleted with three messages"
    );
    go(&sign);
    for id in ["running", "waiting-1", "waiting-2", "waiting-3"] {
        let result = pool.api().result(id, SOON * 2).await;
        assert_eq!(result.status, Status::Succeeded, "{id}: {result:?}");
        log.read().await;
        assert_eq!(
            log.outcomes(id),
            [Status::Succeeded],
            "{id} has one outcome"
        );
    }
}

/// Puts a task message into the history, which is the first step of a dispatcher.
async fn into_history(url: &str, task: &Task) {
    let (_connection, channel) = channel(url).await;
    let properties = BasicProperties::default()
        .with_type("task".into())
        .with_message_id(task.id.as_str().into());
    let body = task.to_json();
    let publish = channel.basic_publish(
        "pool.log".into(),
        "history".into(),
        BasicPublishOptions::default(),
        &body,
        properties,
    );
    publish.await.expect("a publish").await.expect("a confirm");
}

fn submitted(task: &Task) -> Value {
    let (body_hash, route) = (task.body_hash(), "any".to_owned());
    let event = Event::from(TaskSubmitted {
        task: task.id.clone(),
        body_hash,
        route,
        deadline_ms: None,
    });
    serde_json::to_value(event).expect("JSON")
}

fn read(id: &str) -> Task {
    let message =
        TaskMessage::parse(task(id).to_string().as_bytes(), Timestamp::default()).expect("a task");
    Task::new(TaskId::new(id).expect("an id"), message)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_a_dead_dispatcher_did_not_publish_is_done_and_one_without_a_body_is_reported()
{
    let (mut pool, sign) = with(&["001"]).await;
    go(&sign);
    let (cut_off, unknown) = (read("cut-off"), read("without-body"));
    into_history(&pool.amqp_url(), &cut_off).await;
    let mut log = pool.event_log().await;
    log.append(&[submitted(&cut_off), submitted(&unknown)])
        .await;
    log.follow("the task is published again", SOON, |entries| {
        entries
            .iter()
            .find(|entry| entry.is("published") && entry.text("task") == "cut-off")
            .map(|_| ())
    })
    .await;
    pool.start_worker(&["--all"]);
    let result = pool.api().result("cut-off", SOON).await;
    assert_eq!(result.status, Status::Succeeded, "{result:?}");
    // The same for a dispatcher that died between `reissued` and publishing.
    let moved = read("moved");
    into_history(&pool.amqp_url(), &moved).await;
    let reissued = serde_json::to_value(Event::reissued(&moved.id, 1)).expect("JSON");
    log.append(&[submitted(&moved), reissued]).await;
    assert_eq!(
        pool.api().result("moved", SOON).await.status,
        Status::Succeeded,
        "the message has the next generation"
    );
    let reports = || {
        pool.dispatcher_log()
            .lines()
            .filter(|line| line.contains("the history does not have it"))
            .count()
    };
    eventually("the task without a body is reported", SOON, async || {
        (reports() > 0).then_some(())
    })
    .await;
    assert_eq!(reports(), 1, "once: {}", pool.dispatcher_log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_in_the_hands_of_a_dead_worker_that_nobody_can_do_any_more_is_rejected() {
    let (mut pool, _sign) = with(&["001", "006"]).await;
    let worker = pool.start_worker(&["--programmers", "006"]);
    let mut submitter = pool.submitter("me").await;
    let mut orphan = task("orphan");
    orphan["capabilities"] = json!(["premium"]);
    submitter.submit("premium", &orphan).await;
    pool.event_log().await.started("orphan").await;
    pool.take_worker(worker).kill();
    pool.kill_dispatcher();
    pool.rewrite(&PoolFile::sample().only(&["001"]));
    pool.start_dispatcher().await;
    let reply = submitter.reply(SOON).await;
    assert_eq!(
        reply.status,
        Status::Rejected,
        "the task is rejected, because its owner does not come back: {reply:?}"
    );
    let problem = reply.error.expect("an error").message;
    assert!(
        problem.contains("premium"),
        "the error names the missing capability: {problem}"
    );
    assert_eq!(
        pool.api().get("/tasks/orphan").await["status"],
        "rejected",
        "the log has the outcome, too"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_can_put_a_task_into_its_queue_again() {
    let (mut pool, sign) = with(&["001", "002"]).await;
    let first = pool.start_worker(&["--programmers", "001"]);
    let mut log = pool.event_log().await;
    let api = pool.api();
    api.submit(&task("stuck")).await;
    log.started("stuck").await;

    let refused = pool.try_command_line(&["requeue", "stuck"]).await;
    let words = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        !refused.status.success() && words.contains("Prog-001") && words.contains("--force"),
        "{words}"
    );
    let said = pool.command_line(&["requeue", "--force", "stuck"]).await;
    assert!(said.contains("generation 1"), "{said}");
    pool.start_worker(&["--programmers", "002"]);
    log.until("002 has started it", SOON, |entries| {
        (entries
            .iter()
            .filter(|entry| entry.is_start_of("stuck"))
            .count()
            == 2)
            .then_some(())
    })
    .await;
    go(&sign);
    let result = api.result("stuck", SOON).await;
    assert_eq!(
        result.programmer.as_ref().map(|id| id.as_str()),
        Some("002"),
        "the task was started again: {result:?}"
    );
    pool.worker_prints(first, "another attempt").await;
    let refused = pool
        .try_command_line(&["requeue", "--force", "stuck"])
        .await;
    let words = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        words.contains("already succeeded") && words.contains("pool retry --force stuck"),
        "{words}"
    );
    let (status, said) = api
        .send(Method::POST, "/tasks/nobody/requeue", &json!({}))
        .await;
    assert_eq!(status, 404, "{said}");
    log.read().await;
    assert_eq!(log.outcomes("stuck"), [Status::Succeeded], "one outcome");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_three_dispatchers_is_killed_and_every_confirmed_task_is_done_once() {
    let file = PoolFile::sample()
        .only(&["001", "002", "003"])
        .set("dispatcher.repair_after_s", json!(1));
    let mut pool = Pool::set_up_shared(&file).await;
    pool.start_dispatcher().await;
    let staying = pool.api();
    pool.start_dispatcher().await;
    let other = pool.api();
    pool.start_dispatcher().await;
    let killed = pool.api();
    pool.start_worker(&["--all"]);
    let mut log = pool.event_log().await;

    let to_staying = tokio::spawn({
        let staying = staying.clone();
        async move { staying.submit(&json!(tasks("staying", 150))).await }
    });
    let to_killed = tokio::spawn({
        // Each submits to its own dispatcher: a confirmed task must be done, one that was not
        // confirmed may be.
        async move {
            let mut confirmed = Vec::new();
            for one in tasks("killed", 10_000) {
                match killed.try_post(&one).await {
                    Some(status) if status.is_success() => {
                        confirmed.push(one["id"].as_str().expect("an id").to_owned())
                    }
                    Some(_) | None => return confirmed,
                }
            }
            confirmed
        }
    });
    log.follow(
        "twenty tasks of the first dispatcher are done",
        SOON,
        |entries| {
            let ends = entries
                .iter()
                .filter(|entry| entry.is("finished") && entry.text("task").starts_with("killed-"));
            (ends.count() >= 20).then_some(())
        },
    )
    .await;
    pool.kill_dispatcher();
    let mut confirmed = to_killed.await.expect("a submitter");
    assert!(confirmed.len() >= 20, "some were confirmed");
    pool.start_dispatcher().await;
    to_staying.await.expect("a submitter");
    confirmed.extend((1..=150).map(|n| format!("staying-{n}")));

    let restarted = pool.api();
    for id in &confirmed {
        let result = restarted.result(id, SOON * 2).await;
        assert_eq!(result.status, Status::Succeeded, "{id}: {result:?}");
    }
    log.read().await;
    for id in &confirmed {
        assert_eq!(
            log.outcomes(id),
            [Status::Succeeded],
            "{id} has one outcome"
        );
    }
    let states = async |api: &crate::support::Api| -> BTreeMap<String, (String, String)> {
        let list = api.get("/tasks?limit=5000").await;
        let each = list["tasks"].as_array().cloned().unwrap_or_default();
        let row = |one: &Value| {
            (
                one["id"].to_string(),
                (one["status"].to_string(), one["attempt"].to_string()),
            )
        };
        each.iter().map(row).collect()
    };
    let all = [&staying, &other, &restarted];
    eventually("all three dispatchers agree", SOON, async || {
        let said = join_all(all.map(&states)).await;
        (said[0].len() >= confirmed.len() && said.iter().all(|one| *one == said[0])).then_some(())
    })
    .await;
    for id in confirmed.iter().take(20) {
        let path = format!("/tasks/{id}");
        let said = join_all(all.map(|api| api.get(&path))).await;
        assert!(
            said.iter().all(|one| *one == said[0]),
            "the dispatchers agree about {id}: {said:?}"
        );
    }
}
