use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::event::{
    BudgetEvent, BudgetReserved, BudgetSet, BudgetSettled, Configuration, PoolEvent, ProgrammerUp,
    ReleaseCause, TaskEvent, TaskFinished, TaskReleased, TaskStarted,
};
use crate::id::{LlmName, TaskId, Token};
use crate::money::MicroUsd;
use crate::result::Status;
use crate::rules::{BudgetRules, Rules};

const NOON: u64 = 1_767_355_200_000; // 2026-01-02T12:00:00Z
const HOUR: u64 = 60 * 60 * 1000;

/// A pool's log, written event by event.
struct Log {
    fold: PoolState,
    at: u64,
}

impl Log {
    fn with_limit(dollars: &str) -> Self {
        Self::with_rules(BudgetRules {
            limit_usd: Some(usd(dollars)),
            ..BudgetRules::default()
        })
    }

    fn with_rules(budget: BudgetRules) -> Self {
        let mut log = Self {
            fold: PoolState::new(),
            at: NOON,
        };
        let rules = Rules {
            budget,
            ..Rules::default()
        };
        log.append(Event::from(Configuration {
            hash: "h".to_owned(),
            capabilities: BTreeMap::new(),
            rules,
            again: false,
        }));
        log
    }

    fn append(&mut self, decision: Event) -> Verdict {
        self.append_as(1, decision)
    }

    fn append_as(&mut self, emitter: u128, decision: Event) -> Verdict {
        let (emitter, at) = (EmitterId::from_u128(emitter), Timestamp(self.at));
        self.fold.append_as(emitter, at, decision)
    }

    fn start(&mut self, task: &str, attempt: u128, count: u64) -> Verdict {
        self.append(started(task, attempt, count))
    }

    fn reserve(&mut self, task: &str, attempt: u128, dollars: &str) -> Verdict {
        self.append(reserved(Some(task), attempt, usd(dollars)))
    }

    fn settle(&mut self, attempt: u128, dollars: &str) -> Verdict {
        self.append(settled(attempt, usd(dollars)))
    }

    fn money(&self) -> (String, String) {
        (
            self.fold.budget.spent().to_string(),
            self.fold.budget.reserved().to_string(),
        )
    }
}

fn usd(dollars: &str) -> MicroUsd {
    dollars.parse().expect("an amount")
}

fn task(name: &str) -> TaskId {
    TaskId::new(name).expect("an id")
}

fn llm() -> LlmName {
    LlmName::new("openai/gpt-4o").expect("an LLM")
}

fn programmer() -> ProgrammerId {
    ProgrammerId::new("001").expect("an id")
}

fn started(name: &str, attempt: u128, count: u64) -> Event {
    Event::from(TaskStarted {
        task: task(name),
        attempt: AttemptId::from_u128(attempt),
        programmer: programmer(),
        token: Token {
            generation: 0,
            count,
        },
        route: "any".to_owned(),
        body_hash: "h".to_owned(),
    })
}

fn finished(name: &str, attempt: u128, cost_usd: MicroUsd) -> Event {
    Event::from(TaskFinished {
        task: task(name),
        attempt: Some(AttemptId::from_u128(attempt)),
        status: Status::Succeeded,
        llm: Some(llm()),
        cost_usd,
        error: None,
    })
}

fn reserved(name: Option<&str>, attempt: u128, amount_usd: MicroUsd) -> Event {
    let (task, attempt) = (name.map(task), AttemptId::from_u128(attempt));
    Event::from(BudgetReserved {
        attempt,
        task,
        programmer: programmer(),
        amount_usd,
    })
}

fn settled(attempt: u128, cost_usd: MicroUsd) -> Event {
    let by_llm = BTreeMap::from([(llm(), cost_usd)]);
    Event::from(BudgetSettled {
        attempt: AttemptId::from_u128(attempt),
        cost_usd,
        by_llm,
    })
}

fn released(name: &str, attempt: u128) -> Event {
    Event::from(TaskReleased {
        task: task(name),
        attempt: AttemptId::from_u128(attempt),
        cause: ReleaseCause::Stopped,
    })
}

