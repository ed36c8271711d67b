//! The real codex and claude, with the settings of config/agents, through the LLM gateway to the
//! scripted LLM. Set `POOL_CODEX` and `POOL_CLAUDE` to the programs and run with `--ignored`.
#![expect(clippy::expect_used, reason = "a helper that fails fails the test")]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use llm_gateway::class::CallClass;
use llm_gateway::permits::Unlimited;
use llm_gateway::record::{self, RunRecord};
use llm_gateway::{CallPlan, Gateway, Upstreams};
use pool_core::pool::{AgentKind, Failover, Pool, Secret};
use pool_core::result::{ErrorKind, TaskFailure, Usage};
use pool_tests::scripted_llm::{Script, ScriptedLlm};
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use worker::agent::{Edit, Job, from_config, judge};
use worker::sandbox::{CommandAccess, GatewayServer, Watch};
use worker::workspace::WorktreeChanges;

use crate::agents::job;
use crate::repo::Bench;
use crate::support::sandbox;

/// An agent, the protocol of its provider, and the variable that names its program.
#[derive(Clone, Copy)]
struct Kind {
    name: &'static str,
    protocol: &'static str,
    variable: &'static str,
}

const CODEX: Kind = Kind {
    name: "codex",
    protocol: "openai",
    variable: "POOL_CODEX",
};
const CLAUDE: Kind = Kind {
    name: "claude",
    protocol: "anthropic",
    variable: "POOL_CLAUDE",
};

/// The outcome of a run.
struct AttemptOutcome {
    verdict: Result<Edit, TaskFailure>,
    record: RunRecord,
    changes: WorktreeChanges,
    patched: String,
    duration: Duration,
}

impl Kind {
    /// A pool with the section of config/agents, and the LLM as a paid provider.
    fn pool(self, llm: &ScriptedLlm) -> Pool {
        let file = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join(format!("../config/agents/{}.yaml", self.name));
        let section = std::fs::read_to_string(&file).expect("the agent's section");
        let text = format!(
            "programmers: [{{id: \"001\", primary_llm: scripted/model-x}}]\n\
             providers: {{scripted: {{base_url: \"{}\", protocol: {}}}}}\n\
             prices: {{scripted/model-x: {{input_usd_per_mtok: 3, cached_input_usd_per_mtok: 0.3, output_usd_per_mtok: 15}}}}\n\
             {section}",
            llm.base_url(),
            self.protocol
        );
        let mut pool = pool_config::parse(&text, &file)
            .unwrap_or_else(|mistakes| panic!("a good file: {mistakes}"));
        if let AgentKind::Command { argv, .. } = &mut pool.agent.kind {
            argv[0] = std::env::var(self.variable).expect("the variable names the agent's program");
        }
        pool
    }

    /// One run on a repository whose `add` subtracts. The LLM obeys the script.
    async fn run(self, script: &Value) -> AttemptOutcome {
        let llm = ScriptedLlm::start(Script::default(), 0)
            .await
            .expect("a free port");
        let pool = self.pool(&llm);
        let gateway = Gateway::start(Upstreams::new(&pool, |_| None).expect("providers"))
            .await
            .expect("a free port");
        let programmer = &pool.programmers[0];
        let session = Arc::new(gateway.open(CallPlan {
            llms: programmer.llms.clone(),
            failover: Failover {
                call_timeout: Duration::from_secs(20),
                max_retries: 0,
                ..pool.failover.clone()
            },
            permits: Arc::new(Unlimited),
            max_tokens: programmer.limits.max_tokens,
            used: Usage::default(),
            max_cost: programmer.limits.max_cost,
            context_limit: programmer.limits.context_limit,
        }));
        let bench = Bench::new();
        let worktree = bench.worktree().await;
        let job = job(&worktree, &["calc.py"]);
        let job = Job {
            prompt: format!("/add must add.\nSCRIPT: {script}"),
            base_url: session.base_url(),
            token: Secret::new(session.token()),
            model: programmer.primary().clone(),
            env: Vec::new(),
            access: CommandAccess {
                gateway: Some(GatewayServer {
                    port: session.port(),
                    serve: Arc::new(session.server()),
                }),
                ..job.access
            },
            ..job
        };
        let began = Instant::now();
        let watch = Watch::new(CancellationToken::new());
        let run = from_config(&pool.agent)
            .run(&job, &sandbox(), &watch)
            .await
            .expect("it runs");
        let duration = began.elapsed();
        let record = Arc::into_inner(session)
            .expect("this test holds the only reference")
            .close()
            .await;
        let changes = worktree.collect().await.expect("good changes");
        let verdict = judge(&pool.agent.kind, &run, &record, !changes.is_empty());
        let patched = std::fs::read_to_string(worktree.path().join("calc.py")).expect("the file");
        eprintln!(
            "{} {:?} in {duration:?}: {verdict:?} {changes:?}\n{record:?}\n{}",
            self.name,
            run.exit,
            run.output.text()
        );
        AttemptOutcome {
            verdict,
            record,
            changes,
            patched,
            duration,
        }
    }
}

