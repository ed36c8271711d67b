//! Attempts from start to end: an agent with a scripted LLM in a real worktree, with all of its runs.
#![expect(clippy::expect_used, reason = "a helper that fails fails the test")]

use std::path::Path;
use std::sync::Arc;

use lapin::BasicProperties;
use llm_gateway::permits::Unlimited;
use pool_core::id::AttemptId;
use pool_core::money::MicroUsd;
use pool_core::result::{ErrorKind, ResultMessage, Status, Usage};
use pool_core::time::Timestamp;
use pool_telemetry::clock::new_id;
use pool_tests::scripted_llm::{Answer, Fail, Rule, Script, ScriptedLlm};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use worker::programmer::attempt::{AttemptEnd, HandBack};
use worker::programmer::claim::{Claimed, read};
use worker::programmer::workshop::{Attempts, Workshop};

use crate::repo::Bench;
use crate::support::{eventually, sandbox};

/// Prints its prompt and its surroundings, begins to write at once, and then obeys the LLM. `WRITE
/// …` becomes the text of `calc.py`. On anything else it undoes its first change. It does not
/// mention a failed call.
const AGENT: &str = r##"
import json, os, sys, time, urllib.request
prompt, model, before = open(sys.argv[1]).read(), os.environ["POOL_MODEL"], open("calc.py").read()
print(json.dumps({"prompt": prompt, "model": model, "before": before, "files": sorted(os.listdir("."))}))
open("calc.py", "a").write("# begun\n")
open("left.tmp", "w").write("x")
body = {"model": model, "messages": [{"role": "user", "content": prompt}]}
request = urllib.request.Request(os.environ["POOL_BASE_URL"] + "/chat/completions", json.dumps(body).encode(),
    {"content-type": "application/json", "authorization": "Bearer " + os.environ["POOL_TOKEN"]})
try:
    answer = json.load(urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request))
except OSError:
    sys.exit(0)
said = answer["choices"][0]["message"]["content"]
open("calc.py", "w").write(said[6:] if said.startswith("WRITE ") else before)
if said == "SLEEP":
    time.sleep(600)
"##;

const BEFORE: &str = "def add(a, b):\n    return a - b\n";

/// A programmer with the LLMs `free/small`, `free/big` and `paid/gpt`, or those of them that `llms`
/// names.
struct Rig {
    bench: Bench,
    llm: ScriptedLlm,
    attempts: Attempts,
}

impl Rig {
    async fn start(llms: &[&str], defaults: Value) -> Self {
        let bench = Bench::new();
        bench.write(".gitignore", "*.tmp\n");
        bench.commit("ignore");
        let llm = ScriptedLlm::start(Script::default(), 0)
            .await
            .expect("a free port");
        let file = json!({
            "programmers": [{"id": "001", "port": 0, "primary_llm": llms[0], "backup_llm": llms[1..], "capabilities": ["fast"]}],
            "defaults": defaults,
            "providers": {"free": {"base_url": llm.base_url(), "free": true}, "paid": {"base_url": llm.base_url()}},
            "prices": {"paid/gpt": {"input_usd_per_mtok": 1.0, "output_usd_per_mtok": 10.0}},
            "failover": {"max_retries": 0, "retry_delay_s": 0, "call_timeout_s": 20},
            "agent": {"kind": "command", "command": ["/usr/bin/python3", "-c", AGENT, "{prompt_file}"]},
            "workspace": {"dir": bench.dir.path().join("work"), "roots": [bench.dir.path().join("root")]},
            "sandbox": {"level": "off"},
        });
        let pool = pool_config::parse(&file.to_string(), Path::new("/pool.yaml"))
            .expect("a valid pool file");
        let programmer = pool.programmers[0].clone();
        let workshop = Arc::new(Workshop::open(Arc::new(pool), sandbox()).expect("a workshop"));
        let attempts = workshop
            .attempts(programmer, None)
            .await
            .expect("a gateway");
        Self {
            bench,
            llm,
            attempts,
        }
    }

