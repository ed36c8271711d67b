use serde_json::json;

use super::*;

fn openai(usage: Value) -> Option<Reported> {
    let answer = json!({"usage": usage});
    Reported::of_openai(answer.as_object().expect("an object"))
}

const NONE: Tokens = Tokens {
    input: 0,
    cached_input: 0,
    cache_write: 0,
    cache_write_1h: 0,
    output: 0,
};

fn tokens(input: u64, cached_input: u64, output: u64) -> Tokens {
    Tokens {
        input,
        cached_input,
        output,
        ..NONE
    }
}

fn written(cache_write: u64, tokens: Tokens) -> Tokens {
    Tokens {
        cache_write,
        ..tokens
    }
}

#[test]
fn usage_is_read_as_providers_write_it() {
    for (usage, expected, case) in [
        (
            json!({"prompt_tokens": 10, "completion_tokens": 4}),
            Some(tokens(10, 0, 4)),
            "the least",
        ),
        (
            json!({"prompt_tokens": 10, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 6}}),
            Some(tokens(10, 6, 4)),
            "cached, as OpenAI reports it",
        ),
        (
            json!({"input_tokens": 10, "output_tokens": 4, "input_tokens_details": {"cached_tokens": 6, "cache_write_tokens": 3}}),
            Some(written(3, tokens(10, 6, 4))),
            "written, as OpenAI's Responses report it",
        ),
        (
            json!({"prompt_tokens": 3000, "completion_tokens": 0, "prompt_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 3000}}),
            Some(written(3000, tokens(3000, 0, 0))),
            "written, as chat completions report it",
        ),
        (
            json!({"prompt_tokens": 98_805, "completion_tokens": 5_120, "total_tokens": 103_925,
                "prompt_tokens_details": {"cached_tokens": 66_360, "cache_creation_tokens": 32_435},
                "cache_read_input_tokens": 66_360, "cache_creation_input_tokens": 32_435}),
            Some(written(32_435, tokens(98_805, 66_360, 5_120))),
            "both ways at once, as LiteLLM reports Anthropic's",
        ),
        (
            json!({"prompt_tokens": 6, "completion_tokens": 5, "cache_read_input_tokens": 40, "cache_creation_input_tokens": 20}),
            Some(written(20, tokens(66, 40, 5))),
            "Anthropic's counts beside the prompt",
        ),
        (
            json!({"prompt_tokens": 100, "completion_tokens": 5, "total_tokens": 165, "cache_read_input_tokens": 40,
                "cache_creation_input_tokens": 20}),
            Some(written(20, tokens(160, 40, 5))),
            "the total tells that they are beside the prompt",
        ),
        (
            json!({"prompt_tokens": 100, "completion_tokens": 5, "total_tokens": 125,
                "prompt_tokens_details": {"cached_tokens": 40, "cache_write_tokens": 20}}),
            Some(written(20, tokens(120, 40, 5))),
            "only the written ones are beside it",
        ),
        (
            json!({"prompt_tokens": 10, "completion_tokens": 4, "prompt_cache_hit_tokens": 7, "prompt_cache_miss_tokens": 3}),
            Some(tokens(10, 7, 4)),
            "cached, as DeepSeek reports it",
        ),
        (
            json!({"prompt_tokens": 10, "completion_tokens": 4, "cached_tokens": 7}),
            Some(tokens(10, 7, 4)),
            "cached, as Moonshot reports it",
        ),
        (
            json!({"prompt_tokens": 1469, "completion_tokens": 744, "total_tokens": 2496}),
            Some(tokens(1469, 0, 1027)),
            "Gemini's thinking is in the total only",
        ),
        (
            json!({"prompt_tokens": 10, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 99}}),
            Some(tokens(109, 99, 4)),
            "more cached than input: it lies beside",
        ),
        (
            json!({"prompt_tokens": 3000, "completion_tokens": 1, "total_tokens": 3001,
                "prompt_tokens_details": {"cached_tokens": 0, "cache_creation_input_tokens": 3000}}),
            Some(written(3000, tokens(3000, 0, 1))),
            "written, as Qwen reports it",
        ),
        (
            json!({"prompt_tokens": 10.0, "completion_tokens": 4e0, "prompt_tokens_details": {"cached_tokens": 6.0}}),
            Some(tokens(10, 6, 4)),
            "whole floats",
        ),
        (
            json!({"prompt_tokens": 10, "total_tokens": 14}),
            Some(tokens(10, 0, 4)),
            "the output is the rest of the total",
        ),
        (
            json!({"completion_tokens": 4, "total_tokens": 14}),
            Some(tokens(10, 0, 4)),
            "the input is the rest of the total",
        ),
        (
            json!({"prompt_tokens": 10, "total_tokens": 10}),
            None,
            "a total without any output",
        ),
        (
            json!({"prompt_tokens": 10.5, "completion_tokens": 4}),
            None,
            "half a token",
        ),
        (
            json!({"prompt_tokens": -1, "completion_tokens": 4}),
            None,
            "nonsense",
        ),
        (json!({"prompt_tokens": 10}), None, "only half of the usage"),
        (json!({"total_tokens": 10}), None, "only the total"),
        (Value::Null, None, "nothing"),
    ] {
        let read = openai(usage.clone()).map(|reported| reported.tokens);
        assert_eq!(read, expected, "{case}: {usage}");
    }
}

