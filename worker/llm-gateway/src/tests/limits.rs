//! Limits: time, places, tokens and money.

use pool_tests::scripted_llm::{Answer, Behave, Rule};

use super::super::class::Cut;
use super::super::estimate::of_json;
use super::*;

fn slow(call_timeout_ms: u64, llm: &str) -> CallPlan {
    let failover = Failover {
        call_timeout: Duration::from_millis(call_timeout_ms),
        ..failover()
    };
    CallPlan {
        failover,
        ..plan(llm)
    }
}

#[tokio::test]
async fn a_call_that_hangs_ends_at_its_time_out_and_is_charged_its_worst_case() {
    let rig = Rig::start(slow(300, "paid/gpt")).await;
    let (status, _) = rig.ask(json!({"behave": "hang"})).await;
    let call = rig.last_call();
    assert_eq!(
        (status, call.class),
        (400, CallClass::Timeout),
        "the time-out"
    );
    assert_eq!(
        (call.output_tokens, call.estimated),
        (16_384, true),
        "the highest limit that the provider got"
    );
    assert!(call.cost >= MicroUsd(163_840), "its price: {}", call.cost);
    until("the provider sees that the call was abandoned", || {
        rig.llm
            .requests()
            .iter()
            .any(|seen| seen.outcome == "client went away")
    })
    .await;
}

#[tokio::test]
async fn an_answer_without_usage_is_charged_its_worst_case() {
    let rig = Rig::start(plan("paid/gpt")).await;
    let mut body = prompt(&json!({"say": "x", "usage": "none"}));
    body["max_tokens"] = json!(1_000);
    rig.post(&body).await;
    let call = rig.last_call();
    assert_eq!(
        (call.class.clone(), call.output_tokens, call.estimated),
        (CallClass::Ok, 1_000, true),
        "{call:?}"
    );
    assert_eq!(
        call.input_tokens,
        of_json(&body.to_string()).tokens,
        "the upper estimate of the request"
    );
}

#[tokio::test]
async fn calls_over_max_concurrent_wait_and_waiting_is_no_time_out() {
    let rig = Rig::start(slow(1_400, "narrow/small")).await;
    let answer = json!({"say": "x", "delay_ms": 500});
    let calls = (0..3).map(|_| rig.ask(answer.clone()));
    let answers = futures_util::future::join_all(calls).await;
    assert!(
        answers.iter().all(|(status, _)| *status == 200),
        "each of the three came in time: {answers:?}"
    );
    let mut times: Vec<Duration> = rig
        .session
        .record()
        .calls
        .iter()
        .map(|call| call.duration)
        .collect();
    times.sort();
    assert!(
        times[1] >= Duration::from_secs(1),
        "one after another, waiting counted as time: {times:?}"
    );
    assert!(
        times[2] >= Duration::from_millis(1_500),
        "the last one waited for two: {times:?}"
    );
}

#[tokio::test]
async fn an_agent_that_went_away_while_its_call_waited_has_made_none() {
    let rig = Rig::start(plan("narrow/small")).await;
    let holder = tokio::spawn(rig.request(&prompt(&json!({"behave": "hang"}))).send());
    until("the only place is taken", || !rig.llm.requests().is_empty()).await;
    let waiting = tokio::spawn(rig.request(&prompt(&json!({"say": "x"}))).send());
    until("the second call waits", || rig.session.open_calls() == 2).await;
    waiting.abort();
    until("the second call is gone", || rig.session.open_calls() == 1).await;
    assert!(
        rig.session.record().calls.is_empty(),
        "nothing was sent, nothing is recorded"
    );
    holder.abort();
    until("the place is free", || rig.session.open_calls() == 0).await;
    assert_eq!(
        rig.ask(json!({"say": "x"})).await.0,
        200,
        "and can be taken again"
    );
}

