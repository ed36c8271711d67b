//! Waiting for a broker costs almost no processor time, whether it is silent or away.

use std::time::Duration;

use pool_core::result::Status;

use crate::support::field::REPAIRED_WITHIN;
use crate::support::machine::idles;
use crate::support::pool::task;
use crate::support::{Pool, PoolFile, PrivateBroker};

const OUTAGE: Duration = Duration::from_secs(20);
#[tokio::test(flavor = "multi_thread")]
async fn nobody_spins_while_the_broker_is_silent_or_away() {
    let broker = PrivateBroker::take().await;
    let mut pool = Pool::set_up_at(&broker, &PoolFile::sample()).await;
    pool.start_dispatcher().await;
    pool.start_worker(&["--all"]);
    pool.all_consume().await;

    broker.node.freeze().expect("the broker runs");
    let processes = [pool.dispatcher_pid(), pool.worker(0).pid()];
    idles(processes, OUTAGE).await;
    broker.node.thaw().expect("the broker is there");
    pool.all_consume().await;
    broker.node.kill().await.expect("the broker is killed");
    idles(processes, OUTAGE).await;
    broker.node.start().await.expect("the broker is up again");
    pool.all_consume().await;
    pool.api().submit(&task("afterwards")).await;
    let result = pool.api().result("afterwards", REPAIRED_WITHIN).await;
    assert_eq!(
        result.status,
        Status::Succeeded,
        "all processes work again: {result:?}"
    );
}
