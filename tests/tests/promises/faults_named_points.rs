//! Workers and dispatchers are killed at every named step in the life of a task, and the next
//! process finds everything.

mod upkeep;

use std::collections::BTreeSet;
use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use pool_broker::fault::Point;
use pool_core::result::Status;
use pool_telemetry::clock::wall_clock;
use serde_json::{Value, json};

use crate::supervision;
use crate::support::amqp::{channel, small_queue};
use crate::support::field::PATIENT;
use crate::support::pool::task;
use crate::support::process::Running;
use crate::support::{Books, EventLog, Pool, PoolFile, SOON, eventually};

/// The steps of a task that goes the whole way.
const WALK: [Point; 14] = [
    Point::Delivered,
    Point::Read,
    Point::Claiming,
    Point::Started,
    Point::WorktreeMade,
    Point::ObjectsMoved,
    Point::AgentDone,
    Point::ResultReady,
    Point::ResultPublished,
    Point::Acking,
    Point::Acked,
    Point::FinishedRead,
    Point::SettingBranch,
    Point::BranchSet,
];
const HAND_BACK: [Point; 1] = [Point::Released];
const SENT_ON: [Point; 3] = [Point::Reissued, Point::SentOn, Point::SentOnLogged];
const MADE_AGAIN: [Point; 2] = [Point::RetryReissued, Point::RetryKept];
const OTHER_ENDS: [Point; 4] = [
    Point::RepeatAsked,
    Point::EndTold,
    Point::DeadTold,
    Point::DeadLettered,
];

const INTAKE: [Point; 4] = [
    Point::TaskKept,
    Point::Submitted,
    Point::Queued,
    Point::Published,
];
const RESULTS: [Point; 6] = [
    Point::ResultTaken,
    Point::OutcomeWritten,
    Point::ResultKept,
    Point::ResultReplied,
    Point::ResultDelivered,
    Point::ResultAcked,
];
const REPEAT: [Point; 1] = [Point::RepeatTaken];
const RETRIES: [Point; 3] = [Point::RetryDue, Point::RetryIssued, Point::RetryLogged];
const UNROUTABLE: [Point; 2] = [Point::UnroutableTaken, Point::UnroutableHandled];
const RETIRED: [Point; 4] = [
    Point::RetiredTaken,
    Point::RetiredReissued,
    Point::RetiredSentOn,
    Point::RetiredLogged,
];

const REPAIR: [Point; 2] = [Point::RepairReissued, Point::RepairPublished];
const OTHER_RESULTS: [Point; 2] = [Point::Expired, Point::GaveUp];

/// The limit for a pool that is whole again.
const REST_WITHIN: Duration = Duration::from_secs(60);
/// Makes its change at once.
const EDIT: &str = "echo four >>readme.txt";
/// Crashes until the file `go` exists.
const CRASHES: &str = r#"[ -e "$1/go" ] || kill -9 $$; echo four >>readme.txt"#;

#[test]
fn no_point_is_forgotten() {
    let names = |groups: &[&[Point]]| {
        groups
            .concat()
            .iter()
            .map(|point| point.name())
            .collect::<BTreeSet<_>>()
    };
    let all = |points: &[Point]| {
        points
            .iter()
            .map(|point| point.name())
            .collect::<BTreeSet<_>>()
    };
    let tested = names(&[
        &WALK,
        &HAND_BACK,
        &SENT_ON,
        &MADE_AGAIN,
        &OTHER_ENDS,
        &supervision::SERVICE,
    ]);
    assert_eq!(
        tested,
        all(Point::WORKER),
        "a test covers each step of a worker"
    );
    let walks = [
        &INTAKE[..],
        &RESULTS,
        &REPEAT,
        &RETRIES,
        &UNROUTABLE,
        &RETIRED,
        &REPAIR,
        &OTHER_RESULTS,
    ];
    let upkeep = [
        &upkeep::RESCUE[..],
        &upkeep::DEAD_RETRY,
        &upkeep::RESTATE,
        &upkeep::BINDING,
    ];
    let tested = names(&[walks.as_slice(), &upkeep].concat());
    assert_eq!(
        tested,
        all(Point::DISPATCHER),
        "a test below covers each step of a dispatcher"
    );
}

