//! Brokers that tests may break: kill, stop, freeze, starve. One test at a time uses each, and the
//! next one finds it repaired.

use std::fs::File;
use std::time::Duration;

use pool_tests::faults::node::Node;

use super::broker::{Access, InUse, Vhost};
use super::eventually;
use super::machine::{checkout, lock_file};

/// Most tests that break a broker wait for something, so three can.
const BROKERS: usize = 3;
/// Broker fact 6: a queue that is younger can lose what was confirmed when its node is killed.
pub(crate) const SETTLED_AFTER: Duration = Duration::from_secs(5);

/// A broker for one test.
#[derive(Debug)]
pub(crate) struct PrivateBroker {
    pub(crate) node: Node,
    access: Access,
    _mine: File,
    _in_use: InUse,
}

impl PrivateBroker {
    /// Waits for a free broker, and repairs the damage of the last test.
    pub(crate) async fn take() -> Self {
        let (number, mine) = eventually(
            "a broker that may be broken is free",
            Duration::from_secs(3600),
            async || {
                (0..BROKERS).find_map(|number| {
                    let file = lock_file(&format!("breakable-{number}-taken.lock"));
                    file.try_lock().is_ok().then_some((number, file))
                })
            },
        )
        .await;
        let in_use = InUse::of(&format!("breakable-{number}"));
        let node = Node::new(checkout().join("scripts/broker"), in_use.data(), None);
        // Fails if it does not run, and then it is not frozen either.
        let _ = node.thaw();
        let printed = node.start().await.expect("a broker that may be broken");
        node.repair().await.expect("the broker is repaired");
        Self {
            access: Access::printed(&printed),
            node,
            _mine: mine,
            _in_use: in_use,
        }
    }

    pub(crate) async fn vhost(&self) -> Vhost {
        Vhost::at(self.access.clone()).await
    }

    /// SIGKILL, then a start.
    pub(crate) async fn crash(&self) {
        self.node.kill().await.expect("the broker is killed");
        self.node.start().await.expect("the broker is up again");
    }

    /// A stop in order, then a start.
    pub(crate) async fn restart(&self) {
        self.node.stop().await.expect("the broker stops");
        self.node.start().await.expect("the broker is up again");
    }
}
