//! A refused key needs a probe as evidence, because one task's prompt can be refused. And the dialect of probes.

use super::*;
use crate::llm::Dialect;

const UNPROVEN: FailedCall = FailedCall {
    dialect: None,
    took_ms: 0,
    unproven: true,
};

impl Log {
    fn refuse(&mut self, programmer: u32, task: &str) {
        assert_eq!(
            self.fail_as(programmer, task, Fault::Auth, UNPROVEN),
            YES,
            "its breaker was closed"
        );
    }

    /// The breaker of this scope is probed at once.
    fn probe_of(&mut self, programmer: u32, scope: &Scope, fault: Option<Fault>) -> Verdict {
        let (scope, probe) = (scope.clone(), AttemptId::new());
        let probing = Event::from(ProbeStarted {
            key: key(),
            scope: scope.clone(),
            programmer: id(programmer),
            probe,
        });
        match self.append(probing) {
            YES => self.append(Event::from(ProbeEnded {
                key: key(),
                scope,
                probe,
                fault,
                retry_after_ms: None,
            })),
            refused @ Verdict::Refused(_) => refused,
        }
    }

    fn refuses(&self, programmer: u32, task: &str) -> bool {
        let task = TaskId::new(task).expect("an id");
        self.fold
            .breakers
            .refuses(&key(), &self.host(programmer), &task)
    }
}

fn of(programmer: u32) -> Scope {
    Scope::Programmer(id(programmer))
}

#[test]
fn a_refusal_with_one_task_is_put_to_the_proof_at_once_and_shuts_nothing_for_others() {
    let mut log = Log::new(10, 10);
    for n in 1..=5 {
        log.refuse(n, "odd");
        assert_eq!(log.shut(n), Some(of(n)), "until a probe has asked");
    }
    assert_eq!(
        log.shut(6),
        None,
        "one task proves nothing about others, however often it is delivered"
    );
    assert!(!log.refuses(1, "odd"), "nobody knows yet");
    for n in 1..=5 {
        assert_eq!(log.probe_of(n, &of(n), None), YES, "due at once");
        log.wait(2000);
        assert_eq!(log.shut(n), None, "the key is good");
    }
    assert!(
        log.refuses(1, "odd") && !log.refuses(1, "another"),
        "so it is this task's request that is refused"
    );
}

#[test]
fn that_a_task_is_refused_is_known_of_the_host_whose_key_is_good() {
    let mut log = Log::new(4, 2);
    log.refuse(1, "odd");
    log.refuse(3, "odd");
    assert_eq!(
        log.probe_of(1, &of(1), None),
        YES,
        "a probe on the first host"
    );
    assert_eq!(
        (log.refuses(2, "odd"), log.refuses(3, "odd")),
        (true, false),
        "the other may have another key"
    );
    log.wait(700_000);
    log.fail(2, "x", Fault::Timeout);
    assert!(!log.refuses(2, "odd"), "it is forgotten with the window");
}

#[test]
fn a_probe_that_is_refused_too_is_proof_also_against_the_others_that_were() {
    let mut log = Log::new(10, 10);
    log.refuse(1, "a");
    log.refuse(2, "a");
    assert_eq!(log.shut(3), None, "one task");
    assert_eq!(
        log.probe_of(1, &of(1), Some(Fault::Auth)),
        YES,
        "the key is bad"
    );
    assert_eq!(log.shut(3), Some(Scope::Pool), "everybody's");
    log.wait(COOLDOWN * 5);
    assert_eq!(
        log.probe(1, 1),
        NOT_DUE,
        "a wrong key is not mended by waiting"
    );
    log.wait(COOLDOWN);
    assert_eq!(log.probe(1, 1), YES, "six cooldowns");

    let mut alone = Log::new(1, 1);
    alone.refuse(1, "a");
    assert_eq!(
        alone.probe_of(1, &of(1), Some(Fault::Auth)),
        YES,
        "the only one finds out for itself"
    );
    alone.wait(COOLDOWN * 5);
    assert_eq!(
        alone.probe_of(1, &of(1), None),
        NOT_DUE,
        "and waits as long"
    );
}

#[test]
fn two_tasks_of_two_programmers_stop_everybody_until_one_probe_has_asked() {
    for (fault, shut) in [(Some(Fault::Auth), Some(Scope::Pool)), (None, None)] {
        let mut log = Log::new(10, 10);
        log.refuse(1, "a");
        log.refuse(2, "b");
        assert_eq!(log.shut(3), Some(Scope::Pool), "nobody else runs into it");
        assert_eq!(
            (log.probe(3, 1), log.probed(1, fault)),
            (YES, YES),
            "at once"
        );
        log.wait(COOLDOWN * 5);
        assert_eq!(log.shut(3), shut, "a bad key, or two prompts: {fault:?}");
        assert_eq!(
            (log.refuses(1, "a"), log.refuses(2, "b")),
            (fault.is_none(), fault.is_none()),
            "{fault:?}"
        );
        assert_eq!(log.probe(1, 2), NOT_DUE, "a bad key stays shut for long");
    }
}

#[test]
fn a_refused_task_that_was_followed_by_an_outage_does_not_lengthen_it() {
    let mut log = Log::new(10, 10);
    log.fail(1, "a", Fault::Timeout);
    log.fail(2, "b", Fault::Timeout);
    log.refuse(3, "c");
    assert_eq!(log.shut(4), Some(Scope::Pool), "three have failed");
    log.wait(COOLDOWN);
    assert_eq!(log.probe(1, 1), YES, "after one cooldown");
}

#[test]
fn probes_ask_in_the_dialect_that_failed_most_and_then_in_the_others() {
    let mut log = Log::new(10, 10);
    for (n, dialect) in [
        (1, Dialect::Chat),
        (2, Dialect::Responses),
        (3, Dialect::Responses),
    ] {
        let known = FailedCall {
            dialect: Some(dialect),
            ..FailedCall::default()
        };
        log.fail_as(n, &format!("t{n}"), Fault::Unavailable, known);
    }
    let mut asked = Vec::new();
    for probe in 1..=3 {
        log.wait(COOLDOWN);
        asked.extend(
            log.fold
                .breakers
                .due(log.fold.now())
                .map(|(.., dialect)| dialect.expect("it is known")),
        );
        assert_eq!(
            (
                log.probe(1, probe),
                log.probed(probe, Some(Fault::ModelUnavailable))
            ),
            (YES, YES),
            "not here"
        );
    }
    assert_eq!(
        asked,
        [Dialect::Responses, Dialect::Chat, Dialect::Responses],
        "in turn"
    );

    let mut old = Log::new(10, 10);
    old.open_for_all();
    old.wait(COOLDOWN);
    let due: Vec<_> = old
        .fold
        .breakers
        .due(old.fold.now())
        .map(|(.., dialect)| dialect)
        .collect();
    assert_eq!(due, [None], "older versions did not report it");
}
