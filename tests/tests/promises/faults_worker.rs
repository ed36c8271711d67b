//! Workers are frozen, blocked, poisoned or out of disk; results lose their owner or their log; a
//! task has copies. Each task still has one outcome, and a worker that lost a task brings no
//! result.

use std::os::unix::process::ExitStatusExt;

use lapin::options::{QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Connection};
use pool_core::id::AttemptId;
use pool_core::result::{ErrorKind, Status};
use pool_telemetry::clock::new_id;
use serde_json::json;

use crate::support::amqp::channel;
use crate::support::bench::Bench;
use crate::support::clock::FakeClock;
use crate::support::field::{REPAIRED_WITHIN, nervous};
use crate::support::machine::program;
use crate::support::pool::task;
use crate::support::{Books, EventLog, Pool, PoolFile, SOON};

/// Sees every result that is published to `results`, also those that are dropped there.
struct Spy {
    channel: Channel,
    _connection: Connection,
}

impl Spy {
    async fn on(pool: &Pool) -> Self {
        let (connection, channel) = channel(&pool.amqp_url()).await;
        let options = QueueDeclareOptions {
            exclusive: true,
            ..QueueDeclareOptions::default()
        };
        channel
            .queue_declare("spy".into(), options, FieldTable::default())
            .await
            .expect("a queue");
        let (options, none) = (QueueBindOptions::default(), FieldTable::default());
        channel
            .queue_bind(
                "spy".into(),
                "pool.results".into(),
                "results".into(),
                options,
                none,
            )
            .await
            .expect("bound");
        Self {
            channel,
            _connection: connection,
        }
    }

    /// The number of results that were published since the spy was made.
    async fn seen(&self) -> u32 {
        let options = QueueDeclareOptions {
            passive: true,
            ..QueueDeclareOptions::default()
        };
        let queue = self
            .channel
            .queue_declare("spy".into(), options, FieldTable::default())
            .await;
        queue.expect("the spy's queue").message_count()
    }
}

