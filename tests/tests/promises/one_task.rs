//! One task through every layer.

use crate::support::pool::task;
use crate::support::{Pool, PoolFile, SOON};
use pool_core::result::Status;

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_is_submitted_over_http_comes_back_with_one_outcome() {
    let pool = Pool::start(&PoolFile::sample()).await;
    let taken = pool.api().submit(&task("first")).await;
    assert_eq!(taken["id"], "first", "the answer names the task");
    let result = pool.api().result("first", SOON).await;
    assert_eq!(
        result.status,
        Status::Succeeded,
        "the agent that does nothing succeeds: {result:?}"
    );
    let mut log = pool.event_log().await;
    log.read().await;
    assert_eq!(
        log.outcomes("first"),
        [Status::Succeeded],
        "there is one outcome in the log"
    );
    assert_eq!(log.starts("first").len(), 1, "one attempt");
}
