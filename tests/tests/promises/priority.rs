//! A broker that supports it serves a task of high priority first; with another broker the
//! submitter gets a warning.

use serde_json::{Value, json};

use crate::support::pool::task;
use crate::support::{Pool, PoolFile, SOON};

#[tokio::test(flavor = "multi_thread")]
async fn a_task_of_high_priority_is_served_first_by_a_broker_that_can() {
    let mut pool = Pool::set_up_shared(&PoolFile::sample().only(&["001"])).await;
    pool.start_dispatcher().await;
    for number in 1..=6 {
        let taken = pool.api().submit(&task(&format!("normal-{number}"))).await;
        assert_eq!(
            taken["warnings"],
            Value::Null,
            "there is no warning: {taken}"
        );
    }
    let mut urgent = task("urgent");
    urgent["priority"] = json!("high");
    let taken = pool.api().submit(&urgent).await;
    let warning = taken["warnings"][0].as_str().expect("a warning");
    assert!(
        warning.contains("priority") && warning.contains("4.0"),
        "the warning names the first version that can: {warning}"
    );

    pool.start_worker(&["--all"]);
    let mut log = pool.event_log().await;
    log.finished(7, SOON).await;
    let started = log
        .entries
        .iter()
        .filter(|entry| entry.is("started"))
        .map(|entry| entry.text("task").to_owned());
    let place = started
        .collect::<Vec<_>>()
        .iter()
        .position(|id| id == "urgent")
        .expect("the task was started");
    if pool.has_priorities().await {
        assert!(place <= 1, "the task overtakes the others: number {place}");
    } else {
        assert_eq!(place, 6, "the task keeps its place");
    }
}