fn killed_at(point: Point) -> String {
    format!("{}=kill", point.name())
}

/// Waits until the process has killed itself at its step.
async fn falls(process: &mut Running, point: Point) {
    let status = process.ended().await;
    let reached = process.log().contains(point.name());
    // A package that is built alone has no fault points.
    assert!(
        reached,
        "{} ended with {status} before {}",
        process.name,
        point.name()
    );
    assert_eq!(
        status.signal(),
        Some(9),
        "{} was killed at {}: {status}",
        process.name,
        point.name()
    );
}

/// Runs this command until the dispatcher has died of it at its step. A dispatcher that has just
/// started may refuse the command.
async fn falls_by(pool: &mut Pool, command: &[&str], point: Point) {
    let mut dispatcher = pool.take_dispatcher();
    eventually("a command kills the dispatcher", SOON, async || {
        let cut_off = pool.try_command_line(command).await;
        assert!(
            !cut_off.status.success(),
            "the dispatcher dies before it answers"
        );
        dispatcher.has_ended()
    })
    .await;
    falls(&mut dispatcher, point).await;
}

/// Kills its worker at this step and starts the next one, for each of these steps; the last worker
/// lives.
async fn workers_fall(
    pool: &mut Pool,
    points: &[Point],
    ids: &str,
    mut before: impl AsyncFnMut(&mut Pool, Point),
) {
    for point in points {
        let worker = pool.start_worker_with(
            &["--programmers", ids],
            &[("POOL_FAULT", &killed_at(*point))],
        );
        before(pool, *point).await;
        falls(&mut pool.take_worker(worker), *point).await;
    }
    pool.start_worker(&["--programmers", ids]);
}

/// Starts a dispatcher that serves until it reaches this step.
async fn dispatcher_armed(pool: &mut Pool, point: Point) {
    pool.start_dispatcher_with(&[("POOL_FAULT", &killed_at(point))])
        .await;
}

/// Launches a dispatcher that dies the `time`-th time that it reaches this step, and does not wait
/// for it.
fn launch_armed(pool: &mut Pool, point: Point, time: usize) {
    pool.launch_dispatcher(
        "127.0.0.1:0",
        &[("POOL_FAULT", &format!("{}@{time}", killed_at(point)))],
    );
}

/// Starts a dispatcher that dies the `time`-th time that it reaches this step, perhaps before it
/// serves.
async fn dispatcher_falls(pool: &mut Pool, point: Point, time: usize) {
    launch_armed(pool, point, time);
    falls(&mut pool.take_dispatcher(), point).await;
}

