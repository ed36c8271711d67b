//! Whether a silent command is at work, that is, whether its processes compute. Pure, except for
//! [`ProcessorSample::now`].

use std::time::Duration;

use nix::unistd::Pid;
use tokio::time::Instant;

use agent_sandbox::processes::processor_time;

/// The least share of one core that counts as work. A waiting program uses far less: an event loop
/// with timers uses some tenths of a percent, a shell that polls five times a second about one
/// percent.
const WORK_PERCENT: u32 = 5;
/// The kernel counts processor time in hundredths of a second. A difference of one could be
/// rounding.
const LEAST_WORK: Duration = Duration::from_millis(20);
/// The shortest time between two looks. Each look reads a file for every process of the machine.
const LOOK_LEAST: Duration = Duration::from_millis(250);
const LOOK_MOST: Duration = Duration::from_secs(15);

/// The processor time of all processes of a command at one moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct ProcessorSample {
    pub(super) at: Instant,
    used: Duration,
}

impl ProcessorSample {
    pub(super) fn at(at: Instant, used: Duration) -> Self {
        Self { at, used }
    }

    /// Looks at the helper and everything below it.
    pub(super) async fn now(helper: Pid) -> Self {
        let used = tokio::task::spawn_blocking(move || processor_time(helper))
            .await
            .unwrap_or_default();
        Self::at(Instant::now(), used)
    }

    /// Whether the processes have worked since an earlier look. The sum can shrink: if a parent
    /// does not wait for its child, the child's time is lost when the child ends.
    pub(super) fn shows_work_since(self, earlier: Self) -> bool {
        let passed = self.at.duration_since(earlier.at);
        self.used.saturating_sub(earlier.used) >= (passed * WORK_PERCENT / 100).max(LEAST_WORK)
    }

    /// When to look again, for a command that may be silent for `silence`.
    pub(super) fn next(self, silence: Duration) -> Instant {
        self.at + (silence / 8).clamp(LOOK_LEAST, LOOK_MOST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_twentieth_of_a_core_is_work_and_an_idle_event_loop_is_not() {
        let begin = Instant::now();
        let look = |after_ms, used_ms| {
            ProcessorSample::at(
                begin + Duration::from_millis(after_ms),
                Duration::from_millis(used_ms),
            )
        };
        let first = look(0, 7_000);
        for (after_ms, used_ms, works) in [
            (15_000, 7_750, true),
            (15_000, 7_740, false),
            (15_000, 15_000, true),
            // A few milliseconds a minute.
            (60_000, 7_010, false),
            (250, 7_020, true),
            (250, 7_010, false),
            (15_000, 6_000, false),
        ] {
            let looked = look(after_ms, used_ms);
            assert_eq!(
                looked.shows_work_since(first),
                works,
                "{} ms in {after_ms} ms",
                used_ms as i64 - 7_000
            );
        }
    }
}
