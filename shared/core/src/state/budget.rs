//! The budget of a day: a reservation is admitted if and only if spent + reserved + it fits the limit at its place in the
//! log. So everybody agrees, and nobody has to be asked.
//!
//! What is reserved and never settled counts as spent. A reservation that is open across midnight counts on both days.

use std::collections::BTreeMap;

use jiff::ToSpan as _;
use jiff::civil::Date;
use jiff::tz::TimeZone;

use super::{Refusal, Verdict};
use crate::id::{AttemptId, LlmName, ProgrammerId, TaskId};
use crate::money::MicroUsd;
use crate::rules::{BudgetRules, zone};
use crate::time::Timestamp;

/// An attempt that says what it has cost so late is no attempt any more.
const ACCOUNTED_DAYS: i64 = 8;

/// Money that is set aside for one attempt, or for a probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reservation {
    /// None: a probe.
    pub task: Option<TaskId>,
    pub programmer: ProgrammerId,
    pub amount: MicroUsd,
    pub since: Timestamp,
    /// It has seen a midnight already.
    pub carried: bool,
}

impl Reservation {
    pub fn new(
        task: Option<TaskId>,
        programmer: ProgrammerId,
        amount: MicroUsd,
        since: Timestamp,
    ) -> Self {
        Self {
            task,
            programmer,
            amount,
            since,
            carried: false,
        }
    }
}

/// The day that the pool is in. Days follow each other and never go back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Day {
    pub date: Date,
    /// Its last moment is just before this one.
    pub ends: Timestamp,
}

#[derive(Debug, Clone, Default)]
pub struct Budget {
    rules: BudgetRules,
    /// Set for this day only, by `budget_set`.
    limit_today: Option<MicroUsd>,
    day: Option<Day>,
    spent: MicroUsd,
    by_llm: BTreeMap<LlmName, MicroUsd>,
    by_programmer: BTreeMap<ProgrammerId, MicroUsd>,
    /// Of attempts that own their task; of probes.
    open: BTreeMap<AttemptId, Reservation>,
    /// Of attempts that lost their task without settling: they count as spent today, until they are settled after all.
    lost: BTreeMap<AttemptId, Reservation>,
    /// Whose money is accounted for, and when it was: settled, or counted in full. Of the last [`ACCOUNTED_DAYS`] days.
    settled: BTreeMap<AttemptId, Date>,
    /// The sum of `open`.
    reserved: MicroUsd,
}

impl Budget {
    /// The limit of this day; None: there is none.
    pub fn limit(&self) -> Option<MicroUsd> {
        self.rules
            .limit_usd
            .map(|limit| self.limit_today.unwrap_or(limit))
    }

    pub fn alert(&self) -> MicroUsd {
        self.rules.alert_usd
    }

    /// Whether the limit is another one than the configured.
    pub fn is_set_for_today(&self) -> bool {
        self.limit_today.is_some()
    }

    pub fn time_zone(&self) -> &str {
        &self.rules.time_zone
    }

    /// None before the first event.
    pub fn day(&self) -> Option<&Day> {
        self.day.as_ref()
    }

    /// Settled today, and what was reserved by those who will never settle.
    pub fn spent(&self) -> MicroUsd {
        self.spent
    }

    /// Of it: what was reserved by attempts that were lost and have not told what they have spent.
    pub fn lost(&self) -> MicroUsd {
        self.lost.values().map(|lost| lost.amount).sum()
    }

    pub fn reserved(&self) -> MicroUsd {
        self.reserved
    }

    pub fn by_llm(&self) -> &BTreeMap<LlmName, MicroUsd> {
        &self.by_llm
    }

    pub fn by_programmer(&self) -> &BTreeMap<ProgrammerId, MicroUsd> {
        &self.by_programmer
    }

    pub fn reservations(&self) -> impl Iterator<Item = (&AttemptId, &Reservation)> {
        self.open.iter()
    }

    pub fn has_reserved(&self, attempt: AttemptId) -> bool {
        self.open.contains_key(&attempt)
    }