    /// Works on a task. Its LLMs give the `answers`, one after another.
    async fn run(&self, answers: Value, more: Value, stop: &CancellationToken) -> AttemptEnd {
        let mut task = json!({"id": "task-1", "instruction": format!("Fix add.\nSCRIPT: {answers}"), "repository": "app"});
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
        self.attempts.run(&claimed, Arc::new(Unlimited), stop).await
    }

    async fn outcome(&self, answers: Value, more: Value) -> ResultMessage {
        match self.run(answers, more, &CancellationToken::new()).await {
            AttemptEnd::Outcome(outcome) => outcome.result,
            AttemptEnd::HandBack(hand_back) => panic!("handed back: {}", hand_back.why),
            AttemptEnd::Stopped { .. } => panic!("nobody stopped it"),
        }
    }

    /// The models that the provider was asked for, in order.
    fn asked(&self) -> Vec<String> {
        self.llm
            .requests()
            .into_iter()
            .map(|request| request.model)
            .collect()
    }
}

fn write(text: &str) -> Value {
    json!({"say": format!("WRITE {text}")})
}

fn outage(model: &str, answer: Answer) -> Rule {
    Rule {
        model: model.to_owned(),
        answer,
        hold: false,
        prompt: None,
    }
}

fn kind(result: &ResultMessage) -> Option<ErrorKind> {
    result.error.as_ref().map(|error| error.kind)
}

/// The surroundings that the last run of the agent printed.
fn found(result: &ResultMessage) -> Value {
    serde_json::from_str(result.log_tail.lines().next().expect("a line"))
        .expect("the surroundings that the agent printed")
}

/// A check that passes if `calc.py` contains `wanted`. It also creates and changes files.
fn check(wanted: &str) -> Value {
    let script = format!(
        "echo made >made-by-check; echo x >>docs/guide.md; echo 'I want {wanted}'; grep -q {wanted} calc.py"
    );
    json!({"acceptance": [{"name": "adds", "run": ["sh", "-c", script]}]})
}

#[tokio::test]
async fn what_a_check_finds_is_repaired_by_the_same_llm_in_the_same_files() {
    let rig = Rig::start(&["free/small", "free/big"], json!({})).await;
    let result = rig
        .outcome(
            json!([write("two\n"), write("two\nthree\n")]),
            check("three"),
        )
        .await;
    assert_eq!(
        (result.status, result.runs),
        (Status::Succeeded, 2),
        "{result:?}"
    );
    let found = found(&result);
    assert_eq!(
        found["before"], "two\n",
        "the second run goes on from the first one's files"
    );
    let files = json!([".git", ".gitignore", "calc.py", "docs"]);
    assert_eq!(
        found["files"], files,
        "without other files of the check or the first run"
    );
    let prompt = found["prompt"].as_str().expect("a prompt");
    for part in [
        "Fix add.\n",
        "check \"adds\" failed",
        "grep -q three calc.py",
        "status 1",
        "I want three",
    ] {
        assert!(prompt.contains(part), "{part:?} is in {prompt}");
    }
    assert_eq!(
        result.files_changed,
        ["calc.py"],
        "no file of the check gets into the patch"
    );
    assert!(
        result
            .patch
            .as_deref()
            .is_some_and(|patch| patch.contains("+three")),
        "{:?}",
        result.patch
    );
    assert_eq!(result.acceptance.len(), 1, "the last word of the check");
    assert_eq!(result.acceptance[0].exit_status, Some(0), "it passed");
    assert_eq!(
        (rig.asked(), result.used_backup),
        (vec!["small".to_owned(), "small".to_owned()], false),
        "one LLM"
    );
    assert_eq!(result.usage.calls, 2, "both runs are counted");
    assert!(
        rig.bench.git(&["status", "--porcelain"]).is_empty(),
        "the repository itself is untouched"
    );
}

