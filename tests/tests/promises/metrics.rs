//! The `/metrics` of real processes has exactly the metrics of docs/reference/metrics.md, and the
//! counts of several processes add up.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use pool_core::result::Status;
use pool_telemetry::catalog::{ALL, Kind, Programs, Row};
use serde_json::json;

use crate::support::machine::program;
use crate::support::pool::tasks;
use crate::support::{Api, EventLog, Llm, Pool, PoolFile, SOON, eventually};

/// Breaks in its first run of the task `broken`, else makes an LLM call.
const AGENT: &str = r#"
sign="$1"; prompt="$2"; shift 2
if grep -q '^broken' "$prompt" && [ ! -e "$sign" ]; then touch "$sign"; kill -9 $$; fi
exec "$@" --prompt-file "$prompt"
"#;

/// A metric as a process exports it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Told {
    name: String,
    kind: String,
    labels: BTreeSet<String>,
}

fn told(text: &str) -> BTreeSet<Told> {
    let kinds: BTreeMap<&str, &str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '))
        .collect();
    let series = text
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty());
    series.map(|line| told_by(line, &kinds)).collect()
}

fn told_by(line: &str, kinds: &BTreeMap<&str, &str>) -> Told {
    let (series, _) = line.rsplit_once(' ').expect("a value");
    let (name, labels) = series.split_once('{').unwrap_or((series, ""));
    let part_of = |part: &str| {
        name.strip_suffix(part)
            .filter(|name| kinds.get(name) == Some(&"histogram"))
    };
    let name = ["_bucket", "_sum", "_count"]
        .into_iter()
        .find_map(part_of)
        .unwrap_or(name);
    let kind = kinds
        .get(name)
        .unwrap_or_else(|| panic!("{name} has no type"));
    // The values contain no comma and no equals sign.
    let labels = labels
        .trim_end_matches('}')
        .split(',')
        .filter_map(|label| label.split_once('='));
    let labels = labels
        .map(|(label, _)| label.to_owned())
        .filter(|label| label != "le")
        .collect();
    Told {
        name: name.to_owned(),
        kind: (*kind).to_owned(),
        labels,
    }
}

/// The metrics that these kinds of processes may export.
fn documented(of: &[Programs]) -> BTreeSet<Told> {
    let told = |row: &Row| Told {
        name: row.name.to_owned(),
        kind: match row.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        }
        .to_owned(),
        labels: row.labels.iter().map(|label| (*label).to_owned()).collect(),
    };
    ALL.iter()
        .filter(|row| of.contains(&row.at))
        .map(told)
        .collect()
}

/// The sum of all series of this name with these labels.
fn sum(texts: &[String], beginning: &str) -> f64 {
    let lines = texts
        .iter()
        .flat_map(|text| text.lines())
        .filter(|line| line.starts_with(beginning));
    lines
        .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
        .sum()
}

async fn texts(processes: &[Api]) -> Vec<String> {
    let mut texts = Vec::new();
    for process in processes {
        texts.push(process.text("/metrics").await);
    }
    texts
}

async fn all_told(processes: &[Api]) -> BTreeSet<Told> {
    texts(processes)
        .await
        .iter()
        .flat_map(|text| told(text))
        .collect()
}

/// Checks that each kind of process exports only the metrics documented for it, and that together
/// they export all of them.
async fn tell_what_is_documented(dispatchers: &[Api], workers: &[Api]) {
    for one in documented(&[Programs::Dispatcher, Programs::Worker, Programs::Both]) {
        eventually(
            &format!("a process exports {one:?}, which is documented"),
            SOON,
            async || {
                let told = all_told(dispatchers).await.contains(&one)
                    || all_told(workers).await.contains(&one);
                told.then_some(())
            },
        )
        .await;
    }
    for (processes, of) in [
        (dispatchers, Programs::Dispatcher),
        (workers, Programs::Worker),
    ] {
        let told = all_told(processes).await;
        let others: Vec<Told> = told
            .difference(&documented(&[of, Programs::Both]))
            .cloned()
            .collect();
        assert!(
            others.is_empty(),
            "{of:?}: not in the catalog for it: {others:?}"
        );
    }
}

/// The agent of this file, with the file that marks its first run.
fn agent(sign: &Path) -> Vec<String> {
    let calling = program("calling-agent");
    let [sign, calling] = [sign, &calling].map(|path| path.to_str().expect("a path in UTF-8"));
    let script = ["/bin/sh", "-c", AGENT, "agent", sign, "{prompt_file}"];
    let calls = [calling, "--base-url", "{base_url}", "--model", "{model}"];
    script
        .into_iter()
        .chain(calls)
        .map(ToOwned::to_owned)
        .collect()
}