const YES: Verdict = Verdict::Accepted;
const OVER: Verdict = Verdict::Refused(Refusal::OverBudget);
const NOT_OWNER: Verdict = Verdict::Refused(Refusal::Superseded);

#[test]
fn a_reservation_is_admitted_while_it_fits_and_the_true_cost_takes_its_place() {
    let mut log = Log::with_limit("1.00");
    for (name, attempt) in [("a", 1), ("b", 2), ("c", 3)] {
        log.start(name, attempt, 0);
    }
    assert_eq!(log.reserve("a", 1, "0.60"), YES, "it fits");
    assert_eq!(log.reserve("b", 2, "0.41"), OVER, "a cent too much");
    assert_eq!(log.reserve("b", 2, "0.40"), YES, "to the last cent");
    assert_eq!(log.reserve("c", 3, "0.000001"), OVER, "nothing is left");
    assert_eq!(log.settle(1, "0.10"), YES, "settled");
    assert_eq!(
        log.money(),
        ("0.10".to_owned(), "0.40".to_owned()),
        "what was not spent is free again"
    );
    assert_eq!(log.reserve("c", 3, "0.50"), YES, "it fits now");
}

#[test]
fn only_the_owner_of_a_task_may_reserve_and_only_once() {
    let mut log = Log::with_limit("1.00");
    assert_eq!(
        log.reserve("a", 1, "0.10"),
        NOT_OWNER,
        "nobody has started it"
    );
    log.start("a", 1, 0);
    assert_eq!(log.reserve("a", 2, "0.10"), NOT_OWNER, "another attempt");
    assert_eq!(log.reserve("a", 1, "0.10"), YES, "the owner");
    assert_eq!(log.reserve("a", 1, "0.10"), NOT_OWNER, "it has one");
    assert_eq!(
        log.append(reserved(None, 9, usd("0.10"))),
        YES,
        "a probe has no task"
    );
}

#[test]
fn who_loses_the_task_without_settling_has_spent_all_of_it_until_he_settles_after_all() {
    for lose in [started("a", 2, 1), released("a", 1)] {
        let mut log = Log::with_limit("1.00");
        log.start("a", 1, 0);
        log.reserve("a", 1, "0.60");
        log.append(lose);
        assert_eq!(
            log.money(),
            ("0.60".to_owned(), "0.00".to_owned()),
            "what it spent is not known"
        );
        assert_eq!(log.settle(1, "0.20"), YES, "it was alive");
        assert_eq!(
            log.money(),
            ("0.20".to_owned(), "0.00".to_owned()),
            "the true cost"
        );
        assert_eq!(
            log.settle(1, "0.20"),
            Verdict::Refused(Refusal::NotReserved),
            "once"
        );
    }
}

#[test]
fn what_a_dead_process_has_reserved_is_spent_as_soon_as_another_holds_its_programmer() {
    let mut log = Log::with_limit("1.00");
    let up = || {
        Event::from(ProgrammerUp {
            programmer: programmer(),
            host: "h".to_owned(),
            again: false,
        })
    };
    log.append(up());
    log.start("a", 1, 0);
    log.reserve("a", 1, "0.60");
    log.append(up());
    assert_eq!(log.money().1, "0.60", "the same process repeats it");
    log.append_as(2, up());
    assert_eq!(
        log.money(),
        ("0.60".to_owned(), "0.00".to_owned()),
        "another process: the first one is gone"
    );
    let owner = log
        .fold
        .tasks
        .running()
        .next()
        .map(|(_, owner)| owner.clone())
        .expect("it has the task still");
    log.at += 1;
    log.append_as(3, up());
    assert!(
        log.fold.is_gone(&owner),
        "and no programmer waits for what it might reserve"
    );
}

