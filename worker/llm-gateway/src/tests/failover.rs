//! One LLM after another, over real HTTP, with a provider that fails on command.

use std::collections::BTreeSet as Set;
use std::sync::Mutex;

use futures_util::future::{BoxFuture, FutureExt as _};
use pool_tests::scripted_llm::{Answer, Behave, Fail, Rule};

use super::super::permits::{Epoch, LlmFailure, Permits, Unavailable, UnavailableReason};
use super::super::record::{NoLlmLeft, NotAnswered};
use super::*;

/// A pool that shuts LLMs on command, has money or not, and remembers the reports that it gets.
#[derive(Default)]
struct SmallPool {
    shut: Mutex<Set<LlmName>>,
    broke: bool,
    /// A breaker opens with the first failure.
    strict: bool,
    told: Mutex<Vec<String>>,
}

impl SmallPool {
    fn shut(&self, llm: &str) {
        self.shut.lock().expect("no panic").insert(name(llm));
    }

    fn tell(&self, what: String) {
        self.told.lock().expect("no panic").push(what);
    }

    fn told(&self) -> Vec<String> {
        self.told.lock().expect("no panic").clone()
    }
}

impl Permits for SmallPool {
    fn check(&self, llm: &LlmName) -> Result<Epoch, Unavailable> {
        let shut = self.shut.lock().expect("no panic").contains(llm);
        let detail = "open for 5 minutes, secret".to_owned();
        if shut {
            Err(Unavailable {
                reason: UnavailableReason::Breaker,
                detail,
            })
        } else {
            Ok(Epoch(7))
        }
    }

    fn reserve(&self) -> BoxFuture<'_, Result<(), Unavailable>> {
        self.tell("reserve".to_owned());
        let unavailable = || Unavailable {
            reason: UnavailableReason::Budget,
            detail: "$0.40 are missing".to_owned(),
        };
        async move {
            if self.broke {
                Err(unavailable())
            } else {
                Ok(())
            }
        }
        .boxed()
    }

    fn failed(&self, llm: &LlmName, failed: &LlmFailure) {
        self.tell(format!(
            "{llm} failed in {}: {}",
            failed.epoch.0,
            failed.class.label()
        ));
        if self.strict {
            self.shut(llm.as_str());
        }
    }

    fn in_trouble(&self, _: &LlmName) {}

    fn refuses_the_task(&self, _: &LlmName) -> bool {
        false
    }

    fn succeeded(&self, llm: &LlmName) {
        self.tell(format!("{llm} succeeded"));
    }
}

fn plan_of(llms: &[&str], pool: &Arc<SmallPool>) -> CallPlan {
    CallPlan {
        llms: llms.iter().map(|llm| name(llm)).collect(),
        permits: pool.clone(),
        ..plan("free/small")
    }
}

fn retrying(max_retries: u32, delay_ms: u64) -> Failover {
    Failover {
        max_retries,
        retry_delay: Duration::from_millis(delay_ms),
        ..failover()
    }
}

fn status(status: u16) -> Answer {
    Answer {
        fail: Some(Fail {
            status,
            ..Fail::default()
        }),
        ..Answer::default()
    }
}

fn behave(behave: Behave) -> Answer {
    Answer {
        behave: Some(behave),
        say: Some("half of this is not enough".to_owned()),
        ..Answer::default()
    }
}

fn limited(seconds: u64) -> Answer {
    Answer {
        fail: Some(Fail {
            status: 429,
            retry_after_s: Some(seconds),
            ..Fail::default()
        }),
        ..Answer::default()
    }
}

/// A rule that gives this answer to every call of the model.
fn outage(model: &str, answer: Answer) -> Rule {
    Rule {
        model: model.to_owned(),
        answer,
        hold: false,
        prompt: None,
    }
}

fn classes(record: &RunRecord) -> Vec<(String, &'static str)> {
    record
        .calls
        .iter()
        .map(|call| (call.llm.to_string(), call.class.label()))
        .collect()
}

