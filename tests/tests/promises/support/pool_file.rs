//! A pool file for a test: the ten programmers of the sample pool on free ports, with short times.

use std::path::Path;

use serde_json::{Value, json};

/// The text of a pool file, as JSON (which is YAML).
#[derive(Debug, Clone)]
pub(crate) struct PoolFile(Value);

/// The programmers of the sample pool: ids and what they offer.
const SAMPLE: [(&str, [&str; 3]); 10] = [
    ("001", ["fast", "local", "free"]),
    ("002", ["fast", "local", "free"]),
    ("003", ["fast", "local", "free"]),
    ("004", ["fast", "local", "free"]),
    ("005", ["fast", "local", "free"]),
    ("006", ["premium", "reasoning", "paid"]),
    ("007", ["premium", "reasoning", "paid"]),
    ("008", ["premium", "openai", "paid"]),
    ("009", ["deepseek", "local", "free"]),
    ("010", ["deepseek", "local", "free"]),
];

/// A required set for each route of the sample pool.
pub(crate) const ROUTES: [&[&str]; 7] =
    [&[], &["deepseek"], &["fast"], &["free", "local"], &["openai"], &["paid", "premium"], &["reasoning"]];

/// The ids of the sample pool.
pub(crate) const PROGRAMMERS: [&str; 10] = ["001", "002", "003", "004", "005", "006", "007", "008", "009", "010"];

/// What the sample pool's programmer with this id offers.
pub(crate) fn offered(id: &str) -> &'static [&'static str] {
    &SAMPLE.iter().find(|(known, _)| *known == id).expect("a programmer of the sample pool").1
}

impl PoolFile {
    /// Ten programmers with an agent that does nothing. Each has an LLM of its own name, which tells them apart.
    pub(crate) fn sample() -> Self {
        let programmers: Vec<Value> = SAMPLE
            .iter()
            .map(|(id, capabilities)| {
                json!({"id": id, "port": 0, "primary_llm": format!("local/model-{id}"), "capabilities": capabilities})
            })
            .collect();
        Self(json!({
            "programmers": programmers,
            "defaults": {"timeout_s": 120, "max_duration_per_job_s": 60},
            // The nearest port that nobody listens on: `discard`.
            "providers": {"local": {"base_url": "http://127.0.0.1:9/v1", "free": true}},
            "failover": {"max_retries": 0, "retry_delay_s": 0, "call_timeout_s": 20},
            "load_balancing": {"health_check_interval_s": 3},
            "agent": {"kind": "noop"},
            "workspace": {"dir": "../work", "roots": ["../repositories"]},
            "sandbox": {"level": "off"},
            "dispatcher": {"drain_timeout_s": 30},
        }))
    }

    /// Only these programmers.
    #[must_use]
    pub(crate) fn only(mut self, ids: &[&str]) -> Self {
        if let Some(programmers) = self.0["programmers"].as_array_mut() {
            programmers.retain(|programmer| ids.iter().any(|id| programmer["id"] == *id));
        }
        self
    }

    /// Sets a whole section.
    #[must_use]
    pub(crate) fn with(mut self, section: &str, value: Value) -> Self {
        self.0[section] = value;
        self
    }

    /// Any command as the agent.
    #[must_use]
    pub(crate) fn command(self, argv: &[&str]) -> Self {
        self.with("agent", json!({"kind": "command", "command": argv}))
    }

    /// The scripted LLM at this address.
    #[must_use]
    pub(crate) fn llm(self, base_url: &str) -> Self {
        self.with("providers", json!({"local": {"base_url": base_url, "free": true}}))
    }

    pub(crate) fn write(&self, path: &Path) {
        std::fs::create_dir_all(path.parent().expect("a directory")).expect("the directory of the pool file");
        std::fs::write(path, format!("{:#}\n", self.0)).expect("a pool file");
    }
}
