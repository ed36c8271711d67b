//! A scripted LLM for many programmers. Tests switch outages on and off over HTTP while the pool
//! runs.

use std::time::Duration;

use pool_core::time::Timestamp;
use pool_tests::scripted_llm::{LoggedRequest, Script, ScriptedLlm};
use serde_json::{Value, json};

use super::api::http;
use super::eventually;

/// Dropping it ends it.
pub(crate) struct Llm {
    scripted: ScriptedLlm,
    client: reqwest::Client,
    /// The rules outside of outages.
    usual: Vec<Value>,
}

impl Llm {
    /// An LLM with an answer to every prompt.
    pub(crate) async fn start() -> Self {
        let answers =
            Script::from_yaml(r#"answers: [{when: "", say: "Done."}]"#).expect("an answers file");
        let scripted = ScriptedLlm::start(answers, 0)
            .await
            .expect("a scripted LLM");
        Self {
            scripted,
            client: http(),
            usual: Vec::new(),
        }
    }

    /// An LLM that reports this token usage in every answer.
    pub(crate) async fn start_with_usage(input_tokens: u64, output_tokens: u64) -> Self {
        let usage = json!({"input_tokens": input_tokens, "output_tokens": output_tokens});
        let llm = Self {
            usual: vec![json!({"model": "*", "usage": usage})],
            ..Self::start().await
        };
        llm.recover().await;
        llm
    }

    pub(crate) fn base_url(&self) -> String {
        self.scripted.base_url()
    }

    /// Begins an outage: these rules replace the last ones.
    pub(crate) async fn fail(&self, rules: &[Value]) {
        let rules = [rules, &self.usual].concat();
        let url = format!("{}/script/rules", self.scripted.url());
        let answer = self
            .client
            .put(url)
            .json(&rules)
            .send()
            .await
            .expect("the scripted LLM answers");
        assert!(
            answer.status().is_success(),
            "the rules are valid: {:?}",
            answer.text().await
        );
    }

    /// Answers every call of the model (`*` for all) with this status.
    pub(crate) async fn fail_with(&self, model: &str, status: u16) {
        self.fail(&[json!({"model": model, "fail": {"status": status}})])
            .await;
    }

    /// Answers no call of the model until the next rules.
    pub(crate) async fn hold(&self, model: &str) {
        self.fail(&[json!({"model": model, "hold": true})]).await;
    }

    /// Ends every outage.
    pub(crate) async fn recover(&self) {
        self.fail(&[]).await;
    }

    /// All requests that it has received.
    pub(crate) async fn requests(&self) -> Vec<LoggedRequest> {
        let answer = self
            .client
            .get(format!("{}/script/requests", self.scripted.url()))
            .send()
            .await;
        let log: Vec<LoggedRequest> = answer
            .expect("the scripted LLM answers")
            .json()
            .await
            .expect("its log");
        assert!(
            log.first().is_none_or(|first| first.number == 1),
            "its log is complete"
        );
        log
    }

    /// Reads its requests until `look` finds something.
    pub(crate) async fn until<T>(
        &self,
        what: &str,
        limit: Duration,
        look: impl Fn(&[LoggedRequest]) -> Option<T>,
    ) -> T {
        eventually(what, limit, async || look(&self.requests().await)).await
    }
}

/// The task whose agent made this call, by the names of `pool::tasks`; None for a probe.
pub(crate) fn task_of(request: &LoggedRequest) -> Option<&str> {
    let (id, _) = request.prompt.split_once(": change something")?;
    Some(id)
}

/// Whether the call was open at any time between these two.
pub(crate) fn overlaps(request: &LoggedRequest, from: Timestamp, to: Timestamp) -> bool {
    request.at <= to && request.ended().is_none_or(|end| end >= from)
}