#[tokio::test]
async fn whatever_way_the_primary_fails_the_backup_answers_the_same_call() {
    for (what, answer, class) in [
        ("429", status(429), "rate_limited"),
        ("429 for an hour", limited(3_600), "rate_limited"),
        ("500", status(500), "unavailable"),
        ("529", status(529), "unavailable"),
        ("401", status(401), "auth"),
        ("404", status(404), "model_unavailable"),
        ("400", status(400), "bad_request"),
        ("hang", behave(Behave::Hang), "timeout"),
        ("drop", behave(Behave::Drop), "unavailable"),
        ("cut", behave(Behave::CutStream), "unavailable"),
        ("broken JSON", behave(Behave::BrokenJson), "bad_answer"),
        ("no choices", behave(Behave::NoChoices), "bad_answer"),
        (
            "context",
            behave(Behave::ContextTooLong),
            "context_too_long",
        ),
    ] {
        let pool = Arc::new(SmallPool::default());
        let failover = Failover {
            call_timeout: Duration::from_millis(500),
            ..failover()
        };
        let rig = Rig::start(CallPlan {
            failover,
            ..plan_of(&["free/small", "paid/gpt"], &pool)
        })
        .await;
        rig.llm.set_rules(vec![outage("small", answer)]);
        let (seen, body) = rig.ask(json!({"say": "Hello."})).await;
        assert_eq!(
            (seen, &body["choices"][0]["message"]["content"]),
            (200, &json!("Hello.")),
            "{what}: {body}"
        );
        assert_eq!(
            body["model"], "free/small",
            "{what}: under the name that the agent knows"
        );
        let record = rig.session.record();
        let expected = [
            ("free/small".to_owned(), class),
            ("paid/gpt".to_owned(), "ok"),
        ];
        assert_eq!(classes(&record), expected, "{what}: both are in the record");
        assert_eq!(record.no_llm_left, None, "{what}: one was left");
        let mut told = vec!["reserve".to_owned(), "paid/gpt succeeded".to_owned()];
        if record.calls[0].class.is_outage() {
            told.insert(0, format!("free/small failed in 7: {class}"));
        }
        assert_eq!(
            pool.told(),
            told,
            "{what}: only the LLM's failures reach the pool"
        );
        let usage = usage(&record.calls);
        let by_llm: Vec<_> = usage
            .by_llm
            .iter()
            .map(|of| (of.llm.as_str(), of.calls, of.failed_calls))
            .collect();
        assert_eq!(
            by_llm,
            [("free/small", 1, 1), ("paid/gpt", 1, 0)],
            "{what}: each has its own usage"
        );
        assert_eq!(
            usage.by_llm[1].cost_usd, usage.cost_usd,
            "{what}: only the paid LLM costs money"
        );
    }
}

#[tokio::test]
async fn an_llm_that_cannot_even_be_asked_is_passed_over() {
    for (llm, class) in [
        ("gone/small", "unavailable"),
        ("keyless/small", "auth"),
        ("anthropic/claude", "bad_request"),
        ("unknown/x", "bad_request"),
    ] {
        let pool = Arc::new(SmallPool::default());
        let rig = Rig::start(plan_of(&[llm, "free/small"], &pool)).await;
        assert_eq!(
            rig.ask(json!({"say": "x"})).await.0,
            200,
            "{llm}: the backup answers"
        );
        assert_eq!(
            classes(&rig.session.record())[0],
            (llm.to_owned(), class),
            "{llm}"
        );
    }
}

#[tokio::test]
async fn a_failure_that_passes_is_repeated_on_the_same_llm_and_the_pool_does_not_hear_of_it() {
    let pool = Arc::new(SmallPool::default());
    let plan = CallPlan {
        failover: retrying(2, 10),
        ..plan_of(&["free/small", "paid/gpt"], &pool)
    };
    let rig = Rig::start(plan).await;
    let (status, _) = rig
        .ask(json!([{"fail": {"status": 500}}, {"behave": "broken_json"}, {"say": "x"}]))
        .await;
    assert_eq!(status, 200, "answered in the end");
    let small = "free/small".to_owned();
    let expected = [
        (small.clone(), "unavailable"),
        (small.clone(), "bad_answer"),
        (small, "ok"),
    ];
    assert_eq!(
        classes(&rig.session.record()),
        expected,
        "three calls of one LLM"
    );
    assert_eq!(pool.told(), ["free/small succeeded"], "all is well");
}

