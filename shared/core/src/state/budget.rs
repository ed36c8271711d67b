//! The budget of a day. A reservation is admitted if and only if spent + reserved + its amount is within the limit at its
//! place in the log. So all processes agree without asking each other.
//!
//! A reservation that is never settled counts as spent. One that is open across midnight counts on both days.

use std::collections::BTreeMap;

use jiff::ToSpan as _;
use jiff::civil::Date;
use jiff::tz::TimeZone;

use super::{Refusal, Verdict};
use crate::event::{BudgetReserved, BudgetSettled};
use crate::id::{AttemptId, LlmName, ProgrammerId, TaskId};
use crate::money::MicroUsd;
use crate::rules::{BudgetRules, zone};
use crate::time::Timestamp;

/// How long settled attempts are remembered. No attempt lasts that long, so none settles twice.
const ACCOUNTED_DAYS: i64 = 8;

/// Money that is set aside for one attempt, or for a probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reservation {
    /// None: a probe.
    pub task: Option<TaskId>,
    /// The programmer that spends it.
    pub programmer: ProgrammerId,
    /// The most that the attempt may cost.
    pub amount: MicroUsd,
    /// When it was admitted, by the log's time.
    pub since: Timestamp,
    /// It was open at a midnight already.
    pub carried: bool,
}

/// The current day of the pool, by the log's time in the configured zone. It never goes back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Day {
    /// The calendar date in the configured zone.
    pub date: Date,
    /// The beginning of the next day.
    pub ends: Timestamp,
}

/// The money of the current day.
#[derive(Debug, Clone, Default)]
pub struct Budget {
    rules: BudgetRules,
    /// Set for this day only, by `budget_set`.
    limit_today: Option<MicroUsd>,
    day: Option<Day>,
    spent: MicroUsd,
    by_llm: BTreeMap<LlmName, MicroUsd>,
    by_programmer: BTreeMap<ProgrammerId, MicroUsd>,
    /// Reservations of probes and of attempts that own their task.
    open: BTreeMap<AttemptId, Reservation>,
    /// Reservations of attempts that lost their task without settling. They count as spent today, until they are settled.
    lost: BTreeMap<AttemptId, Reservation>,
    /// Attempts whose money is accounted for (settled, or counted in full), and on which day: the last [`ACCOUNTED_DAYS`].
    settled: BTreeMap<AttemptId, Date>,
    /// The sum of `open`.
    reserved: MicroUsd,
}

impl Budget {
    /// The limit of this day; None: spending is not limited.
    pub fn limit(&self) -> Option<MicroUsd> {
        self.rules
            .limit_usd
            .map(|limit| self.limit_today.unwrap_or(limit))
    }

    /// The pool warns when the day's spending has reached this amount.
    pub fn alert(&self) -> MicroUsd {
        self.rules.alert_usd
    }

    /// Whether an operator has replaced the configured limit for this day.
    pub fn is_set_for_today(&self) -> bool {
        self.limit_today.is_some()
    }

    /// The zone in which the day begins and ends, as in the pool file.
    pub fn time_zone(&self) -> &str {
        &self.rules.time_zone
    }

    /// The current day; None before the first event.
    pub fn day(&self) -> Option<&Day> {
        self.day.as_ref()
    }

    /// The costs that were settled today, plus the full reservations of lost attempts.
    pub fn spent(&self) -> MicroUsd {
        self.spent
    }

    /// The part of [`Self::spent`] that is reservations of lost attempts, whose true cost is not known.
    pub fn lost(&self) -> MicroUsd {
        self.lost.values().map(|lost| lost.amount).sum()
    }

    /// The sum of the open reservations.
    pub fn reserved(&self) -> MicroUsd {
        self.reserved
    }

    /// The settled costs of today for each LLM.
    pub fn by_llm(&self) -> &BTreeMap<LlmName, MicroUsd> {
        &self.by_llm
    }

    /// [`Self::spent`] for each programmer.
    pub fn by_programmer(&self) -> &BTreeMap<ProgrammerId, MicroUsd> {
        &self.by_programmer
    }

    /// The open reservations.
    pub fn reservations(&self) -> impl Iterator<Item = (&AttemptId, &Reservation)> {
        self.open.iter()
    }

    /// Whether this attempt has an open reservation.
    pub fn has_reserved(&self, attempt: AttemptId) -> bool {
        self.open.contains_key(&attempt)
    }

    /// The amount that can still be reserved today; None: any amount.
    pub fn room(&self) -> Option<MicroUsd> {
        self.limit()
            .map(|limit| limit.saturating_sub(self.spent + self.reserved))
    }

    pub(super) fn configure(&mut self, rules: &BudgetRules, now: Timestamp) {
        let moved = rules.time_zone != self.rules.time_zone;
        self.rules = rules.clone();
        if moved && let Some(day) = self.day.take() {
            // The day ends at another moment now. Its date goes back only while nothing was spent in it.
            let (date, ends) = day_of(now, &self.zone());
            let untouched = self.spent == MicroUsd::ZERO && self.open.is_empty();
            self.day = Some(Day {
                date: if untouched { date } else { date.max(day.date) },
                ends,
            });
        }
    }

    fn zone(&self) -> TimeZone {
        // The pool file's reader has checked the name. All processes of this version take an unknown name for UTC.
        zone(&self.rules.time_zone).unwrap_or(TimeZone::UTC)
    }

