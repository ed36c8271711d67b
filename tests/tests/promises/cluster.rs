//! Three nodes: the leaders of the queues are killed one after the other, a minority is cut off,
//! and all come back. Nothing is lost.

use std::time::Duration;

use pool_tests::faults::node::Node;

use crate::support::cluster::Cluster;
use crate::support::field::{Field, nervous};
use crate::support::private::SETTLED_AFTER;
use crate::support::{Books, Pool, PoolFile};

/// Longer than the nodes' own time-out for each other.
const CUT_OFF: Duration = Duration::from_secs(15);
/// The limit for a cluster to agree.
const REST_WITHIN: Duration = Duration::from_secs(180);

/// The time for the other nodes to choose another leader and to work with it for a while.
const DOWN: Duration = Duration::from_secs(8);
/// Crashes once in each task, whose prompt begins with the id.
const CRASHES_ONCE: &str = r#"mkdir "$1/$(head -n 1 "$2" | cut -d : -f 1)" 2>/dev/null && kill -9 $$; echo four >>readme.txt"#;

/// A dispatcher and two workers in the cluster; their queues have settled.
async fn settled(cluster: &Cluster, file: &PoolFile) -> (Pool, Books) {
    let mut pool = Pool::set_up_in(cluster.vhost().await, file).await;
    pool.start_dispatcher().await;
    pool.start_worker(&["--programmers", "001"]);
    pool.start_worker(&["--programmers", "002"]);
    pool.all_consume().await;
    let books = Books::open(&pool).await;
    tokio::time::sleep(SETTLED_AFTER).await;
    (pool, books)
}

async fn crash(leader: &Node, down: Duration) {
    leader.kill().await.expect("the leader is killed");
    tokio::time::sleep(down).await;
    leader.start().await.expect("it comes back");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_loses_a_leader_and_then_a_minority_loses_no_task() {
    let cluster = Cluster::form().await;
    let (mut pool, mut books) = settled(&cluster, &nervous(&["001", "002"])).await;
    let vhost = pool.vhost();

    let leader = &cluster.members[cluster.leader_of(&vhost, "tasks.any").await];
    tokio::join!(
        crash(leader, CUT_OFF),
        Field::submit(&mut books, "leaderless", 60)
    );
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

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_loses_the_leaders_of_results_retries_and_logs_in_turn_loses_no_task() {
    let cluster = Cluster::form().await;
    let marks = tempfile::TempDir::with_prefix("pool-marks-").expect("a directory for marks");
    let agent = [
        "/bin/sh",
        "-c",
        CRASHES_ONCE,
        "agent",
        marks.path().to_str().expect("UTF-8"),
        "{prompt_file}",
    ];
    let file = nervous(&["001", "002"])
        .command(&agent)
        .writable(marks.path())
        .set("dispatcher.retry_delay_s", 1.into());
    // A task that loses its worker's channel with every leader must not count as poison.
    let file = file.set("dispatcher.max_attempts", 100.into());
    let (mut pool, mut books) = settled(&cluster, &file).await;
    let vhost = pool.vhost();

    for queue in ["results", "pool.retries", "pool.events", "pool.history"] {
        let leader = &cluster.members[cluster.leader_of(&vhost, queue).await];
        let name = queue.replace('.', "-");
        tokio::join!(crash(leader, DOWN), Field::submit(&mut books, &name, 20));
        cluster.is_whole().await;
    }
    let report = books.close(&mut pool, REST_WITHIN).await;
    assert_eq!(report.tasks, 80, "{report}");
    // Fewer than all: some attempts lost their task to another one before they could report that
    // they broke.
    assert!(
        report.made_again >= 40,
        "most attempts were retried: {report}"
    );
}