#[tokio::test]
async fn retries_have_an_end_and_count_as_one_failure_and_a_hang_has_none() {
    for (answer, tries) in [
        (status(503), 3),
        (behave(Behave::Hang), 1),
        (status(401), 1),
        (status(404), 1),
    ] {
        let pool = Arc::new(SmallPool::default());
        let failover = Failover {
            call_timeout: Duration::from_millis(300),
            ..retrying(2, 10)
        };
        let rig = Rig::start(CallPlan {
            failover,
            ..plan_of(&["free/small", "paid/gpt"], &pool)
        })
        .await;
        rig.llm.set_rules(vec![outage("small", answer.clone())]);
        assert_eq!(
            rig.ask(json!({"say": "x"})).await.0,
            200,
            "{answer:?}: the backup answers"
        );
        let record = rig.session.record();
        assert_eq!(
            record.calls.len(),
            tries + 1,
            "{answer:?}: all tries, and the backup"
        );
        let failures = pool
            .told()
            .iter()
            .filter(|told| told.contains("failed"))
            .count();
        assert_eq!(failures, 1, "{answer:?}: one failure: {:?}", pool.told());
    }
}

#[tokio::test]
async fn a_short_retry_after_is_waited_for_and_a_long_one_is_not() {
    for (seconds, expected) in [(1, "free/small"), (60, "paid/gpt")] {
        let pool = Arc::new(SmallPool::default());
        let plan = CallPlan {
            failover: retrying(2, 10),
            ..plan_of(&["free/small", "paid/gpt"], &pool)
        };
        let rig = Rig::start(plan).await;
        let began = tokio::time::Instant::now();
        rig.ask(json!([{"fail": {"status": 429, "retry_after_s": seconds}}, {"say": "x"}]))
            .await;
        assert_eq!(
            rig.last_call().llm,
            name(expected),
            "Retry-After {seconds}: who answered"
        );
        let waited = began.elapsed() >= Duration::from_secs(1);
        assert_eq!(
            waited,
            seconds == 1,
            "Retry-After {seconds}: took {:?}",
            began.elapsed()
        );
    }
}

#[tokio::test]
async fn an_llm_that_is_shut_while_a_call_waits_to_repeat_it_is_not_asked_again() {
    let pool = Arc::new(SmallPool::default());
    let plan = CallPlan {
        failover: retrying(9, 700),
        ..plan_of(&["free/small", "paid/gpt"], &pool)
    };
    let rig = Rig::start(plan).await;
    rig.llm.set_rules(vec![outage("small", status(500))]);
    let call = tokio::spawn(rig.request(&prompt(&json!({"say": "x"}))).send());
    until("the first try has failed", || {
        rig.session.record().calls.len() == 1
    })
    .await;
    assert_eq!(
        rig.session.open_calls(),
        1,
        "the agent's call is open while it waits"
    );
    pool.shut("free/small");
    let answer = call.await.expect("no panic").expect("an answer");
    assert_eq!(answer.status().as_u16(), 200, "the backup answers");
    assert_eq!(
        rig.session.record().calls.len(),
        2,
        "one try, and the backup"
    );
    let told = [
        "free/small failed in 7: unavailable",
        "reserve",
        "paid/gpt succeeded",
    ];
    assert_eq!(pool.told(), told, "its failure counts all the same");
}

#[tokio::test]
async fn whoever_waited_for_a_place_is_not_sent_to_an_llm_that_was_shut_meanwhile() {
    let pool = Arc::new(SmallPool {
        strict: true,
        ..SmallPool::default()
    });
    let failover = Failover {
        call_timeout: Duration::from_millis(500),
        ..failover()
    };
    let rig = Rig::start(CallPlan {
        failover,
        ..plan_of(&["narrow/small", "paid/gpt"], &pool)
    })
    .await;
    rig.llm
        .set_rules(vec![outage("small", behave(Behave::Hang))]);
    let calls = (0..3).map(|_| rig.ask(json!({"say": "x"})));
    let answers = futures_util::future::join_all(calls).await;
    assert!(
        answers.iter().all(|(status, _)| *status == 200),
        "the backup answers all: {answers:?}"
    );
    let hangs = rig
        .llm
        .requests()
        .iter()
        .filter(|request| request.model == "small")
        .count();
    assert_eq!(hangs, 1, "one call found out for all three");
}

