//! Tests the gateway with a real provider on a real port: the scripted LLM.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use pool_core::id::LlmName;
use pool_core::money::MicroUsd;
use pool_core::pool::{
    BreakerConfig, BreakerScope, Failover, FailureCondition, Price, Protocol, Provider,
};
use pool_core::price::Rates;
use pool_core::result::Usage;
use pool_tests::scripted_llm::{Script, ScriptedLlm};
use reqwest::{Client, Response};
use serde_json::{Value, json};

use super::class::{CallClass, Cap};
use super::permits::Unlimited;
use super::record::{CallRecord, RunRecord, usage};
use super::upstream::Upstreams;
use super::{CallPlan, Gateway, LlmSession};

mod access;
mod as_it_came;
mod calls;
mod corpus;
mod dialects;
mod endings;
mod failover;
mod learning;
mod limits;
mod probes;
mod provider;

const KEY: &str = "the-providers-key";

fn name(llm: &str) -> LlmName {
    LlmName::new(llm).expect("an LLM name")
}

fn provider(base_url: &str) -> Provider {
    Provider {
        base_url: base_url.to_owned(),
        api_key_env: Some("SCRIPTED_KEY".to_owned()),
        protocol: Protocol::OpenAi,
        free: true,
        max_concurrent: None,
        output_limit_field: None,
    }
}

/// A pool's providers: the scripted LLM serves `free/…` and `paid/…`, `gone/…` is down, and there
/// are a few odd ones.
fn upstreams(llm: &ScriptedLlm) -> Arc<Upstreams> {
    upstreams_at(&llm.base_url())
}

fn upstreams_at(base_url: &str) -> Arc<Upstreams> {
    let good = provider(base_url);
    let providers = BTreeMap::from([
        ("free".to_owned(), good.clone()),
        (
            "paid".to_owned(),
            Provider {
                free: false,
                ..good.clone()
            },
        ),
        (
            "narrow".to_owned(),
            Provider {
                max_concurrent: Some(1),
                ..good.clone()
            },
        ),
        (
            "keyless".to_owned(),
            Provider {
                api_key_env: Some("NOT_SET".to_owned()),
                ..good.clone()
            },
        ),
        (
            "claude".to_owned(),
            Provider {
                protocol: Protocol::Anthropic,
                free: false,
                ..good
            },
        ),
        // Port 9 is `discard`: nothing listens there.
        ("gone".to_owned(), provider("http://127.0.0.1:9/v1")),
    ]);
    let price = Price::from(Rates {
        cached_input: MicroUsd(100_000),
        ..Rates::new(MicroUsd(1_000_000), MicroUsd(10_000_000))
    });
    let prices = BTreeMap::from(
        ["paid/gpt", "claude/paid", "claude/other"].map(|llm| (name(llm), price.clone())),
    );
    Upstreams::from_parts(&providers, prices, |variable| {
        (variable == "SCRIPTED_KEY").then(|| KEY.to_owned())
    })
    .expect("usable providers")
}

fn plan(llm: &str) -> CallPlan {
    CallPlan {
        llms: vec![name(llm)],
        failover: failover(),
        max_tokens: 80_000,
        max_cost: MicroUsd(2_500_000),
        used: Usage::default(),
        context_limit: 131_072,
        permits: Arc::new(Unlimited),
    }
}

/// The default settings, but without retries.
fn failover() -> Failover {
    use FailureCondition::{ApiError, ModelUnavailable, RateLimit, Timeout};
    Failover {
        enabled: true,
        max_retries: 0,
        retry_delay: Duration::ZERO,
        always_failover: true,
        failure_conditions: BTreeSet::from([Timeout, ApiError, RateLimit, ModelUnavailable]),
        call_timeout: Duration::from_secs(20),
        breaker: BreakerConfig {
            enabled: true,
            failure_threshold: 3,
            failed_of_1000: 500,
            window: Duration::from_secs(600),
            cooldown: Duration::from_secs(300),
            scope: BreakerScope::Pool,
        },
    }
}

/// A scripted LLM, a gateway in front of it, and one task's session.
struct Rig {
    llm: ScriptedLlm,
    gateway: Gateway,
    session: LlmSession,
    client: Client,
}

impl Rig {
    async fn start(plan: CallPlan) -> Self {
        let llm = ScriptedLlm::start(Script::default(), 0)
            .await
            .expect("a free port");
        let gateway = Gateway::start(upstreams(&llm)).await.expect("a free port");
        let session = gateway.open(plan);
        let client = Client::builder()
            .no_proxy()
            .tls_certs_only([])
            .build()
            .expect("a client");
        Self {
            llm,
            gateway,
            session,
            client,
        }
    }

    fn request(&self, body: &Value) -> reqwest::RequestBuilder {
        let url = format!("{}/chat/completions", self.session.base_url());
        self.client
            .post(url)
            .bearer_auth(self.session.token())
            .json(body)
    }

    async fn post(&self, body: &Value) -> Response {
        self.request(body)
            .send()
            .await
            .expect("the gateway answers")
    }

    /// Asks with a script. Returns status and body.
    async fn ask(&self, script: Value) -> (u16, Value) {
        let response = self.post(&prompt(&script)).await;
        (
            response.status().as_u16(),
            response.json().await.expect("JSON"),
        )
    }

    fn last_call(&self) -> CallRecord {
        self.session
            .record()
            .last()
            .cloned()
            .expect("a recorded call")
    }
}

fn prompt(script: &Value) -> Value {
    json!({"model": "openai/whatever", "messages": [{"role": "user", "content": format!("SCRIPT: {script}")}]})
}

/// Waits for something that another task brings about.
async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), waiting)
        .await
        .unwrap_or_else(|_| panic!("waited in vain: {what}"));
}