#[test]
fn nobody_keeps_money_for_longer_than_two_days_and_a_probe_not_over_midnight() {
    let mut log = Log::with_limit("1.00");
    log.start("a", 1, 0);
    log.reserve("a", 1, "0.60");
    log.append(reserved(None, 9, usd("0.10")));
    log.at += 12 * HOUR;
    log.append(Event::Pool(PoolEvent::Tick));
    assert_eq!(
        log.money().1,
        "0.60",
        "the task's counts on both days, the probe's is over"
    );
    log.at += 24 * HOUR;
    log.append(Event::Pool(PoolEvent::Tick));
    assert_eq!(
        log.money().1,
        "0.00",
        "an attempt that still has it is dead"
    );
    assert_eq!(
        log.settle(1, "0.60"),
        Verdict::Refused(Refusal::NotReserved),
        "it was counted in full, twice"
    );
}

#[test]
fn what_was_paid_without_a_reservation_in_the_log_is_spent() {
    let mut log = Log::with_limit("1.00");
    assert_eq!(
        log.settle(1, "0.30"),
        YES,
        "its reservation was lost with the tail of the stream"
    );
    assert_eq!(log.money().0, "0.30", "it was paid all the same");
    assert_eq!(
        log.settle(1, "0.30"),
        Verdict::Refused(Refusal::NotReserved),
        "once"
    );
    assert_eq!(
        log.settle(2, "0.00"),
        Verdict::Refused(Refusal::NotReserved),
        "a cost of zero settles nothing"
    );
}

#[test]
fn an_outcome_settles_with_its_cost() {
    let mut log = Log::with_limit("1.00");
    log.start("a", 1, 0);
    log.reserve("a", 1, "0.60");
    log.append(finished("a", 1, usd("0.05")));
    assert_eq!(
        log.money(),
        ("0.05".to_owned(), "0.00".to_owned()),
        "the result says what it cost"
    );
}

#[test]
fn a_reservation_that_is_open_across_midnight_counts_on_both_days() {
    let mut log = Log::with_limit("1.00");
    log.start("a", 1, 0);
    log.reserve("a", 1, "0.60");
    log.start("b", 2, 0);
    log.reserve("b", 2, "0.40");
    log.settle(2, "0.40");
    log.at = NOON + 12 * HOUR;
    log.start("c", 3, 0);
    assert_eq!(
        log.money(),
        ("0.00".to_owned(), "0.60".to_owned()),
        "a new day, with what is still reserved"
    );
    assert_eq!(
        log.reserve("c", 3, "0.41"),
        OVER,
        "it counts on the new day too"
    );
    log.settle(1, "0.50");
    assert_eq!(
        log.money(),
        ("0.50".to_owned(), "0.00".to_owned()),
        "and is spent there"
    );
}

#[test]
fn a_day_never_goes_back_and_begins_where_the_time_zone_says() {
    // 15:00 in this zone when it is 12:00 in UTC.
    let rules = BudgetRules {
        limit_usd: Some(usd("1.00")),
        time_zone: "XXX-3".to_owned(),
        ..BudgetRules::default()
    };
    let mut log = Log::with_rules(rules);
    log.start("a", 1, 0);
    log.reserve("a", 1, "1.00");
    log.settle(1, "1.00");
    log.start("b", 2, 0);
    log.at = NOON + 9 * HOUR - 1;
    assert_eq!(log.reserve("b", 2, "0.10"), OVER, "just before midnight");
    log.at = NOON - 24 * HOUR;
    assert_eq!(
        log.reserve("b", 2, "0.10"),
        OVER,
        "a clock that goes back opens nothing"
    );
    log.at = NOON + 9 * HOUR;
    assert_eq!(log.reserve("b", 2, "0.10"), YES, "midnight");
}

#[test]
fn a_limit_set_for_today_holds_until_midnight() {
    let mut log = Log::with_limit("1.00");
    log.start("a", 1, 0);
    assert_eq!(
        log.reserve("a", 1, "2.00"),
        OVER,
        "above the configured limit"
    );
    log.append(Event::from(BudgetSet {
        limit_usd: usd("2.00"),
    }));
    assert_eq!(log.reserve("a", 1, "2.00"), YES, "raised");
    log.settle(1, "2.00");
    log.at = NOON + 12 * HOUR;
    log.append(Event::Pool(PoolEvent::Tick));
    assert_eq!(
        log.fold.budget.limit(),
        Some(usd("1.00")),
        "the next day has the configured one"
    );
}

