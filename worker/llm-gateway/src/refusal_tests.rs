use super::*;

fn refusal(message: &str) -> ProviderRefusal {
    ProviderRefusal::read(
        serde_json::json!({"error": {"message": message}})
            .to_string()
            .as_bytes(),
    )
}

#[test]
fn a_prompt_that_is_too_long_is_known_by_the_words_of_every_provider() {
    for said in [
        // OpenAI: chat completions, Responses, Azure.
        "This model's maximum context length is 8192 tokens. However, your messages resulted in 8545 tokens.",
        "Your input exceeds the context window of this model. Please adjust your input and try again.",
        "Input tokens exceed the configured limit of 272000 tokens. Your messages resulted in 509178 tokens.",
        // Anthropic, Bedrock.
        "prompt is too long: 209303 tokens > 200000 maximum",
        "input length and `max_tokens` exceed context limit: 179413 + 32768 > 200000",
        "Input is too long for requested model.",
        "The model returned the following errors: Too many input tokens",
        "prompt tokens (400007) exceed model maximum (278528) for openai.gpt-5.5",
        // Google.
        "The input token count (1196265) exceeds the maximum number of tokens allowed (1048575).",
        "The input token count exceeds the maximum number of tokens allowed 32768.",
        // xAI, Groq, Mistral, Moonshot, Alibaba, Zhipu, MiniMax, Cohere, Perplexity.
        "This model's maximum prompt length is 131072 but the request contains 537812 tokens.",
        "Please reduce the length of the messages or completion.",
        "Prompt contains 40000 tokens and 0 draft tokens, too large for model with 32768 maximum context length",
        "Invalid request: Your request exceeded model token limit: 131072 (requested: 148000)",
        "<400> InternalError.Algo.InvalidParameter: Range of input length should be [1, 98304]",
        "Prompt exceeds max length",
        "Prompt 超长",
        "invalid params, context window exceeds limit (2013)",
        "too many tokens: total number of tokens in the prompt cannot exceed 4081 - received 5000",
        "The total length of all messages is too long.",
        // vLLM, SGLang, TGI, TensorRT-LLM, watsonx, Cloudflare.
        "The decoder prompt (length 10000) is longer than the maximum model length of 8192.",
        "The engine prompt length 1361246 exceeds the max_model_len 131072. Please reduce prompt.",
        "The input (12345 tokens) is longer than the model's context length (8192 tokens).",
        "Input validation error: `inputs` must have less than 1024 tokens. Given: 5000",
        "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: 5000",
        "Prompt length (5000) exceeds maximum input length (4096).",
        "the number of input tokens 9000 cannot exceed the total tokens limit 8192 for this model",
        "The estimated number of input and maximum tokens (9000) exceeded this model context window limit (8192).",
        // llama.cpp, LM Studio, Ollama, GitHub.
        "the request exceeds the available context size. try increasing the context size",
        "request (5000 tokens) exceeds the available context size (4096 tokens)",
        "Trying to keep the first 12345 tokens when context the overflows. However, the model is loaded with context length of only 4096 tokens, which is not enough.",
        "The number of tokens to keep from the initial prompt is greater than the context length.",
        "Reached context length of 4096 tokens with model (arch: llama)",
        "the input length exceeds the context length",
        "prompt too long; exceeded max context length by 4 tokens",
        "prompt token count of 123456 exceeds the limit of 64000",
    ] {
        assert!(refusal(said).is_too_long(), "{said}");
    }
}

#[test]
fn another_limit_is_no_prompt_that_is_too_long() {
    for said in [
        "max_tokens: 100000 > 8192, which is the maximum allowed number of output tokens",
        "Invalid max_tokens value, the valid range of max_tokens is [1, 8192]",
        "max_completion_tokens is too large: 65536. This model supports at most 16384 completion tokens",
        "This request would exceed your organization's rate limit of 30,000 input tokens per minute",
        "messages: text content blocks must be non-empty",
        "Invalid 'messages[0].content': expected a string",
        "Invalid 'tools': array too long. Expected an array with maximum length 128, but got an array with length 200",
        "messages.1.content.0.image.source: image exceeds 5 MB maximum",
        "stop: the list of input sequences is too long, at most 4 with a length of 20",
        "thinking.budget_tokens: input should be greater than the minimum of 1024",
        "temperature is wrong",
        "",
    ] {
        assert!(!refusal(said).is_too_long(), "{said}");
    }
}

#[test]
fn each_kind_of_refusal_is_known_by_code_and_by_words() {
    type Kind = fn(&ProviderRefusal) -> bool;
    let kinds: [(&str, Kind, &[&str]); 5] = [
        (
            "account",
            ProviderRefusal::is_about_the_account,
            &[
                "You have reached your specified API usage limits. You will regain access on 2026-01-01.",
                "API key not valid. Please pass a valid API key.",
                "API key expired. Please renew the API key.",
                "Your credit balance is too low to access the Anthropic API.",
                "Billing hard limit has been reached",
                "This organization has been disabled.",
                "Access denied, please make sure your account is in good standing.",
                "User location is not supported for the API use.",
                "Insufficient Balance",
            ],
        ),
        (
            "not serving",
            ProviderRefusal::is_not_serving,
            &[
                "No models loaded. Please load a model in the developer page or use the `lms load` command.",
                "Failed to load model \"x\". Error: insufficient system resources",
                "lock timeout",
                "Model is currently loading",
            ],
        ),
        (
            "model",
            ProviderRefusal::names_no_model,
            &[
                "The model `x` has been decommissioned and is no longer supported.",
                "x is not a valid model ID",
                "Model Not Exist",
                "Invalid model name passed in model=x",
            ],
        ),
        (
            "request",
            ProviderRefusal::is_about_the_request,
            &[
                "No endpoints found that support tool use. Try disabling \"bash\".",
                "No endpoints found that support image input",
                "No endpoints found that can handle the requested parameters.",
                "Previous response with id 'resp_1' not found.",
                "Item with id 'rs_1' not found. Items are not persisted when `store` is set to false.",
            ],
        ),
        (
            "above the rate",
            ProviderRefusal::is_above_the_rate,
            &[
                "Request too large for gpt-4o in organization o on tokens per min (TPM): Limit 30000, Requested 41000.",
                "Request too large for model `x`, please reduce your message size and try again.",
            ],
        ),
    ];
    for (name, _, sentences) in &kinds {
        for said in *sentences {
            let refusal = refusal(said);
            let met: Vec<&str> = kinds
                .iter()
                .filter_map(|(other, is, _)| is(&refusal).then_some(*other))
                .collect();
            assert_eq!(met, [*name], "{said}");
        }
    }
}

#[test]
fn codes_are_read_wherever_providers_write_them() {
    for body in [
        serde_json::json!({"error": {"code": "insufficient_quota", "message": "no"}}),
        serde_json::json!({"error": {"type": "insufficient_quota", "code": null}}),
        serde_json::json!([{"error": {"code": 400, "details": [{"reason": "API_KEY_INVALID"}]}}]),
        serde_json::json!({"code": "Arrearage", "message": "no"}),
        serde_json::json!({"error": "a text", "code": "invalid_api_key"}),
    ] {
        let refusal = ProviderRefusal::read(body.to_string().as_bytes());
        assert!(refusal.is_out_of_quota(), "{body}");
    }
    for nothing in ["", "[]", "null", "<html>", "{}", "[[]]", "3"] {
        let refusal = ProviderRefusal::read(nothing.as_bytes());
        assert!(!refusal.is_about_the_account(), "{nothing}");
    }
}
