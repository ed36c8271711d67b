//! A pool file for a test: the ten programmers of the sample pool, with free ports and short times.

use std::path::Path;

use serde_json::{Value, json};

use super::machine::program;

/// The text of a pool file, as JSON (which is YAML).
#[derive(Debug, Clone)]
pub(crate) struct PoolFile(Value);

/// The programmers of the sample pool: ids and capabilities.
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

/// A set of required capabilities for each route of the sample pool.
pub(crate) const ROUTES: [&[&str]; 7] = [
    &[],
    &["deepseek"],
    &["fast"],
    &["free", "local"],
    &["openai"],
    &["paid", "premium"],
    &["reasoning"],
];

/// The ids of the sample pool.
pub(crate) const PROGRAMMERS: [&str; 10] = [
    "001", "002", "003", "004", "005", "006", "007", "008", "009", "010",
];

/// The capabilities of the sample pool's programmer with this id.
pub(crate) fn offered(id: &str) -> &'static [&'static str] {
    &SAMPLE
        .iter()
        .find(|(known, _)| *known == id)
        .expect("a programmer of the sample pool")
        .1
}

/// Ids `001`, `002`, …
pub(crate) fn numbered(count: usize) -> impl Iterator<Item = String> {
    (1..=count).map(|n| format!("{n:03}"))
}

impl PoolFile {
    /// Ten programmers with an agent that does nothing. Each has its own LLM, whose name identifies
    /// it.
    pub(crate) fn sample() -> Self {
        let programmers: Vec<Value> = SAMPLE
            .iter()
            .map(|(id, capabilities)| {
                json!({"id": id, "port": 0, "primary_llm": format!("local/model-{id}"), "capabilities": capabilities})
            })
            .collect();
        Self::base(&programmers)
    }

    /// `count` programmers `001`, `002`, … that offer `work` and have these LLMs, the primary
    /// first.
    pub(crate) fn grown(count: usize, primary: &str, backup: Option<&str>) -> Self {
        let programmers: Vec<Value> = numbered(count)
            .map(|id| {
                let mut programmer =
                    json!({"id": id, "port": 0, "primary_llm": primary, "capabilities": ["work"]});
                if let Some(backup) = backup {
                    programmer["backup_llm"] = backup.into();
                }
                programmer
            })
            .collect();
        Self::base(&programmers)
    }

    fn base(programmers: &[Value]) -> Self {
        Self(json!({
            "programmers": programmers,
            "defaults": {"timeout_s": 120, "max_duration_per_job_s": 60},
            // The nearest port without a listener: `discard`.
            "providers": {"local": {"base_url": "http://127.0.0.1:9/v1", "free": true}},
            "failover": {"max_retries": 0, "retry_delay_s": 0, "call_timeout_s": 20},
            "load_balancing": {"health_check_interval_s": 3},
            "agent": {"kind": "noop"},
            "workspace": {"dir": "../work", "roots": ["../repositories"]},
            // Agents tell tests how far they are, and wait for them, by files in this directory.
            "sandbox": {"level": sandbox_level(), "write": ["../signs"]},
            "dispatcher": {"drain_timeout_s": 30},
        }))
    }

    /// Keeps only these programmers.
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

    /// Sets one value by the path of its keys: `failover.circuit_breaker.cooldown_s`.
    #[must_use]
    pub(crate) fn set(mut self, keys: &str, value: Value) -> Self {
        let place = keys
            .split('.')
            .fold(&mut self.0, |place, key| &mut place[key]);
        *place = value;
        self
    }

    /// Sets one value of one programmer.
    #[must_use]
    pub(crate) fn set_of(mut self, id: &str, key: &str, value: Value) -> Self {
        let programmers = self.0["programmers"].as_array_mut().expect("programmers");
        let programmer = programmers
            .iter_mut()
            .find(|programmer| programmer["id"] == id);
        programmer.expect("a programmer with this id")[key] = value;
        self
    }

    /// Adds a provider whose LLMs have these prices per million tokens.
    #[must_use]
    pub(crate) fn paid_llm(
        self,
        llm: &str,
        base_url: &str,
        (input_usd, output_usd): (&str, &str),
    ) -> Self {
        let (provider, _) = llm.split_once('/').expect("provider/model");
        let price = json!({"input_usd_per_mtok": input_usd, "output_usd_per_mtok": output_usd});
        let mut file = self.set(
            &format!("providers.{provider}"),
            json!({"base_url": base_url, "free": false}),
        );
        file.0["prices"][llm] = price;
        file
    }

    /// Uses the agent that makes LLM calls; the arguments give their number.
    #[must_use]
    pub(crate) fn calling(self, arguments: &[&str]) -> Self {
        let agent = program("calling-agent");
        let filled_in = ["--base-url", "{base_url}", "--model", "{model}"];
        let prompt = ["--prompt-file", "{prompt_file}"];
        self.command(
            &[
                &[agent.to_str().expect("a path in UTF-8")],
                &filled_in[..],
                &prompt,
                arguments,
            ]
            .concat(),
        )
    }

    /// Uses any command as the agent.
    #[must_use]
    pub(crate) fn command(self, argv: &[&str]) -> Self {
        self.with("agent", json!({"kind": "command", "command": argv}))
    }

    /// Uses the scripted LLM at this address.
    #[must_use]
    pub(crate) fn llm(self, base_url: &str) -> Self {
        self.with(
            "providers",
            json!({"local": {"base_url": base_url, "free": true}}),
        )
    }

    /// Lets agents and checks write in this directory, too.
    #[must_use]
    pub(crate) fn writable(mut self, directory: &Path) -> Self {
        let directory = directory.to_str().expect("a path in UTF-8");
        let shown = self.0["sandbox"]["write"].as_array_mut();
        shown.expect("a list of paths").push(directory.into());
        self
    }

    pub(crate) fn write(&self, path: &Path) {
        std::fs::create_dir_all(path.parent().expect("a directory"))
            .expect("the directory of the pool file");
        std::fs::write(path, format!("{:#}\n", self.0)).expect("a pool file");
    }
}

/// The sandbox level of all pools: `POOL_TEST_SANDBOX`, or else the default of a pool file.
fn sandbox_level() -> String {
    std::env::var("POOL_TEST_SANDBOX").unwrap_or_else(|_| "auto".to_owned())
}
