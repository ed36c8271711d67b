//! The clock of a process, usable only while it agrees with the clocks of the others.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use pool_core::clock_check::{ClockCheck, ClockOff, is_off};
use pool_core::heartbeat::Heartbeat;
use pool_core::time::Timestamp;
use pool_telemetry::clock::wall_clock;
use tokio::sync::watch;
use tokio::time::Instant;

/// How often code that waits for a right or a wrong clock compares it again.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// The clock of this process. It gives the time only while it agrees with the others.
#[derive(Debug)]
pub struct Clock {
    started: Instant,
    check: Mutex<ClockCheck>,
    /// Whether the clock was compared, or there is no other process to compare it with.
    compared: watch::Sender<bool>,
}

impl Clock {
    /// A clock that has not been compared yet.
    #[expect(clippy::new_without_default, reason = "a clock has a beginning")]
    pub fn new() -> Self {
        Self {
            started: Instant::now(),
            check: Mutex::default(),
            compared: watch::Sender::new(false),
        }
    }

    /// Compares the clock with a heartbeat of another process that has just arrived.
    pub fn heard(&self, heartbeat: &Heartbeat) {
        self.with_check(|check| {
            check.heard(heartbeat.process, heartbeat.at_ms, self.started.elapsed())
        });
        self.compared.send_replace(true);
    }

    /// Trusts this clock without a comparison, because no other process has answered.
    pub fn is_alone(&self) {
        self.compared.send_replace(true);
    }

    /// Waits until the clock was compared with another one, or no other process has answered. Until then it is not known
    /// to be right.
    pub async fn compared(&self) {
        // The sender lives as long as this.
        let _ = self
            .compared
            .subscribe()
            .wait_for(|compared| *compared)
            .await;
    }

    /// The time.
    ///
    /// # Errors
    /// [`ClockOff`] when this machine's clock differs more than 2 s from the others'.
    pub fn now(&self) -> Result<Timestamp, ClockOff> {
        let wall = wall_clock();
        match self.offset_from(wall) {
            Some(offset_ms) if is_off(offset_ms) => Err(ClockOff { offset_ms }),
            Some(_) | None => Ok(wall),
        }
    }

    /// Waits until the clock agrees with the others', and gives the time.
    pub async fn right(&self) -> Timestamp {
        loop {
            match self.now() {
                Ok(now) => return now,
                Err(_) => tokio::time::sleep(LOOK_AGAIN).await,
            }
        }
    }

    /// Waits until the clock disagrees with the others'.
    pub async fn wrong(&self) -> ClockOff {
        loop {
            match self.now() {
                Ok(_) => tokio::time::sleep(LOOK_AGAIN).await,
                Err(off) => return off,
            }
        }
    }

    /// How far the clock is ahead of the others', in ms; None without a heartbeat of another process.
    pub fn offset_ms(&self) -> Option<i64> {
        self.offset_from(wall_clock())
    }

    fn offset_from(&self, wall: Timestamp) -> Option<i64> {
        self.with_check(|check| check.offset_ms(wall, self.started.elapsed()))
    }

    fn with_check<T>(&self, act: impl FnOnce(&mut ClockCheck) -> T) -> T {
        // Each sample is valid by itself, so a panic in another thread does not spoil them.
        act(&mut self.check.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
