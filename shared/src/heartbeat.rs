//! Heartbeats: what a process says about itself every few seconds. They are no decisions: nothing is stored, and a
//! missing one decides nothing. Their one power is over clocks: see [`Clock`].

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

/// A clock that is further off than this is not used for events.
pub const MAX_CLOCK_OFFSET: Duration = Duration::from_secs(2);
/// Of each process the least delayed of so many heartbeats counts.
const SAMPLES: usize = 3;
/// A process that was not heard for so long has no say about clocks.
const FORGET_AFTER: Duration = Duration::from_secs(120);
/// How often a clock is looked at by who waits for it to be right, or off.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// Whether a programmer may take a task now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Gate {
    Consuming,
    Busy { task: TaskId, since: Timestamp },
    Shut { reason: ShutReason, detail: String },
}

impl Gate {
    /// Whether the programmer is there for tasks, now or once it has an LLM, money or its hands free: others may leave
    /// tasks to it.
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

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ShutReason {
    /// The process is ending, or an operator drains the programmer.
    Draining,
    /// An operator has told it to take no more tasks.
    Paused,
    /// Its pool file differs from the one in force, or none is in force yet.
    Config,
    /// This machine's clock is off.
    Clock,
    /// The event log is not known well enough.
    Log,
    /// Another process holds this programmer.
    Held,
    /// The broker is out of reach.
    Broker,
    /// No LLM is available: their breakers are open.
    Breaker,
    /// Its cap does not fit into what is left of the day's budget.
    Budget,
}

impl ShutReason {
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

    /// Whether it says that something is wrong with the process, and not merely what an operator, the breakers or the
    /// budget want.
    pub fn is_trouble(self) -> bool {
        match self {
            Self::Config | Self::Clock | Self::Log | Self::Held | Self::Broker => true,
            Self::Draining | Self::Paused | Self::Breaker | Self::Budget => false,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgrammerBeat {
    pub id: ProgrammerId,
    pub port: u16,
    pub gate: Gate,
    pub current_llm: LlmName,
}

/// One message of `pool.heartbeats`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// The incarnation of the process.
    pub process: EmitterId,
    /// For people: `worker host/pid`, or what it was told to be called.
    pub name: String,
    pub version: String,
    pub at_ms: u64,
    pub programmers: Vec<ProgrammerBeat>,
    /// Who has just started asks the others to say at once what time it is.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub asks: bool,
    /// Its last one: the process ends in order, and its programmers are not there any more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ends: bool,
}

impl Heartbeat {
    /// One that says no more than what time it is here.
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

/// This machine's clock is not that of the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this machine's clock is {} s {} the other processes of the pool; set it right (NTP)", .offset_ms.unsigned_abs() / 1000, if *.offset_ms > 0 { "ahead of" } else { "behind" })]
pub struct ClockOff {
    pub offset_ms: i64,
}

/// Compares this machine's clock with what the others say. Pure: all times are arguments.
///
/// A heartbeat tells when it was sent by the sender's clock; kept is its distance to our *monotonic* clock, so that a
/// jump of our own wall clock shows at once. Delay on the way only makes the distance smaller: the largest of the last
/// few is the best.
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
    /// A heartbeat of another process arrived, `since_start` by our monotonic clock.
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

    /// How far our wall clock is ahead, in ms; None when nobody else is heard. It is right when it agrees with most of all
    /// the clocks, ours among them; otherwise the others' median says how wrong it is. Of two clocks that differ neither
    /// is trusted.
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

/// The clock of this process: gives the time only while it agrees with the others.
#[derive(Debug)]
pub struct Clock {
    started: Instant,
    check: Mutex<ClockCheck>,
    /// Whether others were heard, or none are there to be heard.
    compared: watch::Sender<bool>,
}

impl Clock {
    #[expect(clippy::new_without_default, reason = "a clock has a beginning")]
    pub fn new() -> Self {
        Self {
            started: Instant::now(),
            check: Mutex::default(),
            compared: watch::Sender::new(false),
        }
    }

    pub fn heard(&self, heartbeat: &Heartbeat) {
        self.with_check(|check| {
            check.heard(heartbeat.process, heartbeat.at_ms, self.started.elapsed())
        });
        self.compared.send_replace(true);
    }

    /// There is nobody to compare this clock with.
    pub fn is_alone(&self) {
        self.compared.send_replace(true);
    }

    /// Ends when this clock was compared with others', if there are any: until then nobody knows whether it is right.
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
    /// [`ClockOff`] when this machine's clock is more than 2 s away from the others'.
    pub fn now(&self) -> Result<Timestamp, ClockOff> {
        let wall = wall_clock();
        match self.offset_from(wall) {
            Some(offset_ms) if is_off(offset_ms) => Err(ClockOff { offset_ms }),
            Some(_) | None => Ok(wall),
        }
    }

    /// The time, as soon as the clock agrees with the others' again.
    pub async fn right(&self) -> Timestamp {
        loop {
            match self.now() {
                Ok(now) => return now,
                Err(_) => tokio::time::sleep(LOOK_AGAIN).await,
            }
        }
    }

    /// Ends as soon as the clock is off.
    pub async fn wrong(&self) -> ClockOff {
        loop {
            match self.now() {
                Ok(_) => tokio::time::sleep(LOOK_AGAIN).await,
                Err(off) => return off,
            }
        }
    }

    /// How far it is ahead of the others', in ms; None when nobody else is heard.
    pub fn offset_ms(&self) -> Option<i64> {
        self.offset_from(wall_clock())
    }

    fn offset_from(&self, wall: Timestamp) -> Option<i64> {
        self.with_check(|check| check.offset_ms(wall, self.started.elapsed()))
    }

    fn with_check<T>(&self, act: impl FnOnce(&mut ClockCheck) -> T) -> T {
        // Samples are valid one by one, so a panic elsewhere does not spoil them.
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
                .expect("somebody is heard");
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
                .expect("others are heard");
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
