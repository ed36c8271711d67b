//! Breakers, computed from the events of the log alone.

mod auth;
mod share;

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;

use super::breaker::{Caller, State};
use super::*;
use crate::event::{
    BreakerEvent, BreakerOrder, BreakerOrdered, Configuration, FailedCall, LlmFailed, PoolEvent,
    ProbeEnded, ProbeStarted, ProgrammerUp,
};
use crate::id::{LlmName, TaskId};
use crate::llm::{Fault, LlmKey, Scope};
use crate::money::MicroUsd;
use crate::rules::{BreakerRules, ProgrammerRules, Rules};

const COOLDOWN: u64 = 60_000;
const LEASE: u64 = 30_000;

/// A pool whose programmers all use one LLM; `per_host` of them on each host.
struct Log {
    fold: PoolState,
    at: u64,
    per_host: u32,
}

fn llm() -> LlmName {
    LlmName::new("openai/gpt-4o").expect("an LLM")
}

fn key() -> LlmKey {
    LlmKey::new("https://api.openai.com/v1", &llm(), "h")
}

fn id(n: u32) -> ProgrammerId {
    ProgrammerId::new(format!("{n:03}")).expect("an id")
}

impl Log {
    fn new(programmers: u32, per_host: u32) -> Self {
        Self::with(programmers, per_host, false)
    }

