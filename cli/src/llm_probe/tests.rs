use std::path::Path;

use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::get;
use pool_config::parse;
use tokio::net::TcpListener;

use super::*;

const MODELS: &str = r#"{"object": "list", "data": [{"id": "gpt-4o"}, {"id": "qwen:latest"}]}"#;

/// Serves on a free port of this machine until the test ends; returns the base URL.
async fn serve(router: Router) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move { axum::serve(listener, router).await });
    format!("http://{address}/v1")
}

/// A provider that offers [`MODELS`] to the key `good` only.
async fn provider() -> String {
    let models = |headers: HeaderMap| async move {
        let key = headers
            .get("authorization")
            .and_then(|value| value.to_str().ok());
        if key == Some("Bearer good") {
            (StatusCode::OK, MODELS)
        } else {
            (StatusCode::UNAUTHORIZED, "{}")
        }
    };
    serve(Router::new().route("/v1/models", get(models))).await
}

/// The finding for a pool with this LLM at `base_url`, and its next step.
async fn find(llm: &str, base_url: &str, more: &str, env: &Env) -> (Finding, String) {
    let provider = llm.split_once('/').expect("provider/model").0;
    let text = format!(
        "programmers: [{{id: x, primary_llm: \"{llm}\"}}]\n\
         providers: {{{provider}: {{base_url: \"{base_url}\", free: true{more}}}}}\n"
    );
    let pool = parse(&text, Path::new("/pool.yaml"))
        .unwrap_or_else(|mistakes| panic!("a good file: {mistakes}"));
    let reports = probe(&pool, env, Duration::from_millis(500)).await;
    assert_eq!(reports.len(), 1, "one LLM, one report");
    (reports[0].finding.clone(), reports[0].next_step())
}

fn key(value: &str) -> Env {
    Env::from_iter([("MY_KEY", value)])
}

const WITH_KEY: &str = ", api_key_env: MY_KEY";

#[tokio::test]
async fn a_model_that_the_provider_lists_is_ok_with_the_right_key_only() {
    let url = provider().await;
    let (finding, _) = find("openai/gpt-4o", &url, WITH_KEY, &key("good")).await;
    assert_eq!(finding, Finding::Ok, "key and model are right");
    let (finding, next) = find("openai/gpt-4o", &url, WITH_KEY, &key("bad")).await;
    assert_eq!(finding.word(), "auth refused", "another key");
    assert!(
        next.contains("MY_KEY") && !next.contains("bad"),
        "it names the variable, not the key: {next}"
    );
    let (finding, next) = find("openai/gpt-4o", &url, WITH_KEY, &Env::empty()).await;
    assert_eq!(
        finding,
        Finding::KeyMissing {
            variable: "MY_KEY".to_owned()
        },
        "the key is not set"
    );
    assert!(next.contains("set MY_KEY"), "the next step: {next}");
    let (finding, next) = find("openai/gpt-4o", &url, "", &key("good")).await;
    assert_eq!(finding.word(), "auth refused", "no key is configured");
    assert!(
        next.contains("providers.openai.api_key_env"),
        "the key to set: {next}"
    );
}

#[tokio::test]
async fn a_model_that_is_not_listed_comes_with_a_way_out() {
    let url = provider().await;
    let env = key("good");
    let (finding, next) = find("openai/gpt-4", &url, WITH_KEY, &env).await;
    assert_eq!(finding.word(), "model unknown", "not in the list");
    assert_eq!(next, "did you mean gpt-4o?", "a similar name");
    let (_, next) = find("openai/claude", &url, WITH_KEY, &env).await;
    assert_eq!(next, "available: gpt-4o, qwen:latest", "no similar name");
    let (_, next) = find("ollama/deepseek:7b", &url, WITH_KEY, &env).await;
    assert_eq!(next, "run `ollama pull deepseek:7b`", "Ollama can fetch it");
    let (finding, _) = find("ollama/qwen", &url, WITH_KEY, &env).await;
    assert_eq!(
        finding,
        Finding::Ok,
        "Ollama's name without a tag means :latest"
    );
}

#[tokio::test]
async fn a_provider_that_does_not_answer_as_one_is_unreachable_for_a_reason() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let silent = format!("http://{}/v1", listener.local_addr().expect("an address"));
    let gone = {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        format!("http://{}/v1", listener.local_addr().expect("an address"))
    };
    let other = Router::new()
        .route("/v1/models", get(|| async { "<html>" }))
        .route(
            "/busy/models",
            get(|| async { StatusCode::SERVICE_UNAVAILABLE }),
        );
    let html = serve(other).await;
    for (url, reason) in [
        (silent, "no answer from"),
        (gone, "refused"),
        (html.clone(), "did not answer with a list of models"),
        (html.replace("/v1", "/busy"), "503"),
        (html.replace("/v1", "/v2"), "404"),
    ] {
        let (finding, next) = find("openai/gpt-4o", &url, "", &Env::empty()).await;
        assert_eq!(finding.word(), "unreachable", "{url}");
        assert!(
            next.contains(reason) && next.contains("providers.openai.base_url"),
            "{url}: {next}"
        );
    }
}

#[tokio::test]
async fn the_key_follows_no_redirect() {
    let seen = serve(Router::new().route("/v1/models", get(|| async { MODELS }))).await;
    let target = format!("{seen}/models");
    let redirect = move |_: Request| async move { axum::response::Redirect::temporary(&target) };
    let url = serve(Router::new().route("/v1/models", get(redirect))).await;
    let (finding, next) = find("openai/gpt-4o", &url, WITH_KEY, &key("good")).await;
    assert_eq!(
        finding.word(),
        "unreachable",
        "the redirect's target is not asked"
    );
    assert!(next.contains("307"), "it reports the answer: {next}");
}

#[tokio::test]
async fn anthropic_is_asked_with_its_own_headers() {
    let models = |headers: HeaderMap| async move {
        let own = headers.get("x-api-key").is_some_and(|key| key == "good")
            && headers.contains_key("anthropic-version");
        if own {
            (StatusCode::OK, r#"{"data": [{"id": "claude"}]}"#)
        } else {
            (StatusCode::UNAUTHORIZED, "{}")
        }
    };
    let with_v1 = serve(Router::new().route("/v1/models", get(models))).await;
    let without = with_v1.trim_end_matches("/v1");
    for url in [with_v1.as_str(), without] {
        let more = ", api_key_env: MY_KEY, protocol: anthropic}}\nagent: {kind: noop";
        let text = format!(
            "programmers: [{{id: x, primary_llm: anthropic/claude}}]\n\
             providers: {{anthropic: {{base_url: \"{url}\", free: true{more}}}\n"
        );
        let pool = parse(&text, Path::new("/pool.yaml"))
            .unwrap_or_else(|mistakes| panic!("a good file: {mistakes}"));
        let reports = probe(&pool, &key("good"), Duration::from_millis(500)).await;
        assert_eq!(
            reports[0].finding,
            Finding::Ok,
            "{url}: x-api-key and anthropic-version are sent"
        );
    }
}
