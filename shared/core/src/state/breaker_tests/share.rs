//! A breaker looks at the share of failures as well as their number.

use super::*;
use crate::event::LlmAnswered;
use serde_json::json;

impl Log {
    /// Answered calls of this programmer that ended the given milliseconds ago.
    pub(super) fn answer(&mut self, programmer: u32, ages: &[u64]) {
        let ended = BTreeMap::from([(id(programmer), ages.to_vec())]);
        let host = self.host(programmer);
        self.append(Event::from(LlmAnswered {
            key: key(),
            host,
            ended,
            asks: false,
        }));
    }

    /// A call that fails now and took `took_ms`.
    fn fail_after(&mut self, took_ms: u64, programmer: u32, task: &str) {
        self.fail_as(
            programmer,
            task,
            Fault::Timeout,
            FailedCall {
                took_ms,
                ..FailedCall::default()
            },
        );
    }
}

#[test]
fn three_slow_calls_among_forty_eight_shut_nothing() {
    let mut log = Log::new(6, 6);
    for n in 4..=6 {
        log.answer(
            n,
            &(0..15).map(|call| 500 + call * 1000).collect::<Vec<_>>(),
        );
    }
    for n in 1..=3 {
        log.fail_after(20_000, n, &format!("slow{n}"));
    }
    assert!(
        (1..=6).all(|n| log.shut(n).is_none()),
        "most calls of the last twenty seconds were answered"
    );
}

#[test]
fn what_was_answered_before_the_failures_began_does_not_speak_for_it() {
    let mut log = Log::new(6, 6);
    // Nine minutes of good calls; one in a while had failed.
    for minute in 0..9 {
        log.answer(2, &(0..55).map(|call| call * 1000).collect::<Vec<_>>());
        log.fail_after(5000, 2, &format!("once{minute}"));
        log.wait(60_000);
        assert_eq!(log.shut(2), None, "minute {minute}");
    }
    log.answer(3, &[1, 2, 3, 4, 5]);
    log.wait(1);
    for (n, shut) in [(1, None), (3, None), (4, Some(Scope::Pool))] {
        log.fail_after(0, n, &format!("t{n}"));
        assert_eq!(log.shut(5), shut, "it is dead: three failures are enough");
    }
}

#[test]
fn the_share_of_a_programmer_is_that_of_its_own_calls() {
    let mut log = Log::new(2, 2);
    log.answer(2, &[0; 40]);
    for task in ["a", "b", "c"] {
        log.fail_after(9000, 1, task);
    }
    assert_eq!(
        (log.shut(1), log.shut(2)),
        (Some(Scope::Programmer(id(1))), None),
        "its key, its egress"
    );
    let mut log = Log::new(2, 2);
    log.answer(1, &[0; 4]);
    for task in ["a", "b", "c"] {
        log.fail_after(9000, 1, task);
    }
    assert_eq!(log.shut(1), None, "four of its own were answered");
}

#[test]
fn the_share_matters_while_failures_are_remembered_or_somebody_asks() {
    let mut log = Log::new(2, 2);
    let doubted = |log: &Log| {
        log.fold
            .breakers
            .in_doubt(&key(), log.fold.now())
            .map(|since| log.at - since.0)
    };
    assert_eq!(doubted(&log), None, "all is well");
    let (key, host) = (key(), log.host(1));
    log.append(Event::from(LlmAnswered {
        key,
        host,
        ended: BTreeMap::new(),
        asks: true,
    }));
    log.wait(10_000);
    assert_eq!(doubted(&log), Some(10_000), "a call is in trouble");
    log.wait(20_000);
    assert_eq!(doubted(&log), None, "that is over");
    log.fail_after(0, 1, "a");
    log.wait(599_999);
    assert_eq!(doubted(&log), Some(599_999), "a call has failed");
    log.wait(1);
    assert_eq!(doubted(&log), None, "long ago");
}

#[test]
fn events_of_older_versions_mean_what_they_did() {
    let (mut log, mut alike) = (Log::new(6, 6), Log::new(6, 6));
    for log in [&mut log, &mut alike] {
        let mut rules =
            serde_json::to_value(&log.fold.configuration().expect("one").rules).expect("JSON");
        rules["breaker"]
            .as_object_mut()
            .expect("breakers")
            .remove("failed_of_1000");
        let configured =
            json!({"kind": "configured", "hash": "old", "capabilities": {}, "rules": rules});
        log.append(serde_json::from_value(configured).expect("it is read"));
        log.answer(1, &[0; 40]);
    }
    for n in 1..=3 {
        let mut failure = serde_json::to_value(log.failure(n, &format!("t{n}"), Fault::Timeout, 0))
            .expect("JSON");
        failure.as_object_mut().expect("an event").remove("call");
        log.append(serde_json::from_value(failure).expect("it is read"));
        alike.fail_after(9000, n, &format!("t{n}"));
    }
    assert_eq!(
        (log.shut(6), alike.shut(6)),
        (Some(Scope::Pool), Some(Scope::Pool)),
        "whatever the share"
    );
}

proptest! {
    #[test]
    fn it_opens_if_and_only_if_the_share_is_reached_too(
        calls in proptest::collection::vec((1u32..5, 0u64..3000, 0u64..5000, 0u8..4), 1..60),
    ) {
        let mut log = Log::new(4, 4);
        // (began, ended, failed) of all calls.
        let mut ended: Vec<(u64, u64, bool)> = Vec::new();
        let mut failed_by = Vec::new();
        for (index, (n, pause, took, luck)) in calls.into_iter().enumerate() {
            log.wait(pause);
            let failed = luck == 0;
            ended.push((log.at.saturating_sub(took), log.at, failed));
            if failed {
                failed_by.push(n);
                log.fail_after(took, n, &format!("t{index}"));
            } else {
                log.answer(n, &[0]);
            }
            let failures: Vec<_> = ended.iter().filter(|(.., failed)| *failed).collect();
            let began = failures.iter().rev().take(3).map(|(began, ..)| *began).min().unwrap_or_default();
            let since = ended.iter().filter(|(_, at, _)| *at >= began);
            let (bad, all) = since.fold((0, 0), |(bad, all), (.., failed)| (bad + usize::from(*failed), all + 1));
            let sources: BTreeSet<u32> = failed_by.iter().copied().collect();
            let enough = failures.len() >= 3 && sources.len() >= 2 && bad * 2 >= all;
            match log.shut(n) {
                None => prop_assert!(!(failed && enough), "{bad} of {all} failed: {ended:?}"),
                Some(Scope::Pool) => {
                    prop_assert!(enough, "{bad} of {all} failed: {ended:?}");
                    break;
                }
                // From here on it has one voice.
                Some(Scope::Programmer(_) | Scope::Host(_)) => break,
            }
        }
    }

    #[test]
    fn an_llm_that_dies_is_shut_with_the_threshold_whatever_it_did_before(
        before in proptest::collection::vec((1u32..5, 0u64..9000, any::<bool>()), 0..80),
        took in 0u64..1000,
    ) {
        let mut log = Log::new(4, 4);
        for (index, (n, pause, failed)) in before.into_iter().enumerate() {
            log.wait(pause);
            // Among many good ones, so that nothing is shut before.
            log.answer(n, &[0; 40]);
            if failed {
                log.fail_after(100, n, &format!("before{index}"));
            }
            prop_assert!((1..=4).all(|n| log.shut(n).is_none()), "it works");
        }
        log.wait(took + 1);
        for n in 1..=3 {
            log.fail_after(took, n, &format!("dead{n}"));
        }
        prop_assert_eq!(log.shut(4), Some(Scope::Pool));
    }
}
