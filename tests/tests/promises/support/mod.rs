//! The surroundings of the tests: a broker, a pool of real processes, a scripted LLM, repositories,
//! submitters.
//!
//! A handle ends everything that it started, also when the test fails; a failing test prints the
//! logs of its processes. No test sleeps to be in time for something: [`eventually`] polls until it
//! holds.

pub(crate) mod amqp;
pub(crate) mod api;
pub(crate) mod authority;
pub(crate) mod bench;
pub(crate) mod books;
pub(crate) mod broker;
pub(crate) mod browser;
pub(crate) mod checkout;
pub(crate) mod clock;
pub(crate) mod cluster;
pub(crate) mod event_log;
pub(crate) mod field;
pub(crate) mod ledger;
pub(crate) mod line;
pub(crate) mod llm;
pub(crate) mod machine;
pub(crate) mod own_broker;
pub(crate) mod pool;
pub(crate) mod pool_file;
pub(crate) mod private;
pub(crate) mod process;
pub(crate) mod provider;
pub(crate) mod repository;
pub(crate) mod status;

use std::time::Duration;

use tokio::time::{Instant, sleep};

pub(crate) use amqp::Submitter;
pub(crate) use api::Api;
pub(crate) use books::Books;
pub(crate) use browser::Browser;
pub(crate) use event_log::EventLog;
pub(crate) use field::Field;
pub(crate) use ledger::Ledger;
pub(crate) use llm::Llm;
pub(crate) use pool::Pool;
pub(crate) use pool_file::PoolFile;
pub(crate) use private::PrivateBroker;
pub(crate) use provider::Provider;
pub(crate) use repository::Repository;

/// The limit for things that take a moment. It is generous, because only a failing test uses it up.
pub(crate) const SOON: Duration = Duration::from_secs(30);

/// Polls until `look` gives a value, and gives it.
///
/// # Panics
/// When there is no value after `limit`; the message is `what`.
pub(crate) async fn eventually<T>(
    what: &str,
    limit: Duration,
    mut look: impl AsyncFnMut() -> Option<T>,
) -> T {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(seen) = look().await {
            return seen;
        }
        assert!(
            Instant::now() < deadline,
            "not within {} s: {what}",
            limit.as_secs()
        );
        sleep(Duration::from_millis(20)).await;
    }
}
