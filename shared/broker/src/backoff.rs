//! Pauses between attempts: doubled each time up to a limit, and jittered, so that the processes of a pool do not all try at
//! the same moment.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(5);

/// Counts the failures since the last success.
#[derive(Debug, Clone, Default)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// Begins again with the shortest pause.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// Resets after an attempt that worked for more than 5 s. A connection that breaks as soon as it is made does not count
    /// as a success, or it would be made again without a pause.
    pub fn worked_for(&mut self, lasted: Duration) {
        if lasted > LONGEST {
            self.reset();
        }
    }

    /// The next pause: between half and all of 0.1 s · 2^failures, at most 5 s. `random` is uniform in 0..1.
    ///
    /// ```
    /// use pool_broker::backoff::Backoff;
    ///
    /// let mut backoff = Backoff::default();
    /// let pauses: Vec<u128> = (0..4).map(|_| backoff.next_delay(1.0).as_millis()).collect();
    /// assert_eq!(pauses, [100, 200, 400, 800]);
    /// ```
    #[must_use]
    pub fn next_delay(&mut self, random: f64) -> Duration {
        let full = LONGEST.min(FIRST.saturating_mul(1 << self.failures.min(10)));
        self.failures += 1;
        full.mul_f64(0.5 + random.clamp(0.0, 1.0) / 2.0)
    }

    /// Waits for the next pause.
    pub async fn wait(&mut self) {
        tokio::time::sleep(self.next_delay(rand::random())).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_a_cap_and_start_again_after_a_success() {
        let mut backoff = Backoff::default();
        let delays: Vec<u128> = (0..8)
            .map(|_| backoff.next_delay(1.0).as_millis())
            .collect();
        assert_eq!(
            delays,
            [100, 200, 400, 800, 1600, 3200, 5000, 5000],
            "without jitter"
        );
        backoff.worked_for(Duration::from_secs(1));
        assert_eq!(
            backoff.next_delay(1.0).as_millis(),
            5000,
            "an attempt that breaks at once is not a success"
        );
        backoff.worked_for(Duration::from_secs(6));
        assert_eq!(
            backoff.next_delay(0.0).as_millis(),
            50,
            "the jitter takes up to half"
        );
    }
}
