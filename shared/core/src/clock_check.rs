//! Whether the clock of this machine agrees with those of the other processes.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use crate::event::EmitterId;
use crate::time::Timestamp;

/// A process whose clock differs more than this from the others' appends no events.
pub const MAX_CLOCK_OFFSET: Duration = Duration::from_secs(2);
/// The last heartbeats of a process that are compared; the least delayed one counts.
const SAMPLES: usize = 3;
/// Clocks of processes without a heartbeat for this long are not compared.
const FORGET_AFTER: Duration = Duration::from_secs(120);

/// This machine's clock differs from the others' by more than [`MAX_CLOCK_OFFSET`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this machine's clock is {} s {} the other processes of the pool; set it right (NTP)", .offset_ms.unsigned_abs() / 1000, if *.offset_ms > 0 { "ahead of" } else { "behind" })]
pub struct ClockOff {
    /// Positive when this machine's clock is ahead.
    pub offset_ms: i64,
}

/// Compares this machine's clock with those of the other processes. Pure: all times are arguments.
///
/// A heartbeat carries the time of its sender's clock. The check keeps the distance of that time to this machine's
/// *monotonic* clock, so a jump of this machine's wall clock shows at once. A delay on the way only makes the distance
/// smaller, so the largest of the last few is the best.
#[derive(Debug, Default)]
pub struct ClockCheck {
    others: HashMap<EmitterId, Samples>,
}

#[derive(Debug, Default)]
struct Samples {
    distances_ms: VecDeque<i64>,
    heard: Duration,
}

fn signed(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX)
}

fn monotonic_ms(since_start: Duration) -> i64 {
    i64::try_from(since_start.as_millis()).unwrap_or(i64::MAX)
}

impl ClockCheck {
    /// Records a heartbeat of another process that arrived `since_start` after this process began (monotonic clock).
    pub fn heard(&mut self, process: EmitterId, at_ms: u64, since_start: Duration) {
        self.others
            .retain(|_, samples| since_start.saturating_sub(samples.heard) < FORGET_AFTER);
        let samples = self.others.entry(process).or_default();
        samples.heard = since_start;
        samples
            .distances_ms
            .push_back(signed(at_ms) - monotonic_ms(since_start));
        if samples.distances_ms.len() > SAMPLES {
            samples.distances_ms.pop_front();
        }
    }

    /// How far this machine's wall clock is ahead, in ms; None without a heartbeat of another process. The clock is right
    /// when it agrees with the majority of all clocks, including itself. Otherwise its offset is the one from the others'
    /// median. When there are only two clocks and they differ, neither is trusted.
    pub fn offset_ms(&self, wall: Timestamp, since_start: Duration) -> Option<i64> {
        let own = signed(wall.0) - monotonic_ms(since_start);
        let mut offsets: Vec<i64> = self
            .others
            .values()
            .filter(|samples| since_start.saturating_sub(samples.heard) < FORGET_AFTER)
            .filter_map(|samples| samples.distances_ms.iter().max().copied())
            .map(|distance| own - distance)
            .collect();
        offsets.sort_unstable();
        let agreeing: Vec<i64> = offsets
            .iter()
            .copied()
            .filter(|offset| !is_off(*offset))
            .collect();
        let most = 2 * (agreeing.len() + 1) > offsets.len() + 1;
        let deciding = if most { &agreeing } else { &offsets };
        deciding.get(deciding.len() / 2).copied()
    }
}

/// Whether a clock with this offset must not be used.
pub fn is_off(offset_ms: i64) -> bool {
    u128::from(offset_ms.unsigned_abs()) > MAX_CLOCK_OFFSET.as_millis()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn others(check: &mut ClockCheck, at_ms: u64, since_start: Duration) {
        for n in 0..3 {
            check.heard(EmitterId::from_u128(n), at_ms, since_start);
        }
    }

    #[test]
    fn a_jump_of_our_own_clock_shows_before_the_next_heartbeat() {
        let mut check = ClockCheck::default();
        others(&mut check, 100_000, SECOND);
        assert_eq!(
            check.offset_ms(Timestamp(101_000), 2 * SECOND),
            Some(0),
            "both clocks went on by a second"
        );
        assert_eq!(
            check.offset_ms(Timestamp(3_701_000), 2 * SECOND),
            Some(3_600_000),
            "an hour ahead"
        );
    }

    #[test]
    fn heartbeats_that_were_delayed_do_not_make_the_clock_wrong() {
        let mut check = ClockCheck::default();
        others(&mut check, 100_000, SECOND);
        others(&mut check, 101_000, 22 * SECOND);
        assert_eq!(
            check.offset_ms(Timestamp(121_000), 22 * SECOND),
            Some(0),
            "the least delayed sample counts"
        );
    }

    #[test]
    fn one_process_with_a_wrong_clock_does_not_shut_the_others() {
        let mut check = ClockCheck::default();
        others(&mut check, 100_000, SECOND);
        check.heard(EmitterId::from_u128(9), 900_000, SECOND);
        assert_eq!(
            check.offset_ms(Timestamp(100_000), SECOND),
            Some(0),
            "the median decides"
        );
    }

    #[test]
    fn of_three_clocks_the_one_that_differs_is_wrong_and_of_two_neither_is_trusted() {
        let right = 100_000;
        for wrong in [50_000, 900_000] {
            let mut seen_by_right = ClockCheck::default();
            seen_by_right.heard(EmitterId::from_u128(9), wrong, SECOND);
            let offset = seen_by_right
                .offset_ms(Timestamp(right), SECOND)
                .expect("one heartbeat came");
            assert!(is_off(offset), "{wrong}: one against one");
            seen_by_right.heard(EmitterId::from_u128(1), right, SECOND);
            assert_eq!(
                seen_by_right.offset_ms(Timestamp(right), SECOND),
                Some(0),
                "{wrong}: two against one"
            );
            let mut seen_by_wrong = ClockCheck::default();
            (1..=2).for_each(|n| seen_by_wrong.heard(EmitterId::from_u128(n), right, SECOND));
            let offset = seen_by_wrong
                .offset_ms(Timestamp(wrong), SECOND)
                .expect("heartbeats came");
            assert!(is_off(offset), "{wrong}: it knows that it is wrong");
        }
    }

    #[test]
    fn who_is_alone_has_nobody_to_disagree_with() {
        assert_eq!(
            ClockCheck::default().offset_ms(Timestamp(1), SECOND),
            None,
            "no other process"
        );
    }
}