    fn with(programmers: u32, per_host: u32, for_itself: bool) -> Self {
        let mut log = Self {
            fold: PoolState::new(),
            at: 1_000_000,
            per_host,
        };
        let one = ProgrammerRules {
            llms: vec![llm()],
            cap_usd: MicroUsd(1),
        };
        let (threshold, failed_of_1000, window_ms) = (3, 500, 600_000);
        let (cooldown_ms, lease_ms) = (COOLDOWN, LEASE);
        let breaker = BreakerRules {
            threshold,
            failed_of_1000,
            window_ms,
            cooldown_ms,
            lease_ms,
            for_itself,
        };
        let programmers = (1..=programmers)
            .map(|n| (id(n), one.clone()))
            .collect::<BTreeMap<_, _>>();
        for programmer in programmers.keys() {
            let number: u32 = programmer.as_str().parse().expect("a number");
            log.append(Event::from(ProgrammerUp {
                programmer: programmer.clone(),
                host: log.host(number),
                again: false,
            }));
        }
        let rules = Rules {
            breaker: Some(breaker),
            programmers,
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

    fn host(&self, programmer: u32) -> String {
        format!("host-{}", (programmer - 1) / self.per_host)
    }

    fn caller(&self, n: u32) -> Caller {
        Caller {
            programmer: id(n),
            host: self.host(n),
        }
    }

    fn append(&mut self, decision: Event) -> Verdict {
        self.fold.append(Timestamp(self.at), decision)
    }

    fn failure(&self, programmer: u32, task: &str, fault: Fault, epoch: u64) -> Event {
        Event::from(LlmFailed {
            key: key(),
            programmer: id(programmer),
            host: self.host(programmer),
            task: TaskId::new(task).expect("an id"),
            fault,
            epoch,
            retry_after_ms: None,
            call: FailedCall::default(),
        })
    }

    /// A call that begins and fails now.
    fn fail(&mut self, programmer: u32, task: &str, fault: Fault) -> Verdict {
        let epoch = self.fold.breakers.epoch(&key(), &self.caller(programmer));
        self.append(self.failure(programmer, task, fault, epoch))
    }

    /// A call that fails now, of which this is known.
    fn fail_as(&mut self, programmer: u32, task: &str, fault: Fault, known: FailedCall) -> Verdict {
        let epoch = self.fold.breakers.epoch(&key(), &self.caller(programmer));
        let mut failure = self.failure(programmer, task, fault, epoch);
        if let Event::Breaker(BreakerEvent::LlmFailed(LlmFailed { call, .. })) = &mut failure {
            *call = known;
        }
        self.append(failure)
    }

    /// The scope of the breaker that shuts the LLM for this programmer.
    fn shut(&self, programmer: u32) -> Option<Scope> {
        self.fold
            .breakers
            .check(&key(), &self.caller(programmer), self.fold.now())
            .err()
            .map(|shut| shut.scope)
    }

    fn wait(&mut self, ms: u64) {
        self.at += ms;
        self.append(Event::Pool(PoolEvent::Tick));
    }

    fn probe(&mut self, programmer: u32, probe: u128) -> Verdict {
        let (key, programmer, probe) = (key(), id(programmer), AttemptId::from_u128(probe));
        self.append(Event::from(ProbeStarted {
            key,
            scope: Scope::Pool,
            programmer,
            probe,
        }))
    }

    fn probed(&mut self, probe: u128, fault: Option<Fault>) -> Verdict {
        let (key, probe) = (key(), AttemptId::from_u128(probe));
        self.append(Event::from(ProbeEnded {
            key,
            scope: Scope::Pool,
            probe,
            fault,
            retry_after_ms: None,
        }))
    }

    fn open_for_all(&mut self) {
        for n in 1..=3 {
            self.fail(n, &format!("t{n}"), Fault::Unavailable);
        }
        assert_eq!(
            self.shut(4),
            Some(Scope::Pool),
            "three programmers have failed"
        );
    }
}

const YES: Verdict = Verdict::Accepted;
const NOT_DUE: Verdict = Verdict::Refused(Refusal::NotDue);
const OLD: Verdict = Verdict::Refused(Refusal::OldEpoch);

#[test]
fn failures_at_several_programmers_open_it_for_all() {
    let mut log = Log::new(10, 10);
    log.fail(1, "a", Fault::Timeout);
    log.fail(2, "b", Fault::Unavailable);
    assert_eq!(log.shut(3), None, "two failures are not enough");
    log.fail(2, "c", Fault::Unavailable);
    assert_eq!(
        (log.shut(1), log.shut(10)),
        (Some(Scope::Pool), Some(Scope::Pool)),
        "the third is, for everybody"
    );
}

#[test]
fn failures_of_a_single_programmer_shut_only_its_own_use() {
    let mut log = Log::new(10, 10);
    for task in ["a", "b", "c", "d"] {
        log.fail(1, task, Fault::Unavailable);
    }
    assert_eq!(
        (log.shut(1), log.shut(2)),
        (Some(Scope::Programmer(id(1))), None),
        "its key, or its egress"
    );
    log.fail(2, "e", Fault::Unavailable);
    assert_eq!(
        log.shut(2),
        None,
        "it has one voice, however often it failed"
    );
}

#[test]
fn one_poisonous_task_shuts_nothing_for_others() {
    let mut log = Log::new(10, 10);
    for n in 1..=10 {
        log.fail(n, "poison", Fault::Unavailable);
        log.fail(n, "poison", Fault::Unavailable);
    }
    assert!(
        (1..=10).all(|n| log.shut(n).is_none()),
        "a task proves nothing by failing again and again"
    );
}

#[test]
fn one_host_without_egress_shuts_only_itself() {
    let mut log = Log::new(14, 7);
    for n in 1..=7 {
        log.fail(n, &format!("t{n}"), Fault::Unavailable);
    }
    assert_eq!(
        log.shut(7),
        Some(Scope::Host("host-0".to_owned())),
        "the whole host"
    );
    log.fail(8, "u", Fault::Unavailable);
    assert_eq!(
        log.shut(8),
        None,
        "a host that fails at everything has one voice"
    );
    log.fail(9, "v", Fault::Unavailable);
    assert_eq!(
        log.shut(10),
        Some(Scope::Pool),
        "but with others it is not the host"
    );
}

#[test]
fn with_scope_programmer_each_finds_out_for_itself() {
    let mut log = Log::with(10, 10, true);
    for n in 1..=5 {
        log.fail(n, &format!("t{n}"), Fault::Unavailable);
    }
    assert_eq!(log.shut(1), None, "one failure each");
    log.fail(1, "u", Fault::Unavailable);
    log.fail(1, "v", Fault::Unavailable);
    assert_eq!(
        (log.shut(1), log.shut(2)),
        (Some(Scope::Programmer(id(1))), None),
        "three of its own"
    );
}

#[test]
fn few_programmers_are_enough_when_they_are_all() {
    let mut log = Log::new(2, 2);
    log.fail(1, "a", Fault::Unavailable);
    log.fail(1, "b", Fault::Unavailable);
    assert_eq!(log.shut(2), None, "one of two");
    log.fail(2, "c", Fault::Unavailable);
    assert_eq!(
        (log.shut(1), log.shut(2)),
        (Some(Scope::Pool), Some(Scope::Pool)),
        "both"
    );
}

#[test]
fn a_refused_key_opens_at_once() {
    let mut log = Log::new(10, 10);
    log.fail(1, "a", Fault::Auth);
    assert_eq!(
        (log.shut(1), log.shut(2)),
        (Some(Scope::Programmer(id(1))), None),
        "its own key"
    );
    log.fail(2, "b", Fault::Auth);
    assert_eq!(log.shut(3), Some(Scope::Pool), "everybody's");
    log.wait(COOLDOWN);
    assert_eq!(
        log.probe(1, 1),
        NOT_DUE,
        "a wrong key is not mended by waiting"
    );
}

#[test]
fn failures_outside_the_window_are_forgotten() {
    let mut log = Log::new(10, 10);
    log.fail(1, "a", Fault::Unavailable);
    log.fail(2, "b", Fault::Unavailable);
    log.wait(600_000);
    log.fail(3, "c", Fault::Unavailable);
    assert_eq!(log.shut(3), None, "two are too old");
}

#[test]
fn failures_of_calls_that_began_before_the_outage_count_nothing_after_it() {
    let mut log = Log::new(10, 10);
    let epoch = log.fold.breakers.epoch(&key(), &log.caller(5));
    log.open_for_all();
    let late = log.failure(5, "late", Fault::Timeout, epoch);
    assert_eq!(
        log.append(late.clone()),
        OLD,
        "it began before the breaker opened"
    );
    log.wait(COOLDOWN);
    assert_eq!((log.probe(1, 1), log.probed(1, None)), (YES, YES), "back");
    for _ in 0..3 {
        assert_eq!(log.append(late.clone()), OLD, "still");
    }
    log.wait(60_000);
    assert_eq!(log.shut(5), None, "closed");
}

#[test]
fn one_probes_when_the_cooldown_is_over_and_another_when_its_lease_is() {
    let mut log = Log::new(10, 10);
    log.open_for_all();
    assert_eq!(log.probe(1, 1), NOT_DUE, "the cooldown has just begun");
    log.wait(COOLDOWN);
    assert_eq!(
        (log.probe(1, 1), log.probe(2, 2)),
        (YES, NOT_DUE),
        "the first in the log"
    );
    log.wait(LEASE);
    assert_eq!(log.probe(2, 2), YES, "the first one never reported");
    assert_eq!(log.probed(1, None), NOT_DUE, "its lease is over");
    assert_eq!(log.probed(2, Some(Fault::Timeout)), YES, "not back");
    assert_eq!(
        (log.shut(1), log.probe(3, 3)),
        (Some(Scope::Pool), NOT_DUE),
        "another cooldown"
    );
}

#[test]
fn an_operator_ends_a_wait_by_a_probe_or_closes_the_breaker() {
    let ordered = |order| {
        let llm = llm();
        Event::from(BreakerOrdered { llm, order })
    };
    let mut log = Log::new(4, 4);
    let nothing = log.append(ordered(BreakerOrder::Probe));
    assert_eq!(nothing, NOT_DUE, "nothing is open");
    log.fail(1, "a", Fault::Auth);
    log.fail(2, "b", Fault::Auth);
    log.wait(COOLDOWN);
    assert_eq!(log.probe(1, 1), NOT_DUE, "its wait is longer");
    assert_eq!(
        (log.append(ordered(BreakerOrder::Probe)), log.probe(1, 2)),
        (Verdict::Accepted, Verdict::Accepted),
        "an operator has ended it"
    );
    assert_eq!(
        log.shut(3),
        Some(Scope::Pool),
        "it is open until the answer"
    );
    let closed = log.append(ordered(BreakerOrder::Close));
    assert_eq!(closed, Verdict::Accepted, "also while it is probed");
    log.wait(COOLDOWN);
    assert_eq!(log.shut(3), None, "everybody calls the LLM again");
    let closed = log.append(ordered(BreakerOrder::Close));
    assert_eq!(closed, NOT_DUE, "nothing is open any more");
}

#[test]
fn programmers_come_back_in_steps() {
    let mut log = Log::new(49, 7);
    for n in [1, 8, 15] {
        log.fail(n, &format!("t{n}"), Fault::Unavailable);
    }
    log.wait(COOLDOWN);
    assert_eq!((log.probe(20, 1), log.probed(1, None)), (YES, YES), "back");
    let mut back = Vec::new();
    for _ in 0..8 {
        back.push((1..=49).filter(|n| log.shut(*n).is_none()).count());
        log.wait(2000);
    }
    assert_eq!(
        back,
        [1, 3, 7, 15, 31, 49, 49, 49],
        "the programmer that probed first, then twice as many in each step"
    );
}

#[test]
fn the_wider_breaker_speaks_for_the_narrower_ones() {
    let mut log = Log::new(10, 10);
    for task in ["a", "b", "c"] {
        log.fail(1, task, Fault::Unavailable);
    }
    log.fail(2, "d", Fault::Unavailable);
    log.fail(3, "e", Fault::Unavailable);
    assert_eq!(log.shut(1), Some(Scope::Pool), "for all");
    log.wait(COOLDOWN);
    assert_eq!(
        log.fold.breakers.due(log.fold.now()).count(),
        1,
        "one probe, not one for each"
    );
}

#[test]
fn retry_after_is_the_cooldown() {
    let mut log = Log::new(10, 10);
    log.fail(1, "a", Fault::RateLimited);
    log.fail(2, "b", Fault::RateLimited);
    let Event::Breaker(BreakerEvent::LlmFailed(LlmFailed {
        key,
        programmer,
        host,
        task,
        fault,
        epoch,
        call,
        ..
    })) = log.failure(3, "c", Fault::RateLimited, 0)
    else {
        panic!("a failure")
    };
    let retry_after_ms = Some(7000);
    log.append(Event::from(LlmFailed {
        key,
        programmer,
        host,
        task,
        fault,
        epoch,
        retry_after_ms,
        call,
    }));
    log.wait(6999);
    assert_eq!(log.probe(1, 1), NOT_DUE, "not yet");
    log.wait(1);
    assert_eq!(log.probe(1, 1), YES, "now");
}

#[derive(Debug, Clone)]
enum Step {
    Fail(u32, u8, bool),
    Answer(u32),
    Probe(u32, u128),
    Probed(u128, bool),
    Wait(u64),
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1u32..6, 0u8..8, any::<bool>()).prop_map(|(n, task, auth)| Step::Fail(n, task, auth)),
        2 => (1u32..6).prop_map(Step::Answer),
        3 => (1u32..6, 1u128..9).prop_map(|(n, probe)| Step::Probe(n, probe)),
        2 => (1u128..9, any::<bool>()).prop_map(|(probe, ok)| Step::Probed(probe, ok)),
        2 => (0..COOLDOWN * 2).prop_map(Step::Wait),
    ]
}