#[tokio::test]
async fn llms_that_the_pool_has_shut_are_skipped() {
    let pool = Arc::new(SmallPool::default());
    pool.shut("free/small");
    let rig = Rig::start(plan_of(&["free/small", "paid/gpt"], &pool)).await;
    assert_eq!(
        rig.ask(json!({"say": "x"})).await.0,
        200,
        "the backup answers"
    );
    assert_eq!(
        classes(&rig.session.record()),
        [("paid/gpt".to_owned(), "ok")],
        "the primary was not asked"
    );
}

#[tokio::test]
async fn without_money_free_llms_go_on_and_paid_ones_are_not_asked() {
    let broke = || {
        Arc::new(SmallPool {
            broke: true,
            ..SmallPool::default()
        })
    };
    let rig = Rig::start(plan_of(&["paid/gpt", "free/small"], &broke())).await;
    assert_eq!(
        rig.ask(json!({"say": "x"})).await.0,
        200,
        "the free backup answers"
    );
    assert_eq!(
        classes(&rig.session.record()),
        [("free/small".to_owned(), "ok")],
        "and no other LLM was asked"
    );

    let pool = broke();
    let rig = Rig::start(plan_of(&["paid/gpt"], &pool)).await;
    for _ in 0..2 {
        let (status, body) = rig.ask(json!({"say": "x"})).await;
        assert_eq!(
            (status, &body["error"]["code"]),
            (400, &json!("budget")),
            "refused: {body}"
        );
    }
    let record = rig.session.record();
    let unavailable = Unavailable {
        reason: UnavailableReason::Budget,
        detail: "$0.40 are missing".to_owned(),
    };
    let left = NoLlmLeft {
        llms: vec![(name("paid/gpt"), NotAnswered::Unavailable(unavailable))],
    };
    assert_eq!(record.no_llm_left, Some(left), "the record says why");
    assert!(
        record.calls.is_empty() && rig.llm.requests().is_empty(),
        "nothing was sent, nothing was spent"
    );
    assert_eq!(
        pool.told(),
        ["reserve", "reserve"],
        "asked before every paid call"
    );
}

#[tokio::test]
async fn when_no_llm_is_left_the_agent_is_stopped_and_told_the_classes_only() {
    let pool = Arc::new(SmallPool::default());
    pool.shut("narrow/small");
    let rig = Rig::start(plan_of(&["free/small", "narrow/small", "paid/gpt"], &pool)).await;
    rig.llm.set_rules(vec![
        outage("small", status(429)),
        outage("gpt", status(500)),
    ]);
    let (seen, body) = rig.ask(json!({"say": "x"})).await;
    assert_eq!(seen, 400, "the status that stops every agent");
    let message = body["error"]["message"].as_str().expect("a message");
    let expected = "no LLM is left for this call: free/small: throttled, narrow/small: breaker, paid/gpt: unavailable";
    assert_eq!(message, expected, "each with its class, and no detail");
    let left = rig
        .session
        .record()
        .no_llm_left
        .expect("none was left")
        .to_string();
    let expected = "free/small: rate_limited; narrow/small: breaker (open for 5 minutes, secret); paid/gpt: unavailable";
    assert_eq!(left, expected, "the owner of the attempt reads more");

    rig.llm.set_rules(Vec::new());
    let open = tokio::spawn(rig.request(&prompt(&json!({"behave": "hang"}))).send());
    until("another call is open", || rig.session.open_calls() == 1).await;
    assert_eq!(
        rig.session.record().no_llm_left,
        None,
        "the newest call has found an LLM, or is still open"
    );
    open.abort();
    assert_eq!(
        rig.ask(json!({"say": "x"})).await.0,
        200,
        "when one is back"
    );
    assert_eq!(
        rig.session.record().no_llm_left,
        None,
        "and so has this one"
    );
}

