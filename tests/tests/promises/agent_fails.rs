//! A success needs evidence: in every failure of the LLM or the agent the task does not succeed,
//! and its error names the class of the failure.

use std::time::Duration;

use pool_core::result::{ErrorKind, Status};
use pool_tests::scripted_llm::{Script, ScriptedLlm};
use serde_json::{Value, json};

use crate::support::event_log::Entry;
use crate::support::machine::aider;
use crate::support::pool::task;
use crate::support::{Llm, Pool, PoolFile, Repository, SOON};

/// The script of the LLM, and the expected outcome of the task.
type Case = (&'static str, Value, ErrorKind);

fn edit(search: &str) -> Value {
    json!({"file": "calc.py", "search": search, "replace": "    return a + b\n"})
}

fn good() -> Value {
    edit("    return a - b\n")
}

fn bad() -> Value {
    edit("    return a * b\n")
}

/// Calls that fail.
fn failing_calls() -> Vec<Case> {
    let fail = |status: u16| json!({"fail": {"status": status}});
    vec![
        ("401", fail(401), ErrorKind::LlmAuth),
        ("403", fail(403), ErrorKind::LlmAuth),
        ("404", fail(404), ErrorKind::LlmModelUnavailable),
        (
            "429",
            json!({"fail": {"status": 429, "retry_after_s": 7}}),
            ErrorKind::LlmRateLimited,
        ),
        (
            "quota",
            json!({"fail": {"status": 429, "code": "insufficient_quota"}}),
            ErrorKind::LlmAuth,
        ),
        ("500", fail(500), ErrorKind::LlmUnavailable),
        ("503", fail(503), ErrorKind::LlmUnavailable),
        ("hang", json!({"behave": "hang"}), ErrorKind::LlmTimeout),
        ("drop", json!({"behave": "drop"}), ErrorKind::LlmUnavailable),
        (
            "broken stream",
            json!({"behave": "cut_stream", "edits": [good()]}),
            ErrorKind::LlmUnavailable,
        ),
        (
            "broken JSON",
            json!({"behave": "broken_json"}),
            ErrorKind::LlmBadAnswer,
        ),
        (
            "no choices",
            json!({"behave": "no_choices"}),
            ErrorKind::LlmBadAnswer,
        ),
        (
            "context",
            json!({"behave": "context_too_long"}),
            ErrorKind::LlmContextTooLong,
        ),
    ]
}

/// Answers that an agent cannot use, or only in part.
fn useless_answers() -> Vec<Case> {
    let dead_after_half = json!([{"edits": [good(), bad()]}, {"fail": {"status": 500}}]);
    vec![
        (
            "empty answer",
            json!({"behave": "empty"}),
            ErrorKind::LlmEmpty,
        ),
        (
            "cut at the limit",
            json!({"behave": "length", "edits": [good()]}),
            ErrorKind::LlmOutputLimit,
        ),
        (
            "a whole edit, then filtered",
            json!({"finish": "content_filter", "edits": [good()]}),
            ErrorKind::LlmBadAnswer,
        ),
        (
            "a whole edit, then given up",
            json!({"finish": "error", "edits": [good()]}),
            ErrorKind::LlmUnavailable,
        ),
        (
            "nonsense",
            json!({"say": "I am a teapot."}),
            ErrorKind::NoChange,
        ),
        (
            "bad SEARCH block",
            json!({"edits": [bad()]}),
            ErrorKind::EditNotApplied,
        ),
        (
            "a good and a bad block",
            json!({"edits": [good(), bad()]}),
            ErrorKind::EditNotApplied,
        ),
        (
            "half an edit, then dead",
            dead_after_half,
            ErrorKind::LlmUnavailable,
        ),
    ]
}

fn scripted(id: &str, script: &Value) -> Value {
    let mut task = task(id);
    task["instruction"] = format!("Fix add.\nSCRIPT: {script}").into();
    task["repository"] = "calc".into();
    task["files"] = json!(["calc.py"]);
    task
}

fn numbered(cases: &[Case]) -> Vec<Value> {
    cases
        .iter()
        .enumerate()
        .map(|(n, (_, script, _))| scripted(&format!("f{n}"), script))
        .collect()
}

/// Another attempt could not cure any of these failures.
async fn started_once(pool: &Pool, cases: usize) {
    let mut log = pool.event_log().await;
    log.read().await;
    for id in (0..cases).map(|n| format!("f{n}")) {
        assert_eq!(log.starts(&id).len(), 1, "{id} is not retried");
    }
}

/// A pool whose LLM does what its prompts say.
async fn pool_with(agent: Value) -> (Pool, ScriptedLlm) {
    let llm = ScriptedLlm::start(Script::default(), 0)
        .await
        .expect("a scripted LLM");
    // Each failure stands for itself: no breaker learns from the others, and no task is retried.
    let breaker = json!({"enabled": false});
    let failover = json!({"max_retries": 0, "retry_delay_s": 0, "call_timeout_s": 5, "circuit_breaker": breaker});
    let limits = json!({"timeout_s": 400, "max_duration_per_job_s": 300});
    let file = PoolFile::sample()
        .only(&["001", "002", "003"])
        .llm(&llm.base_url());
    let file = file
        .with("agent", agent)
        .with("failover", failover)
        .with("defaults", limits);
    let pool = Pool::start(&file.set("dispatcher.max_hand_backs", json!(0))).await;
    Repository::create(
        &pool.repository("calc"),
        &[("calc.py", "def add(a, b):\n    return a - b\n")],
    );
    (pool, llm)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_of_aider_fails_in_every_failure_of_the_llm_and_the_error_names_its_class() {
    let (pool, _llm) =
        pool_with(json!({"kind": "aider", "program": aider(), "edit_format": "diff"})).await;
    // A run of aider costs seconds of two cores, so the agent below covers all other failing calls.
    let mut cases = failing_calls();
    cases.retain(|(what, _, _)| {
        [
            "401",
            "404",
            "429",
            "500",
            "hang",
            "broken stream",
            "broken JSON",
        ]
        .contains(what)
    });
    cases.extend(useless_answers());
    pool.api().submit(&json!(numbered(&cases))).await;
    pool.api()
        .submit(&scripted("good", &json!({"edits": [good()]})))
        .await;
    let mut wrong = Vec::new();
    for (n, (what, _, expected)) in cases.iter().enumerate() {
        let result = pool
            .api()
            .result(&format!("f{n}"), Duration::from_secs(300))
            .await;
        let kind = result.error.as_ref().map(|error| error.kind);
        if (result.status, kind) != (Status::Failed, Some(*expected)) || result.commit.is_some() {
            wrong.push(format!(
                "{what}: {:?} {:?}, expected {expected:?}",
                result.status, result.error
            ));
        }
    }
    assert_eq!(
        wrong,
        Vec::<String>::new(),
        "every failure has its own class, and nothing is committed"
    );
    started_once(&pool, cases.len()).await;
    let result = pool.api().result("good", SOON).await;
    assert_eq!(
        result.status,
        Status::Succeeded,
        "the same task with a good answer succeeds: {result:?}"
    );
}

/// Asks the LLM and claims success in any case, as most agents do.
const LIAR: &str = r##"
import json, os, sys, urllib.request
with open("calc.py", "a") as file:
    file.write("# begun\n")
body = {"model": os.environ["POOL_MODEL"], "messages": [{"role": "user", "content": open(sys.argv[1]).read()}]}
request = urllib.request.Request(os.environ["POOL_BASE_URL"] + "/chat/completions", json.dumps(body).encode(),
    {"content-type": "application/json", "authorization": "Bearer " + os.environ["POOL_TOKEN"]})
try:
    urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request).read()
except OSError as error:
    print("the LLM failed:", error)
print("All done, everything works.")
"##;

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_edits_and_claims_success_after_its_last_call_failed_is_not_believed() {
    let agent =
        json!({"kind": "command", "command": ["/usr/bin/python3", "-c", LIAR, "{prompt_file}"]});
    let (pool, llm) = pool_with(agent).await;
    let cases = failing_calls();
    pool.api().submit(&json!(numbered(&cases))).await;
    for (n, (what, _, expected)) in cases.iter().enumerate() {
        let result = pool.api().result(&format!("f{n}"), SOON).await;
        let kind = result.error.as_ref().map(|error| error.kind);
        assert_eq!(
            (result.status, kind),
            (Status::Failed, Some(*expected)),
            "{what}: {result:?}"
        );
        assert_eq!(
            result.commit, None,
            "{what}: its half-done change is not kept"
        );
    }
    started_once(&pool, cases.len()).await;
    pool.api()
        .submit(&scripted("good", &json!({"say": "yes"})))
        .await;
    let result = pool.api().result("good", SOON).await;
    assert_eq!(
        result.status,
        Status::Succeeded,
        "with an answer the same agent succeeds: {result:?}"
    );
    assert_eq!(
        llm.requests().len(),
        cases.len() + 1,
        "one request to the provider for each call of the agent"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_fails_by_itself_is_reported_by_how_it_ended() {
    let script = r#"case "$(cat "$1")" in
        exit*) echo x >>calc.py; exit 3 ;;
        crash*) echo x >>calc.py; kill -SEGV $$ ;;
        nothing*) exit 0 ;;
        silent*) exec sleep 60 ;;
        busy*) while :; do echo .; sleep 0.2; done ;;
    esac"#;
    let agent = json!({"kind": "command", "command": ["/bin/sh", "-c", script, "agent", "{prompt_file}"], "no_output_timeout_s": 2});
    let llm = ScriptedLlm::start(Script::default(), 0)
        .await
        .expect("a scripted LLM");
    let limits = json!({"timeout_s": 120, "max_duration_per_job_s": 5});
    // Attempts that broke are retried, each like the first one.
    let file = PoolFile::sample().set("dispatcher.max_attempts", json!(1));
    let pool = Pool::start(
        &file
            .llm(&llm.base_url())
            .with("agent", agent)
            .with("defaults", limits),
    )
    .await;
    Repository::create(&pool.repository("calc"), &[("calc.py", "x = 1\n")]);
    let cases = [
        ("exit", ErrorKind::AgentFailed),
        ("crash", ErrorKind::AgentCrashed),
        ("nothing", ErrorKind::NoChange),
        ("silent", ErrorKind::AgentSilent),
        ("busy", ErrorKind::AgentTimeout),
    ];
    let tasks = cases.map(|(what, _)| {
        let mut task = task(what);
        (task["instruction"], task["repository"]) = (what.into(), "calc".into());
        task
    });
    pool.api().submit(&json!(tasks)).await;
    for (what, expected) in cases {
        let result = pool.api().result(what, SOON).await;
        let kind = result.error.as_ref().map(|error| error.kind);
        assert_eq!(
            (result.status, kind),
            (Status::Failed, Some(expected)),
            "{what}: {result:?}"
        );
        assert_eq!(result.commit, None, "{what}: nothing is committed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_acceptance_check_that_fails_makes_the_task_fail_and_shows_what_it_said() {
    let file =
        PoolFile::sample()
            .only(&["001"])
            .command(&["/bin/sh", "-c", "echo four >>readme.txt"]);
    let pool = Pool::start(&file).await;
    let mut task = task("checked");
    task["acceptance"] = json!([
        {"name": "has four", "run": ["grep", "-q", "four", "readme.txt"]},
        {"name": "has five", "run": ["sh", "-c", "echo no five here; grep -q five readme.txt"]},
    ]);
    pool.api().submit(&task).await;
    let result = pool.api().result("checked", SOON).await;
    let kind = result.error.as_ref().map(|error| error.kind);
    assert_eq!(
        (result.status, kind),
        (Status::Failed, Some(ErrorKind::AcceptanceFailed)),
        "{result:?}"
    );
    let statuses: Vec<_> = result
        .acceptance
        .iter()
        .map(|check| check.exit_status)
        .collect();
    assert_eq!(statuses, [Some(0), Some(1)], "one check passed, one failed");
    assert!(
        result.acceptance[1].output_tail.contains("no five here"),
        "its output is in the result: {result:?}"
    );
}

/// Ends in a way that depends on the prompt, and in the same way every time.
const STUBBORN: &str = r#"case "$(cat "$1")" in
    exit*) echo x >>calc.py; exit 3 ;;
    crash*) echo x >>calc.py; kill -SEGV $$ ;;
    silent*) exec sleep 60 ;;
    nothing*) exit 0 ;;
    busy*) while :; do echo .; sleep 0.2; done ;;
    *) echo x >>calc.py ;;
