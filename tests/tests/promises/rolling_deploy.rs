//! All processes of a pool are replaced under load, one after another, and no user notices.

use std::error::Error as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pool_tests::faults::client::http;
use reqwest::{Client, StatusCode};
use serde_json::Value;

use crate::support::machine::free_port;
use crate::support::pool::task;
use crate::support::{Books, Pool, PoolFile, SOON, eventually};

/// Short, but long enough that every process has a task when it is told to end.
const AGENT: &str = "sleep 0.3; echo four >>readme.txt";
const WORKERS: [&str; 3] = ["001,002", "003,004", "005,009"];
const PACE: Duration = Duration::from_millis(50);
const REST_WITHIN: Duration = Duration::from_secs(60);

/// Submits one task, repeating the same id, until a dispatcher accepts it. The connection may fail,
/// because an address is not served for a while; but every answer of a dispatcher must accept the
/// task.
async fn submit(client: &Client, addresses: &[String; 2], number: usize, task: &Value) {
    for attempt in 0.. {
        let address = &addresses[(number + attempt) % addresses.len()];
        match client
            .post(format!("http://{address}/tasks"))
            .json(task)
            .send()
            .await
        {
            Ok(answer) if answer.status().is_success() => return,
            Ok(answer) => {
                let status = answer.status();
                panic!(
                    "{}: {address} says {status}: {}",
                    task["id"],
                    answer.text().await.unwrap_or_default()
                );
            }
            Err(error) => {
                let refused_or_closed = error.is_request() && !error.is_timeout();
                assert!(
                    refused_or_closed,
                    "{}: {address}: {error}: {:?}",
                    task["id"],
                    error.source()
                );
            }
        }
        tokio::time::sleep(PACE).await;
    }
}

/// One task after another, over HTTP and over AMQP, until the deploy is over.
async fn load(addresses: &[String; 2], books: &mut Books, over: &AtomicBool) {
    let client = http().expect("an HTTP client");
    for number in 0.. {
        let task = task(&format!("load-{number}"));
        if number % 2 == 0 {
            submit(&client, addresses, number / 2, &task).await;
            books.took(&format!("load-{number}"));
        } else {
            books.over_amqp("any", &task).await;
        }
        if over.load(Ordering::Relaxed) {
            return;
        }
        tokio::time::sleep(PACE).await;
    }
}

/// Replaces every process once, the oldest first.
async fn replace_all(pool: &mut Pool, addresses: &[String; 2]) {
    for ids in WORKERS {
        let mut worker = pool.take_worker(0);
        worker.terminate();
        let status = worker.ended().await;
        assert!(status.success(), "{} ends in order: {status}", worker.name);
        pool.start_worker(&["--programmers", ids]);
        pool.all_consume().await;
    }
    for address in addresses {
        let mut dispatcher = pool.take_first_dispatcher();
        dispatcher.terminate();
        let status = dispatcher.ended().await;
        assert!(
            status.success(),
            "{} ends in order: {status}",
            dispatcher.name
        );
        pool.start_dispatcher_at(address, &[]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_process_is_replaced_under_load_and_nobody_notices() {
    let file = PoolFile::sample().only(&["001", "002", "003", "004", "005", "009"]);
    let mut pool = Pool::set_up_shared(&file.command(&["/bin/sh", "-c", AGENT])).await;
    let addresses = [free_port(), free_port()].map(|port| format!("127.0.0.1:{port}"));
    for address in &addresses {
        pool.start_dispatcher_at(address, &[]).await;
    }
    for ids in WORKERS {
        pool.start_worker(&["--programmers", ids]);
    }
    pool.all_consume().await;
    let mut books = Books::open(&pool).await;
    let over = AtomicBool::new(false);
    let deploy = async {
        for _ in 0..2 {
            replace_all(&mut pool, &addresses).await;
        }
        over.store(true, Ordering::Relaxed);
    };
    tokio::join!(deploy, load(&addresses, &mut books, &over));
    let report = books.close(&mut pool, REST_WITHIN).await;
    assert_eq!(
        report.repeated_starts, 0,
        "a process that is told to end finishes its work first: {report}"
    );
    assert!(report.tasks > 30, "there was load: {report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dispatcher_that_is_told_to_end_answers_open_requests_first() {
    let mut pool = Pool::set_up_shared(&PoolFile::sample().only(&["001"])).await;
    pool.start_dispatcher_with(&[("POOL_FAULT", "dispatcher.task_kept=block:3")])
        .await;
    let mut books = Books::open(&pool).await;
    let api = pool.api();
    let asked = tokio::spawn(async move { api.try_submit(&task("asked")).await });
    eventually("the dispatcher is accepting the task", SOON, async || {
        pool.dispatcher_log()
            .contains("a fault is injected")
            .then_some(())
    })
    .await;
    assert!(pool.end_dispatcher().await.success(), "it ends in order");
    let (status, answer) = asked.await.expect("an answer");
    assert_eq!(
        status,
        StatusCode::CREATED,
        "the request is finished: {answer}"
    );
    books.took("asked");
    pool.start_dispatcher().await;
    pool.start_worker(&["--all"]);
    books.close(&mut pool, REST_WITHIN).await;
}
