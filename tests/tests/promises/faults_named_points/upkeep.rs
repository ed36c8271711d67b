//! Dispatchers are killed at the steps of maintenance: retrying dead letters, writing open tasks
//! again, changing bindings.

use lapin::BasicProperties;
use lapin::options::BasicPublishOptions;
use pool_broker::fault::Point;
use serde_json::{Value, json};

use super::{PATIENT, REST_WITHIN, dispatcher_armed, dispatcher_falls, falls_by, publish_unsorted};
use crate::support::amqp::{channel, give_back};
use crate::support::pool::task;
use crate::support::{Books, Pool, PoolFile, SOON, eventually};

/// The steps of `send_on`, for a dead letter as for a task in a retired queue.
const SENT_ON: [Point; 2] = [Point::RetiredReissued, Point::RetiredSentOn];
pub(super) const RESCUE: [Point; 1] = [Point::RescueIssued];
pub(super) const DEAD_RETRY: [Point; 1] = [Point::DeadRetried];
pub(super) const RESTATE: [Point; 2] = [Point::Restating, Point::Restated];
pub(super) const BINDING: [Point; 3] =
    [Point::Configured, Point::RoutesUnbound, Point::RoutesBound];

/// Returns the messages of a queue until the broker gives them up.
async fn return_until_given_up(pool: &Pool, queue: &str) {
    let (_connection, channel) = channel(&pool.amqp_url()).await;
    let given_up = async || (!give_back(&channel, queue).await).then_some(());
    eventually(
        &format!("the broker gives up the messages of {queue}"),
        SOON,
        given_up,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dispatcher_may_be_killed_while_it_issues_again_what_the_broker_gave_up() {
    let mut pool = Pool::set_up_shared(&PoolFile::sample().only(&["001"])).await;
    pool.start_dispatcher().await;
    let mut books = Books::open(&pool).await;
    pool.kill_dispatcher();
    // A result, a task and a message without a route.
    let worker = pool.start_worker(&["--all"]);
    books.over_amqp("any", &task("has-a-result")).await;
    pool.event_log().await.finished(1, SOON).await;
    pool.take_worker(worker).kill();
    books.over_amqp("any", &task("waits")).await;
    publish_unsorted(&pool, &mut books, "unsorted").await;
    let queues = ["results", "tasks.any", "pool.unroutable"];
    pool.set_policy(
        "^(results|tasks\\.any|pool\\.unroutable)$",
        &json!({"delivery-limit": 3}),
    )
    .await;
    for queue in queues {
        return_until_given_up(&pool, queue).await;
    }
    let submitter = pool.submitter("me").await;
    eventually("all three are in pool.dead", SOON, async || {
        (submitter.depth_if_any("pool.dead").await == Some(3)).then_some(())
    })
    .await;

    // The dispatcher handles them in the order in which the broker gave them up.
    let [reissued, sent_on] = SENT_ON;
    let [issued] = RESCUE;
    for (point, time) in [
        (issued, 1),
        (reissued, 1),
        (sent_on, 1),
        (issued, 1),
        (issued, 2),
    ] {
        dispatcher_falls(&mut pool, point, time).await;
    }
    pool.start_dispatcher().await;
    let api = pool.api();
    eventually("pool.dead is empty", SOON, async || {
        (api.get("/dead").await["total"] == 0).then_some(())
    })
    .await;
    pool.start_worker(&["--all"]);
    let report = books.close(&mut pool, REST_WITHIN).await;
    assert_eq!(
        report.repeated_starts, 0,
        "there are several copies and one execution: {report}"
    );
}

/// Puts a message into `pool.dead` as an outsider could; gives its id there.
async fn dead_letter(pool: &Pool, task: &Value, properties: BasicProperties) -> String {
    let (_connection, channel) = channel(&pool.amqp_url()).await;
    let (options, body) = (BasicPublishOptions::default(), task.to_string());
    let publish = channel.basic_publish(
        "pool.dlx".into(),
        "".into(),
        options,
        body.as_bytes(),
        properties,
    );
    publish.await.expect("a publish").await.expect("a confirm");
    let (api, id) = (pool.api(), &task["id"]);
    eventually("the message is in pool.dead", SOON, async || {
        let dead = api.get("/dead").await;
        let letter = dead["letters"]
            .as_array()?
            .iter()
            .find(|letter| letter["task_id"] == *id)?;
        letter["id"].as_str().map(str::to_owned)
    })
    .await
}

/// An operator's retry, repeated whenever it fails, because its dispatcher dies at each of these
/// steps. Gives the last output.
async fn retry_and_fall(pool: &mut Pool, letter: &str, points: &[Point]) -> Value {
    for point in points {
        dispatcher_armed(pool, *point).await;
        falls_by(pool, &["dead", "retry", letter], *point).await;
    }
    pool.start_dispatcher().await;
    let said = pool
        .command_line(&["dead", "retry", letter, "--format", "json"])
        .await;
    serde_json::from_str(&said).expect("JSON")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dispatcher_may_be_killed_while_an_operator_takes_a_dead_letter_up_again() {
    let mut pool = Pool::set_up_shared(&PoolFile::sample().only(&["001"])).await;
    pool.start_dispatcher().await;
    let worker = pool.start_worker(&["--all"]);
    let mut books = Books::open(&pool).await;
    books.over_amqp("any", &task("over")).await;
    books.settled(REST_WITHIN).await;
    pool.take_worker(worker).kill();
    let fresh = BasicProperties::default()
        .with_delivery_mode(2)
        .with_reply_to(books.reply_to().into());
    let fresh_letter = dead_letter(&pool, &task("fresh"), fresh).await;
    let over_letter = dead_letter(
        &pool,
        &task("over"),
        BasicProperties::default().with_delivery_mode(2),
    )
    .await;
    books.expect(&task("fresh"));
    books.took(&format!("t-{over_letter}"));

    pool.kill_dispatcher();
    let points = [&SENT_ON[..], &DEAD_RETRY].concat();
    let said = retry_and_fall(&mut pool, &fresh_letter, &points).await;
    assert_eq!(
        said[0]["task_id"], "fresh",
        "a task without an outcome goes on: {said}"
    );
    pool.kill_dispatcher();
    let points = [&super::INTAKE[..], &DEAD_RETRY].concat();
    let said = retry_and_fall(&mut pool, &over_letter, &points).await;
    assert_eq!(
        said[0]["task_id"],
        format!("t-{over_letter}"),
        "a task with an outcome becomes one new task: {said}"
    );
    assert_eq!(
        pool.api().get("/dead").await["total"],
        0,
        "pool.dead is empty"
    );
    pool.start_worker(&["--all"]);
    let report = books.close(&mut pool, REST_WITHIN).await;
    assert_eq!(
        report.repeated_starts, 0,
        "there are several copies and one execution: {report}"
    );
}

/// Fills the log until it has dropped the segment in which this task was submitted.
async fn outgrow(pool: &Pool, task: &str) {
    let filler = json!({"kind": "unknown", "filler": "x".repeat(100_000)});
    let mut log = pool.event_log().await;
    eventually(
        &format!("the log has forgotten that {task} was submitted"),
        REST_WITHIN,
        async || {
            // A segment holds 1 MiB. The log drops old segments as a whole when the next one begins.
            for _ in 0..12 {
                log.append(std::slice::from_ref(&filler)).await;
            }
            let mut log = pool.event_log().await;
            let entries = log.read().await;
            (!entries
                .iter()
                .any(|entry| entry.json["kind"] == "submitted" && entry.text("task") == task))
            .then_some(())
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dispatcher_may_be_killed_while_it_says_again_what_the_log_is_about_to_forget() {
    let sample = PoolFile::sample()
        .only(&["001", "002"])
        .with("events", json!({"max_age": "8s", "segment_mib": 1}));
    let mut pool = Pool::set_up_shared(&sample).await;
    let directory = pool.signs().to_str().expect("a path in UTF-8").to_owned();
    pool.rewrite(&sample.command(&["/bin/sh", "-c", PATIENT, "agent", &directory]));
    pool.start_dispatcher().await;
    let mut books = Books::open(&pool).await;
    pool.start_worker(&["--programmers", "001"]);
    books.over_http(&task("runs")).await;
    let mut log = pool.event_log().await;
    log.started("runs").await;
    for number in 1..=3 {
        books.over_http(&task(&format!("waits-{number}"))).await;
    }
    pool.kill_dispatcher();
    for point in RESTATE {
        dispatcher_falls(&mut pool, point, 1).await;
    }
    pool.start_dispatcher().await;
    outgrow(&pool, "runs").await;

    // A process that starts now knows the tasks only from the repeated events.
    pool.kill_dispatcher();
    pool.start_dispatcher().await;
    for (id, status) in [
        ("runs", "running"),
        ("waits-1", "queued"),
        ("waits-2", "queued"),
        ("waits-3", "queued"),
    ] {
        let task = pool.api().get(&format!("/tasks/{id}")).await;
        assert_eq!(task["status"], status, "{id}: {task}");
    }
    pool.start_worker(&["--programmers", "002"]);
    std::fs::write(pool.signs().join("go"), "").expect("the sign");
    let report = books.close(&mut pool, REST_WITHIN).await;
    assert_eq!(
        (report.tasks, report.repeated_starts),
        (4, 0),
        "each task is done once: {report}"
    );
}

/// Two programmers with these capabilities.
fn offers(first: &[&str], second: &[&str]) -> PoolFile {
    let file = PoolFile::sample().only(&["001", "009"]);
    file.set_of("001", "capabilities", json!(first))
        .set_of("009", "capabilities", json!(second))
}

fn apart() -> PoolFile {
    offers(&["fast"], &["deepseek"])
}

/// Gives all programmers the same capabilities, so that there is one queue.
fn alike() -> PoolFile {
    offers(&["deepseek", "fast"], &["deepseek", "fast"])
}

/// The queue and the key of each binding of `pool.tasks`.
fn bound<const N: usize>(pairs: [(&str, &str); N]) -> Vec<(String, String)> {
    pairs
        .map(|(queue, key)| (queue.to_owned(), key.to_owned()))
        .to_vec()
}

const APART: [(&str, &str); 3] = [
    ("tasks.any", "any"),
    ("tasks.deepseek", "deepseek"),
    ("tasks.fast", "fast"),
];
const ALIKE: [(&str, &str); 4] = [
    ("tasks.any", "any"),
    ("tasks.any", "deepseek"),
    ("tasks.any", "deepseek.fast"),
    ("tasks.any", "fast"),
];

/// A task for each of these capabilities.
async fn one_each(books: &mut Books, name: &str) {
    for capability in ["deepseek", "fast"] {
        let mut task = task(&format!("{name}-{capability}"));
        task["capabilities"] = json!([capability]);
        books.over_amqp(capability, &task).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dispatcher_may_be_killed_while_it_changes_the_bindings() {
    let mut pool = Pool::set_up_shared(&apart()).await;
    pool.start_dispatcher().await;
    assert_eq!(
        pool.bindings_of_tasks().await,
        bound(APART),
        "the bindings are those of the first file"
    );
    let mut books = Books::open(&pool).await;
    one_each(&mut books, "before").await;
    pool.kill_dispatcher();
    pool.rewrite(&alike());
    for point in BINDING {
        dispatcher_falls(&mut pool, point, 1).await;
        one_each(&mut books, &format!("behind-{point:?}")).await;
    }
    pool.start_dispatcher().await;
    assert_eq!(
        pool.bindings_of_tasks().await,
        bound(ALIKE),
        "the bindings are those of the second file"
    );
    pool.start_worker(&["--all"]);
    let report = books.close(&mut pool, REST_WITHIN).await;
    assert_eq!(
        (report.tasks, report.repeated_starts),
        (8, 0),
        "each task is done once: {report}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_taken_back_before_it_was_wholly_in_force_leaves_no_bindings() {
    for point in BINDING {
        let mut pool = Pool::set_up_shared(&apart()).await;
        pool.start_dispatcher().await;
        let mut books = Books::open(&pool).await;
        pool.kill_dispatcher();
        pool.rewrite(&alike());
        dispatcher_falls(&mut pool, point, 1).await;
        one_each(&mut books, "meanwhile").await;
        pool.rewrite(&apart());
        pool.start_dispatcher().await;
        assert_eq!(
            pool.bindings_of_tasks().await,
            bound(APART),
            "{point:?}: the bindings are those of the first file"
        );
        pool.start_worker(&["--all"]);
        let report = books.close(&mut pool, REST_WITHIN).await;
        assert_eq!(
            report.repeated_starts, 0,
            "{point:?}: each task is done once: {report}"
        );
    }
}
