//! Tests every class with every setting.

use std::collections::BTreeSet;

use pool_core::pool::{BreakerConfig, BreakerScope};

use super::*;

const DELAY: Duration = Duration::from_secs(2);

fn settings(always_failover: bool, conditions: &[FailureCondition]) -> Failover {
    Failover {
        enabled: true,
        max_retries: 2,
        retry_delay: DELAY,
        always_failover,
        failure_conditions: BTreeSet::from_iter(conditions.iter().copied()),
        call_timeout: Duration::from_secs(120),
        breaker: BreakerConfig {
            enabled: true,
            failure_threshold: 3,
            failed_of_1000: 500,
            window: DELAY,
            cooldown: DELAY,
            scope: BreakerScope::Pool,
        },
    }
}

fn limited(seconds: Option<u64>) -> CallClass {
    CallClass::RateLimited {
        retry_after: seconds.map(Duration::from_secs),
    }
}

fn every_class() -> [CallClass; 16] {
    [
        CallClass::Ok,
        limited(None),
        CallClass::Timeout,
        CallClass::UNAVAILABLE,
        CallClass::ModelUnavailable,
        CallClass::Auth,
        CallClass::ContextTooLong,
        CallClass::BadRequest,
        CallClass::BadAnswer,
        CallClass::Cut(Cut::OutputLimit),
        CallClass::Cut(Cut::TaskLimit(Cap::Tokens)),
        CallClass::Cut(Cut::TaskLimit(Cap::Cost)),
        CallClass::Cut(Cut::Filtered),
        CallClass::Cut(Cut::Unfinished),
        CallClass::Refused(Cap::Tokens),
        CallClass::Refused(Cap::Cost),
    ]
}

#[test]
fn only_what_may_pass_by_itself_is_tried_again() {
    let settings = settings(true, &[]);
    for class in every_class() {
        let expected = match class {
            CallClass::RateLimited { .. }
            | CallClass::Unavailable { .. }
            | CallClass::BadAnswer => Some(FailoverStep::Retry { after: DELAY }),
            CallClass::Ok
            | CallClass::Timeout
            | CallClass::ModelUnavailable
            | CallClass::Auth
            | CallClass::ContextTooLong
            | CallClass::BadRequest
            | CallClass::Cut(_)
            | CallClass::Refused(_) => None,
        };
        let retried = Some(next(&class, 1, &settings))
            .filter(|next| matches!(next, FailoverStep::Retry { .. }));
        assert_eq!(retried, expected, "{class:?}, after the first try");
        let again = Some(next(&class, 2, &settings))
            .filter(|next| matches!(next, FailoverStep::Retry { .. }));
        assert_eq!(again, expected, "{class:?}, after the first retry");
        assert!(
            !matches!(next(&class, 3, &settings), FailoverStep::Retry { .. }),
            "{class:?}: two retries and no third"
        );
    }
}

#[test]
fn a_short_retry_after_is_waited_for_and_a_long_one_is_not() {
    let of = |delay_s: u64| Failover {
        retry_delay: Duration::from_secs(delay_s),
        ..settings(true, &[])
    };
    for (wanted, delay_s, expected) in [
        (0, 2, Some(0)),
        (1, 2, Some(1)),
        (5, 2, Some(5)),
        (6, 2, None),
        (5, 0, Some(5)),
        (30, 30, Some(30)),
        (31, 30, None),
        (60, 3600, Some(60)),
        (61, 3600, None),
    ] {
        let expected = expected.map_or(FailoverStep::MoveOn, |s| FailoverStep::Retry {
            after: Duration::from_secs(s),
        });
        let next = next(&limited(Some(wanted)), 1, &of(delay_s));
        assert_eq!(
            next, expected,
            "Retry-After {wanted}, retry_delay_s {delay_s}"
        );
    }
}

#[test]
fn the_listed_failures_move_on_and_with_always_failover_all_that_another_llm_may_do_better() {
    use FailureCondition::{ApiError, ModelUnavailable, RateLimit, Timeout};
    let moving = |settings: &Failover| -> Vec<CallClass> {
        every_class()
            .into_iter()
            .filter(|class| next(class, 99, settings) == FailoverStep::MoveOn)
            .collect()
    };
    for (conditions, expected) in [
        (vec![], vec![]),
        (vec![Timeout], vec![CallClass::Timeout]),
        (
            vec![ApiError],
            vec![CallClass::UNAVAILABLE, CallClass::Auth],
        ),
        (vec![RateLimit], vec![limited(None)]),
        (vec![ModelUnavailable], vec![CallClass::ModelUnavailable]),
    ] {
        assert_eq!(
            moving(&settings(false, &conditions)),
            expected,
            "{conditions:?} only"
        );
    }
    let stays = [
        CallClass::Ok,
        CallClass::Cut(Cut::TaskLimit(Cap::Tokens)),
        CallClass::Refused(Cap::Tokens),
    ];
    let all: Vec<_> = every_class()
        .into_iter()
        .filter(|class| !stays.contains(class))
        .collect();
    assert_eq!(
        moving(&settings(true, &[])),
        all,
        "always_failover, whatever is listed"
    );
    for class in every_class() {
        let expected = if stays.contains(&class) {
            FailoverStep::GiveUp
        } else {
            FailoverStep::MoveOn
        };
        assert_eq!(
            next(&class, 99, &settings(true, &[])),
            expected,
            "{class:?}: what does not move on ends the call"
        );
    }
}

#[test]
fn without_failover_the_primary_is_alone() {
    let llms = ["a/1", "b/2"].map(|name| LlmName::new(name).expect("an LLM"));
    let off = Failover {
        enabled: false,
        ..settings(true, &[])
    };
    assert_eq!(
        candidates(&llms, &settings(true, &[])),
        llms,
        "all of them, in order"
    );
    assert_eq!(candidates(&llms, &off), &llms[..1], "the first one");
    assert!(candidates(&[], &off).is_empty(), "none from an empty list");
}

#[test]
fn five_classes_speak_of_the_llm() {
    let outages: Vec<_> = every_class()
        .into_iter()
        .filter(CallClass::is_outage)
        .collect();
    let expected = [
        limited(None),
        CallClass::Timeout,
        CallClass::UNAVAILABLE,
        CallClass::ModelUnavailable,
        CallClass::Auth,
    ];
    assert_eq!(outages, expected, "the breaker counts these and no other");
}
