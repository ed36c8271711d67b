//! Heartbeats: messages in which every process reports its state every few seconds. They are not events: nothing
//! is stored, and a missing heartbeat decides nothing. They decide only whether a clock is right: see [`Clock`].

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::event::EmitterId;
use crate::id::{LlmName, ProgrammerId, TaskId};
use crate::time::{Timestamp, wall_clock};

/// A process whose clock differs more than this from the others' appends no events.
pub const MAX_CLOCK_OFFSET: Duration = Duration::from_secs(2);
/// The last heartbeats of a process that are compared; the least delayed one counts.
const SAMPLES: usize = 3;
/// Clocks of processes without a heartbeat for this long are not compared.
const FORGET_AFTER: Duration = Duration::from_secs(120);
/// How often code that waits for a right or a wrong clock compares it again.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// Whether a programmer may take a task now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Gate {
    /// It waits for a task.
    Consuming,
    /// It has a task.
    Busy {
        /// The task in hand.
        task: TaskId,
        /// When it was started.
        since: Timestamp,
    },
    /// It takes no task.
    Shut {
        /// For programs.
        reason: ShutReason,
        /// The same for people, in one sentence.
        detail: String,
    },
}

impl Gate {
    /// Whether the programmer takes tasks: now, or as soon as its task ends, an LLM is back or money is left. Other
    /// programmers may leave tasks to it.
    pub fn could_take(&self) -> bool {
        match self {
            Self::Consuming | Self::Busy { .. } => true,
            Self::Shut {
                reason: ShutReason::Budget | ShutReason::Breaker,
                ..
            } => true,
            Self::Shut {
                reason:
                    ShutReason::Draining
                    | ShutReason::Paused
                    | ShutReason::Config
                    | ShutReason::Clock
                    | ShutReason::Log
                    | ShutReason::Held
                    | ShutReason::Broker,
                ..
            } => false,
        }
    }
}

/// Why a programmer takes no task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ShutReason {
    /// The process is ending, or an operator drains the programmer.
    Draining,
    /// An operator has paused the programmer or the pool.
    Paused,
    /// Its pool file differs from the one in force, or none is in force yet.
    Config,
    /// Its machine's clock differs more than 2 s from the others'.
    Clock,
    /// It has not read the event log to its end.
    Log,
    /// Another process holds this programmer.
    Held,
    /// The broker cannot be reached.
    Broker,
    /// The breakers of all its LLMs are open.
    Breaker,
    /// A task may cost more than what is left of the day's budget.
    Budget,
}

impl ShutReason {
    /// In the order in which tables list them.
    pub const ALL: [Self; 9] = [
        Self::Draining,
        Self::Paused,
        Self::Config,
        Self::Clock,
        Self::Log,
        Self::Held,
        Self::Broker,
        Self::Breaker,
        Self::Budget,
    ];

    /// The word in messages, logs and metrics; the same as on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Draining => "draining",
            Self::Paused => "paused",
            Self::Config => "config",
            Self::Clock => "clock",
            Self::Log => "log",
            Self::Held => "held",
            Self::Broker => "broker",
            Self::Breaker => "breaker",
            Self::Budget => "budget",
        }
    }

    /// Whether something is wrong with the process. False when an operator, a breaker or the budget has shut the gate.
    pub fn is_trouble(self) -> bool {
        match self {
            Self::Config | Self::Clock | Self::Log | Self::Held | Self::Broker => true,
            Self::Draining | Self::Paused | Self::Breaker | Self::Budget => false,
        }
    }
}

/// One programmer in a heartbeat.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgrammerBeat {
    /// The programmer.
    pub id: ProgrammerId,
    /// The port of its `/health`.
    pub port: u16,
    /// Whether it takes tasks.
    pub gate: Gate,
    /// The LLM that its next call would go to.
    pub current_llm: LlmName,
}

/// One message of `pool.heartbeats`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// The incarnation of the process.
    pub process: EmitterId,
    /// For people: `worker host/pid`, or the name from the command line.
    pub name: String,
    /// The version of the program.
    pub version: String,
    /// When it was sent, by the clock of its sender: milliseconds since 1970.
    pub at_ms: u64,
    /// The programmers that the process holds.
    pub programmers: Vec<ProgrammerBeat>,
    /// The process has just started: the others send a heartbeat at once, so that it can compare its clock.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub asks: bool,
    /// The last heartbeat: the process ends in order, and its programmers are gone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ends: bool,
}

impl Heartbeat {
    /// A heartbeat without programmers, sent for its time alone.
    pub fn greeting(process: EmitterId, name: &str, asks: bool) -> Self {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        Self {
            process,
            name: name.to_owned(),
            version,
            at_ms: wall_clock().0,
            programmers: Vec::new(),
            asks,
            ends: false,
        }
    }
}

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

fn is_off(offset_ms: i64) -> bool {
    u128::from(offset_ms.unsigned_abs()) > MAX_CLOCK_OFFSET.as_millis()
}

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