/// Makes everything that is counted happen at least once.
async fn live_through_it(pool: &Pool, llm: &Llm, log: &mut EventLog) -> u32 {
    let api = pool.api();
    let submit = async |name: &str, count: usize| {
        api.submit(&json!(tasks(name, count))).await;
    };
    submit("broken", 1).await;
    log.finished(1, SOON).await;
    // A provider reports more tokens than a call can have used.
    let usage = json!({"input_tokens": 1_000_000_000_u64, "output_tokens": 1});
    llm.fail(&[json!({"model": "*", "say": "OK", "usage": usage})])
        .await;
    submit("absurd", 1).await;
    log.finished(2, SOON).await;
    // A provider has read only a part of a long prompt.
    let usage = json!({"input_tokens": 2_000, "output_tokens": 1});
    llm.fail(&[json!({"model": "*", "say": "OK", "usage": usage})])
        .await;
    let mut cut = tasks("cut", 1);
    cut[0]["instruction"] = "word ".repeat(10_000).into();
    cut[0]["acceptance"] = json!([{"name": "holds", "run": ["true"]}]);
    api.submit(&json!(cut)).await;
    log.finished(3, SOON).await;
    // The calls leave the primary, and then it gets no more.
    llm.fail_with("primary", 500).await;
    submit("moved", 8).await;
    log.finished(11, SOON).await;
    // No LLM is left, so the task returns to its queue.
    llm.fail_with("*", 500).await;
    submit("back", 2).await;
    log.until("a task was returned", SOON, |entries| {
        entries
            .iter()
            .any(|entry| entry.is("released"))
            .then_some(())
    })
    .await;
    llm.recover().await;
    log.finished(13, SOON * 2).await;
    13
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_tell_all_that_is_documented_and_what_they_count_adds_up() {
    let llm = Llm::start().await;
    let breaker = json!({"failure_threshold": 2, "window_s": 60, "cooldown_s": 2});
    let file = PoolFile::grown(2, "local/primary", Some("local/backup")).llm(&llm.base_url());
    let file = file
        .set("failover.circuit_breaker", breaker)
        .set("dispatcher.retry_delay_s", json!(1));
    let file = file.with(
        "cost_optimization",
        json!({"max_daily_spend_usd": "50", "alert_threshold_usd": "40"}),
    );
    let mut pool = Pool::set_up_shared(&file).await;
    let agent = agent(&pool.signs().join("broken-once"));
    // With the layers, so that their metrics exist.
    let calling = program("calling-agent");
    let sandbox = json!({"level": "auto", "read": [calling], "write": ["../signs"]});
    pool.rewrite(
        &file
            .with("sandbox", sandbox)
            .command(&agent.iter().map(String::as_str).collect::<Vec<_>>()),
    );
    pool.start_dispatcher().await;
    let mut processes = vec![pool.api()];
    pool.start_dispatcher().await;
    processes.push(pool.api());
    pool.start_workers(2, 1);
    pool.all_consume().await;
    let mut log = pool.event_log().await;
    let count = live_through_it(&pool, &llm, &mut log).await;

    let status = pool.status().await;
    let ports = status
        .programmers()
        .iter()
        .map(|programmer| programmer["port"].as_u64().expect("a port"));
    let workers: Vec<Api> = ports
        .map(|port| Api::at(format!("http://127.0.0.1:{port}")))
        .collect();
    tell_what_is_documented(&processes, &workers).await;

    processes.extend(workers);
    let count = f64::from(count);
    eventually(
        "the counts of all processes add up to what happened",
        SOON,
        async || {
            let texts = texts(&processes).await;
            let finished = format!(
                "pool_tasks_finished_total{{outcome=\"{}\"",
                Status::Succeeded.as_str()
            );
            let sums = [
                sum(&texts, "pool_tasks_submitted_total{"),
                sum(&texts, "pool_task_run_seconds_count{"),
            ];
            (sum(&texts, &finished) == count && sums == [count, count]).then_some(())
        },
    )
    .await;
    eventually("one dispatcher exports all programmers", SOON, async || {
        (sum(&texts(&processes[..1]).await, "pool_programmers{") == 2.0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_tasks_and_their_messages_are_counted_separately() {
    let pool = Pool::start(&PoolFile::sample().only(&["001"])).await;
    pool.command_line(&["pause", "--all"]).await;
    let api = pool.api();
    api.submit(&json!(tasks("waits", 2))).await;
    api.delete("/tasks/waits-1").await;
    // The other client has its own connection.
    api.get("/dead").await;
    let texts = eventually("both tasks are counted", SOON, async || {
        let texts = [api.text("/metrics").await];
        (sum(&texts, "pool_queue_messages{queue=\"tasks.any\"}") == 2.0).then_some(texts)
    })
    .await;
    assert_eq!(
        sum(&texts, "pool_tasks_waiting{route=\"any\"}"),
        1.0,
        "one of the two was cancelled: {}",
        texts[0]
    );
    assert!(
        !texts[0].contains("dead letters"),
        "an ended connection does not count as lost: {}",
        texts[0]
    );
    let said = pool.command_line(&["status"]).await;
    assert!(
        said.contains("1 (2 messages)"),
        "the table shows the same: {said}"
    );
}
