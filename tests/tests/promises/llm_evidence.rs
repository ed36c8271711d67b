//! One task's prompt, or a few slow calls among many good ones, must not open a breaker for the
//! other tasks.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pool_core::result::{ErrorKind, Status};
use pool_telemetry::clock::wall_clock;
use serde_json::{Value, json};

use crate::support::event_log::Entry;
use crate::support::pool::tasks;
use crate::support::pool_file::numbered;
use crate::support::provider::{Asked, error, page};
use crate::support::{EventLog, Pool, PoolFile, Provider, SOON};

const COOLDOWN: Duration = Duration::from_secs(2);

fn pool_file(programmers: usize, provider: &Provider) -> PoolFile {
    let file = PoolFile::grown(programmers, "local/primary", None).llm(&provider.base_url());
    let breaker =
        json!({"failure_threshold": 3, "window_s": 600, "cooldown_s": COOLDOWN.as_secs()});
    file.set("failover.circuit_breaker", breaker)
}

/// The scopes of the breakers that were probed.
fn probed(log: &EventLog) -> Vec<Value> {
    log.entries
        .iter()
        .filter(|entry| entry.is("probing"))
        .map(|entry| entry.json["scope"].clone())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prompt_that_is_refused_shuts_nothing_and_is_not_handed_out_again() {
    let provider = Provider::start(&Arc::default(), |_: Arc<()>, asked| async move {
        if asked.says("flagged-1") {
            let metadata = json!({"reasons": ["harassment"], "flagged_input": "…", "provider_name": "OpenAI"});
            let message = "openai/gpt-4o requires moderation on OpenAI. Your input was flagged for \"harassment\".";
            return error(403, json!({"error": {"code": 403, "message": message, "metadata": metadata}}));
        }
        if asked.says("flagged-2") { page(403) } else { asked.ok() }
    })
    .await;
    let pool =
        Pool::start_processes(&pool_file(3, &provider).calling(&["--calls", "2"]), 1, 3).await;
    let mut log = pool.event_log().await;
    pool.api()
        .submit(&json!([tasks("flagged", 2), tasks("good", 12)].concat()))
        .await;
    log.finished(14, SOON * 2).await;

    for id in ["flagged-1", "flagged-2"] {
        let result = pool.api().result(id, SOON).await;
        let kind = result.error.as_ref().map(|error| error.kind);
        assert_eq!(
            (result.status, kind),
            (Status::Failed, Some(ErrorKind::LlmBadRequest)),
            "{id}: {result:?}"
        );
        assert_eq!(log.starts(id).len(), 1, "{id} is handed out once");
    }
    assert_eq!(
        log.entries
            .iter()
            .filter(|entry| entry.is("llm_failed"))
            .count(),
        0,
        "the LLM does not count as failed"
    );
    assert_eq!(probed(&log), [] as [Value; 0], "no breaker opened");
    pool.all_succeeded(&mut log, "good", 12).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_that_says_nothing_is_put_to_the_proof_before_anything_stays_shut() {
    // A 403 without a reason: the cause may be the key or this prompt.
    let provider = Provider::start(&Arc::default(), |_: Arc<()>, asked| async move {
        if asked.says("odd-1") {
            error(403, json!({"error": {"message": "Forbidden"}}))
        } else {
            asked.ok()
        }
    })
    .await;
    let file = pool_file(3, &provider)
        .calling(&[])
        .set("failover.circuit_breaker.cooldown_s", json!(60));
    let pool = Pool::start_processes(&file, 1, 3).await;
    let mut log = pool.event_log().await;
    let began = wall_clock();
    pool.api()
        .submit(&json!([tasks("odd", 1), tasks("good", 12)].concat()))
        .await;
    log.finished(13, SOON * 2).await;
    let took = wall_clock().since(began);

    assert!(
        took < Duration::from_secs(20),
        "no task waits for a cooldown: {took:?}"
    );
    let result = pool.api().result("odd-1", SOON).await;
    let kind = result.error.as_ref().map(|error| error.kind);
    assert_eq!(
        (result.status, kind),
        (Status::Failed, Some(ErrorKind::LlmBadRequest)),
        "{result:?}"
    );
    assert!(
        log.starts("odd-1").len() <= 4,
        "each programmer tries it once and then no more: {:?}",
        log.starts("odd-1")
    );
    let scopes = probed(&log);
    assert!(
        !scopes.is_empty() && !scopes.contains(&json!("pool")),
        "each programmer probes for itself: {scopes:?}"
    );
    pool.all_succeeded(&mut log, "good", 12).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_bad_shuts_the_llm_for_long_and_costs_no_task() {
    const TASKS: usize = 10;
    let bad = Arc::new(AtomicBool::new(true));
    let provider = Provider::start(&bad, |bad, asked| async move {
        match bad.load(Ordering::Relaxed) {
            true => error(401, json!({"error": {"code": "invalid_api_key", "message": "Incorrect API key provided"}})),
            false => asked.ok(),
        }
    })
    .await;
    let pool = Pool::start_processes(&pool_file(3, &provider).calling(&[]), 1, 3).await;
    let mut log = pool.event_log().await;
    pool.api().submit(&json!(tasks("t", TASKS))).await;
    let began = wall_clock();
    let pool_probes = |entries: &[Entry]| {
        let probes = entries
            .iter()
            .filter(|entry| entry.is("probing") && entry.json["scope"] == "pool");
        probes.map(|entry| entry.at).collect::<Vec<_>>()
    };
    let late = log
        .until(
            "the pool's breaker is probed after a long time",
            SOON,
            |entries| {
                pool_probes(entries)
                    .into_iter()
                    .find(|at| *at >= began.plus(COOLDOWN * 5))
            },
        )
        .await;
    let calls: Vec<Asked> = provider
        .asked()
        .into_iter()
        .filter(|asked| !asked.is_probe())
        .collect();
    assert!(
        calls.len() <= 6,
        "a few calls are enough to find out: {calls:?}"
    );
    let before: Vec<Asked> = provider
        .asked()
        .into_iter()
        .filter(|asked| asked.is_probe() && asked.at < late)
        .collect();
    assert!(
        (1..=4).contains(&before.len()),
        "probes confirm it at once, and then stop: {before:?}"
    );
    let first = before[0].at.since(calls[0].at);
    assert!(
        first < COOLDOWN,
        "the first probe follows the first call: {first:?}"
    );
    bad.store(false, Ordering::Relaxed);
    log.finished(TASKS, SOON * 2).await;
    for id in (1..=TASKS).map(|n| format!("t-{n}")) {
        assert!(
            log.starts(&id).len() <= 4,
            "{id} was not returned again and again: {:?}",
            log.starts(&id)
        );
    }
    pool.all_succeeded(&mut log, "t", TASKS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn three_slow_calls_among_many_good_ones_shut_nothing() {
    const CALL: Duration = Duration::from_secs(5);
    const GOOD: usize = 45;
    let hung: Arc<Mutex<BTreeSet<String>>> = Arc::default();
    // The first call of each slow task hangs.
    let provider = Provider::start(&hung, |hung, asked| async move {
        let slow = (1..=3)
            .map(|n| format!("slow-{n}:"))
            .find(|name| asked.says(name));
        if slow.is_some_and(|slow| hung.lock().expect("no panic").insert(slow)) {
            std::future::pending::<()>().await;
        }
        asked.ok()
    })
    .await;
    // Each slow call comes from its own process, the good ones from a fourth.
    let mut file = pool_file(6, &provider).calling(&["--calls", "15", "--pause-ms", "200"]);
    file = file.set("failover.call_timeout_s", json!(CALL.as_secs()));
    for (index, id) in numbered(6).enumerate() {
        let offers = if index < 3 {
            format!("slow-{}", index + 1)
        } else {
            "quick".to_owned()
        };
        file = file.set_of(&id, "capabilities", json!([offers]));
    }
    let mut pool = Pool::set_up_alone(&file).await;
    pool.start_dispatcher().await;
    for which in ["001", "002", "003", "004,005,006"] {
        pool.start_worker(&["--programmers", which]);
    }
    pool.all_consume().await;
    let mut log = pool.event_log().await;
    let mut slow = tasks("slow", 3);
    for (index, task) in slow.iter_mut().enumerate() {
        task["capabilities"] = json!([format!("slow-{}", index + 1)]);
    }
    let mut quick = tasks("quick", GOOD / 15);
    quick
        .iter_mut()
        .for_each(|task| task["capabilities"] = json!(["quick"]));
    pool.api().submit(&json!([slow, quick].concat())).await;
    log.finished(3 + GOOD / 15, SOON * 2).await;

    let failures: Vec<&Entry> = log
        .entries
        .iter()
        .filter(|entry| entry.is("llm_failed"))
        .collect();
    assert_eq!(
        failures.len(),
        3,
        "three calls failed without an answer: {failures:?}"
    );
    let apart = failures[2].at.since(failures[0].at);
    assert!(
        apart < Duration::from_secs(2),
        "they failed at about the same time: {apart:?}"
    );
    assert_eq!(probed(&log), [] as [Value; 0], "no breaker opened");
    let given_back = log
        .entries
        .iter()
        .filter(|entry| entry.is("released"))
        .count();
    assert_eq!(given_back, 3, "only the slow tasks were returned");
    pool.all_succeeded(&mut log, "quick", GOOD / 15).await;
    pool.all_succeeded(&mut log, "slow", 3).await;
}
