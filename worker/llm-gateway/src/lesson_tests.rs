use super::*;

const MAX_TOKENS: Option<OutputLimitField> = Some(OutputLimitField::MaxTokens);
const MAX_COMPLETION_TOKENS: Option<OutputLimitField> = Some(OutputLimitField::MaxCompletionTokens);

fn of(text: &str, limit: u64) -> Option<Lesson> {
    read(
        text.as_bytes(),
        RefusedLimit {
            limit,
            field: MAX_TOKENS,
        },
    )
}

#[test]
fn the_most_that_a_model_takes_is_read_from_many_wordings() {
    for (text, limit, most) in [
        // OpenAI, and Azure.
        (
            "max_tokens is too large: 16384. This model supports at most 4096 completion tokens, whereas you provided 16384.",
            16_384,
            4096,
        ),
        (
            "Invalid 'max_tokens': integer above maximum value. Expected a value <= 4096, but got 16384 instead.",
            16_384,
            4096,
        ),
        // DeepSeek.
        (
            "Invalid max_tokens value, the valid range of max_tokens is [1, 8192]",
            16_384,
            8192,
        ),
        // Anthropic.
        (
            "max_tokens: 16384 > 8192, which is the maximum allowed number of output tokens for claude-3-5-sonnet-20241022",
            16_384,
            8192,
        ),
        // Alibaba.
        (
            "<400> InternalError.Algo.InvalidParameter: Range of max_tokens should be [1, 8192]",
            16_384,
            8192,
        ),
        // Bedrock.
        (
            "The maximum tokens you requested exceeds the model limit of 4096. Try again with a maximum tokens value that is lower than 4096.",
            16_384,
            4096,
        ),
        (
            "The maximum tokens you requested exceed the model limit of 8191.",
            16_384,
            8191,
        ),
        // Groq.
        (
            "`max_tokens` must be less than or equal to `8192`, the maximum value for `max_tokens` is less than the `context_window` for this model",
            16_384,
            8192,
        ),
        (
            "max_tokens for `llama-3.1-8b-instant` must be less than or equal to 8000",
            16_384,
            8000,
        ),
        // Google.
        (
            "Unable to submit request because it has a maxOutputTokens value of 16384 but the supported range is from 1 (inclusive) to 8193 (exclusive). Update the value and try again.",
            16_384,
            8192,
        ),
        // Volcengine.
        (
            "The parameter max_tokens specified in the request is not valid: integer above maximum value, expected a value <= 12288, but got 16384 instead. Request id: 0217724325966514087c9e",
            16_384,
            12_288,
        ),
        // Huawei and others.
        (
            "max_tokens (current value: 16384) must be between 0 and 4000 ",
            16_384,
            4000,
        ),
        ("max_tokens must be at most 8192", 16_384, 8192),
        ("max_tokens must be less than 8193", 16_384, 8192),
        ("max_tokens should be in [1, 8193)", 16_384, 8192),
        (
            "too many tokens: max tokens must be less than or equal to 4096, received 16384",
            16_384,
            4096,
        ),
        (
            r#"{"detail":[{"loc":["body","max_tokens"],"msg":"Input should be less than or equal to 8192","type":"less_than_equal","ctx":{"le":8192},"input":16384}]}"#,
            16_384,
            8192,
        ),
        (
            r#"{"error":{"code":"1210","message":"max_tokens 参数非法:不能大于 4095"}}"#,
            16_384,
            4095,
        ),
        (
            "max_output_tokens: 64,000 exceeds the maximum of 16,384",
            64_000,
            16_384,
        ),
        (
            r#"{"error":{"message":"Provider returned error","code":400,"metadata":{"raw":"{\"message\":\"max_tokens too large, this model gives 8192 output tokens\"}"}}}"#,
            16_384,
            8192,
        ),
    ] {
        assert_eq!(of(text, limit), Some(Lesson::MaxOutput(most)), "{text}");
    }
}

#[test]
fn the_length_of_the_context_is_read_with_the_prompt_where_it_is_said() {
    for (text, limit, length, prompt) in [
        (
            "This model's maximum context length is 8192 tokens. However, you requested 16448 tokens (64 in the messages, 16384 in the completion). Please reduce the length of the messages or completion.",
            16_384,
            8192,
            Some(64),
        ),
        (
            "This endpoint's maximum context length is 131072 tokens. However, you requested about 141607 tokens (10535 of text input, 131072 in the output).",
            131_072,
            131_072,
            Some(10_535),
        ),
        (
            "'max_tokens' or 'max_completion_tokens' is too large: 64000. This model's maximum context length is 64001 tokens and your request has 24235 input tokens (64000 > 64001 - 24235). None",
            64_000,
            64_001,
            Some(24_235),
        ),
        (
            "This model's maximum context length is 128000 tokens. However, you requested 65535 output tokens and your prompt contains at least 62466 input tokens, for a total of at least 128001 tokens.",
            65_535,
            128_000,
            None,
        ),
    ] {
        assert_eq!(
            of(text, limit),
            Some(Lesson::Context { length, prompt }),
            "{text}"
        );
    }
}

#[test]
fn the_name_of_the_field_is_read_in_both_directions() {
    for (text, refused, other) in [
        (
            r#"{"error":{"message":"Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.","param":"max_tokens","code":"unsupported_parameter"}}"#,
            MAX_TOKENS,
            OutputLimitField::MaxCompletionTokens,
        ),
        (
            "[{'type': 'extra_forbidden', 'loc': ('body', 'max_completion_tokens'), 'msg': 'Extra inputs are not permitted', 'input': 8192}]",
            MAX_COMPLETION_TOKENS,
            OutputLimitField::MaxTokens,
        ),
        (
            "Unrecognized request argument supplied: max_completion_tokens",
            MAX_COMPLETION_TOKENS,
            OutputLimitField::MaxTokens,
        ),
        (
            "property 'max_completion_tokens' is unsupported",
            MAX_COMPLETION_TOKENS,
            OutputLimitField::MaxTokens,
        ),
        (
            "got an unexpected keyword argument 'max_completion_tokens'",
            MAX_COMPLETION_TOKENS,
            OutputLimitField::MaxTokens,
        ),
        (
            "Setting 'max_tokens' and 'max_completion_tokens' at the same time is not supported.",
            MAX_TOKENS,
            OutputLimitField::MaxCompletionTokens,
        ),
    ] {
        let refused = RefusedLimit {
            limit: 16_384,
            field: refused,
        };
        assert_eq!(
            read(text.as_bytes(), refused),
            Some(Lesson::Field(other)),
            "{text}"
        );
    }
}

#[test]
fn other_refusals_teach_nothing() {
    for text in [
        "",
        "the model `gpt-x` does not exist",
        "Unsupported parameter: 'temperature' is not supported with this model.",
        "Invalid 'tools[0].function.name': string too long. Expected a string with maximum length 64, but got 4096 instead.",
        "prompt is too long: 210000 tokens > 200000 maximum",
        "This model's maximum context length is 8192 tokens. However, your messages resulted in 20430 tokens.",
        "Request too large for gpt-4o on tokens per min (TPM): Limit 10000, Requested 17000. The input or output tokens must be reduced.",
        "`max_tokens` must be greater than thinking.budget_tokens",
        "max_tokens: 16384 is too large",
    ] {
        assert_eq!(of(text, 16_384), None, "{text}");
    }
    let only_name = RefusedLimit {
        limit: 16_384,
        field: None,
    };
    assert_eq!(
        read(b"Unsupported parameter: max_output_tokens", only_name),
        None,
        "there is no other name"
    );
}
