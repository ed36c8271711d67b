//! The network between the pool and its broker may cut, reset, swallow, delay and slow connections:
//! it costs time and nothing else.

use std::time::Duration;

use pool_core::result::Status;
use pool_tests::faults::proxy::{Proxy, Weather};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::support::field::{Field, PATIENT, REPAIRED_WITHIN, nervous, nervous_too};
use crate::support::line::{Line, OUTAGE};
use crate::support::pool::task;
use crate::support::{Books, EventLog, Pool, PoolFile};

/// The size of a task message just below the limit.
const LARGE: usize = 900_000;

/// The number of tasks while the network is bad, and afterwards.
async fn survives(name: &str, weather: impl AsyncFnOnce(&Proxy)) {
    let mut line = Line::quick().await;
    let meanwhile = format!("{name}-meanwhile");
    tokio::join!(
        weather(&line.proxy),
        Field::submit(&mut line.books, &meanwhile, 60)
    );
    Field::submit(&mut line.books, &format!("{name}-after"), 10).await;
    line.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_are_cut_or_reset_are_made_again() {
    survives("cut", async |proxy| {
        for round in 0..6 {
            sleep(Duration::from_millis(700)).await;
            if round % 2 == 0 {
                proxy.cut()
            } else {
                proxy.reset()
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_black_hole_is_left_when_nobody_answers() {
    survives("black-hole", async |proxy| {
        sleep(Duration::from_millis(300)).await;
        proxy.set(Weather::BlackHole);
        sleep(OUTAGE).await;
        proxy.set(Weather::Fair);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn five_seconds_of_latency_at_a_thousand_bytes_a_second_lose_nothing() {
    survives("slow", async |proxy| {
        sleep(Duration::from_millis(300)).await;
        proxy.set(Weather::Slow {
            latency: Duration::from_secs(5),
            bytes_per_s: 1000,
        });
        sleep(3 * OUTAGE).await;
        proxy.set(Weather::Fair);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_in_the_middle_of_a_large_publish_is_a_repetition() {
    let mut line = Line::with(&nervous(&["001"]), &["001"]).await;
    // The order of publishes: over HTTP the task goes into the history, then into its queue. Over
    // AMQP the result goes out, then into the history and to the reply queue. The reset comes in
    // the middle of the first or the second.
    for (number, (over_http, after)) in [
        (true, LARGE / 3),
        (true, LARGE * 4 / 3),
        (false, LARGE / 3),
        (false, LARGE * 4 / 3),
    ]
    .into_iter()
    .enumerate()
    {
        let mut large = task(&format!("large-{number}"));
        large["instruction"] = Value::String("x".repeat(LARGE));
        line.proxy
            .reset_after(u64::try_from(after).expect("a number of bytes"));
        if over_http {
            line.books.over_http(&large).await;
        } else {
            line.books.over_amqp("any", &large).await;
        }
        line.books.settled(REPAIRED_WITHIN).await;
        assert!(
            line.proxy.has_blown(),
            "a connection was reset after {after} bytes"
        );
    }
    line.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_comes_out_of_a_black_hole_has_lost_its_task_and_says_nothing() {
    let mut pool = Pool::set_up_shared(&PoolFile::sample()).await;
    let directory = pool.signs().to_str().expect("a path in UTF-8").to_owned();
    let wait = r#"echo $$ >>"$1/agents"; until [ -e "$1/go" ]; do sleep 0.05; done; echo four >>readme.txt"#;
    pool.rewrite(&nervous(&["001", "002"]).command(&["/bin/sh", "-c", wait, "agent", &directory]));
    pool.start_dispatcher().await;
    let proxy = Proxy::in_front_of(&pool.amqp_url()).await.expect("a proxy");
    pool.go_through(&proxy);
    let lost = pool.start_worker(&["--programmers", "001"]);
    pool.go_directly();
    let mut books = Books::open(&pool).await;
    books.over_amqp("any", &task("swallowed")).await;
    let mut log = pool.event_log().await;
    assert_eq!(
        log.started("swallowed").await.as_str(),
        "001",
        "no other programmer is there"
    );
    pool.start_worker(&["--programmers", "002"]);
    proxy.set(Weather::BlackHole);
    log.until(
        "the other programmer has the task",
        REPAIRED_WITHIN,
        |entries| {
            (entries
                .iter()
                .filter(|entry| entry.is_start_of("swallowed"))
                .count()
                == 2)
                .then_some(())
        },
    )
    .await;
    proxy.set(Weather::Fair);
    pool.worker_prints(lost, "the task belongs to another attempt")
        .await;
    std::fs::write(pool.signs().join("go"), "").expect("the sign");
    let result = pool.api().result("swallowed", REPAIRED_WITHIN).await;
    assert_eq!(
        result.programmer.as_ref().map(|id| id.as_str()),
        Some("002"),
        "the result is the owner's: {result:?}"
    );
    let report = books.close(&mut pool, REPAIRED_WITHIN).await;
    assert_eq!(
        (report.repeated_starts, report.repeated_replies),
        (1, 0),
        "there are two starts and one result: {report}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_whose_workers_are_cut_off_again_and_again_is_no_poison() {
    const CUTS: usize = 5;
    let mut pool = Pool::set_up_shared(&PoolFile::sample()).await;
    let directory = pool.signs().to_str().expect("a path in UTF-8").to_owned();
    let file = nervous(&["001", "002"]).command(&["/bin/sh", "-c", PATIENT, "agent", &directory]);
    pool.rewrite(&file.set("dispatcher.max_attempts", 3.into()));
    let proxy = Proxy::in_front_of(&pool.amqp_url()).await.expect("a proxy");
    pool.start_dispatcher().await;
    pool.go_through(&proxy);
    for id in ["001", "002"] {
        pool.start_worker(&["--programmers", id]);
    }
    pool.all_consume().await;
    let mut books = Books::open(&pool).await;
    books.over_amqp("any", &task("cut-off")).await;
    let mut log = EventLog::open(&pool.amqp_url()).await;
    log.started("cut-off").await;
    for cut in 1..=CUTS {
        proxy.reset();
        log.until(
            "the other programmer has the task, and the one that lost it sends heartbeats",
            REPAIRED_WITHIN,
            |entries| {
                let started = entries
                    .iter()
                    .filter(|entry| entry.is_start_of("cut-off"))
                    .count();
                let excused = entries
                    .iter()
                    .filter(|entry| entry.is("released") && entry.accepted)
                    .count();
                (started == cut + 1 && excused == cut).then_some(())
            },
        )
        .await;
    }
    std::fs::write(pool.signs().join("go"), "").expect("the sign");
    let result = pool.api().result("cut-off", REPAIRED_WITHIN).await;
    assert_eq!(
        result.status,
        Status::Succeeded,
        "the task succeeds: {result:?}"
    );
    let report = books.close(&mut pool, REPAIRED_WITHIN).await;
    assert_eq!(report.repeated_starts, CUTS, "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn forty_nine_workers_that_lose_the_broker_at_once_come_back_without_a_rush() {
    const REFUSED_FOR: Duration = Duration::from_secs(6);
    let file = nervous_too(PoolFile::grown(49, "local/none", None))
        .with("broker", json!({"heartbeat_s": 10, "timeout_s": 10}))
        .with("events", json!({"tick_s": 5, "stale_s": 20}));
    let mut pool = Pool::set_up_large(&file).await;
    let proxy = Proxy::in_front_of(&pool.amqp_url()).await.expect("a proxy");
    pool.go_through(&proxy);
    pool.start_dispatcher().await;
    pool.start_workers(49, 1);
    pool.all_are_held().await;
    let mut books = Books::open(&pool).await;
    Field::submit(&mut books, "before", 20).await;

    proxy.set(Weather::Refusing);
    proxy.reset();
    let before = proxy.connections();
    sleep(REFUSED_FOR).await;
    let tried = proxy.connections() - before;
    // Each process has two connections and tries each about once a second.
    assert!(
        tried < 50 * 2 * 2 * REFUSED_FOR.as_secs(),
        "no busy loop: {tried} connections in {REFUSED_FOR:?}"
    );
    proxy.set(Weather::Fair);
    Field::submit(&mut books, "after", 100).await;
    pool.status_where("all programmers take tasks again", |status| {
        status.available() == Some(49)
    })
    .await;
    books.settled(REPAIRED_WITHIN).await;
    for id in ["before-1", "after-100"] {
        assert_eq!(
            pool.api().result(id, REPAIRED_WITHIN).await.status,
            Status::Succeeded,
            "{id}"
        );
    }
    books.close(&mut pool, REPAIRED_WITHIN).await;
}
