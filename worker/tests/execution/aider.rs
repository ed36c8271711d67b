//! The real aider with a small LLM in this process. Set `POOL_AIDER` to the program and run with
//! `--ignored`.
#![expect(clippy::expect_used, reason = "a helper that fails fails the test")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use llm_gateway::record::RunRecord;
use pool_core::pool::{self, AgentKind};
use pool_core::result::{ErrorKind, TaskFailure};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use worker::agent::{AgentRun, Edit, Job, from_config, judge};
use worker::sandbox::{GatewayServer, SandboxLauncher, Watch};
use worker::workspace::WorktreeChanges;

use crate::agents::{hostile_to_aider, job, pwned, run};
use crate::repo::Bench;

/// The LLM's answer: a status and the text of its message.
pub(crate) type Answer = (u16, &'static str);

const EDIT: &str = "calc.py\n```python\n<<<<<<< SEARCH\n    return a - b\n=======\n    return a + b\n>>>>>>> REPLACE\n```\n";
const BAD_EDIT: &str = "calc.py\n```python\n<<<<<<< SEARCH\n    return a * c\n=======\n    return 1\n>>>>>>> REPLACE\n```\n";
const GIT_EDIT: &str = ".git/config\n```\n<<<<<<< SEARCH\n[user]\n=======\n[core]\n\tfsmonitor = touch pwned\n[user]\n>>>>>>> REPLACE\n```\n";

async fn answer(
    State((status, text)): State<Answer>,
    headers: HeaderMap,
    Json(question): Json<Value>,
) -> Response {
    let authorized = headers
        .get("authorization")
        .is_some_and(|value| value == "Bearer tok-42");
    let known = question["model"] == "ollama/qwen2.5-coder:7b-instruct"
        && question["stream"] != json!(true);
    if status != 200 || !authorized || !known {
        let status = if authorized && known { status } else { 418 };
        let status = StatusCode::from_u16(status).expect("a status");
        return (
            status,
            Json(json!({"error": {"message": "scripted", "code": "scripted"}})),
        )
            .into_response();
    }
    Json(json!({
        "id": "1", "object": "chat.completion", "created": 1, "model": question["model"],
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}],
        "usage": {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120},
    }))
    .into_response()
}

/// An LLM on a port of this machine and, for a run in a network of its own, on the listener of its
/// sandbox. Both give the same answer until the
/// test ends.
fn llm_server(given: Answer) -> GatewayServer {
    let serve = move |listener: std::net::TcpListener| {
        let app = Router::new()
            .route("/v1/chat/completions", post(answer))
            .with_state(given);
        listener.set_nonblocking(true).expect("a socket");
        let listener = TcpListener::from_std(listener).expect("a listener");
        tokio::spawn(async move { axum::serve(listener, app).await });
    };
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    serve(listener);
    GatewayServer {
        port,
        serve: Arc::new(serve),
    }
}

/// Lets the job use this LLM.
pub(crate) fn use_llm(job: &mut Job, given: Answer) {
    let server = llm_server(given);
    job.base_url = format!("http://127.0.0.1:{}/v1", server.port);
    job.access.gateway = Some(server);
}

/// Runs aider on the hostile repository with an LLM that always gives the same answer.
async fn aider(
    bench: &Bench,
    given: Answer,
) -> (AgentRun, WorktreeChanges, Result<Edit, TaskFailure>) {
    let kind = config(&program(), false).kind;
    let worktree = bench.worktree().await;
    let mut job = job(&worktree, &["calc.py"]);
    use_llm(&mut job, given);
    let run = run(&kind, &job).await.expect("it runs");
    let changes = worktree.collect().await.expect("good changes");
    let verdict = judge(&kind, &run, &RunRecord::default(), !changes.is_empty());
    eprintln!(
        "{:?} in {:?}: {verdict:?} {changes:?}\n{:?}\n{}",
        run.exit,
        run.duration,
        run.evidence,
        run.output.text()
    );
    assert!(!pwned(&worktree.path()), "a trap of the repository ran");
    (run, changes, verdict)
}

/// The aider of this machine.
pub(crate) fn program() -> PathBuf {
    let program = std::env::var_os("POOL_AIDER").expect("POOL_AIDER names the aider program");
    program.into()
}

/// The section `agent` for this program.
pub(crate) fn config(program: &Path, warm: bool) -> pool::Agent {
    pool::Agent {
        kind: AgentKind::Aider {
            program: program.to_owned(),
            edit_format: "diff".to_owned(),
        },
        no_output_timeout: Duration::from_secs(120),
        done_when: None,
        env_allow: Vec::new(),
        warm,
        warm_modules: Vec::new(),
    }
}

/// One run of aider behind this sandbox, which must edit the file.
pub(crate) async fn edit(program: &Path, sandbox: &SandboxLauncher, warm: bool) -> AgentRun {
    let bench = Bench::new();
    let config = config(program, warm);
    let worktree = bench.worktree().await;
    let mut job = job(&worktree, &["calc.py"]);
    job.timeout = Duration::from_secs(300);
    use_llm(&mut job, (200, EDIT));
    let watch = Watch::new(CancellationToken::new());
    let run = from_config(&config).run(&job, sandbox, &watch).await;
    let run = run.expect("it runs");
    let changes = worktree.collect().await.expect("good changes");
    let verdict = judge(
        &config.kind,
        &run,
        &RunRecord::default(),
        !changes.is_empty(),
    );
    let said = run.output.text();
    assert_eq!(verdict, Ok(Edit::Whole), "{:?} {said}", run.start);
    assert_eq!(changes.files, ["calc.py"], "{said}");
    eprintln!("{:?} in {:?}", run.start, run.duration);
    run
}

#[tokio::test]
#[ignore = "needs aider: POOL_AIDER"]
async fn a_real_aider_edits_a_hostile_repository_and_nothing_else_happens() {
    let bench = Bench::new();
    hostile_to_aider(&bench);
    let (_, changes, verdict) = aider(&bench, (200, EDIT)).await;
    assert_eq!(verdict, Ok(Edit::Whole), "the edit was applied");
    assert_eq!(changes.files, ["calc.py"], "one file changed");
}

#[tokio::test]
#[ignore = "needs aider: POOL_AIDER"]
async fn a_real_aider_that_fails_is_never_a_success() {
    let bench = Bench::new();
    for (given, expected) in [
        ((401, ""), ErrorKind::LlmAuth),
        ((404, ""), ErrorKind::LlmModelUnavailable),
        ((400, ""), ErrorKind::LlmBadRequest),
        ((200, ""), ErrorKind::LlmEmpty),
        ((200, "I would rather not."), ErrorKind::NoChange),
        ((200, BAD_EDIT), ErrorKind::EditNotApplied),
    ] {
        let (run, changes, verdict) = aider(&bench, given).await;
        assert_eq!(
            verdict.map_err(|failure| failure.kind),
            Err(expected),
            "{given:?}"
        );
        assert!(
            changes.is_empty(),
            "{given:?} changed {:?}; {:?}",
            changes.files,
            run.exit
        );
    }
}

#[tokio::test]
#[ignore = "needs aider: POOL_AIDER"]
async fn an_answer_that_edits_the_agents_git_directory_reaches_nobody() {
    let bench = Bench::new();
    let (_, changes, verdict) = aider(&bench, (200, GIT_EDIT)).await;
    assert!(verdict.is_err(), "no file of the commit was changed");
    assert!(changes.is_empty(), "the directory is thrown away");
}
