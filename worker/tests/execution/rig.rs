//! A programmer whose agent is a shell script, for whole attempts on a real repository.
#![expect(clippy::expect_used, reason = "a helper that fails fails the test")]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use lapin::BasicProperties;
use llm_gateway::permits::Unlimited;
use pool_core::id::AttemptId;
use pool_core::result::{ErrorKind, ResultMessage};
use pool_core::time::Timestamp;
use pool_telemetry::clock::new_id;
use pool_tests::scripted_llm::{Script, ScriptedLlm};
use serde_json::{Value, json};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use worker::programmer::attempt::AttemptEnd;
use worker::programmer::claim::{Claimed, read};
use worker::programmer::workshop::{Attempts, Workshop};
use worker::sandbox::SandboxLauncher;

use crate::repo::Bench;
use crate::support::{self, helper};

/// An attempt of these tests that takes longer hangs.
const HANGS: Duration = Duration::from_secs(30);

/// One LLM (`free/small`), one programmer, one script.
pub(crate) struct Rig {
    pub(crate) bench: Bench,
    _llm: ScriptedLlm,
    attempts: Attempts,
}

impl Rig {
    /// Starts a rig. Bash runs `script` in the worktree; `$1` is the prompt file.
    pub(crate) async fn start(bench: Bench, script: &str) -> Self {
        Self::with(bench, script, json!({})).await
    }

    /// The same with these `defaults` in the pool file.
    pub(crate) async fn with(bench: Bench, script: &str, defaults: Value) -> Self {
        let work = bench.dir.path().join("work");
        Self::in_directory(bench, script, defaults, &work).await
    }

    /// The same for an agent that reaches other files than its own.
    pub(crate) async fn without_layers(bench: Bench, script: &str) -> Self {
        let sections = json!({"sandbox": {"level": "off"}});
        Self::with_sections(bench, script, sections).await
    }

    /// The same with another sandbox.
    pub(crate) async fn in_sandbox(bench: Bench, script: &str, sandbox: SandboxLauncher) -> Self {
        Self::build(bench, script, json!({}), Some(sandbox)).await
    }

    /// The same with another workspace directory than `work`.
    pub(crate) async fn in_directory(
        bench: Bench,
        script: &str,
        defaults: Value,
        work: &Path,
    ) -> Self {
        let sections = json!({
            "defaults": defaults,
            "workspace": {"dir": work, "roots": [bench.dir.path().join("root")], "keep_trees_mib": 1024},
        });
        Self::with_sections(bench, script, sections).await
    }

    /// The same with these sections in the pool file. The sandbox is that of `support::sandbox`
    /// unless it is among them.
    pub(crate) async fn with_sections(bench: Bench, script: &str, sections: Value) -> Self {
        Self::build(bench, script, sections, None).await
    }

    async fn build(
        bench: Bench,
        script: &str,
        sections: Value,
        sandbox: Option<SandboxLauncher>,
    ) -> Self {
        let work = bench.dir.path().join("work");
        let llm = ScriptedLlm::start(Script::default(), 0)
            .await
            .expect("a free port");
        let mut file = json!({
            "programmers": [{"id": "001", "port": 0, "primary_llm": "free/small", "capabilities": ["fast"]}],
            "providers": {"free": {"base_url": llm.base_url(), "free": true}},
            "failover": {"max_retries": 0, "retry_delay_s": 0, "call_timeout_s": 20},
            "agent": {"kind": "command", "command": ["/bin/bash", "-c", script, "agent", "{prompt_file}"]},
            "workspace": {"dir": work, "roots": [bench.dir.path().join("root")], "keep_trees_mib": 1024},
            "sandbox": {"level": "off"},
        });
        for (section, value) in sections.as_object().expect("an object") {
            file[section] = value.clone();
        }
        let pool = pool_config::parse(&file.to_string(), Path::new("/pool.yaml"))
            .expect("a valid pool file");
        let programmer = pool.programmers[0].clone();
        let sandbox = sandbox.unwrap_or_else(|| match sections.get("sandbox") {
            Some(_) => SandboxLauncher::with_helper(&pool.sandbox, helper()),
            None => support::sandbox(),
        });
        let workshop = Arc::new(Workshop::open(Arc::new(pool), sandbox).expect("a workshop"));
        let attempts = workshop
            .attempts(programmer, None)
            .await
            .expect("a gateway");
        Self {
            bench,
            _llm: llm,
            attempts,
        }
    }

    /// Works on a task with these additional fields.
    pub(crate) async fn run(&self, more: Value, stop: &CancellationToken) -> AttemptEnd {
        let mut task = json!({"id": "task-1", "instruction": "Fix add.", "repository": "app"});
        for (field, value) in more.as_object().expect("an object") {
            task[field] = value.clone();
        }
        let delivered =
            read(task.to_string().as_bytes(), &BasicProperties::default()).expect("a task");
        let claimed = Claimed {
            delivered,
            attempt: new_id::<AttemptId>(),
            number: 1,
            spent: Default::default(),
            since: Timestamp(0),
        };
        timeout(
            HANGS,
            self.attempts.run(&claimed, Arc::new(Unlimited), stop),
        )
        .await
        .expect("the attempt ends")
    }

    pub(crate) async fn outcome(&self, more: Value) -> ResultMessage {
        match self.run(more, &CancellationToken::new()).await {
            AttemptEnd::Outcome(outcome) => outcome.result,
            AttemptEnd::HandBack(hand_back) => panic!("handed back: {}", hand_back.why),
            AttemptEnd::Stopped { .. } => panic!("nobody stopped it"),
        }
    }
}

/// The field `acceptance` with one check, a shell script.
pub(crate) fn check(script: &str) -> Value {
    json!({"acceptance": [{"name": "check", "run": ["/bin/bash", "-c", script]}]})
}

/// The word for its kind of error, or `succeeded`.
pub(crate) fn word(result: &ResultMessage) -> &'static str {
    result
        .error
        .as_ref()
        .map_or("succeeded", |error| error.kind.as_str())
}

/// The message of its error.
pub(crate) fn message(result: &ResultMessage) -> &str {
    result.error.as_ref().map_or("", |error| &error.message)
}

/// Whether the worker would retry it.
pub(crate) fn is_made_again(result: &ResultMessage) -> bool {
    result
        .error
        .as_ref()
        .map(|error| error.kind)
        .is_some_and(ErrorKind::is_curable)
}
