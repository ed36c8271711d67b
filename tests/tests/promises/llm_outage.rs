//! An LLM outage costs no task. A handful of calls reveal it, and the pool goes on with the other
//! LLMs. It probes the broken one now and then, and returns to it in steps.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use pool_core::id::ProgrammerId;
use pool_core::result::{ErrorKind, Status};
use pool_core::time::Timestamp;
use pool_telemetry::clock::wall_clock;
use pool_tests::scripted_llm::LoggedRequest;
use serde_json::json;

use crate::support::event_log::Entry;
use crate::support::llm::{overlaps, task_of};
use crate::support::pool::tasks;
use crate::support::pool_file::numbered;
use crate::support::status::{OpenBreaker, PoolStatus};
use crate::support::{EventLog, Llm, Pool, PoolFile, SOON, eventually};

const THRESHOLD: usize = 3;
const COOLDOWN: Duration = Duration::from_secs(3);
/// From a failed call until every process has read of it, with 49 agents on two cores.
const NEWS: Duration = Duration::from_millis(500);

/// This many programmers with one free primary LLM and one free backup, and a breaker with short
/// times.
fn pool_file(programmers: usize, llm: &Llm) -> PoolFile {
    let file =
        PoolFile::grown(programmers, "local/primary", Some("local/backup")).llm(&llm.base_url());
    let breaker =
        json!({"failure_threshold": THRESHOLD, "window_s": 60, "cooldown_s": COOLDOWN.as_secs()});
    file.set("failover.circuit_breaker", breaker)
}

/// The time of the last failure that counted before the breaker of this model opened.
fn opened(entries: &[Entry], model: &str, after: Timestamp) -> Option<Timestamp> {
    let mut counted = BTreeSet::new();
    for entry in entries
        .iter()
        .filter(|entry| entry.is("llm_failed") && entry.model() == model && entry.at >= after)
    {
        counted.insert((
            entry.text("programmer").to_owned(),
            entry.text("task").to_owned(),
        ));
        let programmers: BTreeSet<&String> =
            counted.iter().map(|(programmer, _)| programmer).collect();
        let tasks: BTreeSet<&String> = counted.iter().map(|(_, task)| task).collect();
        if counted.len() >= THRESHOLD && programmers.len() >= 2 && tasks.len() >= 2 {
            return Some(entry.at);
        }
    }
    None
}

/// The probes of this model: their times and programmers.
fn probes<'a>(entries: &'a [Entry], model: &'a str) -> impl Iterator<Item = (Timestamp, &'a str)> {
    let of_model = move |entry: &&Entry| entry.is("probing") && entry.model() == model;
    entries
        .iter()
        .filter(of_model)
        .map(|entry| (entry.at, entry.text("programmer")))
}

/// The programmer that had the task at this time.
fn owner_at(entries: &[Entry], task: &str, at: Timestamp) -> Option<String> {
    let mut starts = entries
        .iter()
        .filter(|entry| entry.is_start_of(task) && entry.at <= at);
    starts
        .next_back()
        .map(|entry| entry.text("programmer").to_owned())
}

