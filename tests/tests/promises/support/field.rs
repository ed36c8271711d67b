//! A pool at a broker that tests may break, with books, and with agents that end when the test lets
//! them.

use std::time::Duration;

use pool_core::id::ProgrammerId;
use serde_json::json;
use tempfile::TempDir;

use super::pool::tasks;
use super::private::SETTLED_AFTER;
use super::{Books, EventLog, Pool, PoolFile, PrivateBroker};

/// Works until the file `go` exists.
pub(crate) const PATIENT: &str =
    r#"until [ -e "$1/go" ]; do sleep 0.05; done; echo four >>readme.txt"#;

/// The limit for a pool that was broken to do its work.
pub(crate) const REPAIRED_WITHIN: Duration = Duration::from_secs(120);

/// The fields are dropped in this order.
pub(crate) struct Field {
    pub(crate) books: Books,
    pub(crate) pool: Pool,
    /// The workers in the order of their start.
    pub(crate) workers: Vec<usize>,
    pub(crate) broker: PrivateBroker,
    /// Where the agents of [`Self::patient`] look for the sign to end.
    signs: Option<TempDir>,
}

/// The sample pool's programmers with these ids, with short time-outs for the broker.
pub(crate) fn nervous(ids: &[&str]) -> PoolFile {
    nervous_too(PoolFile::sample().only(ids))
}

/// This pool file with short time-outs for the broker.
pub(crate) fn nervous_too(file: PoolFile) -> PoolFile {
    file.with("broker", json!({"heartbeat_s": 2, "timeout_s": 3}))
        .with("events", json!({"tick_s": 1, "stale_s": 5}))
        .set("load_balancing.health_check_interval_s", 1.into())
}

impl Field {
    /// A dispatcher and two workers with these programmers; their queues have settled.
    pub(crate) async fn with(file: &PoolFile, workers: &[&str]) -> Self {
        let broker = PrivateBroker::take().await;
        let mut pool = Pool::set_up_at(&broker, file).await;
        pool.start_dispatcher().await;
        let workers = workers
            .iter()
            .map(|ids| pool.start_worker(&["--programmers", ids]))
            .collect();
        pool.all_consume().await;
        let books = Books::open(&pool).await;
        tokio::time::sleep(SETTLED_AFTER).await;
        Self {
            books,
            pool,
            workers,
            broker,
            signs: None,
        }
    }

    /// The agents do nothing.
    pub(crate) async fn quick() -> Self {
        Self::with(
            &nervous(&["001", "002", "003", "004"]),
            &["001,002", "003,004"],
        )
        .await
    }

    /// The agents wait for [`Self::go`].
    pub(crate) async fn patient() -> Self {
        let signs = TempDir::with_prefix("pool-signs-").expect("a directory for signs");
        let directory = signs.path().to_str().expect("a path in UTF-8");
        let file = nervous(&["001", "002"])
            .writable(signs.path())
            .command(&["/bin/sh", "-c", PATIENT, "agent", directory]);
        let mut field = Self::with(&file, &["001", "002"]).await;
        field.signs = Some(signs);
        field
    }

    pub(crate) fn go(&self) {
        let signs = self.signs.as_ref().expect("agents that wait");
        std::fs::write(signs.path().join("go"), "").expect("the sign");
    }

    /// Submits tasks `<name>-1`, `<name>-2`, …: half over HTTP, and half over AMQP with a reply
    /// address.
    pub(crate) async fn submit(books: &mut Books, name: &str, count: usize) {
        for (number, task) in tasks(name, count).iter().enumerate() {
            match number % 2 {
                0 => books.over_amqp("any", task).await,
                _ => books.over_http(task).await,
            }
        }
    }

    /// Waits until a programmer starts the task; gives the programmer.
    pub(crate) async fn started(&self, task: &str) -> ProgrammerId {
        EventLog::open(&self.pool.amqp_url())
            .await
            .started(task)
            .await
    }
}