#[tokio::test]
async fn the_token_limit_of_a_task_holds_call_by_call() {
    let rig = Rig::start(plan("free/small")).await;
    let use_up = |input: u64, output: u64| json!({"say": "x", "usage": {"input_tokens": input, "output_tokens": output}});
    // Long enough for this many tokens, but known to have few.
    let mut long = prompt(&use_up(70_000, 0));
    long["messages"][0]["content"] = json!(format!(
        "SCRIPT: {}{}",
        use_up(70_000, 0),
        " ".repeat(66_000)
    ));
    rig.post(&long).await;
    assert_eq!(
        rig.llm.requests()[0].fields.get("max_tokens"),
        None,
        "plenty left: the request is as it was"
    );
    rig.ask(use_up(4_000, 5_900)).await;
    let limit = rig.llm.requests()[1].fields["max_tokens"]
        .as_u64()
        .expect("a limit");
    assert!(
        (9_900..10_000).contains(&limit),
        "10,000 left, less the input: {limit}"
    );
    let (status, body) = rig.ask(use_up(1, 0)).await;
    assert_eq!(
        (status, &body["error"]["code"]),
        (400, &json!("refused")),
        "100 left is too little"
    );
    let call = rig.last_call();
    assert_eq!(call.class, CallClass::Refused(Cap::Tokens), "the record");
    assert!(call.message.contains("100 left"), "{}", call.message);
    assert_eq!(rig.llm.requests().len(), 2, "the provider saw two calls");
}

#[tokio::test]
async fn the_cost_cap_of_a_task_lowers_and_then_refuses() {
    let rig = Rig::start(CallPlan {
        max_cost: MicroUsd(20_000),
        ..plan("paid/gpt")
    })
    .await;
    rig.ask(json!({"say": "x", "usage": {"input_tokens": 0, "output_tokens": 1_900}}))
        .await;
    let limit = rig.llm.requests()[0].fields["max_tokens"]
        .as_u64()
        .expect("a limit");
    assert!(
        (1_900..2_000).contains(&limit),
        "20,000 micro-dollars buy 2,000 tokens, less the input: {limit}"
    );
    let (status, _) = rig.ask(json!({"say": "x"})).await;
    assert_eq!(
        (status, rig.last_call().class),
        (400, CallClass::Refused(Cap::Cost)),
        "1,000 micro-dollars are too little"
    );
    assert_eq!(
        usage(&rig.session.record().calls).cost_usd,
        MicroUsd(19_000),
        "what was spent"
    );
}

#[tokio::test]
async fn two_calls_at_once_cannot_spend_the_same_money() {
    let rig = Rig::start(CallPlan {
        max_cost: MicroUsd(20_000),
        ..plan("paid/gpt")
    })
    .await;
    let first = tokio::spawn(rig.request(&prompt(&json!({"behave": "hang"}))).send());
    until("the first call is open", || !rig.llm.requests().is_empty()).await;
    rig.ask(json!({"say": "x"})).await;
    assert_eq!(
        rig.last_call().class,
        CallClass::Refused(Cap::Cost),
        "the open call has all of it set aside"
    );
    first.abort();
}

#[tokio::test]
async fn an_answer_that_is_cut_at_the_agents_own_limit_is_the_agents_and_no_good_call() {
    let rig = Rig::start(plan("paid/gpt")).await;
    let mut body = prompt(&json!({"behave": "length", "say": "Half of this."}));
    body["max_tokens"] = json!(900);
    let response = rig.post(&body).await;
    assert_eq!(response.status(), 200, "it asked for no more");
    let answer: Value = response.json().await.expect("JSON");
    assert_eq!(
        answer["choices"][0]["finish_reason"], "length",
        "and the reply says so"
    );
    assert_eq!(
        rig.last_call().class,
        CallClass::Cut(Cut::OutputLimit),
        "the record"
    );
}

#[tokio::test]
async fn an_answer_that_is_cut_at_what_the_task_has_left_goes_to_no_llm_that_has_less() {
    for (limits, cut, asked) in [
        (
            CallPlan {
                max_tokens: 2_000,
                ..plan("paid/gpt")
            },
            Cut::TaskLimit(Cap::Tokens),
            1,
        ),
        (
            CallPlan {
                max_cost: MicroUsd(20_000),
                ..plan("paid/gpt")
            },
            Cut::TaskLimit(Cap::Cost),
            2,
        ),
        (plan("paid/gpt"), Cut::OutputLimit, 2),
    ] {
        let rig = Rig::start(CallPlan {
            llms: vec![name("paid/gpt"), name("free/small")],
            ..limits
        })
        .await;
        rig.llm.set_rules(vec![Rule {
            model: "gpt".to_owned(),
            answer: cut_short(),
            hold: false,
            prompt: None,
        }]);
        let (status, _) = rig.ask(json!({"say": "All of it."})).await;
        let record = rig.session.record();
        assert_eq!(record.calls[0].class, CallClass::Cut(cut), "the record");
        assert_eq!(
            (record.calls.len(), status == 200),
            (asked, asked == 2),
            "{cut:?}: who is asked next"
        );
    }
}

fn cut_short() -> Answer {
    Answer {
        behave: Some(Behave::Length),
        say: Some("Half of this.".to_owned()),
        ..Answer::default()
    }
}

