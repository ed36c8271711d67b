//! The wall clock of the machine, and ids, which are made from it.

use pool_core::time::Timestamp;
use uuid::Uuid;

/// Reads the machine's clock. No other place does, so that tests can give all other code the time.
#[must_use]
#[expect(
    clippy::disallowed_methods,
    reason = "the one place where the wall clock is read"
)]
pub fn wall_clock() -> Timestamp {
    let since_epoch = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    Timestamp(u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX))
}

/// Makes an id from the clock and random bits (UUID version 7). Ids sort by the time when they were
/// made. No other place makes ids, so that tests can give all other code its ids.
#[must_use]
#[expect(
    clippy::disallowed_methods,
    reason = "the one place where ids are made"
)]
pub fn new_id<T: From<Uuid>>() -> T {
    T::from(Uuid::now_v7())
}