    /// Begins a new day when `now` is past the current one: nothing is spent, and open reservations stay.
    pub(super) fn advance(&mut self, now: Timestamp) {
        if self.day.as_ref().is_some_and(|day| now < day.ends) {
            return;
        }
        let (date, ends) = day_of(now, &self.zone());
        let is_new = self.day.as_ref().is_none_or(|day| date > day.date);
        if is_new {
            self.spent = MicroUsd::ZERO;
            self.by_llm.clear();
            self.by_programmer.clear();
            self.limit_today = None;
            self.carry(date);
        }
        let date = self.day.as_ref().map_or(date, |day| date.max(day.date));
        self.day = Some(Day { date, ends });
    }

    /// Carries open reservations over midnight, each once: an attempt that still has one at a second midnight is dead. A
    /// probe's is not carried, because a probe takes seconds.
    fn carry(&mut self, date: Date) {
        let yesterday = date.yesterday().unwrap_or(date);
        let oldest = date.checked_sub(ACCOUNTED_DAYS.days()).unwrap_or(Date::MIN);
        self.settled.retain(|_, settled| *settled >= oldest);
        let (dead, open): (BTreeMap<_, _>, BTreeMap<_, _>) = std::mem::take(&mut self.open)
            .into_iter()
            .partition(|(_, open)| open.carried || open.task.is_none());
        // They were counted in full on the day before. Their true cost no longer counts.
        let counted = dead
            .into_keys()
            .chain(std::mem::take(&mut self.lost).into_keys());
        self.settled
            .extend(counted.map(|attempt| (attempt, yesterday)));
        self.open = open;
        self.open.values_mut().for_each(|open| open.carried = true);
        self.reserved = self.open.values().map(|open| open.amount).sum();
    }

    pub(super) fn set_for_today(&mut self, limit: MicroUsd) -> Verdict {
        self.limit_today = Some(limit);
        Verdict::Accepted
    }

    /// Admits a reservation if it fits. `may`: whether the attempt owns its task, because only an owner may spend.
    pub(super) fn reserve(
        &mut self,
        reserved: &BudgetReserved,
        may: bool,
        now: Timestamp,
    ) -> Verdict {
        let (attempt, amount) = (reserved.attempt, reserved.amount_usd);
        if !may || self.open.contains_key(&attempt) || self.lost.contains_key(&attempt) {
            return Verdict::Refused(Refusal::Superseded);
        }
        if self.room().is_some_and(|room| amount > room) {
            return Verdict::Refused(Refusal::OverBudget);
        }
        self.reserved += amount;
        let reservation = Reservation {
            task: reserved.task.clone(),
            programmer: reserved.programmer.clone(),
            amount,
            since: now,
            carried: false,
        };
        self.open.insert(attempt, reservation);
        Verdict::Accepted
    }

    /// Replaces a reservation by the true cost. A cost without a reservation counts too: the money was paid, and the
    /// reservation was lost with the tail of the stream.
    pub(super) fn settle(&mut self, settled: &BudgetSettled) -> Verdict {
        let (attempt, cost) = (settled.attempt, settled.cost_usd);
        if self.settled.contains_key(&attempt) {
            return Verdict::Refused(Refusal::NotReserved);
        }
        let programmer = if let Some(open) = self.open.remove(&attempt) {
            self.reserved = self.reserved.saturating_sub(open.amount);
            Some(open.programmer)
        } else if let Some(lost) = self.lost.remove(&attempt) {
            self.spent = self.spent.saturating_sub(lost.amount);
            let sum = self
                .by_programmer
                .entry(lost.programmer.clone())
                .or_default();
            *sum = sum.saturating_sub(lost.amount);
            Some(lost.programmer)
        } else if cost > MicroUsd::ZERO {
            None
        } else {
            return Verdict::Refused(Refusal::NotReserved);
        };
        self.spent += cost;
        if let Some(programmer) = programmer {
            *self.by_programmer.entry(programmer).or_default() += cost;
        }
        for (llm, cost) in &settled.by_llm {
            *self.by_llm.entry(llm.clone()).or_default() += *cost;
        }
        self.settled
            .insert(attempt, self.day.as_ref().map_or(Date::MIN, |day| day.date));
        Verdict::Accepted
    }

    /// No process is left that could settle the reservations of this programmer.
    pub(super) fn lose_all_of(&mut self, programmer: &ProgrammerId) {
        let of_its = self
            .open
            .iter()
            .filter(|(_, open)| open.programmer == *programmer)
            .map(|(attempt, _)| *attempt);
        for attempt in of_its.collect::<Vec<_>>() {
            self.lose(attempt);
        }
    }

    /// The attempt has lost its task. If it has not settled, its cost is not known, and the whole reservation counts as spent.
    pub(super) fn lose(&mut self, attempt: AttemptId) {
        let Some(open) = self.open.remove(&attempt) else {
            return;
        };
        self.reserved = self.reserved.saturating_sub(open.amount);
        self.spent += open.amount;
        *self
            .by_programmer
            .entry(open.programmer.clone())
            .or_default() += open.amount;
        self.lost.insert(attempt, open);
    }
}

/// The date at this moment, and the moment at which the next one begins.
fn day_of(now: Timestamp, zone: &TimeZone) -> (Date, Timestamp) {
    let moment = i64::try_from(now.0)
        .ok()
        .and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok())
        .unwrap_or_default();
    let date = zone.to_datetime(moment).date();
    let next = date.tomorrow().and_then(|next| next.to_zoned(zone.clone()));
    let ends = next
        .ok()
        .and_then(|next| u64::try_from(next.timestamp().as_millisecond()).ok());
    // The last representable date has no next one.
    (date, Timestamp(ends.unwrap_or(u64::MAX)))
}