/// Lets the one dispatcher die at each of these steps. The running one is armed with the first; each
/// later one may die before it serves.
async fn dispatchers_fall(pool: &mut Pool, points: &[Point]) {
    for (place, point) in points.iter().enumerate() {
        falls(&mut pool.take_dispatcher(), *point).await;
        match points.get(place + 1) {
            Some(next) => launch_armed(pool, *next, 1),
            None => pool.start_dispatcher().await,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_may_be_killed_at_every_step_of_the_walk() {
    // Each of thirteen workers dies at another step; a task may meet several of them.
    let file = PoolFile::grown(WALK.len(), "local/none", None).command(&["/bin/sh", "-c", EDIT]);
    let mut pool = Pool::set_up_shared(&file.set("dispatcher.max_attempts", 100.into())).await;
    pool.start_dispatcher().await;
    let ids: Vec<String> = crate::support::pool_file::numbered(WALK.len()).collect();
    for (id, point) in ids.iter().zip(WALK) {
        pool.start_worker_with(&["--programmers", id], &[("POOL_FAULT", &killed_at(point))]);
    }
    pool.all_consume().await;
    let mut books = Books::open(&pool).await;
    for number in 0..2 * WALK.len() {
        let task = task(&format!("walk-{number}"));
        match number % 2 {
            0 => books.over_http(&task).await,
            _ => books.over_amqp("any", &task).await,
        }
    }
    for point in WALK {
        falls(&mut pool.take_worker(0), point).await;
    }
    pool.start_worker(&["--all"]);
    let report = books.close(&mut pool, REST_WITHIN).await;
    assert_eq!(report.tasks, 2 * WALK.len(), "{report}");
    assert!(
        report.repeated_starts >= 3,
        "tasks of dead workers were claimed again: {report}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_may_be_killed_while_it_hands_a_task_back() {
    let mut pool = Pool::set_up_shared(&PoolFile::sample()).await;
    let directory = pool.signs().to_str().expect("a path in UTF-8").to_owned();
    let file = PoolFile::sample()
        .only(&["001"])
        .command(&["/bin/sh", "-c", PATIENT, "agent", &directory]);
    pool.rewrite(&file);
    pool.start_dispatcher().await;
    let mut books = Books::open(&pool).await;
    books.over_amqp("any", &task("handed-back")).await;
    let mut log = pool.event_log().await;
    workers_fall(&mut pool, &HAND_BACK, "001", async |pool, _| {
        log.started("handed-back").await;
        // The first signal says that it takes no more tasks, the second that it returns the running
        // ones.
        pool.worker(0).terminate();
        pool.worker_prints(0, "draining").await;
        pool.worker(0).terminate();
    })
    .await;
    std::fs::write(pool.signs().join("go"), "").expect("the sign");
    books.close(&mut pool, REST_WITHIN).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_may_be_killed_while_it_sends_a_task_on() {
    let mut pool = Pool::set_up_shared(&PoolFile::sample().only(&["001", "006"])).await;
    pool.start_dispatcher().await;
    let mut books = Books::open(&pool).await;
    let submitter = pool.submitter("me").await;
    let reply_to = books.reply_to().to_owned();
    workers_fall(&mut pool, &SENT_ON, "001", async |_, point| {
        // The task is in a queue of programmers that do not offer its capabilities, as after a
        // change of the pool file.
        let id = format!("for-others-{point:?}");
        let astray =
            json!({"id": id, "instruction": "x", "repository": "app", "capabilities": ["premium"]});
        let properties = submitter
            .properties()
            .with_reply_to(reply_to.as_str().into());
        submitter
            .publish_to_queue("tasks.fast", astray.to_string(), properties)
            .await;
        books.expect(&astray);
    })
    .await;
    pool.start_worker(&["--programmers", "006"]);
    books.close(&mut pool, REST_WITHIN).await;
}

/// A pool whose agents crash until the file `go` exists, and whose attempts are retried at once.
async fn pool_that_crashes() -> Pool {
    let pool = Pool::set_up_shared(&PoolFile::sample()).await;
    let directory = pool.signs().to_str().expect("a path in UTF-8").to_owned();
    let file = PoolFile::sample()
        .only(&["001"])
        .set("dispatcher.max_attempts", 100.into());
    let file = file.set("dispatcher.retry_delay_s", 0.into());
    pool.rewrite(&file.command(&["/bin/sh", "-c", CRASHES, "agent", &directory]));
    pool
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_may_be_killed_while_it_has_an_attempt_made_again() {
    let mut pool = pool_that_crashes().await;
    pool.start_dispatcher().await;
    let mut books = Books::open(&pool).await;
    books.over_amqp("any", &task("crashes")).await;
    books.over_http(&task("crashes-too")).await;
    workers_fall(&mut pool, &MADE_AGAIN, "001", async |_, _| {}).await;
    std::fs::write(pool.signs().join("go"), "").expect("the sign");
    books.close(&mut pool, REST_WITHIN).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dispatcher_may_be_killed_while_it_has_an_attempt_made_again() {
    let mut pool = pool_that_crashes().await;
    dispatcher_armed(&mut pool, RETRIES[0]).await;
    pool.start_worker(&["--all"]);
    let mut books = Books::open(&pool).await;
    books.over_amqp("any", &task("crashes")).await;
    dispatchers_fall(&mut pool, &RETRIES).await;
    std::fs::write(pool.signs().join("go"), "").expect("the sign");
    books.close(&mut pool, REST_WITHIN).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_may_be_killed_while_it_ends_what_is_no_task() {
    let mut pool = Pool::set_up_shared(&PoolFile::sample().only(&["001"])).await;
    pool.start_dispatcher().await;
    let worker = pool.start_worker(&["--all"]);
    let mut books = Books::open(&pool).await;
    books.over_amqp("any", &task("done")).await;
    books.settled(REST_WITHIN).await;
    pool.take_worker(worker).kill();
    let submitter = pool.submitter("me").await;
    let reply_to = books.reply_to().to_owned();
    workers_fall(&mut pool, &OTHER_ENDS, "001", async |_, point| {
        let properties = submitter.properties();
        match point {
            Point::RepeatAsked => books.over_amqp("any", &task("done")).await,
            // Without a reply queue, because the answer would be another result under the same id.
            Point::EndTold => {
                let conflict = json!({"id": "done", "instruction": "another", "repository": "app"});
                let properties = lapin::BasicProperties::default().with_delivery_mode(2);
                submitter
                    .publish("any", conflict.to_string(), properties)
                    .await;
            }
            _ => {
                let id = format!("bad-{point:?}");
                let properties = properties
                    .with_reply_to(reply_to.as_str().into())
                    .with_message_id(id.as_str().into());
                submitter
                    .publish("any", r#"{"instruction": 7}"#, properties)
                    .await;
                books.tried(&id);
            }
        }
    })
    .await;
    books.over_amqp("any", &task("afterwards")).await;
    let report = books.close(&mut pool, REST_WITHIN).await;
    assert!(
        report.repeated_replies >= 3,
        "two replies to repeated requests, and one reply that was sent twice: {report}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dispatcher_may_be_killed_at_every_step_of_an_intake() {
    let mut pool = Pool::set_up_shared(&PoolFile::sample().only(&["001"])).await;
    dispatcher_armed(&mut pool, INTAKE[0]).await;
    let mut books = Books::open(&pool).await;
    // One submission meets them all: its submitter repeats it until it is confirmed.
    let taken = task("taken-at-last");
    tokio::join!(
        books.over_http(&taken),
        dispatchers_fall(&mut pool, &INTAKE)
    );
    pool.start_worker(&["--all"]);
    let report = books.close(&mut pool, REST_WITHIN).await;
    assert_eq!(
        report.repeated_starts, 0,
        "there are two copies and one execution: {report}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dispatcher_may_be_killed_at_every_step_of_a_result() {
    let mut pool = Pool::set_up_shared(&PoolFile::sample().only(&["001"])).await;
    dispatcher_armed(&mut pool, RESULTS[0]).await;
    pool.start_worker(&["--all"]);
    let mut books = Books::open(&pool).await;
    for number in 1..=3 {
        books
            .over_amqp("any", &task(&format!("result-{number}")))
            .await;
    }
    dispatchers_fall(&mut pool, &RESULTS).await;
    let report = books.close(&mut pool, REST_WITHIN).await;
    assert!(
        report.repeated_replies > 0,
        "a dispatcher that was killed after a reply sent it again: {report}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dispatcher_may_be_killed_while_it_repeats_a_result_or_puts_a_key_right() {
    let mut pool = Pool::set_up_shared(&PoolFile::sample().only(&["001"])).await;
    dispatcher_armed(&mut pool, REPEAT[0]).await;
    pool.start_worker(&["--all"]);
    let mut books = Books::open(&pool).await;
    books.over_amqp("any", &task("again")).await;
    books.settled(REST_WITHIN).await;
    books.over_amqp("any", &task("again")).await;
    falls(&mut pool.take_dispatcher(), REPEAT[0]).await;
    dispatcher_armed(&mut pool, UNROUTABLE[0]).await;
    publish_unsorted(&pool, &mut books, "unsorted").await;
    dispatchers_fall(&mut pool, &UNROUTABLE).await;
    let report = books.close(&mut pool, REST_WITHIN).await;
    assert_eq!(
        report.repeated_starts, 0,
        "there are two copies and one execution: {report}"
    );
}

/// Publishes a task with an unsorted key, which a dispatcher sorts. The confirm says only that the
/// broker has the message.
async fn publish_unsorted(pool: &Pool, books: &mut Books, id: &str) {
    let submitter = pool.submitter("unsorted").await;
    let task = json!({"id": id, "instruction": "x", "repository": "app", "capabilities": ["fast", "local"]});
    let properties = submitter
        .properties()
        .with_reply_to(books.reply_to().into());
    submitter
        .publish("local.fast", task.to_string(), properties)
        .await;
    books.expect(&task);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dispatcher_may_be_killed_while_it_puts_a_task_into_its_queue_again() {
    let mut pool = Pool::set_up_shared(&PoolFile::sample().only(&["001"])).await;
    dispatcher_armed(&mut pool, REPAIR[0]).await;
    let mut books = Books::open(&pool).await;
    books.over_http(&task("stuck")).await;
    for (place, point) in REPAIR.iter().enumerate() {
        falls_by(&mut pool, &["requeue", "--force", "stuck"], *point).await;
        match REPAIR.get(place + 1) {
            Some(next) => dispatcher_armed(&mut pool, *next).await,
            None => pool.start_dispatcher().await,
        }
    }
    pool.start_worker(&["--all"]);
    let report = books.close(&mut pool, REST_WITHIN).await;
    assert_eq!(
        report.repeated_starts, 0,
        "there are several copies and one execution: {report}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dispatcher_may_be_killed_while_it_ends_a_task_that_is_late_or_gives_a_reply_queue_up() {
    let file = PoolFile::sample()
        .only(&["001"])
        .set("dispatcher.reply_patience_s", 1.into());
    let mut pool = Pool::set_up_shared(&file).await;
    dispatcher_armed(&mut pool, Point::Expired).await;
    let mut books = Books::open(&pool).await;
    let mut late = task("late");
    let deadline = wall_clock().plus(Duration::from_secs(2)).to_string();
    late["limits"] = json!({"deadline": deadline});
    books.may_end("late", &[Status::Expired]);
    books.over_http(&late).await;
    falls(&mut pool.take_dispatcher(), Point::Expired).await;

    dispatcher_armed(&mut pool, Point::GaveUp).await;
    let (_connection, channel) = channel(&pool.amqp_url()).await;
    small_queue(&channel, "results.small", 1).await;
    let submitter = pool.submitter("somebody").await;
    for id in ["fits", "refused"] {
        let properties = submitter.properties().with_reply_to("results.small".into());
        submitter
            .publish("any", task(id).to_string(), properties)
            .await;
        books.took(id);
    }
    pool.start_worker(&["--all"]);
    falls(&mut pool.take_dispatcher(), Point::GaveUp).await;
    pool.start_dispatcher().await;
    books.close(&mut pool, REST_WITHIN).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dispatcher_may_be_killed_while_it_empties_a_queue_that_is_retired() {
    let offers = |first: Value, second: Value| {
        PoolFile::sample()
            .only(&["001", "009"])
            .set_of("001", "capabilities", first)
            .set_of("009", "capabilities", second)
    };
    let mut pool = Pool::set_up_shared(&offers(json!(["fast"]), json!(["deepseek"]))).await;
    pool.start_dispatcher().await;
    let mut books = Books::open(&pool).await;
    for number in 1..=2 {
        let mut task = task(&format!("moved-{number}"));
        task["capabilities"] = json!(["deepseek"]);
        books.over_http(&task).await;
    }
    pool.kill_dispatcher();
    // Now both programmers offer the same, so one queue is left.
    pool.rewrite(&offers(
        json!(["deepseek", "fast"]),
        json!(["deepseek", "fast"]),
    ));
    dispatcher_armed(&mut pool, RETIRED[0]).await;
    dispatchers_fall(&mut pool, &RETIRED).await;
    pool.start_worker(&["--all"]);
    let report = books.close(&mut pool, REST_WITHIN).await;
    assert_eq!(
        report.repeated_starts, 0,
        "there are several copies and one execution: {report}"
    );
    let mut log = EventLog::open(&pool.amqp_url()).await;
    let reissued = log
        .read()
        .await
        .iter()
        .filter(|entry| entry.is("reissued"))
        .count();
    assert!(
        reissued >= 4,
        "the next dispatcher sends it on again: {reissued}"
    );
}