#[tokio::test]
async fn an_absurd_usage_is_charged_the_worst_case() {
    for (input, output) in [
        (1_000_000_000_000_000_000_u64, 5),
        (50_000, 5),
        (10, 1_001),
        (10, u64::MAX),
    ] {
        let rig = Rig::start(plan("paid/gpt")).await;
        let mut body =
            prompt(&json!({"say": "x", "usage": {"input_tokens": input, "output_tokens": output}}));
        body["max_tokens"] = json!(1_000);
        assert_eq!(
            rig.post(&body).await.status(),
            200,
            "the answer is all right"
        );
        let call = rig.last_call();
        let worst = (of_json(&body.to_string()).tokens, 1_000);
        assert_eq!(
            (call.input_tokens, call.output_tokens),
            worst,
            "{input} and {output} are not believed"
        );
        assert!(
            call.estimated && call.cost < MicroUsd(20_000),
            "{input} and {output}: {call:?}"
        );
    }
    for (input, output, choices) in [(500, 1_000, 1), (10, 3_000, 3)] {
        let rig = Rig::start(plan("paid/gpt")).await;
        let mut body =
            prompt(&json!({"say": "x", "usage": {"input_tokens": input, "output_tokens": output}}));
        (body["max_tokens"], body["n"]) = (json!(1_000), json!(choices));
        rig.post(&body).await;
        let call = rig.last_call();
        assert_eq!(
            (call.input_tokens, call.output_tokens, call.estimated),
            (input, output, false),
            "a usage that can be true"
        );
    }
}

#[tokio::test]
async fn an_absurd_usage_of_a_probe_is_charged_its_worst_case() {
    let rig = Rig::start(plan("paid/gpt")).await;
    let usage = json!({"input_tokens": 1_000_000_000, "output_tokens": 1});
    let rules = json!([{"model": "*", "say": "OK", "usage": usage}]);
    rig.client
        .put(format!("{}/script/rules", rig.llm.url()))
        .json(&rules)
        .send()
        .await
        .expect("the rules are set");
    let upstreams = upstreams(&rig.llm);
    let most = upstreams
        .probe_cost(&name("paid/gpt"), None)
        .expect("a price");
    let probed = upstreams
        .probe(&name("paid/gpt"), None, Duration::from_secs(10))
        .await;
    assert_eq!(
        (probed.fault, probed.cost),
        (None, most),
        "it answers, and costs what was set aside"
    );
}

#[tokio::test]
async fn a_text_that_no_word_is_in_stays_within_the_cost_cap() {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut state = 1_u64;
    let base64: String = (0..60_000)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            char::from(ALPHABET[(state >> 58) as usize])
        })
        .collect();
    let real = tiktoken_rs::o200k_base()
        .expect("a tokenizer")
        .encode_ordinary(&base64)
        .len();
    let most = MicroUsd(real as u64 - 1_000);
    let rig = Rig::start(CallPlan {
        max_cost: most,
        ..plan("paid/gpt")
    })
    .await;
    let mut body =
        prompt(&json!({"say": "x", "usage": {"input_tokens": real, "output_tokens": 1}}));
    body["messages"]
        .as_array_mut()
        .expect("a list")
        .push(json!({"role": "user", "content": base64}));
    rig.post(&body).await;
    let spent = usage(&rig.session.record().calls).cost_usd;
    assert!(
        spent <= most,
        "{real} tokens at a micro-dollar each, {most} allowed, {spent} booked"
    );
}

#[tokio::test]
async fn a_provider_that_counts_a_part_of_a_long_prompt_has_cut_it() {
    for (input, cut) in [(4_096, true), (30_000, false)] {
        let rig = Rig::start(CallPlan {
            max_tokens: 1_000_000,
            ..plan("free/small")
        })
        .await;
        let script = json!({"say": "x", "usage": {"input_tokens": input, "output_tokens": 1}});
        let mut body = prompt(&script);
        let text =
            "let total = items.iter().map(|item| item.price * item.count).sum();\n".repeat(2_200);
        let messages = body["messages"].as_array_mut().expect("a list");
        messages.insert(0, json!({"role": "system", "content": text}));
        assert_eq!(
            rig.post(&body).await.status(),
            200,
            "the agent gets the answer"
        );
        let record = rig.session.record();
        assert_eq!(rig.last_call().prompt_cut, cut, "{input} tokens of 150 kB");
        assert_eq!(record.cut_prompt().is_some(), cut, "the run says so");
    }
}
