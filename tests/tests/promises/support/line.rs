//! A pool behind a network that a test can break.

use std::time::Duration;

use pool_tests::faults::proxy::Proxy;

use super::field::{REPAIRED_WITHIN, nervous};
use super::{Books, Pool, PoolFile};

/// Longer than the time-outs and heartbeats of a [`nervous`] pool.
pub(crate) const OUTAGE: Duration = Duration::from_secs(10);

/// A pool behind a proxy. The books do not use the proxy.
pub(crate) struct Line {
    pub(crate) books: Books,
    pub(crate) pool: Pool,
    pub(crate) proxy: Proxy,
}

impl Line {
    /// Starts a dispatcher and workers with these programmers.
    pub(crate) async fn with(file: &PoolFile, workers: &[&str]) -> Self {
        let mut pool = Pool::set_up_shared(file).await;
        let proxy = Proxy::in_front_of(&pool.amqp_url()).await.expect("a proxy");
        pool.go_through(&proxy);
        pool.start_dispatcher().await;
        for ids in workers {
            pool.start_worker(&["--programmers", ids]);
        }
        pool.all_consume().await;
        let books = Books::open(&pool).await;
        Self { books, pool, proxy }
    }

    pub(crate) async fn quick() -> Self {
        Self::with(
            &nervous(&["001", "002", "003", "004"]),
            &["001,002", "003,004"],
        )
        .await
    }

    pub(crate) async fn close(mut self) {
        self.books.close(&mut self.pool, REPAIRED_WITHIN).await;
    }
}