#[test]
fn without_a_limit_everything_is_admitted_and_counted() {
    let mut log = Log::with_rules(BudgetRules::default());
    log.start("a", 1, 0);
    assert_eq!(log.reserve("a", 1, "1000000.00"), YES, "no limit");
    log.settle(1, "7.00");
    assert_eq!(log.money().0, "7.00", "counted all the same");
    let mut closed = Log::with_limit("0.00");
    closed.start("a", 1, 0);
    assert_eq!(
        closed.reserve("a", 1, "0.01"),
        OVER,
        "a limit of nothing lets nothing through"
    );
}

const CAP: u64 = 40;
const LIMIT: u64 = 100;

/// Few tasks and attempts, so that they collide; costs within the cap.
fn any_decision() -> impl Strategy<Value = Event> {
    let name = prop_oneof![Just("a"), Just("b"), Just("c"), Just("d")];
    prop_oneof![
        3 => (name.clone(), 1u128..9, 0u64..4).prop_map(|(name, attempt, count)| started(name, attempt, count)),
        4 => (name.clone(), 1u128..9).prop_map(|(name, attempt)| reserved(Some(name), attempt, MicroUsd(CAP))),
        1 => (20u128..23).prop_map(|probe| reserved(None, probe, MicroUsd(5))),
        3 => (1u128..9, 0..=CAP).prop_map(|(attempt, cost)| settled(attempt, MicroUsd(cost))),
        1 => (20u128..23, 0..=5u64).prop_map(|(probe, cost)| settled(probe, MicroUsd(cost))),
        1 => (name.clone(), 1u128..9, 0..=CAP).prop_map(|(name, attempt, cost)| finished(name, attempt, MicroUsd(cost))),
        1 => (name, 1u128..9).prop_map(|(name, attempt)| released(name, attempt)),
    ]
}

proptest! {
    /// For every interleaving of reservations, settlements, crashes (an attempt without further events) and doubles, with
    /// midnights in between.
    #[test]
    fn spent_and_reserved_never_pass_the_limit(
        events in proptest::collection::vec((any_decision(), 0..HOUR * 3 / 2, any::<bool>()), 1..120)
    ) {
        let rules = BudgetRules { limit_usd: Some(MicroUsd(LIMIT)), ..BudgetRules::default() };
        let mut log = Log::with_rules(rules.clone());
        let mut replayed = Log::with_rules(rules);
        let mut reserved_once = BTreeSet::new();
        for (decision, later, twice) in events {
            // Only an attempt with a reservation can have spent money.
            if let Event::Budget(BudgetEvent::Settled(BudgetSettled { attempt, .. })) | Event::Task(TaskEvent::Finished(TaskFinished { attempt: Some(attempt), .. })) = &decision
                && !reserved_once.contains(attempt)
            {
                continue;
            }
            log.at += later;
            replayed.at = log.at;
            let batch = log.fold.next_batch(EmitterId::from_u128(1), Timestamp(log.at), decision.clone());
            let verdict = log.append(decision.clone());
            if let (Verdict::Accepted, Event::Budget(BudgetEvent::Reserved(BudgetReserved { attempt, .. }))) = (verdict, &decision) {
                reserved_once.insert(*attempt);
            }
            replayed.append(decision);
            if twice {
                log.fold.apply(&batch, |_, _, _| ());
            }
            let total = log.fold.budget.spent() + log.fold.budget.reserved();
            prop_assert!(total <= MicroUsd(LIMIT), "{total} after {:?}", log.fold.budget);
            let sum: MicroUsd = log.fold.budget.reservations().map(|(_, open)| open.amount).sum();
            prop_assert_eq!(sum, log.fold.budget.reserved(), "the sum of what is open");
        }
        prop_assert_eq!(format!("{:?}", log.fold.budget), format!("{:?}", replayed.fold.budget), "folds agree");
    }
}
