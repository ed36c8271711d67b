//! A process with a wrong clock says so, writes nothing into the log, and leaves the work to the
//! others.

use std::time::Duration;

use pool_core::result::Status;
use pool_core::time::Timestamp;
use pool_telemetry::clock::wall_clock;
use reqwest::StatusCode;
use serde_json::json;

use crate::support::clock::FakeClock;
use crate::support::field::{Field, REPAIRED_WITHIN, nervous};
use crate::support::pool::task;
use crate::support::{Api, Books, EventLog, Pool, SOON, eventually};

/// The number of tasks that no programmer can do: only dispatchers write their outcomes into the
/// log.
const IMPOSSIBLE: usize = 10;

/// Starts a dispatcher with the right clock, one with this clock, and two workers.
async fn two_dispatchers(clock: &FakeClock, pool: &mut Pool) -> (Api, Api) {
    pool.start_dispatcher_with(&clock.environment()).await;
    let wrong = pool.api();
    pool.start_dispatcher().await;
    let right = pool.api();
    for ids in ["001", "002"] {
        pool.start_worker(&["--programmers", ids]);
    }
    pool.all_consume().await;
    (wrong, right)
}

/// Waits until it says that it is not ready because of its clock.
async fn says_that_its_clock_is_off(api: &Api) {
    eventually(
        "the dispatcher says that its clock is off",
        SOON,
        async || {
            let (status, said) = api.try_get("/ready").await;
            let detail = said["detail"].as_str().unwrap_or_default();
            (status == StatusCode::SERVICE_UNAVAILABLE
                && detail.contains("this machine's clock is"))
            .then_some(())
        },
    )
    .await;
}

async fn nobody_wrote_from_the_future(log: &mut EventLog) {
    let ahead = Timestamp(wall_clock().0 + 60_000);
    assert!(
        log.read().await.iter().all(|entry| entry.at < ahead),
        "no event is an hour ahead"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dispatcher_whose_clock_jumps_by_an_hour_says_so_appends_nothing_and_holds_nobody_up() {
    let mut pool = Pool::set_up_shared(&nervous(&["001", "002"])).await;
    let clock = FakeClock::right(pool.path());
    let (wrong, _) = two_dispatchers(&clock, &mut pool).await;
    let mut books = Books::open(&pool).await;
    let mut log = pool.event_log().await;
    for offset in ["+1h", "-1h"] {
        clock.set(offset);
        says_that_its_clock_is_off(&wrong).await;
        let (status, said) = wrong
            .try_submit(&task(&format!(
                "refused{}",
                &offset[..1].replace('+', "-ahead")
            )))
            .await;
        assert_eq!(
            status,
            StatusCode::SERVICE_UNAVAILABLE,
            "it accepts no task: {said}"
        );
        let name = if offset == "+1h" { "ahead" } else { "behind" };
        Field::submit(&mut books, name, 20).await;
        for number in 0..IMPOSSIBLE {
            let mut nobody = task(&format!("{name}-nobody-{number}"));
            nobody["capabilities"] = json!(["quantum"]);
            books.may_end(nobody["id"].as_str().expect("an id"), &[Status::Rejected]);
            books.over_amqp("quantum", &nobody).await;
        }
        // Its clock is off all the time, and nothing waits for it.
        books.settled(Duration::from_secs(20)).await;
        nobody_wrote_from_the_future(&mut log).await;
    }
    clock.set("+0");
    eventually("the dispatcher works again", SOON, async || {
        wrong.try_get("/ready").await.0.is_success().then_some(())
    })
    .await;
    books.close(&mut pool, REPAIRED_WITHIN).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_started_with_a_wrong_clock_writes_nothing_until_the_clock_is_right() {
    // Heartbeats come every ten seconds, so a starting process does not get one by chance before it
    // writes.
    let file =
        nervous(&["001", "002", "003"]).set("load_balancing.health_check_interval_s", 30.into());
    let mut pool = Pool::set_up_shared(&file).await;
    pool.start_dispatcher().await;
    for ids in ["001", "002"] {
        pool.start_worker(&["--programmers", ids]);
    }
    pool.status_where("two programmers are available", |status| {
        status.available() == Some(2)
    })
    .await;
    let mut books = Books::open(&pool).await;
    let mut log = pool.event_log().await;
    let clock = FakeClock::right(pool.path());
    clock.set("+1h");
    pool.start_worker_with(&["--programmers", "003"], &clock.environment());
    pool.status_where("the programmer takes no task", |status| {
        status.is_shut_for("003", "clock")
    })
    .await;
    pool.start_dispatcher_with(&clock.environment()).await;
    says_that_its_clock_is_off(&pool.api()).await;
    nobody_wrote_from_the_future(&mut log).await;

    clock.set("+0");
    pool.all_consume().await;
    Field::submit(&mut books, "afterwards", 10).await;
    books.close(&mut pool, REPAIRED_WITHIN).await;
    nobody_wrote_from_the_future(&mut log).await;
}