esac"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_that_a_repeat_cannot_cure_is_tried_once_and_one_that_it_may_cure_three_times() {
    let agent = json!({"kind": "command", "command": ["/bin/sh", "-c", STUBBORN, "agent", "{prompt_file}"], "no_output_timeout_s": 2});
    let limits = json!({"timeout_s": 120, "max_duration_per_job_s": 5, "max_fix_iterations": 1});
    let file = PoolFile::sample()
        .with("agent", agent)
        .with("defaults", limits);
    let pool = Pool::start(&file.set("dispatcher.retry_delay_s", json!(0))).await;
    Repository::create(&pool.repository("calc"), &[("calc.py", "x = 1\n")]);
    let none = json!({});
    let checks = json!({"acceptance": [{"name": "never", "run": ["false"]}]});
    let cases = [
        ("exit", &none, ErrorKind::AgentFailed, 3),
        ("crash", &none, ErrorKind::AgentCrashed, 3),
        ("silent", &none, ErrorKind::AgentSilent, 3),
        ("nothing", &none, ErrorKind::NoChange, 1),
        ("busy", &none, ErrorKind::AgentTimeout, 1),
        ("checked", &checks, ErrorKind::AcceptanceFailed, 1),
        (
            "slow",
            &json!({"limits": {"timeout_s": 1}, "instruction": "busy"}),
            ErrorKind::TaskTimeout,
            1,
        ),
        (
            "outside",
            &json!({"repository": "/etc"}),
            ErrorKind::Repository,
            1,
        ),
        (
            "missing",
            &json!({"repository": "missing"}),
            ErrorKind::Repository,
            1,
        ),
        (
            "no-branch",
            &json!({"base": "no-such-branch"}),
            ErrorKind::Repository,
            1,
        ),
    ];
    let tasks = cases.map(|(what, more, _, _)| {
        let mut task = json!({"id": what, "instruction": what, "repository": "calc"});
        task.as_object_mut()
            .expect("an object")
            .extend(more.as_object().expect("an object").clone());
        task
    });
    pool.api().submit(&json!(tasks)).await;
    for (what, _, expected, _) in cases {
        let result = pool.api().result(what, 2 * SOON).await;
        let kind = result.error.as_ref().map(|error| error.kind);
        assert_eq!(
            (result.status, kind),
            (Status::Failed, Some(expected)),
            "{what}: {result:?}"
        );
    }
    let mut log = pool.event_log().await;
    log.read().await;
    for (what, _, _, starts) in cases {
        assert_eq!(log.starts(what).len(), starts, "attempts at {what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_key_without_a_backup_is_tried_once_and_the_task_waits_with_its_reason() {
    let llm = Llm::start().await;
    llm.fail_with("*", 401).await;
    let pool = Pool::start(
        &PoolFile::sample()
            .only(&["001"])
            .llm(&llm.base_url())
            .calling(&[]),
    )
    .await;
    pool.api().submit(&task("locked")).await;
    pool.status_where("its breaker is open", |status| {
        status.is_shut_for("001", "breaker")
    })
    .await;
    let why = pool.command_line(&["why", "locked"]).await;
    assert!(why.contains("auth"), "the task says why it waits: {why}");
    let mut log = pool.event_log().await;
    let confirmed =
        |entries: &[Entry]| entries.iter().any(|entry| entry.is("probed")).then_some(());
    log.until("a probe has confirmed that the key is bad", SOON, confirmed)
        .await;
    assert_eq!(
        (log.starts("locked").len(), log.outcomes("locked").len()),
        (1, 0),
        "there is one attempt and no outcome"
    );
    assert_eq!(
        llm.requests().await.len(),
        2,
        "only the call and the probe try the key"
    );
}