    /// What could still be reserved today; None: any amount.
    pub fn room(&self) -> Option<MicroUsd> {
        self.limit()
            .map(|limit| limit.saturating_sub(self.spent + self.reserved))
    }

    pub(super) fn configure(&mut self, rules: &BudgetRules, now: Timestamp) {
        let moved = rules.time_zone != self.rules.time_zone;
        self.rules = rules.clone();
        if moved && let Some(day) = self.day.take() {
            // Where the day ends is another moment now; the day itself goes back only while nothing was spent in it.
            let (date, ends) = day_of(now, &self.zone());
            let untouched = self.spent == MicroUsd::ZERO && self.open.is_empty();
            self.day = Some(Day {
                date: if untouched { date } else { date.max(day.date) },
                ends,
            });
        }
    }

    fn zone(&self) -> TimeZone {
        // Checked where the pool file is read; a name that only a newer version knows is UTC for everybody of this one.
        zone(&self.rules.time_zone).unwrap_or(TimeZone::UTC)
    }

    /// A new day begins with nothing spent, and with what is still reserved.
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

    /// What is reserved counts on the new day too, but on no third one: whoever still has it then is dead. A probe does not
    /// take so long.
    fn carry(&mut self, date: Date) {
        let yesterday = date.yesterday().unwrap_or(date);
        let oldest = date.checked_sub(ACCOUNTED_DAYS.days()).unwrap_or(Date::MIN);
        self.settled.retain(|_, settled| *settled >= oldest);
        let (dead, open): (BTreeMap<_, _>, BTreeMap<_, _>) = std::mem::take(&mut self.open)
            .into_iter()
            .partition(|(_, open)| open.carried || open.task.is_none());
        // They were counted in full on the day before, whatever they say now.
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

    /// `may` says whether the attempt owns its task: only an owner may spend.
    pub(super) fn reserve(
        &mut self,
        attempt: AttemptId,
        reservation: Reservation,
        may: bool,
    ) -> Verdict {
        if !may || self.open.contains_key(&attempt) || self.lost.contains_key(&attempt) {
            return Verdict::Refused(Refusal::Superseded);
        }
        if self.room().is_some_and(|room| reservation.amount > room) {
            return Verdict::Refused(Refusal::OverBudget);
        }
        self.reserved += reservation.amount;
        self.open.insert(attempt, reservation);
        Verdict::Accepted
    }

    /// The true cost. Of an attempt without a reservation too, as when that was lost with the tail of the stream: it was paid
    /// all the same.
    pub(super) fn settle(
        &mut self,
        attempt: AttemptId,
        cost: MicroUsd,
        by_llm: &BTreeMap<LlmName, MicroUsd>,
    ) -> Verdict {
        if self.settled.contains_key(&attempt) {
            return Verdict::Refused(Refusal::NotReserved);
        }
        let programmer = if let Some(open) = self.open.remove(&attempt) {
            self.reserved = self.reserved.saturating_sub(open.amount);
            Some(open.programmer)
        } else if let Some(lost) = self.lost.remove(&attempt) {
            self.spent = self.spent.saturating_sub(lost.amount);
            take(self.by_programmer.get_mut(&lost.programmer), lost.amount);
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
        for (llm, cost) in by_llm {
            *self.by_llm.entry(llm.clone()).or_default() += *cost;
        }
        self.settled
            .insert(attempt, self.day.as_ref().map_or(Date::MIN, |day| day.date));
        Verdict::Accepted
    }

    /// Nobody of this programmer's lives who could settle.
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

    /// The attempt has lost its task. If it has not settled, nobody knows what it has spent: all that it might have.
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

fn take(from: Option<&mut MicroUsd>, amount: MicroUsd) {
    if let Some(sum) = from {
        *sum = sum.saturating_sub(amount);
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
    // At the end of all dates there is no next one.
    (date, Timestamp(ends.unwrap_or(u64::MAX)))
}
