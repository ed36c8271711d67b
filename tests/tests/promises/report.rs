//! The report agrees with the results.

use std::collections::BTreeMap;

use pool_core::money::MicroUsd;
use pool_core::result::{LlmUsage, ResultMessage, Status};
use serde_json::{Value, json};

use crate::support::api::http;
use crate::support::{Llm, Pool, PoolFile, SOON, eventually};

const FREE: &str = "local/free";
const PAID: &str = "paid/dear";

/// 001 is free and has the paid LLM as its backup; 006 has only the paid one.
fn file(llm: &Llm) -> PoolFile {
    let file = PoolFile::sample()
        .only(&["001", "006"])
        .calling(&[])
        .llm(&llm.base_url());
    let file = file.paid_llm(PAID, &llm.base_url(), ("1", "10"));
    file.set_of("001", "primary_llm", json!(FREE))
        .set_of("001", "backup_llm", json!(PAID))
        .set_of("006", "primary_llm", json!(PAID))
        .set("failover.circuit_breaker.enabled", json!(false))
}

/// The instruction names the task, so that the scripted LLM knows its answer.
fn task(id: &str, capability: &str, run: &str) -> Value {
    let instruction = format!("{id}: change something");
    json!({"id": id, "instruction": instruction, "repository": "app", "capabilities": [capability], "labels": {"run_id": run}})
}

/// Twelve tasks of two runs: nine succeed, one of them with the backup; two fail; one is cancelled
/// before it starts.
async fn a_dozen(pool: &Pool, llm: &Llm) -> BTreeMap<String, ResultMessage> {
    let refuse = |prompt: &str| json!({"model": "*", "prompt": prompt, "fail": {"status": 400}});
    let is_out = json!({"model": "free", "prompt": "free-5:", "fail": {"status": 503}});
    llm.fail(&[is_out, refuse("free-6:"), refuse("dear-5:")])
        .await;
    pool.command_line(&["pause", "--route", "paid"]).await;
    let observer = pool.submitter("observer").await;
    eventually(
        "no programmer consumes the tasks of the route",
        SOON,
        async || (observer.consumers("tasks.paid").await == 0).then_some(()),
    )
    .await;
    pool.api()
        .submit(&task("cancelled", "premium", "monday"))
        .await;
    pool.command_line(&["cancel", "cancelled"]).await;
    pool.command_line(&["resume", "--route", "paid"]).await;
    let free = (1..=6).map(|n| {
        task(
            &format!("free-{n}"),
            "fast",
            if n < 4 { "monday" } else { "tuesday" },
        )
    });
    let dear = (1..=5).map(|n| task(&format!("dear-{n}"), "premium", "tuesday"));
    pool.api()
        .submit(&json!(free.chain(dear).collect::<Vec<_>>()))
        .await;
    let ids = (1..=6)
        .map(|n| format!("free-{n}"))
        .chain((1..=5).map(|n| format!("dear-{n}")));
    let mut results = BTreeMap::new();
    for id in ids.chain(["cancelled".to_owned()]) {
        results.insert(id.clone(), pool.api().result(&id, SOON).await);
    }
    results
}

/// The tasks whose last answer came from this LLM.
fn of<'a>(results: &'a BTreeMap<String, ResultMessage>, llm: &str) -> Vec<&'a ResultMessage> {
    results
        .values()
        .filter(|result| {
            result
                .llm
                .as_ref()
                .is_some_and(|name| name.to_string() == llm)
        })
        .collect()
}

fn count(results: &[&ResultMessage], status: Status) -> usize {
    results
        .iter()
        .filter(|result| result.status == status)
        .count()
}

/// The calls of an LLM in all tasks, whichever LLM gave the last answer.
fn usage(results: &BTreeMap<String, ResultMessage>, llm: &str) -> Vec<LlmUsage> {
    let all = results
        .values()
        .flat_map(|result| result.usage.by_llm.clone());
    all.filter(|usage| usage.llm.to_string() == llm).collect()
}

