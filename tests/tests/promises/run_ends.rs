//! When the run of an agent ends: not while it computes, and not only when its process exits. An
//! agent that has finished is ended, and its change is judged.

use pool_core::result::{ErrorKind, ResultMessage, Status};
use pool_tests::scripted_llm::{Script, ScriptedLlm};
use serde_json::{Value, json};

use crate::support::{Pool, PoolFile, Repository, SOON};

/// Ends, or does not end, in a different way for each prompt.
const AGENT: &str = r##"
import json, os, subprocess, sys, time, urllib.request
what = open(sys.argv[1]).read().split()[0]

def edit(text="fixed"):
    open("calc.py", "w").write(text + "\n")
    print("edited", flush=True)

def compute(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass

def call():
    body = {"model": os.environ["POOL_MODEL"], "messages": [{"role": "user", "content": open(sys.argv[1]).read()}]}
    request = urllib.request.Request(os.environ["POOL_BASE_URL"] + "/chat/completions", json.dumps(body).encode(),
        {"content-type": "application/json", "authorization": "Bearer " + os.environ["POOL_TOKEN"]})
    urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request).read()

if what == "computes":
    compute(6)
    edit()
elif what == "children":
    # Many short processes, each of which is waited for.
    end = time.monotonic() + 6
    while time.monotonic() < end:
        subprocess.run(["sh", "-c", "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done"])
    edit()
elif what == "daemon":
    # In a new session, without its parents.
    work = "import time\nend = time.monotonic() + 6\nwhile time.monotonic() < end: pass\nopen('daemon.done', 'w')"
    subprocess.run(["sh", "-c", 'setsid "$0" -c "$1" >/dev/null 2>&1 &', sys.executable, work])
    while not os.path.exists("daemon.done"):
        time.sleep(0.2)
    os.remove("daemon.done")
    edit()
elif what == "stays":
    edit()
    time.sleep(1000)
elif what == "answered":
    call()
    edit()
    time.sleep(1000)
elif what == "polls":
    # Not the last event, but a text with its words. An agent that only waits is silent.
    print(json.dumps({"type": "item", "text": json.dumps({"type": "result"})}), flush=True)
    while True:
        time.sleep(0.2)
elif what == "says":
    edit()
    sys.stdout.write('\x1b[32m{"type":"res')
    sys.stdout.flush()
    time.sleep(0.5)
    sys.stdout.write('ult","result":"' + "x" * 100000 + '"}\x1b[0m\n')
    while True:
        print("still here", flush=True)
        time.sleep(0.5)
elif what == "quotes":
    # A file of the repository that looks like the last event; then it goes on. One call would not do: it may be over
    # before the worker has read the line.
    print('{"type":"result"}', flush=True)
    for _ in range(30):
        call()
        print("at work", flush=True)
        time.sleep(0.5)
    edit()
"##;

async fn pool_with(more: Value) -> (Pool, ScriptedLlm) {
    let llm = ScriptedLlm::start(Script::default(), 0)
        .await
        .expect("a scripted LLM");
    let mut agent = json!({"kind": "command", "command": ["/usr/bin/python3", "-c", AGENT, "{prompt_file}"], "no_output_timeout_s": 2});
    agent
        .as_object_mut()
        .expect("an object")
        .extend(more.as_object().expect("an object").clone());
    let limits = json!({"timeout_s": 120, "max_duration_per_job_s": 60});
    let file = PoolFile::sample()
        .llm(&llm.base_url())
        .with("agent", agent)
        .with("defaults", limits);
    let pool = Pool::start(&file.set("dispatcher.retry_delay_s", json!(0))).await;
    Repository::create(&pool.repository("calc"), &[("calc.py", "x = 1\n")]);
    (pool, llm)
}

/// A task with a check that passes when `calc.py` contains `fixed`, unless the test replaces it.
fn task(what: &str, script: &Value, more: &Value) -> Value {
    let mut task = json!({
        "id": what, "instruction": format!("{what}\nSCRIPT: {script}"), "repository": "calc",
        "acceptance": [{"name": "fixed", "run": ["grep", "-q", "fixed", "calc.py"]}],
    });
    task.as_object_mut()
        .expect("an object")
        .extend(more.as_object().expect("an object").clone());
    task
}

fn kind(result: &ResultMessage) -> Option<ErrorKind> {
    result.error.as_ref().map(|error| error.kind)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_computes_without_a_word_is_not_silent() {
    let (pool, _llm) = pool_with(json!({})).await;
    let cases = ["computes", "children", "daemon"];
    let tasks = cases.map(|what| task(what, &json!({}), &json!({})));
    pool.api().submit(&json!(tasks)).await;
    for what in cases {
        let result = pool.api().result(what, SOON * 2).await;
        assert_eq!(result.status, Status::Succeeded, "{what}: {result:?}");
        assert_eq!(result.files_changed, ["calc.py"], "{what}");
    }
    let mut log = pool.event_log().await;
    log.read().await;
    for what in cases {
        assert_eq!(log.starts(what).len(), 1, "{what} is started once");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_has_finished_and_stays_is_ended_and_its_change_is_judged() {
    let (pool, _llm) = pool_with(json!({})).await;
    let (plain, unchecked) = (json!({}), json!({"acceptance": []}));
    let said = json!({"say": "It is fixed."});
    let fails = json!({"acceptance": [{"name": "never", "run": ["false"]}]});
    let cases = [
        ("stays", "stays", &said, &plain, None),
        ("stays-unchecked", "stays", &said, &unchecked, None),
        ("answered", "answered", &said, &unchecked, None),
        (
            "stays-failing",
            "stays",
            &said,
            &fails,
            Some(ErrorKind::AcceptanceFailed),
        ),
        (
            "polls",
            "polls",
            &said,
            &plain,
            Some(ErrorKind::AgentSilent),
        ),
    ];
    let tasks = cases.map(|(id, what, script, more, _)| {
        let mut task = task(what, script, more);
        task["id"] = id.into();
        task
    });
    pool.api().submit(&json!(tasks)).await;
    for (id, _, _, _, expected) in cases {
        let result = pool.api().result(id, SOON * 2).await;
        assert_eq!(kind(&result), expected, "{id}: {result:?}");
        if expected.is_none() {
            assert_eq!(result.status, Status::Succeeded, "{id}: {result:?}");
            assert!(
                pool.api().patch(id).await.contains("+fixed"),
                "{id}: its change is in the result"
            );
        }
    }
    let mut log = pool.event_log().await;
    log.read().await;
    for (id, _, _, _, expected) in cases {
        let starts = if expected == Some(ErrorKind::AgentSilent) {
            3
        } else {
            1
        };
        assert_eq!(log.starts(id).len(), starts, "attempts at {id}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_is_ended_after_its_last_event_and_not_after_what_looks_like_it() {
    // The limit of silence is longer than the test, so that it ends no run.
    let (pool, _llm) =
        pool_with(json!({"done_when": "{\"type\": \"result\"}", "no_output_timeout_s": 600})).await;
    let cases = ["says", "quotes"];
    let tasks = cases.map(|what| task(what, &json!({"say": "yes"}), &json!({})));
    pool.api().submit(&json!(tasks)).await;
    for what in cases {
        let result = pool.api().result(what, SOON * 2).await;
        assert_eq!(
            (result.status, result.runs),
            (Status::Succeeded, 1),
            "{what}: {result:?}"
        );
        let run_s = result.timings.run_ms / 1000;
        assert!(
            (10..40).contains(&run_s),
            "{what}: it has ten seconds to exit, or as long as it works: {run_s} s"
        );
    }
}