async fn edits_and_is_metered(kind: Kind) {
    let usage = json!({"input_tokens": 1000, "cached_input_tokens": 400, "output_tokens": 50});
    let edit =
        json!({"file": "calc.py", "search": "    return a - b", "replace": "    return a + b"});
    let outcome = kind
        .run(&json!({"say": "It adds now.", "edits": [edit], "usage": usage}))
        .await;
    assert_eq!(outcome.verdict, Ok(Edit::Whole), "a success by evidence");
    assert_eq!(
        outcome.changes.files,
        ["calc.py"],
        "one file, and no file of the agent's own"
    );
    assert_eq!(
        outcome.patched, "def add(a, b):\n    return a + b\n",
        "the edit"
    );
    let calls = outcome.record.calls.len() as u64;
    assert!(
        calls >= 2,
        "one call for the edit, one for the words: {calls}"
    );
    let used = record::usage(&outcome.record.calls);
    assert_eq!(
        (used.calls, used.failed_calls, used.estimated),
        (calls, 0, false),
        "all of them answered"
    );
    let tokens = (
        used.input_tokens,
        used.cached_input_tokens,
        used.output_tokens,
    );
    assert_eq!(
        tokens,
        (1000 * calls, 400 * calls, 50 * calls),
        "every call is metered"
    );
    // Per million: 600 new tokens at $3, 400 cached ones at $0.30, 50 of output at $15.
    assert_eq!(
        used.cost_usd.0,
        (1800 + 120 + 750) * calls,
        "and has its price"
    );
}

async fn gives_up_at_once(kind: Kind) {
    for (script, class, error) in [
        (
            json!({"fail": {"status": 529}}),
            CallClass::UNAVAILABLE,
            ErrorKind::LlmUnavailable,
        ),
        (
            json!({"fail": {"status": 500}}),
            CallClass::UNAVAILABLE,
            ErrorKind::LlmUnavailable,
        ),
        (
            json!({"fail": {"status": 401}}),
            CallClass::Auth,
            ErrorKind::LlmAuth,
        ),
        (
            json!({"behave": "cut_stream", "say": "Half of this."}),
            CallClass::UNAVAILABLE,
            ErrorKind::LlmUnavailable,
        ),
    ] {
        let outcome = kind.run(&script).await;
        let kind_of_error = outcome.verdict.map_err(|failure| failure.kind);
        assert_eq!(kind_of_error, Err(error), "{script}: not a success");
        assert_eq!(
            outcome.record.calls.len(),
            1,
            "{script}: it does not repeat the call"
        );
        assert_eq!(outcome.record.calls[0].class, class, "{script}: the record");
        assert!(
            outcome.duration < Duration::from_secs(20),
            "{script}: it stopped after {:?}",
            outcome.duration
        );
        assert!(outcome.changes.is_empty(), "{script}: nothing was changed");
    }
}

#[tokio::test]
#[ignore = "needs codex: POOL_CODEX"]
async fn a_real_codex_edits_a_file_and_is_metered() {
    edits_and_is_metered(CODEX).await;
}

#[tokio::test]
#[ignore = "needs codex: POOL_CODEX"]
async fn a_real_codex_gives_up_when_its_llm_fails() {
    gives_up_at_once(CODEX).await;
}

#[tokio::test]
#[ignore = "needs claude: POOL_CLAUDE"]
async fn a_real_claude_edits_a_file_and_is_metered() {
    edits_and_is_metered(CLAUDE).await;
}

#[tokio::test]
#[ignore = "needs claude: POOL_CLAUDE"]
async fn a_real_claude_gives_up_when_its_llm_fails() {
    gives_up_at_once(CLAUDE).await;
}