#[test]
fn cache_writes_are_marked_by_their_time() {
    let marked = json!({"prompt_tokens": 300, "completion_tokens": 1, "cache_creation_input_tokens": 200,
        "cache_creation": {"ephemeral_5m_input_tokens": 80, "ephemeral_1h_input_tokens": 120}});
    let read = openai(marked).expect("a usage");
    assert_eq!(
        (
            read.tokens.cache_write,
            read.tokens.cache_write_1h,
            read.unmarked_writes
        ),
        (80, 120, false),
        "in chat completions"
    );
    let unmarked =
        json!({"prompt_tokens": 300, "completion_tokens": 1, "cache_creation_input_tokens": 200});
    assert!(
        openai(unmarked).expect("a usage").unmarked_writes,
        "nothing says how long"
    );
    for (created, short, hour) in [
        (
            json!({"ephemeral_5m_input_tokens": 80, "ephemeral_1h_input_tokens": 120}),
            80,
            120,
        ),
        (
            json!({"ephemeral_5m_input_tokens": 50, "ephemeral_1h_input_tokens": 0}),
            50,
            150,
        ),
        (
            json!({"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0}),
            0,
            200,
        ),
        (
            json!({"ephemeral_5m_input_tokens": 300, "ephemeral_1h_input_tokens": 0}),
            300,
            0,
        ),
    ] {
        let usage = json!({"input_tokens": 1, "output_tokens": 1, "cache_creation_input_tokens": 200, "cache_creation": created});
        let read = Reported::of_messages(&usage).expect("a usage").tokens;
        assert_eq!(
            (read.cache_write, read.cache_write_1h),
            (short, hour),
            "{usage}"
        );
        assert_eq!(read.input, 1 + short + hour, "{usage}");
    }
}

#[test]
fn the_parts_of_a_call_are_summed() {
    let iterations = |top: u64| {
        let usage = json!({"input_tokens": top, "output_tokens": 50, "iterations": [
            {"type": "compaction", "input_tokens": 180_000, "output_tokens": 3_500},
            {"type": "message", "input_tokens": 23_000, "output_tokens": 1_000, "cache_read_input_tokens": 100},
        ]});
        Reported::of_messages(&usage).expect("a usage").tokens
    };
    assert_eq!(
        iterations(23_000),
        tokens(203_100, 100, 4_500),
        "more than the usage itself"
    );
    assert_eq!(
        iterations(300_000).input,
        300_000,
        "a usage that contains them"
    );
}

#[test]
fn the_tier_of_a_call_is_in_one_of_three_words() {
    let chat = |tier: Value| {
        let answer =
            json!({"service_tier": tier, "usage": {"prompt_tokens": 1, "completion_tokens": 1}});
        Reported::of_openai(answer.as_object().expect("an object"))
            .expect("a usage")
            .served
    };
    let messages = |tier: &str, speed: Value, geo: Value| {
        let usage = json!({"input_tokens": 1, "output_tokens": 1, "service_tier": tier, "speed": speed, "inference_geo": geo});
        Reported::of_messages(&usage).expect("a usage").served
    };
    for (served, expected) in [
        (chat(Value::Null), Served::Standard),
        (chat(json!("default")), Served::Standard),
        (chat(json!("on_demand")), Served::Standard),
        (chat(json!("Priority")), Served::Tier(ServiceTier::Priority)),
        (chat(json!("flex")), Served::Tier(ServiceTier::Flex)),
        (chat(json!("turbo")), Served::Unknown),
        (
            messages("standard", json!("standard"), json!("global")),
            Served::Standard,
        ),
        (
            messages("standard", json!("fast"), Value::Null),
            Served::Tier(ServiceTier::Fast),
        ),
        (
            messages("standard", Value::Null, json!("us")),
            Served::Tier(ServiceTier::Us),
        ),
        (
            messages("priority", json!("fast"), Value::Null),
            Served::Unknown,
        ),
    ] {
        assert_eq!(served, expected);
    }
}

#[test]
fn the_providers_own_price_and_its_paid_tools_are_read() {
    let of = |more: Value| {
        let mut usage = json!({"prompt_tokens": 1, "completion_tokens": 1});
        usage
            .as_object_mut()
            .expect("an object")
            .extend(more.as_object().cloned().unwrap_or_default());
        let read = openai(usage).expect("a usage");
        (read.cost, read.paid_tools)
    };
    for (more, cost, tools) in [
        (json!({}), None, 0),
        (json!({"cost": 0.01525}), Some(MicroUsd(15_250)), 0),
        (json!({"cost": 0}), Some(MicroUsd(0)), 0),
        (json!({"cost": -1}), None, 0),
        (
            json!({"cost_in_usd_ticks": 9_400_000}),
            Some(MicroUsd(940)),
            0,
        ),
        (
            json!({"iterations": [{"model": "dear"}, {"input_tokens": 1}]}),
            None,
            1,
        ),
        (
            json!({"cost": {"input_tokens_cost": 0.1, "total_cost": 0.2}}),
            Some(MicroUsd(200_000)),
            0,
        ),
        (
            json!({"cost": 0.001, "is_byok": true, "cost_details": {"upstream_inference_cost": 0.02}}),
            Some(MicroUsd(21_000)),
            0,
        ),
        (
            json!({"server_tool_use": {"web_search_requests": 3, "web_fetch_requests": 2}}),
            None,
            3,
        ),
        (json!({"num_search_queries": 2}), None, 2),
        (
            json!({"server_tool_use": null, "num_sources_used": 0}),
            None,
            0,
        ),
    ] {
        assert_eq!(of(more.clone()), (cost, tools), "{more}");
    }
}
