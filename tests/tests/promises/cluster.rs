//! Three nodes: the leader of a task queue is killed, then a minority is cut off, and both come back. Nothing is lost.

use std::time::Duration;

use crate::support::cluster::Cluster;
use crate::support::field::{Field, nervous};
use crate::support::private::SETTLED_AFTER;
use crate::support::{Books, Pool};

/// Longer than the nodes' own time-out for each other.
const CUT_OFF: Duration = Duration::from_secs(15);
/// A cluster takes its time to agree.
const REST_WITHIN: Duration = Duration::from_secs(180);

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_loses_a_leader_and_then_a_minority_loses_no_task() {
    let cluster = Cluster::form().await;
    let mut pool = Pool::set_up_in(cluster.vhost().await, &nervous(&["001", "002"])).await;
    pool.start_dispatcher().await;
    pool.start_worker(&["--programmers", "001"]);
    pool.start_worker(&["--programmers", "002"]);
    pool.all_consume().await;
    let mut books = Books::open(&pool).await;
    tokio::time::sleep(SETTLED_AFTER).await;
    let vhost = pool.vhost();

    let leader = &cluster.members[cluster.leader_of(&vhost, "tasks.any").await];
    let crash = async {
        leader.kill().await.expect("the leader is killed");
        tokio::time::sleep(CUT_OFF).await;
        leader.start().await.expect("it comes back");
    };
    tokio::join!(crash, Field::submit(&mut books, "leaderless", 60));
    cluster.is_whole().await;

    let minority = cluster.leader_of(&vhost, "tasks.any").await;
    let partition = async {
        cluster.cut_off(minority).await;
        tokio::time::sleep(CUT_OFF).await;
        cluster.heal(minority).await;
    };
    tokio::join!(partition, Field::submit(&mut books, "minority", 60));
    cluster.is_whole().await;
    Field::submit(&mut books, "healed", 10).await;
    let report = books.close(&mut pool, REST_WITHIN).await;
    assert_eq!(report.tasks, 130, "{report}");
}