proptest! {
    #[test]
    fn there_are_never_two_probes_and_all_folds_agree(steps in proptest::collection::vec(any_step(), 1..150)) {
        let (mut log, mut other) = (Log::new(5, 2), Log::new(5, 2));
        // The probe that holds the lease, and until when.
        let mut holder: Option<(u128, u64)> = None;
        for step in steps {
            match step {
                Step::Fail(n, task, auth) => {
                    let fault = if auth { Fault::Auth } else { Fault::Unavailable };
                    let known = FailedCall { unproven: task % 2 == 0, took_ms: 5000, ..FailedCall::default() };
                    let fail = |log: &mut Log| log.fail_as(n, &format!("t{task}"), fault, known);
                    prop_assert_eq!(fail(&mut log), fail(&mut other));
                }
                Step::Answer(n) => {
                    log.answer(n, &[0, 2000]);
                    other.answer(n, &[0, 2000]);
                }
                Step::Probe(n, probe) => {
                    let accepted = log.probe(n, probe) == YES;
                    other.probe(n, probe);
                    if accepted {
                        prop_assert!(holder.is_none_or(|(_, until)| until <= log.at), "{holder:?} probes at {}", log.at);
                        holder = Some((probe, log.at + LEASE));
                    }
                }
                Step::Probed(probe, ok) => {
                    let fault = (!ok).then_some(Fault::Timeout);
                    let accepted = log.probed(probe, fault) == YES;
                    other.probed(probe, fault);
                    prop_assert!(!accepted || holder.is_some_and(|(held, _)| held == probe), "only the holder of the lease");
                    if accepted {
                        holder = None;
                    }
                }
                Step::Wait(ms) => {
                    log.wait(ms);
                    other.wait(ms);
                }
            }
            let pool = |log: &Log| {
                log.fold.breakers.all().find(|(_, scope, _)| **scope == Scope::Pool).map(|(.., breaker)| breaker.clone())
            };
            prop_assert_eq!(pool(&log), pool(&other));
            let half_open = pool(&log).is_some_and(|breaker| matches!(breaker.state, State::HalfOpen { .. }));
            prop_assert_eq!(half_open, holder.is_some(), "half-open while one probes");
        }
        prop_assert_eq!(format!("{:?}", log.fold.breakers), format!("{:?}", other.fold.breakers));
        prop_assert!(Duration::from_millis(COOLDOWN) > Duration::ZERO);
    }
}
