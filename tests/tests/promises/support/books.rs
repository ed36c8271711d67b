//! The books of a test that breaks things: which tasks were submitted, and in the end whether
//! anything is missing.

use std::path::PathBuf;
use std::time::Duration;

use pool_core::result::Status;
use pool_tests::faults::audit::Audit;
use pool_tests::faults::checker::Report;
use serde_json::Value;

use super::Pool;

/// The limit for a submission to be confirmed while the pool is broken and repaired.
const CONFIRMED_WITHIN: Duration = Duration::from_secs(90);

pub(crate) struct Books {
    audit: Audit,
    url_file: PathBuf,
}

impl Books {
    /// The pool must have declared its topology, so a dispatcher must have started.
    pub(crate) async fn open(pool: &Pool) -> Self {
        let audit = Audit::open(&pool.amqp_url())
            .await
            .expect("a reply queue of the audit");
        Self {
            audit,
            url_file: pool.path().join("url"),
        }
    }

    /// Submits over HTTP, again and again until it is confirmed.
    pub(crate) async fn over_http(&mut self, task: &Value) {
        let url_file = self.url_file.clone();
        let url = |_| {
            std::fs::read_to_string(&url_file)
                .ok()
                .filter(|url| !url.is_empty())
        };
        self.audit
            .over_http(url, task, CONFIRMED_WITHIN)
            .await
            .expect("the task is taken at last");
    }

    /// Publishes with the audit's reply address, again and again until it is confirmed.
    pub(crate) async fn over_amqp(&mut self, key: &str, task: &Value) {
        self.audit
            .over_amqp(key, task, CONFIRMED_WITHIN)
            .await
            .expect("the task is published at last");
    }

    /// Records a confirmed task that was submitted elsewhere.
    pub(crate) fn took(&mut self, id: &str) {
        self.audit.took(id);
    }

    /// The same, for a task with the audit's reply address.
    pub(crate) fn expect(&mut self, task: &Value) {
        self.audit.expect(task);
    }

    /// Records a task that was submitted elsewhere, whatever came of it.
    pub(crate) fn tried(&mut self, id: &str) {
        self.audit.tried(id);
    }

    /// Says how a task may end, if not by success.
    pub(crate) fn may_end(&mut self, id: &str, statuses: &[Status]) {
        self.audit.may_end(id, statuses);
    }

    /// The reply address for messages that a test publishes itself.
    pub(crate) fn reply_to(&self) -> &str {
        self.audit.reply_to()
    }

    /// Waits until every submitted task is where it has to be.
    pub(crate) async fn settled(&mut self, limit: Duration) {
        self.audit
            .settled(limit)
            .await
            .expect("everything comes to rest");
    }

    /// Waits for rest, ends the pool in order, drains every queue, and gives the report: nothing is
    /// lost, different, invented, unfinished or left over.
    pub(crate) async fn close(mut self, pool: &mut Pool, limit: Duration) -> Report {
        self.settled(limit).await;
        pool.stop().await;
        let report = self.audit.report().await.expect("the books are closed");
        assert!(report.is_clean(), "the books do not balance:\n{report}");
        report
    }
}
