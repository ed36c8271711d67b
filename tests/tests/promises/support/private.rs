//! Brokers that tests may break: kill, stop, freeze, starve. One test at a time uses each, and the
//! next one finds it repaired.

use std::fs::File;
use std::time::Duration;

use pool_tests::faults::node::Node;

use super::broker::{Access, InUse, Vhost};
use super::eventually;
use super::machine::{checkout, lock_file};

/// Most tests that break a broker wait for something, so two can run at once.
const BROKERS: usize = 2;
/// Broker fact 6: a younger queue can lose confirmed messages when its node is killed.
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
            Duration::from_secs(900),
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
        for off in [
            "set_vm_memory_high_watermark 0.8",
            "set_disk_free_limit 50MB",
        ] {
            node.control(&off.split(' ').collect::<Vec<_>>())
                .await
                .expect("the alarms are off");
        }
        node.set("consumer_timeout", "86400000")
            .await
            .expect("the time-out of consumers is long");
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
