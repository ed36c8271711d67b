//! The agent of `config/agents/python.yaml`, as docs/guide/agents.md shows it: cold and warm.
#![expect(clippy::expect_used, reason = "a helper that fails fails the test")]

use std::path::{Path, PathBuf};

use llm_gateway::record::RunRecord;
use pool_core::id::AttemptId;
use pool_core::pool::Pool;
use pool_telemetry::clock::new_id;
use tokio_util::sync::CancellationToken;
use worker::agent::{Edit, from_config, judge};
use worker::sandbox::Watch;
use worker::sandbox::warm::StartKind;

use crate::agents::job;
use crate::aider::use_llm;
use crate::repo::{Bench, task};
use crate::support::eventually;
use crate::warm::launcher;

const ANSWER: &str = "It must add.\n```python\ndef add(a, b):\n    return a + b\n```\n";

fn from_root(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name)
}

fn section() -> String {
    let file = std::fs::read_to_string(from_root("config/agents/python.yaml")).expect("a section");
    let start = file.find("agent:").expect("the section `agent`");
    file[start..].to_owned()
}

fn pool() -> Pool {
    let text = format!(
        "programmers: [{{id: \"001\", primary_llm: ollama/model-x}}]\n{}",
        section()
    );
    pool_config::parse(&text, &from_root("config/agents/python.yaml"))
        .unwrap_or_else(|mistakes| panic!("a good file: {mistakes}"))
}

#[tokio::test]
async fn the_agent_in_python_of_the_guide_does_its_task_cold_and_warm() {
    let guide = std::fs::read_to_string(from_root("docs/guide/agents.md")).expect("the guide");
    assert!(
        guide.contains(&section()),
        "the guide shows the section as it is"
    );
    let (pool, dir) = (pool(), tempfile::tempdir().expect("a directory"));
    let (agent, sandbox) = (from_config(&pool.agent), launcher(dir.path()));
    for expected in [StartKind::Usual, StartKind::Warm] {
        let bench = Bench::new();
        let workspaces = bench.workspaces();
        let worktree = workspaces
            .prepare(&task(), new_id::<AttemptId>())
            .await
            .expect("a worktree");
        let mut job = job(&worktree, &["calc.py"]);
        use_llm(&mut job, (200, ANSWER));
        let mut behind = sandbox.clone();
        if expected == StartKind::Warm {
            let start = agent.warm_start(&job.env).expect("it may be warm");
            sandbox.warm_up(&start).await;
            let ready = eventually(|| sandbox.is_warm(&start.program)).await;
            assert!(ready, "its server becomes ready");
        } else {
            behind = crate::support::sandbox();
        }
        let watch = Watch::new(CancellationToken::new());
        let run = agent.run(&job, &behind, &watch).await.expect("it runs");
        let said = run.output.text();
        assert_eq!(run.start, expected, "{said}");
        assert_eq!(said, "changed calc.py\n", "{expected:?}");
        let changes = worktree.collect().await.expect("good changes");
        assert_eq!(changes.files, ["calc.py"], "{expected:?}");
        let verdict = judge(&pool.agent.kind, &run, &RunRecord::default(), true);
        assert_eq!(verdict, Ok(Edit::Whole), "{expected:?}");
    }
}