#[tokio::test]
async fn the_agents_own_mistakes_and_limits_are_no_outage() {
    let pool = Arc::new(SmallPool::default());
    let both = || plan_of(&["paid/gpt", "free/small"], &pool);
    let rig = Rig::start(CallPlan {
        max_cost: MicroUsd(1),
        ..both()
    })
    .await;
    assert_eq!(
        rig.ask(json!({"say": "x"})).await.0,
        200,
        "the free LLM does what is too expensive"
    );
    let expected = [
        ("paid/gpt".to_owned(), "refused"),
        ("free/small".to_owned(), "ok"),
    ];
    assert_eq!(classes(&rig.session.record()), expected, "the record");

    let rig = Rig::start(CallPlan {
        max_tokens: 100,
        ..both()
    })
    .await;
    assert_eq!(
        rig.ask(json!({"say": "x"})).await.0,
        400,
        "tokens are counted for all of them"
    );
    assert_eq!(
        classes(&rig.session.record()),
        [("paid/gpt".to_owned(), "refused")],
        "so the second is not asked"
    );

    let rig = Rig::start(both()).await;
    let mut body = prompt(&json!({"say": "x"}));
    body["plugins"] = json!([1]);
    assert_eq!(
        rig.post(&body).await.status().as_u16(),
        400,
        "a request that cannot be priced"
    );
    assert_eq!(rig.session.record().calls.len(), 1, "is refused once");

    let rig = Rig::start(both()).await;
    rig.llm
        .set_rules(vec![outage("*", behave(Behave::ContextTooLong))]);
    assert_eq!(
        rig.ask(json!({"say": "x"})).await.0,
        400,
        "too long for both"
    );
    assert_eq!(rig.session.record().no_llm_left, None, "is not an outage");
    rig.llm.set_rules(vec![
        outage("gpt", status(500)),
        outage("small", behave(Behave::BrokenJson)),
    ]);
    assert_eq!(
        rig.ask(json!({"say": "x"})).await.0,
        400,
        "one is down and one talks nonsense"
    );
    assert_eq!(
        rig.session.record().no_llm_left,
        None,
        "is not an outage either"
    );
}

#[tokio::test]
async fn failover_moves_on_only_as_far_as_it_is_configured() {
    let only_timeouts = Failover {
        always_failover: false,
        failure_conditions: BTreeSet::from([FailureCondition::Timeout]),
        call_timeout: Duration::from_millis(300),
        ..failover()
    };
    let off = Failover {
        enabled: false,
        ..only_timeouts.clone()
    };
    for (failover, answer, expected) in [
        (only_timeouts.clone(), behave(Behave::Hang), 200),
        (only_timeouts.clone(), status(500), 400),
        (only_timeouts, status(429), 400),
        (off, behave(Behave::Hang), 400),
    ] {
        let pool = Arc::new(SmallPool::default());
        let case = format!(
            "{} {:?} {answer:?}",
            failover.enabled, failover.failure_conditions
        );
        let rig = Rig::start(CallPlan {
            failover,
            ..plan_of(&["free/small", "paid/gpt"], &pool)
        })
        .await;
        rig.llm.set_rules(vec![outage("small", answer)]);
        let (seen, _) = rig.ask(json!({"say": "x"})).await;
        assert_eq!(seen, expected, "{case}");
        let record = rig.session.record();
        assert_eq!(
            record.calls.len(),
            if seen == 200 { 2 } else { 1 },
            "{case}: the number of LLMs that were asked"
        );
        assert_eq!(
            record.no_llm_left.is_some(),
            seen == 400,
            "{case}: none is left that it may go to"
        );
    }
}

#[tokio::test]
async fn a_call_that_was_given_up_is_no_failure_of_the_llm() {
    let pool = Arc::new(SmallPool::default());
    let rig = Rig::start(plan_of(&["free/small", "paid/gpt"], &pool)).await;
    rig.llm
        .set_rules(vec![outage("small", behave(Behave::Hang))]);
    let agent = tokio::spawn(rig.request(&prompt(&json!({"say": "x"}))).send());
    until("the call is open", || !rig.llm.requests().is_empty()).await;
    agent.abort();
    until("the call has ended", || rig.session.open_calls() == 0).await;

    let agent = tokio::spawn(rig.request(&prompt(&json!({"say": "x"}))).send());
    until("another is open", || rig.llm.requests().len() == 2).await;
    let record = rig.session.close().await;
    assert_eq!(
        agent
            .await
            .expect("no panic")
            .expect("an answer")
            .status()
            .as_u16(),
        401,
        "the task has ended"
    );
    let small = || ("free/small".to_owned(), "timeout");
    assert_eq!(
        classes(&record),
        [small(), small()],
        "both are recorded, and no backup was asked"
    );
    assert_eq!(
        pool.told(),
        Vec::<String>::new(),
        "neither failure reaches the pool"
    );
}
