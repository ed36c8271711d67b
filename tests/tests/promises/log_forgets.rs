//! The event log drops old events; open tasks and settings are written again before.

use serde_json::json;

use crate::support::pool::task;
use crate::support::{Pool, PoolFile, SOON};

#[tokio::test(flavor = "multi_thread")]
async fn an_open_task_is_written_again_before_the_log_forgets_it() {
    let file = PoolFile::sample().with("events", json!({"max_age": "8s"}));
    let mut pool = Pool::set_up_shared(&file).await;
    pool.start_dispatcher().await;
    pool.api().submit(&task("waits")).await;
    pool.command_line(&["pause", "--programmer", "001"]).await;
    let mut log = pool.event_log().await;
    let stated = log
        .until("the waiting task is written again", SOON, |entries| {
            entries
                .iter()
                .find(|entry| entry.is("stated") && entry.text("task") == "waits")
                .cloned()
        })
        .await;
    assert_eq!(
        stated.json["state"]["published"], true,
        "the repeated event says that the task was published: {}",
        stated.json
    );
    for kind in ["configured", "paused"] {
        let times = log.entries.iter().filter(|entry| entry.is(kind)).count();
        assert!(times >= 2, "{kind} is written again, too");
    }
}