/// The time of each programmer's first complete answer from its primary LLM after this time.
fn returns(
    entries: &[Entry],
    requests: &[LoggedRequest],
    after: Timestamp,
) -> BTreeMap<String, Timestamp> {
    let mut returns = BTreeMap::new();
    for request in requests
        .iter()
        .filter(|r| r.model == "primary" && r.at >= after && r.is_ok())
    {
        if let Some(who) = task_of(request).and_then(|task| owner_at(entries, task, request.at)) {
            returns.entry(who).or_insert(request.at);
        }
    }
    returns
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_of_the_primary_costs_49_programmers_a_few_calls_and_no_task() {
    const PROGRAMMERS: usize = 49;
    let llm = Llm::start().await;
    let signs = tempfile::tempdir().expect("a directory for signs");
    let enough = signs.path().join("enough");
    let calls = [
        "--calls",
        "60",
        "--pause-ms",
        "1000",
        "--stop-file",
        enough.to_str().expect("a path in UTF-8"),
    ];
    let file = pool_file(PROGRAMMERS, &llm).calling(&calls);
    let file = file.writable(signs.path()).set(
        "defaults",
        json!({"timeout_s": 400, "max_duration_per_job_s": 300}),
    );
    let pool = Pool::start_processes_alone(&file, 7, 7).await;
    let tasks = tasks("t", 2 * PROGRAMMERS);
    let mut log = pool.event_log().await;
    pool.api().submit(&json!(tasks)).await;
    let all_on_primary = async |log: &mut EventLog, after: Timestamp, limit: Duration| {
        let log = &mut *log;
        eventually("every programmer uses its primary", limit, async || {
            let requests = llm.requests().await;
            let returns = returns(log.read().await, &requests, after);
            (returns.len() == PROGRAMMERS).then_some(returns)
        })
        .await
    };
    all_on_primary(&mut log, Timestamp(0), SOON * 2).await;

    let down = wall_clock();
    llm.fail_with("primary", 500).await;
    log.until("the pool has probed three times", SOON * 2, |entries| {
        (probes(entries, "primary").count() >= 3).then_some(())
    })
    .await;
    llm.recover().await;
    let up = wall_clock();
    let returns = all_on_primary(&mut log, up, SOON * 2).await;
    std::fs::write(&enough, "").expect("the sign");
    log.finished(tasks.len(), SOON * 4).await;

    let requests = llm.requests().await;
    judge_failures(log.read().await, &requests, (down, up));
    judge_returns(&returns, up);
    pool.all_succeeded(&mut log, "t", tasks.len()).await;
}

/// A few calls failed before every process knew; afterwards there was only one probe for each
/// cooldown.
fn judge_failures(
    entries: &[Entry],
    requests: &[LoggedRequest],
    (down, up): (Timestamp, Timestamp),
) {
    let opened = opened(entries, "primary", down).expect("enough failures to open the breaker");
    let known = opened.plus(NEWS);
    let of_primary = |request: &&LoggedRequest| request.model == "primary" && request.at >= down;
    let in_call = |request: &&LoggedRequest| overlaps(request, Timestamp(opened.0 - 500), known);
    let in_mid_call: BTreeSet<_> = requests
        .iter()
        .filter(of_primary)
        .filter(in_call)
        .filter_map(task_of)
        .collect();
    let failed: Vec<_> = requests
        .iter()
        .filter(of_primary)
        .filter(|request| request.status == Some(500))
        .collect();
    let (probes_sent, calls): (Vec<&LoggedRequest>, Vec<&LoggedRequest>) = failed
        .into_iter()
        .partition(|request| task_of(request).is_none());
    eprintln!(
        "{} calls failed; {} were in mid-call; {} probes",
        calls.len(),
        in_mid_call.len(),
        probes_sent.len()
    );
    assert!(
        calls.len() <= THRESHOLD + in_mid_call.len(),
        "{} calls failed with {} in mid-call when the breaker opened",
        calls.len(),
        in_mid_call.len()
    );
    let late: Vec<_> = calls
        .into_iter()
        .filter(|request| request.at > known)
        .collect();
    assert!(
        late.is_empty(),
        "no programmer calls an LLM that it knows to be down: {late:?}"
    );

    let during: Vec<Timestamp> = probes(entries, "primary")
        .map(|(at, _)| at)
        .filter(|at| *at < up)
        .collect();
    assert!(
        probes_sent.len() <= during.len(),
        "the log has every probe: {} {during:?}",
        probes_sent.len()
    );
    for (before, after) in during.iter().zip(&during[1..]) {
        assert!(
            after.since(*before) >= COOLDOWN,
            "there is one probe for each cooldown: {during:?}"
        );
    }
}

fn judge_returns(returns: &BTreeMap<String, Timestamp>, up: Timestamp) {
    let mut times: Vec<Duration> = returns.values().map(|at| at.since(up)).collect();
    times.sort_unstable();
    eprintln!(
        "back on the primary: first {:?}, last {:?}",
        times.first(),
        times.last()
    );
    let last = times.last().copied().unwrap_or_default();
    assert!(
        last <= Duration::from_secs(30),
        "every programmer is back within 30 s: the last after {last:?}"
    );
    let most_at_once = times.iter().map(|from| {
        times
            .iter()
            .filter(|t| **t >= *from && **t - *from < Duration::from_secs(1))
            .count()
    });
    let most_at_once = most_at_once.max().unwrap_or_default();
    assert!(
        most_at_once * 2 <= times.len() + 1,
        "they come back in steps: {most_at_once} in one second, {times:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poisonous_task_shuts_nothing_for_others() {
    let llm = Llm::start().await;
    llm.fail(&[json!({"model": "*", "prompt": "poison-1", "fail": {"status": 500}})])
        .await;
    let file = pool_file(8, &llm)
        .calling(&["--calls", "2"])
        .set("dispatcher.max_hand_backs", json!(4));
    let pool = Pool::start_processes(&file, 2, 4).await;
    let mut log = pool.event_log().await;
    let (poison, others) = (tasks("poison", 1), tasks("good", 40));
    pool.api()
        .submit(&json!([poison, others.clone()].concat()))
        .await;
    log.finished(others.len() + 1, SOON * 4).await;

    let result = pool.api().result("poison-1", SOON).await;
    let kind = result.error.as_ref().map(|error| error.kind);
    assert_eq!(
        (result.status, kind),
        (Status::Failed, Some(ErrorKind::LlmUnavailable)),
        "the task is not repeated without end: {result:?}"
    );
    let given_back = log
        .read()
        .await
        .iter()
        .filter(|e| e.is("released") && e.text("task") == "poison-1")
        .count();
    assert_eq!(
        given_back, 4,
        "other programmers try it as often as the pool file says"
    );
    let requests = llm.requests().await;
    let failed: BTreeSet<_> = requests
        .iter()
        .filter(|request| !request.is_ok())
        .map(task_of)
        .collect();
    assert_eq!(
        failed,
        BTreeSet::from([Some("poison-1")]),
        "no call of another task has failed"
    );
    let on_backup = requests
        .iter()
        .filter(|r| r.model == "backup" && task_of(r) != Some("poison-1"))
        .count();
    assert_eq!(on_backup, 0, "all other tasks use the primary all the time");
    assert_eq!(
        log.entries
            .iter()
            .filter(|entry| entry.is("probing"))
            .count(),
        0,
        "no breaker was probed"
    );
    let status = pool.status().await;
    for id in numbered(8) {
        assert!(!status.circuit_is_open(&id), "{id}: {status:?}");
    }
    pool.all_succeeded(&mut log, "good", others.len()).await;
}

/// Twenty seconds, or the value of `POOL_TEST_OUTAGE_S`.
fn outage() -> Duration {
    let seconds = std::env::var("POOL_TEST_OUTAGE_S")
        .ok()
        .and_then(|seconds| seconds.parse().ok());
    Duration::from_secs(seconds.unwrap_or(20))
}

#[tokio::test(flavor = "multi_thread")]
async fn while_every_llm_is_down_a_hundred_tasks_wait_and_then_all_are_done() {
    const TASKS: usize = 100;
    let llm = Llm::start().await;
    let pool = Pool::start_processes_alone(&pool_file(14, &llm).calling(&[]), 2, 7).await;
    let mut log = pool.event_log().await;
    let down = wall_clock();
    llm.fail_with("*", 503).await;
    pool.api().submit(&json!(tasks("t", TASKS))).await;
    let both_open = log
        .until("both breakers have opened", SOON, |entries| {
            Some(opened(entries, "primary", down)?.max(opened(entries, "backup", down)?))
        })
        .await;
    // Programmers that have just started may be shut for another reason at first.
    let shut =
        |status: &PoolStatus| status.available() == Some(0) && status.all_are_shut_for("breaker");
    let status = pool.status_where("every programmer is shut", shut).await;
    judge_shut(&status, 14);
    log.follow("the outage has lasted", SOON + outage(), |entries| {
        entries
            .last()
            .filter(|entry| entry.at >= down.plus(outage()))
            .map(|_| ())
    })
    .await;
    llm.recover().await;
    let up = wall_clock();
    log.finished(TASKS, COOLDOWN + SOON * 2).await;

    let entries = log.read().await;
    let ends = entries.iter().filter(|entry| entry.is("finished"));
    let first = ends.map(|entry| entry.at).min().expect("an outcome");
    assert!(
        first >= up,
        "no task ended, not even as failed, while no LLM answered"
    );
    let limit = COOLDOWN + Duration::from_secs(5);
    assert!(
        first.since(up) <= limit,
        "work resumes soon after the outage: {:?}",
        first.since(up)
    );
    let started =
        |entry: &&Entry| entry.is("started") && entry.at > both_open.plus(Duration::from_secs(1));
    let too_late: Vec<_> = entries
        .iter()
        .filter(started)
        .filter(|entry| entry.at < up)
        .collect();
    assert!(
        too_late.is_empty(),
        "gates were shut within a second: {too_late:?}"
    );
    for id in (1..=TASKS).map(|n| format!("t-{n}")) {
        let starts = entries
            .iter()
            .filter(|entry| entry.is_start_of(&id))
            .count();
        let back = entries
            .iter()
            .filter(|e| e.is("released") && e.text("task") == id && e.json["no_llm"] == true);
        assert_eq!(
            starts - back.count(),
            1,
            "{id}: a hand-back does not count as an attempt"
        );
    }
    pool.all_succeeded(&mut log, "t", TASKS).await;
}

/// Checks that the status says that no LLM can be called, why, and until when.
fn judge_shut(status: &PoolStatus, count: usize) {
    for id in numbered(count) {
        assert!(
            status.is_shut_for(&id, "breaker"),
            "{id} is shut and says why: {}",
            status.programmer(&id)
        );
        assert!(
            status.circuit_is_open(&id),
            "{id}: its circuit is open: {}",
            status.programmer(&id)
        );
    }
    for llm in ["local/primary", "local/backup"] {
        let open = status
            .open_breaker(llm)
            .unwrap_or_else(|| panic!("{llm} is open: {status:?}"));
        assert!(
            open.reason.contains("unavailable"),
            "{llm} says why: {open:?}"
        );
        assert!(open.until > Timestamp(0), "{llm} says until when: {open:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_scope_programmer_the_failures_of_some_shut_only_their_own_use() {
    let llm = Llm::start().await;
    llm.fail(&[json!({"model": "primary", "prompt": "bad-", "fail": {"status": 500}})])
        .await;
    let file = pool_file(3, &llm)
        .set("failover.circuit_breaker.scope", json!("programmer"))
        .calling(&[]);
    // A cooldown that is longer than the test.
    let mut file = file.set("failover.circuit_breaker.cooldown_s", json!(600));
    for id in numbered(3) {
        file = file.set_of(&id, "capabilities", json!([format!("only-{id}")]));
    }
    let pool = Pool::start_processes(&file, 3, 1).await;
    let tasks_for = |id: &str, name: &str| {
        let mut tasks = tasks(&format!("{name}-{id}"), THRESHOLD);
        tasks
            .iter_mut()
            .for_each(|task| task["capabilities"] = json!([format!("only-{id}")]));
        tasks
    };
    let mut log = pool.event_log().await;
    // All of them together would be enough to open the breaker for the whole pool.
    pool.api()
        .submit(&json!(
            [tasks_for("001", "bad"), tasks_for("002", "bad")].concat()
        ))
        .await;
    log.finished(2 * THRESHOLD, SOON).await;
    let both = |status: &PoolStatus| status.circuit_is_open("001") && status.circuit_is_open("002");
    pool.status_where("001 and 002 do not use their primary any more", both)
        .await;
    let calls = llm.requests().await.len();
    for id in numbered(3) {
        pool.api().submit(&json!(tasks_for(&id, "good"))).await;
    }
    log.finished(5 * THRESHOLD, SOON).await;

    let requests = llm.requests().await.split_off(calls);
    for (id, model) in [("001", "backup"), ("002", "backup"), ("003", "primary")] {
        let name = format!("good-{id}");
        let of_tasks =
            |request: &&LoggedRequest| task_of(request).is_some_and(|task| task.starts_with(&name));
        let models: Vec<_> = requests
            .iter()
            .filter(of_tasks)
            .map(|request| request.model.as_str())
            .collect();
        assert_eq!(models, [model; THRESHOLD], "{id} calls it at once");
    }
    let status = pool.status().await;
    assert_eq!(
        status.programmer("001")["using_backup"],
        true,
        "001 is on its backup: {status:?}"
    );
    assert!(
        !status.circuit_is_open("003"),
        "003 still uses its primary: {status:?}"
    );
    assert_eq!(
        status.available(),
        Some(3),
        "all programmers are available: {status:?}"
    );
}

/// Makes the primary fail until its breaker is open; the tasks succeed with the backup.
async fn open_primary(pool: &Pool, llm: &Llm, log: &mut EventLog) -> OpenBreaker {
    llm.fail_with("primary", 500).await;
    pool.api()
        .submit(&json!(tasks("opening", 2 * THRESHOLD)))
        .await;
    log.finished(2 * THRESHOLD, SOON * 2).await;
    let is_open = |status: &PoolStatus| status.open_breaker("local/primary").is_some();
    let status = pool
        .status_where("the primary's breaker is open", is_open)
        .await;
    status
        .open_breaker("local/primary")
        .expect("an open breaker")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_breaker_is_open_also_for_processes_that_were_started_after_it_opened() {
    let llm = Llm::start().await;
    let file = pool_file(4, &llm)
        .calling(&[])
        .set("failover.circuit_breaker.cooldown_s", json!(300));
    let mut pool = Pool::start_processes(&file, 2, 2).await;
    let mut log = pool.event_log().await;
    let before = open_primary(&pool, &llm, &mut log).await;
    pool.kill_all();
    let calls = llm.requests().await.len();
    pool.start_dispatcher().await;
    pool.start_workers(2, 2);
    pool.all_consume().await;

    let after = pool.status().await.open_breaker("local/primary");
    assert_eq!(
        after,
        Some(before),
        "the breaker is open until the same time, for the same reason"
    );
    pool.api().submit(&json!(tasks("after", 6))).await;
    log.finished(2 * THRESHOLD + 6, SOON).await;
    let models: Vec<_> = llm
        .requests()
        .await
        .split_off(calls)
        .into_iter()
        .map(|request| request.model)
        .collect();
    assert_eq!(models, ["backup"; 6], "no call is made to find out again");
    pool.all_succeeded(&mut log, "after", 6).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn when_a_worker_is_killed_while_it_probes_another_one_probes_after_the_lease() {
    // The lease of a probe: the time limit of a call and ten seconds.
    const CALL: Duration = Duration::from_secs(5);
    let llm = Llm::start().await;
    let file = pool_file(4, &llm)
        .calling(&[])
        .set("failover.call_timeout_s", json!(CALL.as_secs()));
    let mut pool = Pool::start_processes(&file, 2, 2).await;
    let mut log = pool.event_log().await;
    open_primary(&pool, &llm, &mut log).await;
    // From now on a probe hangs for long enough to kill its worker.
    llm.hold("primary").await;
    let held = wall_clock();
    let (lost_at, loser) = log
        .until("a programmer probes, and its call hangs", SOON, |entries| {
            probes(entries, "primary")
                .find(|(at, _)| *at >= held)
                .map(|(at, who)| (at, who.to_owned()))
        })
        .await;
    let gone = pool.kill_worker_of(&ProgrammerId::new(loser.as_str()).expect("an id"));
    llm.recover().await;
    let (at, who) = log
        .until("another programmer probes", SOON * 2, |entries| {
            probes(entries, "primary")
                .find(|(at, _)| *at > lost_at)
                .map(|(at, who)| (at, who.to_owned()))
        })
        .await;
    assert!(
        !gone.contains(&who),
        "a living programmer probes: {who}, killed are {gone:?}"
    );
    let waited = at.since(lost_at);
    let lease = CALL + Duration::from_secs(10);
    assert!(
        waited >= lease,
        "it probes after the lease has ended: {waited:?}"
    );
    assert!(
        waited <= lease + Duration::from_secs(10),
        "it probes soon after the lease has ended: {waited:?}"
    );
    let is_closed = |status: &PoolStatus| status.open_breaker("local/primary").is_none();
    pool.status_where("the breaker is closed", is_closed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_host_without_egress_shuts_only_itself() {
    const TASKS: usize = 60;
    let llm = Llm::start().await;
    // An address of this machine other than loopback: every host sees the same LLM there.
    let shared = llm.base_url().replace("127.0.0.1", "0.0.0.0");
    let file = PoolFile::grown(14, "remote/primary", Some("local/backup"))
        .llm(&llm.base_url())
        .calling(&[]);
    let file = file.set(
        "providers.remote",
        json!({"base_url": shared, "free": true}),
    );
    let breaker = json!({"failure_threshold": THRESHOLD, "window_s": 60, "cooldown_s": 60});
    let mut pool = Pool::set_up_shared(&file.set("failover.circuit_breaker", breaker)).await;
    pool.start_dispatcher().await;
    let ids: Vec<String> = numbered(14).collect();
    pool.start_worker(&["--programmers", &ids[..7].join(",")]);
    pool.start_worker_on_a_host_without_egress("cut-off", &["--programmers", &ids[7..].join(",")]);
    pool.all_are_held().await;
    let mut log = pool.event_log().await;
    pool.api().submit(&json!(tasks("t", TASKS))).await;
    log.finished(TASKS, SOON * 2).await;

    let status = pool.status().await;
    for (index, id) in ids.iter().enumerate() {
        assert_eq!(
            status.circuit_is_open(id),
            index >= 7,
            "{id}: {:?}",
            status.0["breakers"]
        );
    }
    let scopes: Vec<String> = status.0["breakers"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|b| b["scope"].to_string())
        .collect();
    assert!(
        scopes.contains(&json!({"host": "cut-off"}).to_string()),
        "the whole host is shut: {scopes:?}"
    );
    assert!(
        !scopes.contains(&json!("pool").to_string()),
        "the pool is not shut: {scopes:?}"
    );
    pool.all_succeeded(&mut log, "t", TASKS).await;
}
