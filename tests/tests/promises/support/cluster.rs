//! Three RabbitMQ nodes on loopback that form a cluster, with one address in front of them. One
//! test at a time uses it.

use std::fs::File;
use std::process::Command;
use std::time::Duration;

use pool_tests::faults::node::Node;
use pool_tests::faults::proxy::Proxy;

use super::broker::{Access, InUse, Vhost};
use super::eventually;
use super::machine::{Cores, checkout, lock_file, share_cores, shared_directory};
use super::process::Running;

/// A node that sees no majority stops; a silent node is noticed soon.
const CONFIG: &str = "\
cluster_partition_handling = pause_minority
net_ticktime = 8
";

const MEMBERS: [&str; 3] = ["member0", "member1", "member2"];

/// The fields are dropped in this order.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) members: Vec<Node>,
    access: Access,
    _front: Proxy,
    _in_use: Vec<InUse>,
    _port_mapper: Running,
    _mine: File,
    _cores: Cores,
}

/// Adds a node to the first one's cluster. (Peer discovery would do it, but not on every version
/// with nodes that are all called localhost.)
async fn join(node: &Node) {
    for step in [
        &["stop_app"][..],
        &["join_cluster", "member0@localhost"],
        &["start_app"],
    ] {
        node.control(step)
            .await
            .expect("the node joins the cluster");
    }
}

impl Cluster {
    pub(crate) async fn form() -> Self {
        let mine = lock_file("cluster-taken.lock");
        eventually(
            "no other test has the cluster",
            Duration::from_secs(3600),
            async || mine.try_lock().ok(),
        )
        .await;
        let cores = share_cores().await;
        let port = std::net::TcpListener::bind(("127.0.0.1", 0))
            .and_then(|free| free.local_addr())
            .expect("a port");
        let port = port.port().to_string();
        let mut epmd = Command::new("epmd");
        epmd.args(["-address", "127.0.0.1", "-port", &port]);
        let port_mapper = Running::start("epmd", shared_directory(), &epmd);
        let config = shared_directory().join("cluster.conf");
        std::fs::write(&config, CONFIG).expect("the configuration of the cluster");
        let in_use: Vec<InUse> = (0..3)
            .map(|number| InUse::of(&format!("member-{number}")))
            .collect();
        let script = checkout().join("scripts/broker");
        let mut members: Vec<Node> = Vec::new();
        let (mut printed, mut addresses) = (String::new(), Vec::new());
        for (number, place) in in_use.iter().enumerate() {
            let name = MEMBERS[number];
            let mut node = Node::new(script.clone(), place.data(), Some(config.clone()));
            node = node.with(&["--node", name, "--epmd", &port]);
            if let Some(first) = members.first() {
                node = node.with(&["--like", first.data().to_str().expect("a path in UTF-8")]);
            }
            // A node of an earlier test may still run, and belongs to another cluster.
            node.kill().await.expect("no node runs there");
            std::fs::remove_dir_all(node.data()).expect("its data are gone");
            let said = node.start().await.expect("a node of the cluster");
            addresses.push(Access::amqp_printed(&said));
            if number == 0 {
                printed = said;
            }
            if number > 0 {
                join(&node).await;
            }
            members.push(node);
        }
        let front = Proxy::balance(addresses)
            .await
            .expect("an address for the cluster");
        let access = Access::printed(&printed).at(front.address());
        let cluster = Self {
            members,
            access,
            _front: front,
            _in_use: in_use,
            _port_mapper: port_mapper,
            _mine: mine,
            _cores: cores,
        };
        cluster.is_whole().await;
        cluster
    }

    pub(crate) async fn vhost(&self) -> Vhost {
        Vhost::at(self.access.clone()).await
    }

    /// Waits until every node sees all three.
    pub(crate) async fn is_whole(&self) {
        for number in 0..MEMBERS.len() {
            self.sees(number, 3, Duration::from_secs(120)).await;
        }
    }

    /// Waits until this node sees so many nodes running, itself included. It waits itself: each `rabbitmqctl` costs half a
    /// second of processor time.
    async fn sees(&self, number: usize, nodes: usize, limit: Duration) {
        let tries = limit.as_millis() / 200;
        let waiting = format!(
            "Sees = fun() -> length(rabbit_nodes:all_running()) == {nodes} end, \
             Wait = fun Again(0) -> Sees(); \
                        Again(N) -> Sees() orelse begin timer:sleep(200), Again(N - 1) end end, \
             Wait({tries})."
        );
        let what = format!("{} sees {nodes} nodes", MEMBERS[number]);
        eventually(&what, limit, async || {
            let seen = self.members[number]
                .control(&["eval", &waiting])
                .await
                .ok()?;
            (seen.trim() == "true").then_some(())
        })
        .await;
    }

    /// Cuts this node off from the two others, which are a majority.
    pub(crate) async fn cut_off(&self, number: usize) {
        self.members[number]
            .cut_off(&Self::others(number))
            .await
            .expect("the node is cut off");
        let other = (number + 1) % MEMBERS.len();
        self.sees(other, 2, Duration::from_secs(30)).await;
    }

    /// Ends [`Self::cut_off`].
    pub(crate) async fn heal(&self, number: usize) {
        self.members[number]
            .join_again(&Self::others(number))
            .await
            .expect("the node may come back");
    }

    fn others(number: usize) -> Vec<&'static str> {
        MEMBERS
            .into_iter()
            .enumerate()
            .filter(|(n, _)| *n != number)
            .map(|(_, name)| name)
            .collect()
    }

    /// The number of the node with the leader of this queue, as another node sees it.
    pub(crate) async fn leader_of(&self, vhost: &str, queue: &str) -> usize {
        let question = [
            "list_queues",
            "--vhost",
            vhost,
            "name",
            "leader",
            "--no-table-headers",
        ];
        let listed = self.members[0]
            .control(&question)
            .await
            .expect("the queues of the cluster");
        let line = listed
            .lines()
            .find(|line| line.split_whitespace().next() == Some(queue));
        let line = line.unwrap_or_else(|| panic!("no queue {queue} in {listed}"));
        let is_on = |number: &usize| line.contains(&format!("{}@", MEMBERS[*number]));
        (0..3)
            .find(is_on)
            .unwrap_or_else(|| panic!("{line:?} names no node"))
    }
}