async fn second_start(log: &mut EventLog, id: &str) {
    log.until("another attempt has the task", REPAIRED_WITHIN, |entries| {
        (entries.iter().filter(|entry| entry.is_start_of(id)).count() >= 2).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_was_frozen_for_three_heartbeats_brings_no_result() {
    let mut bench = Bench::with_file(nervous(&["001", "002"])).await;
    let frozen = bench.pool.start_worker(&["--programmers", "001"]);
    let mut books = Books::open(&bench.pool).await;
    books.over_amqp("any", &task("zombie")).await;
    let mut log = bench.pool.event_log().await;
    assert_eq!(
        log.started("zombie").await.as_str(),
        "001",
        "no other programmer is there"
    );
    bench.agents_started(1).await;
    let spy = Spy::on(&bench.pool).await;
    // For longer than three heartbeats: until the broker has given its task to another worker.
    bench.pool.worker(frozen).freeze();
    bench.pool.start_worker(&["--programmers", "002"]);
    second_start(&mut log, "zombie").await;
    bench.go();
    let result = bench.pool.api().result("zombie", REPAIRED_WITHIN).await;
    assert_eq!(
        result.programmer.as_ref().map(|id| id.as_str()),
        Some("002"),
        "the result is the owner's: {result:?}"
    );

    bench.pool.worker(frozen).thaw();
    bench.pool.all_consume().await;
    books.over_amqp("any", &task("afterwards")).await;
    books.settled(REPAIRED_WITHIN).await;
    assert_eq!(
        spy.seen().await,
        2,
        "one result for each task was published, and none by the worker that lost its task"
    );
    let report = books.close(&mut bench.pool, REPAIRED_WITHIN).await;
    assert_eq!(
        (report.repeated_starts, report.repeated_replies),
        (1, 0),
        "{report}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn threads_that_are_blocked_for_twenty_seconds_lose_the_task_and_not_its_result() {
    let mut bench = Bench::with_file(nervous(&["001", "002"])).await;
    bench.go();
    // A worker with one programmer has one thread.
    bench.pool.start_worker_with(
        &["--programmers", "001"],
        &[("POOL_FAULT", "worker.started=block:20")],
    );
    let mut books = Books::open(&bench.pool).await;
    books.over_amqp("any", &task("blocked")).await;
    let mut log = bench.pool.event_log().await;
    log.started("blocked").await;
    bench.pool.start_worker(&["--programmers", "002"]);
    second_start(&mut log, "blocked").await;
    let result = bench.pool.api().result("blocked", REPAIRED_WITHIN).await;
    assert_eq!(
        result.programmer.as_ref().map(|id| id.as_str()),
        Some("002"),
        "another worker does the task: {result:?}"
    );
    bench.pool.all_consume().await;
    books.close(&mut bench.pool, REPAIRED_WITHIN).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_whose_owner_died_counts_if_nobody_has_the_task_since() {
    let mut pool = Pool::set_up_shared(&PoolFile::sample().only(&["001"])).await;
    pool.start_dispatcher().await;
    let mut books = Books::open(&pool).await;
    pool.kill_dispatcher();
    let dies = [("POOL_FAULT", "worker.result_published=kill")];
    pool.start_worker_with(&["--all"], &dies);
    books.over_amqp("any", &task("first-counts")).await;
    assert_eq!(
        pool.worker(0).ended().await.signal(),
        Some(9),
        "the worker died after it published its result"
    );
    pool.take_worker(0);
    pool.start_dispatcher().await;
    pool.api().result("first-counts", SOON).await;
    pool.start_worker(&["--all"]);
    books.settled(REPAIRED_WITHIN).await;
    let mut log = pool.event_log().await;
    log.read().await;
    assert_eq!(
        log.starts("first-counts").len(),
        1,
        "the task is not done again"
    );

    // Now another worker has claimed it before a dispatcher sees the result; that claim counts.
    pool.stop().await;
    pool.start_worker_with(&["--all"], &dies);
    books.over_amqp("any", &task("second-counts")).await;
    assert_eq!(
        pool.worker(0).ended().await.signal(),
        Some(9),
        "the worker died after it published its result"
    );
    pool.take_worker(0);
    pool.start_worker(&["--all"]);
    second_start(&mut log, "second-counts").await;
    pool.start_dispatcher().await;
    let report = books.close(&mut pool, REPAIRED_WITHIN).await;
    assert_eq!(
        report.repeated_starts, 1,
        "only the second task was started again: {report}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_is_cancelled_between_its_ack_and_its_outcome_is_answered_as_cancelled() {
    let mut pool = Pool::set_up_shared(&PoolFile::sample().only(&["001"])).await;
    pool.start_dispatcher().await;
    let mut submitter = pool.submitter("me").await;
    pool.kill_dispatcher();
    pool.start_worker_with(&["--all"], &[("POOL_FAULT", "worker.acked=kill")]);
    submitter.submit("any", &task("too-late")).await;
    assert_eq!(
        pool.worker(0).ended().await.signal(),
        Some(9),
        "the worker died after its ack"
    );
    pool.take_worker(0);
    let mut log = pool.event_log().await;
    let cancelled = log
        .append(&[json!({"kind": "cancelled", "task": "too-late"})])
        .await;
    assert!(
        cancelled
            .iter()
            .any(|entry| entry.is("cancelled") && entry.accepted),
        "the cancellation comes before `finished`"
    );
    pool.start_dispatcher().await;
    assert_eq!(
        submitter.reply(SOON).await.status,
        Status::Cancelled,
        "the submitter gets the outcome"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_counts_although_the_log_has_lost_who_started_it() {
    let mut pool = Pool::set_up_shared(&PoolFile::sample().only(&["001"])).await;
    pool.start_dispatcher().await;
    let mut books = Books::open(&pool).await;
    pool.kill_dispatcher();
    pool.start_worker_with(
        &["--all"],
        &[("POOL_FAULT", "worker.result_published=kill")],
    );
    books.over_amqp("any", &task("forgotten")).await;
    assert_eq!(
        pool.worker(0).ended().await.signal(),
        Some(9),
        "the worker died after it published its result"
    );
    pool.take_worker(0);
    // A lost host takes the tail of the stream with it; here the whole stream is deleted.
    let (_connection, channel) = channel(&pool.amqp_url()).await;
    channel
        .queue_delete("pool.events".into(), QueueDeleteOptions::default())
        .await
        .expect("the log is deleted");
    pool.start_dispatcher().await;
    pool.api().result("forgotten", SOON).await;
    pool.start_worker(&["--all"]);
    books.close(&mut pool, REPAIRED_WITHIN).await;
    let mut log = pool.event_log().await;
    log.read().await;
    assert_eq!(
        log.starts("forgotten").len(),
        0,
        "the task is not done again"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_start_of_an_earlier_delivery_takes_nothing_back() {
    let mut bench = Bench::with(&["001", "002"]).await;
    bench.pool.start_worker(&["--programmers", "001"]);
    let mut books = Books::open(&bench.pool).await;
    books.over_amqp("any", &task("late")).await;
    let mut log = bench.pool.event_log().await;
    log.started("late").await;
    let first = log
        .entries
        .iter()
        .find(|entry| entry.is_start_of("late"))
        .expect("the start")
        .json
        .clone();
    bench.pool.start_worker(&["--programmers", "002"]);
    bench.pool.kill_worker(0);
    second_start(&mut log, "late").await;

    // Appends a start as if the first worker's had been on its way all the time, for an unknown
    // attempt.
    let mut delayed = first.clone();
    delayed["attempt"] = serde_json::to_value(new_id::<AttemptId>()).expect("an id");
    let entries = log.append(&[delayed]).await;
    let last = entries
        .iter()
        .rfind(|entry| entry.json["kind"] == "started")
        .expect("the late start");
    assert!(!last.accepted, "its token is lower than the owner's");
    bench.go();
    let result = bench.pool.api().result("late", SOON).await;
    assert_eq!(
        result.programmer.as_ref().map(|id| id.as_str()),
        Some("002"),
        "the result is the owner's: {result:?}"
    );
    books.close(&mut bench.pool, REPAIRED_WITHIN).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_copy_of_a_task_whose_owner_is_dead_is_executed() {
    let mut bench = Bench::with(&["001"]).await;
    bench.pool.start_worker(&["--all"]);
    let mut books = Books::open(&bench.pool).await;
    books.over_amqp("any", &task("copied")).await;
    let mut log = bench.pool.event_log().await;
    log.started("copied").await;
    // The first copy is deleted with its queue, and its owner is killed.
    let (_connection, channel) = channel(&bench.pool.amqp_url()).await;
    bench.pool.kill_dispatcher();
    bench.pool.kill_worker(0);
    channel
        .queue_delete("tasks.any".into(), QueueDeleteOptions::default())
        .await
        .expect("the queue is deleted");
    bench.pool.start_dispatcher().await;
    bench.go();
    bench.pool.start_worker(&["--all"]);
    bench.pool.all_consume().await;
    books.over_amqp("any", &task("copied")).await;
    let result = bench.pool.api().result("copied", REPAIRED_WITHIN).await;
    assert_eq!(
        result.status,
        Status::Succeeded,
        "the copy is done: {result:?}"
    );
    books.close(&mut bench.pool, REPAIRED_WITHIN).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_that_two_workers_get_at_once_are_done_once() {
    let mut pool = Pool::set_up_shared(&PoolFile::sample().only(&["001", "002"])).await;
    pool.start_dispatcher().await;
    let mut books = Books::open(&pool).await;
    for id in ["001", "002"] {
        pool.start_worker(&["--programmers", id]);
    }
    pool.all_consume().await;
    for number in 0..20 {
        let copied = task(&format!("twice-{number}"));
        books.over_amqp("any", &copied).await;
        books.over_amqp("any", &copied).await;
    }
    let report = books.close(&mut pool, REPAIRED_WITHIN).await;
    assert_eq!((report.tasks, report.repeated_starts), (20, 0), "{report}");
}

/// Kills the worker if the prompt says so; or kills itself, as the kernel does when memory is out.
const DEADLY: &str = r#"
case $(cat "$1") in
*poison*) kill -9 "$(awk '/^PPid:/ {print $2}' /proc/$PPID/status)"; sleep 60 ;;
*greedy*) kill -9 $$ ;;
esac
echo four >>readme.txt
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_kills_its_worker_again_and_again_is_parked() {
    // Behind the kernel layers an agent cannot kill its worker.
    let file = PoolFile::sample()
        .only(&["001"])
        .set("sandbox.level", "off".into())
        .command(&["/bin/sh", "-c", DEADLY, "agent", "{prompt_file}"]);
    let mut pool = Pool::set_up_shared(&file).await;
    pool.start_dispatcher().await;
    let mut books = Books::open(&pool).await;
    books.may_end("deadly", &[Status::Failed]);
    books
        .over_http(&json!({"id": "deadly", "instruction": "poison", "repository": "app"}))
        .await;
    for time in 1..=3 {
        pool.start_worker(&["--all"]);
        let status = pool.worker(0).ended().await;
        assert_eq!(
            status.signal(),
            Some(9),
            "its agent killed the worker, time {time}: {status}"
        );
        pool.take_worker(0);
    }
    pool.start_worker(&["--all"]);
    let result = pool.api().result("deadly", SOON).await;
    let kind = result.error.as_ref().map(|error| error.kind);
    assert_eq!(
        (result.status, kind),
        (Status::Failed, Some(ErrorKind::Poison)),
        "{result:?}"
    );
    books.over_http(&task("harmless")).await;
    books.close(&mut pool, REPAIRED_WITHIN).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_the_kernel_kills_costs_its_task_and_not_the_worker() {
    let file = PoolFile::sample().only(&["001"]).command(&[
        "/bin/sh",
        "-c",
        DEADLY,
        "agent",
        "{prompt_file}",
    ]);
    let mut pool = Pool::start(&file).await;
    let mut books = Books::open(&pool).await;
    books.may_end("oom", &[Status::Failed]);
    books
        .over_http(&json!({"id": "oom", "instruction": "greedy", "repository": "app"}))
        .await;
    let result = pool.api().result("oom", REPAIRED_WITHIN).await;
    let kind = result.error.as_ref().map(|error| error.kind);
    assert_eq!(
        (result.status, kind),
        (Status::Failed, Some(ErrorKind::AgentCrashed)),
        "{result:?}"
    );
    let mut log = pool.event_log().await;
    log.read().await;
    assert!(
        log.starts("oom").len() <= 3,
        "the task is not repeated without end: {:?}",
        log.starts("oom")
    );
    assert_eq!(pool.worker(0).has_ended(), None, "the worker lives");
    books.over_http(&task("next")).await;
    books.close(&mut pool, REPAIRED_WITHIN).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_for_worktrees_fails_tasks_by_name_and_no_worker() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: only root can mount a small file system for the worktrees");
        return;
    }
    let mut pool = Pool::set_up_shared(&PoolFile::sample()).await;
    let work = pool.path().join("work");
    std::fs::create_dir_all(&work).expect("a directory for worktrees");
    pool.rewrite(&PoolFile::sample().only(&["001"]).command(&[
        "/bin/sh",
        "-c",
        "echo four >>readme.txt",
    ]));
    pool.start_dispatcher().await;
    let mut books = Books::open(&pool).await;
    // The mount belongs to the worker's own namespace and ends with it. The test can delete the
    // file that fills it from outside.
    let full = format!(
        "mount -t tmpfs -o size=2m tmpfs {work} && {{ head -c 2M /dev/zero >{work}/filler || true; }} && exec \"$@\"",
        work = work.display()
    );
    let worker = pool.start_worker_by(
        &["unshare", "--mount", "sh", "-c", &full, "sh"],
        &["--all"],
        &[],
    );
    let mut log = pool.event_log().await;
    books.may_end("no-room", &[Status::Failed]);
    books.over_http(&task("no-room")).await;
    let result = pool.api().result("no-room", REPAIRED_WITHIN).await;
    let kind = result.error.as_ref().map(|error| error.kind);
    assert_eq!(
        (result.status, kind),
        (Status::Failed, Some(ErrorKind::Workspace)),
        "{result:?}"
    );
    log.read().await;
    assert!(
        log.starts("no-room").len() <= 3,
        "the task is not repeated without end: {:?}",
        log.starts("no-room")
    );

    let pid = pool.worker(worker).pid();
    assert_eq!(pool.worker(worker).has_ended(), None, "the worker lives");
    let filler = format!("/proc/{pid}/root{}/filler", work.display());
    std::fs::remove_file(&filler).expect("there is room again");
    books.over_http(&task("room")).await;
    let result = pool.api().result("room", REPAIRED_WITHIN).await;
    assert_eq!(
        result.status,
        Status::Succeeded,
        "the same worker works again: {result:?}"
    );
    books.close(&mut pool, REPAIRED_WITHIN).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_whose_clock_jumps_by_an_hour_brings_its_result_and_takes_no_other() {
    let mut bench = Bench::with_file(nervous(&["001", "002"])).await;
    let clock = FakeClock::right(bench.pool.path());
    bench
        .pool
        .start_worker_with(&["--programmers", "001"], &clock.environment());
    let mut books = Books::open(&bench.pool).await;
    books.over_amqp("any", &task("in-hand")).await;
    let mut log = bench.pool.event_log().await;
    assert_eq!(
        log.started("in-hand").await.as_str(),
        "001",
        "no other programmer is there"
    );
    bench.pool.start_worker(&["--programmers", "002"]);
    bench
        .pool
        .status_where("the other programmer is there", |status| {
            status.programmer("002")["state"] == "idle"
        })
        .await;
    clock.set("+1h");
    bench.go();
    books.over_amqp("any", &task("meanwhile")).await;
    for id in ["in-hand", "meanwhile"] {
        assert_eq!(
            bench.pool.api().result(id, REPAIRED_WITHIN).await.status,
            Status::Succeeded,
            "{id}"
        );
    }
    bench
        .pool
        .status_where(
            "the programmer with the wrong clock takes no task",
            |status| status.is_shut_for("001", "clock"),
        )
        .await;
    log.read().await;
    let ahead = pool_core::time::Timestamp(pool_telemetry::clock::wall_clock().0 + 60_000);
    assert!(
        log.entries.iter().all(|entry| entry.at < ahead),
        "no event is an hour ahead"
    );
    clock.set("+0");
    bench.pool.all_consume().await;
    books.close(&mut bench.pool, REPAIRED_WITHIN).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_dispatchers_with_different_pool_files_lose_nothing() {
    let before =
        PoolFile::sample()
            .only(&["001", "002"])
            .set_of("002", "capabilities", json!(["slow"]));
    let mut pool = Pool::set_up_shared(&before).await;
    pool.start_dispatcher().await;
    let first = pool.api();
    let mut books = Books::open(&pool).await;
    // The second dispatcher's file is in force from its start: other routes, and queues that the
    // first one still publishes to.
    let after = PoolFile::sample().only(&["001", "002"]);
    pool.rewrite(&after);
    pool.start_dispatcher().await;
    for number in 0..10 {
        let mut of_first = task(&format!("first-{number}"));
        of_first["capabilities"] = json!([if number % 2 == 0 { "slow" } else { "fast" }]);
        first.submit(&of_first).await;
        if number % 2 == 0 {
            // By the file in force no programmer offers its capabilities.
            books.may_end(&format!("first-{number}"), &[Status::Rejected]);
        }
        books.took(&format!("first-{number}"));
        books.over_http(&task(&format!("second-{number}"))).await;
    }
    pool.start_worker(&["--all"]);
    let report = books.close(&mut pool, REPAIRED_WITHIN).await;
    assert_eq!(report.tasks, 20, "{report}");
}

#[test]
fn the_binaries_of_these_tests_have_fault_points() {
    // Cargo leaves them out when it builds a package alone; then every test of a fault would wait
    // in vain.
    let bytes = std::fs::read(program("worker")).expect("the worker");
    let name = pool_broker::fault::Point::Started.name().as_bytes();
    let has = bytes.windows(name.len()).any(|window| window == name);
    assert!(
        has,
        "run `cargo build --workspace --bins` first: the worker was built without `faults`"
    );
}