#[tokio::test]
async fn repairs_have_an_end() {
    let rig = Rig::start(&["free/small"], json!({"max_fix_iterations": 2})).await;
    let answers = json!([write("two\n"), write("four\n"), write("three\n")]);
    let result = rig.outcome(answers, check("three")).await;
    assert_eq!(
        (result.runs, kind(&result)),
        (2, Some(ErrorKind::AcceptanceFailed)),
        "{result:?}"
    );
    assert!(
        result
            .patch
            .as_deref()
            .is_some_and(|patch| patch.contains("+four")),
        "the message names the failed check"
    );
    let rig = Rig::start(&["free/small"], json!({})).await;
    let result = rig
        .outcome(
            json!([write("two\n"), {"say": "I see nothing wrong."}]),
            check("three"),
        )
        .await;
    assert_eq!(
        (result.runs, kind(&result)),
        (2, Some(ErrorKind::AcceptanceFailed)),
        "a repair that changed nothing"
    );
    let message = result.error.expect("an error").message;
    assert!(message.contains("run to repair it failed"), "{message}");
}

#[tokio::test]
async fn nonsense_from_the_primary_is_thrown_away_and_the_backup_begins() {
    let rig = Rig::start(&["free/small", "free/big"], json!({})).await;
    rig.llm.set_rules(vec![outage(
        "small",
        Answer {
            say: Some("I am a teapot.".to_owned()),
            ..Answer::default()
        },
    )]);
    let result = rig.outcome(write("three\n"), json!({})).await;
    assert_eq!(
        (result.status, result.runs),
        (Status::Succeeded, 2),
        "{result:?}"
    );
    assert_eq!(
        rig.asked(),
        ["small", "big"],
        "the backup begins the second run"
    );
    let found = found(&result);
    assert_eq!(
        (&found["before"], &found["model"]),
        (&json!(BEFORE), &json!("free/big")),
        "from the base"
    );
    assert_eq!(
        found["files"],
        json!([".git", ".gitignore", "calc.py", "docs"]),
        "no file of the first run is there"
    );
    assert!(
        !found["prompt"]
            .as_str()
            .expect("a prompt")
            .contains("check"),
        "with the task's own prompt"
    );
    assert_eq!(
        result.llm.as_ref().map(|llm| llm.as_str()),
        Some("free/big"),
        "the LLM that did it"
    );
    assert!(result.used_backup, "the backup did it");
    let by_llm: Vec<_> = result
        .usage
        .by_llm
        .iter()
        .map(|of| (of.llm.as_str(), of.calls))
        .collect();
    assert_eq!(
        by_llm,
        [("free/small", 1), ("free/big", 1)],
        "each with its usage"
    );
}

#[tokio::test]
async fn half_an_edit_of_a_run_that_failed_is_not_in_the_next_one() {
    let rig = Rig::start(&["free/small", "free/big"], json!({})).await;
    let broken = json!({"behave": "broken_json"});
    let result = rig
        .outcome(json!([broken, broken, write("three\n")]), json!({}))
        .await;
    assert_eq!(
        (result.status, result.runs),
        (Status::Succeeded, 2),
        "{result:?}"
    );
    assert_eq!(
        found(&result)["before"],
        BEFORE,
        "the changes of the first run are gone"
    );
    assert_eq!(
        rig.asked(),
        ["small", "big", "big"],
        "both failed in the first run, the backup begins the second"
    );
}

#[tokio::test]
async fn a_lone_llm_that_changes_nothing_is_not_asked_again() {
    let rig = Rig::start(&["free/small"], json!({})).await;
    let result = rig
        .outcome(
            json!([{"say": "I would rather not."}, write("three\n")]),
            json!({}),
        )
        .await;
    assert_eq!(
        (result.runs, kind(&result)),
        (1, Some(ErrorKind::NoChange)),
        "a refusal looks like no change: {result:?}"
    );
}