fn percentiles(mut values: Vec<u64>) -> Value {
    values.sort_unstable();
    let rank = |percent: usize| values[(values.len() * percent).div_ceil(100) - 1];
    json!({"p50": rank(50), "p90": rank(90), "p99": rank(99)})
}

fn row<'a>(report: &'a Value, name: &str) -> &'a Value {
    let groups = report["groups"].as_array().expect("groups");
    groups
        .iter()
        .find(|group| group["name"] == name)
        .unwrap_or_else(|| panic!("no {name} in {report:#}"))
}

fn says_what_results_say(report: &Value, results: &BTreeMap<String, ResultMessage>, llm: &str) {
    let (row, tasks, used) = (row(report, llm), of(results, llm), usage(results, llm));
    let succeeded = count(&tasks, Status::Succeeded);
    assert_eq!(row["tasks"], tasks.len(), "{llm}: tasks");
    assert_eq!(row["succeeded"], succeeded, "{llm}: succeeded");
    assert_eq!(
        row["failed"],
        count(&tasks, Status::Failed),
        "{llm}: failed"
    );
    let failovers = tasks.iter().filter(|result| result.used_backup).count();
    assert_eq!(row["failovers"], failovers, "{llm}: failovers");
    let (duration, queued) = (
        tasks.iter().map(|r| r.timings.run_ms),
        tasks.iter().filter_map(|r| r.timings.queued_ms),
    );
    assert_eq!(
        row["duration_ms"],
        percentiles(duration.collect()),
        "{llm}: duration"
    );
    assert_eq!(
        row["queued_ms"],
        percentiles(queued.collect()),
        "{llm}: queue time"
    );
    let sum = |of: fn(&LlmUsage) -> u64| used.iter().map(of).sum::<u64>();
    assert_eq!(row["calls"], sum(|one| one.calls), "{llm}: calls");
    assert_eq!(
        row["failed_calls"],
        sum(|one| one.failed_calls),
        "{llm}: failed calls"
    );
    assert_eq!(
        row["input_tokens"],
        sum(|one| one.input_tokens),
        "{llm}: tokens in"
    );
    assert_eq!(
        row["output_tokens"],
        sum(|one| one.output_tokens),
        "{llm}: tokens out"
    );
    let cost: MicroUsd = used.iter().map(|one| one.cost_usd).sum();
    assert_eq!(row["cost_usd"], json!(cost), "{llm}: cost");
    let each = MicroUsd(cost.0.div_ceil(u64::try_from(succeeded).expect("a number")));
    assert_eq!(
        row["cost_per_succeeded_usd"],
        json!(each),
        "{llm}: cost per success"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_report_says_what_the_results_say_also_after_a_restart() {
    let llm = Llm::start_with_usage(100, 200).await;
    let mut pool = Pool::start(&file(&llm)).await;
    let results = a_dozen(&pool, &llm).await;
    let report = pool.api().get("/report?since=1h").await;
    for llm in [FREE, PAID] {
        says_what_results_say(&report, &results, llm);
    }
    let total = &report["total"];
    let numbers = ["tasks", "succeeded", "failed", "cancelled", "failovers"]
        .map(|field| total[field].clone());
    assert_eq!(
        numbers,
        [12, 9, 2, 1, 1].map(Value::from),
        "the report has all twelve tasks: {total:#}"
    );
    assert_eq!(
        total["success_rate"].as_f64(),
        Some(9.0 / 11.0),
        "the rate is that of the tasks that succeeded or failed"
    );
    assert_eq!(
        total["first_attempt_rate"], total["success_rate"],
        "no task needed a second attempt"
    );
    assert_eq!(
        total["failures"],
        json!({"llm_bad_request": 2, "cancelled": 1}),
        "by class"
    );
    assert_eq!(
        total["cost_usd"],
        json!(MicroUsd(5 * 2100)),
        "five tasks have an answer of the paid LLM"
    );
    assert_eq!(
        report["without_details"], 0,
        "the details of all tasks are known"
    );

    let by_run = pool.api().get("/report?since=all&by=label:run_id").await;
    let tasks = ["monday", "tuesday"].map(|run| row(&by_run, run)["tasks"].clone());
    assert_eq!(
        tasks,
        [4, 8].map(Value::from),
        "the tasks are counted by label: {by_run:#}"
    );
    let by_programmer = pool.api().get("/report?by=programmer").await;
    let tasks =
        ["001", "006", "(none)"].map(|programmer| row(&by_programmer, programmer)["tasks"].clone());
    assert_eq!(
        tasks,
        [6, 5, 1].map(Value::from),
        "the tasks are counted by programmer: {by_programmer:#}"
    );
    let by_route = pool.api().get("/report?by=route").await;
    let tasks = ["fast", "paid"].map(|route| row(&by_route, route)["tasks"].clone());
    assert_eq!(
        tasks,
        [6, 6].map(Value::from),
        "the tasks are counted by route: {by_route:#}"
    );

    pool.kill_dispatcher();
    pool.start_dispatcher().await;
    let again = eventually("the history is read again", SOON, async || {
        let again = pool.api().get("/report?since=1h").await;
        (again["without_details"] == 0 && again["total"]["tasks"] == 12).then_some(again)
    })
    .await;
    assert_eq!(
        again["groups"], report["groups"],
        "another dispatcher gives the same report"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_report_comes_as_a_table_as_csv_and_as_a_page() {
    let llm = Llm::start_with_usage(100, 200).await;
    let pool = Pool::start(&file(&llm)).await;
    a_dozen(&pool, &llm).await;
    let table = pool.command_line(&["report"]).await;
    let line = |name: &str| {
        table
            .lines()
            .find(|line| line.starts_with(name))
            .unwrap_or_else(|| panic!("{name}: {table}"))
    };
    assert!(
        line(FREE).contains("100 %"),
        "a refused task counts for the backup, which it called last: {table}"
    );
    assert!(
        line(PAID).contains("71 %"),
        "five of seven tasks succeeded: {table}"
    );
    assert!(
        line("12 tasks ended from ").len() > 20,
        "the table says how many tasks ended and when: {table}"
    );
    let csv = pool
        .command_line(&["report", "--format", "csv", "--since", "1h"])
        .await;
    let rows: Vec<Vec<&str>> = csv.lines().map(|line| line.split(',').collect()).collect();
    assert_eq!(
        (rows.len(), rows[0][..3].to_vec()),
        (5, vec!["name", "tasks", "succeeded"]),
        "there is a row for each LLM: {csv}"
    );
    assert!(
        rows.iter().any(|row| row[..3] == [PAID, "7", "5"]),
        "the row of the paid LLM has five tasks: {csv}"
    );
    let page = pool
        .command_line(&["report", "--format", "html", "--by", "label:run_id"])
        .await;
    assert!(
        page.contains("<svg") && page.contains("tuesday"),
        "the page has plots with titles"
    );
    let json: Value =
        serde_json::from_str(&pool.command_line(&["report", "--format", "json"]).await)
            .expect("JSON");
    assert_eq!(json["total"]["tasks"], 12, "the JSON has the same numbers");

    let url = std::fs::read_to_string(pool.path().join("url")).expect("the dispatcher's URL");
    let page = http()
        .get(format!("{url}/report?format=html"))
        .send()
        .await
        .expect("the API answers");
    let header = |name: &str| {
        page.headers()
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    };
    assert_eq!(header("content-type"), "text/html; charset=utf-8", "a page");
    assert!(
        header("content-security-policy").starts_with("default-src 'none'"),
        "the page can load and run nothing"
    );
    for (bad, says) in [
        ("since=often", "7d"),
        ("by=colour", "label:"),
        ("format=pdf", "html"),
        ("until=now", "until"),
    ] {
        let answer = pool.api().get(&format!("/report?{bad}")).await;
        assert_eq!(answer["status"], 400, "{bad}: {answer}");
        assert!(
            answer["detail"]
                .as_str()
                .is_some_and(|detail| detail.contains(says)),
            "the answer says what would be right: {answer}"
        );
    }
}
