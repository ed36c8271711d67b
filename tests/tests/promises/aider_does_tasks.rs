//! The main job: aider does real coding tasks in a real repository, with patches that apply and do
//! what was asked.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use pool_core::result::Status;
use pool_tests::scripted_llm::{Script, ScriptedLlm};
use serde_json::{Value, json};

use crate::support::machine::{aider, checkout};
use crate::support::pool_file::ROUTES;
use crate::support::{Pool, PoolFile, Repository, eventually};

const TASKS: usize = 30;

/// The tasks of the trial, repeated, over all routes.
fn tasks() -> Vec<Value> {
    let text = std::fs::read_to_string(checkout().join("config/trial/tasks.yaml"))
        .expect("the trial's tasks");
    let trial: Value = serde_yaml::from_str(&text).expect("YAML");
    let trial = trial["tasks"].as_array().expect("a list of tasks");
    let numbered = trial.iter().cycle().take(TASKS).cloned().enumerate();
    numbered
        .map(|(n, mut task)| {
            task["id"] = format!("job-{n}").into();
            task["capabilities"] = json!(ROUTES[n % ROUTES.len()]);
            task
        })
        .collect()
}

/// The trial's answers for every model, without the delays that the trial adds for its viewers.
fn answers() -> Script {
    let text = std::fs::read_to_string(checkout().join("config/trial/answers.yaml"))
        .expect("the trial's answers");
    let mut trial: Value = serde_yaml::from_str(&text).expect("YAML");
    let answers = trial["answers"].as_array_mut().expect("a list of answers");
    for answer in &mut *answers {
        answer
            .as_object_mut()
            .expect("an answer")
            .remove("delay_ms");
    }
    Script::from_yaml(&json!({"answers": answers}).to_string()).expect("valid answers")
}

/// Most runs take a fraction of a second then. A sandbox without warm starts has no fork server.
async fn wait_until_warm(pool: &Pool) {
    let said = |words: &str| pool.worker_log(0).contains(words);
    if !said("a fork server for ") {
        return;
    }
    eventually(
        "the fork server is ready",
        Duration::from_secs(120),
        async || said("the fork server for ").then_some(()),
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn thirty_real_tasks_over_all_routes_come_back_with_patches_that_apply_and_pass_their_checks()
{
    let llm = ScriptedLlm::start(answers(), 0)
        .await
        .expect("a scripted LLM");
    let agent = json!({"kind": "aider", "program": aider(), "edit_format": "diff"});
    // Ten agents at once take their time on two cores.
    let limits = json!({"timeout_s": 400, "max_duration_per_job_s": 300});
    let file = PoolFile::sample()
        .llm(&llm.base_url())
        .with("agent", agent)
        .with("defaults", limits);
    let pool = Pool::start_alone(&file).await;
    wait_until_warm(&pool).await;
    let sample = Repository::sample(&pool.repository("sample"));
    let tasks = tasks();
    let mut log = pool.event_log().await;
    pool.api().submit(&json!(tasks)).await;
    log.finished(TASKS, Duration::from_secs(240)).await;

    let mut programmers = BTreeSet::new();
    let clones = tempfile::tempdir().expect("a directory for clones");
    for task in &tasks {
        let id = task["id"].as_str().expect("an id");
        let result = pool.api().result(id, Duration::from_secs(5)).await;
        assert_eq!(result.status, Status::Succeeded, "{id}: {result:?}");
        let statuses: Vec<_> = result
            .acceptance
            .iter()
            .map(|check| check.exit_status)
            .collect();
        let checks = task["acceptance"].as_array().map_or(0, Vec::len);
        assert_eq!(
            statuses,
            vec![Some(0); checks],
            "{id}: all its checks ran and passed"
        );
        programmers.extend(result.programmer);
        let clone = sample.fresh_clone(&clones.path().join(id));
        let applied = clone.apply(&pool.api().patch(id).await);
        assert_eq!(applied, Ok(()), "{id}: its patch applies to the base");
        accept(id, task, clone.path());
        let commit = result.commit.expect("a commit");
        assert_eq!(
            pool.branch("sample", &format!("pool/{id}")).await,
            commit,
            "{id}: its branch is its commit"
        );
    }
    assert!(
        programmers.len() >= 8,
        "at least eight programmers worked: {programmers:?}"
    );
    assert_eq!(
        sample.git(&["status", "--porcelain"]),
        "",
        "the repository's own files are untouched"
    );
}

/// Runs a task's checks outside of the pool.
fn accept(id: &str, task: &Value, directory: &Path) {
    let checks = task["acceptance"].as_array().expect("checks");
    assert!(!checks.is_empty(), "{id} has a check");
    for check in checks {
        let argv: Vec<&str> = check["run"]
            .as_array()
            .expect("a command")
            .iter()
            .filter_map(Value::as_str)
            .collect();
        let mut command = Command::new(argv[0]);
        command
            .args(&argv[1..])
            .current_dir(directory)
            .stdin(Stdio::null());
        let done = command
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .output()
            .expect("a check runs");
        assert!(
            done.status.success(),
            "{id}: the check {} fails: {}",
            check["name"],
            String::from_utf8_lossy(&done.stderr)
        );
    }
}