#[tokio::test]
async fn the_limits_of_a_task_hold_over_all_its_runs() {
    let spends = |input: u64, output: u64, text: &str| {
        let mut answer = write(text);
        answer["usage"] = json!({"input_tokens": input, "output_tokens": output});
        answer
    };
    let rig = Rig::start(&["free/small"], json!({"max_tokens_per_job": 10_000})).await;
    let result = rig
        .outcome(
            json!([spends(4_000, 5_900, "two\n"), write("three\n")]),
            check("three"),
        )
        .await;
    assert_eq!(
        (result.runs, kind(&result)),
        (2, Some(ErrorKind::TokenLimit)),
        "no tokens for a repair: {result:?}"
    );
    let used = result.usage.input_tokens + result.usage.output_tokens;
    assert_eq!(
        (rig.asked().len(), used),
        (1, 9_900),
        "the second call was refused"
    );

    let rig = Rig::start(&["paid/gpt"], json!({})).await;
    let mut more = check("three");
    more["limits"] = json!({"max_cost_usd": "0.02"});
    let result = rig
        .outcome(json!([spends(0, 1_900, "two\n"), write("three\n")]), more)
        .await;
    assert_eq!(
        (result.runs, kind(&result)),
        (2, Some(ErrorKind::TokenLimit)),
        "no money for a repair: {result:?}"
    );
    assert_eq!(
        (rig.asked().len(), result.usage.cost_usd),
        (1, MicroUsd(19_000)),
        "the second call was refused"
    );
}

#[tokio::test]
async fn a_task_without_any_llm_left_is_handed_back_with_what_it_spent() {
    let rig = Rig::start(&["free/small", "paid/gpt"], json!({})).await;
    rig.llm.set_rules(vec![outage(
        "small",
        Answer {
            fail: Some(Fail {
                status: 500,
                ..Fail::default()
            }),
            ..Answer::default()
        },
    )]);
    let answers = json!([write("two\n"), {"fail": {"status": 429}}]);
    let ended = rig
        .run(answers, check("three"), &CancellationToken::new())
        .await;
    let AttemptEnd::HandBack(hand_back) = ended else {
        panic!("no LLM was left")
    };
    let HandBack { why, kind, outcome } = *hand_back;
    assert_eq!(kind, ErrorKind::LlmRateLimited, "the class of the last one");
    assert!(
        why.contains("free/small: unavailable; paid/gpt: rate_limited"),
        "each of them: {why}"
    );
    let Usage {
        calls,
        failed_calls,
        cost_usd,
        ..
    } = outcome.result.usage;
    assert_eq!((calls, failed_calls), (4, 3), "in both runs");
    assert!(
        cost_usd > MicroUsd::ZERO,
        "the first run's answer was paid for"
    );
    assert!(
        outcome.branch.is_none() && outcome.result.commit.is_none(),
        "nothing is committed"
    );
}

#[tokio::test]
async fn an_attempt_that_is_stopped_tells_what_it_spent() {
    let rig = Rig::start(&["paid/gpt"], json!({})).await;
    let stop = CancellationToken::new();
    let stopping = async {
        assert!(
            eventually(|| rig
                .llm
                .requests()
                .iter()
                .any(|request| request.outcome == "ok"))
            .await,
            "it was answered"
        );
        stop.cancel();
    };
    let (ended, ()) = tokio::join!(rig.run(json!({"say": "SLEEP"}), json!({}), &stop), stopping);
    let AttemptEnd::Stopped { usage } = ended else {
        panic!("it was stopped")
    };
    assert_eq!(usage.calls, 1, "its call");
    assert!(usage.cost_usd > MicroUsd::ZERO, "and its price");
}

#[tokio::test]
async fn a_change_that_follows_a_cut_prompt_counts_only_if_checks_pass() {
    let answer = json!({"say": "WRITE good", "usage": {"input_tokens": 2_000, "output_tokens": 5}});
    let notes = "Keep the sum of all prices exact, also for many items. ".repeat(1_200);
    for (more, expected) in [
        (json!({}), Some(ErrorKind::LlmContextTooLong)),
        (check("good"), None),
    ] {
        let rig = Rig::start(&["free/small"], json!({})).await;
        let mut more = more;
        more["instruction"] = json!(format!("Fix add. {notes}\nSCRIPT: {answer}"));
        let result = rig.outcome(json!({}), more).await;
        assert_eq!(kind(&result), expected, "{:?}", result.error);
        assert!(result.prompt_cut, "the result says so in any case");
    }
    let rig = Rig::start(&["free/small"], json!({})).await;
    let result = rig.outcome(json!({"say": "WRITE good"}), json!({})).await;
    assert!(!result.prompt_cut, "nothing was cut from the prompt");
}
