//! A probe calls as a task does, with the API dialect that failed and the same patience, and
//! believes only a valid answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::Duration;

use pool_core::time::Timestamp;
use pool_telemetry::clock::wall_clock;
use serde_json::json;

use crate::support::event_log::Entry;
use crate::support::pool::tasks;
use crate::support::provider::{Asked, error, page};
use crate::support::status::PoolStatus;
use crate::support::{EventLog, Pool, PoolFile, Provider, SOON, eventually};

const COOLDOWN: Duration = Duration::from_secs(2);
/// From the end of a cooldown until the log says that the breaker is closed.
const NEWS: Duration = Duration::from_secs(2);

/// Programmers whose only LLM is `local/primary`, with a breaker that three failures open.
fn pool_file(programmers: usize, provider: &Provider, agent: &[&str]) -> PoolFile {
    let file = PoolFile::grown(programmers, "local/primary", None)
        .llm(&provider.base_url())
        .calling(agent);
    let breaker =
        json!({"failure_threshold": 3, "window_s": 600, "cooldown_s": COOLDOWN.as_secs()});
    file.set("failover.circuit_breaker", breaker)
}

/// The faults that the probes of this model found (empty: none), and their times.
fn found<'a>(entries: &'a [Entry], model: &'a str) -> impl Iterator<Item = (Timestamp, &'a str)> {
    let probed = move |entry: &&Entry| entry.is("probed") && entry.model() == model;
    entries
        .iter()
        .filter(probed)
        .map(|entry| (entry.at, entry.text("fault")))
}

async fn opened(log: &mut EventLog, count: usize) {
    log.until("a probe has found the fault", SOON, |entries| {
        (found(entries, "primary")
            .filter(|(_, fault)| !fault.is_empty())
            .count()
            >= count)
            .then_some(())
    })
    .await;
}

async fn closed(log: &mut EventLog, model: &str, limit: Duration) -> Timestamp {
    let close = |entries: &[Entry]| {
        found(entries, model)
            .find(|(_, fault)| fault.is_empty())
            .map(|(at, _)| at)
    };
    log.follow(&format!("the breaker of {model} is closed"), limit, close)
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_llm_that_serves_one_dialect_only_is_probed_in_that_also_after_a_restart() {
    for (dialect, path, protocol) in [
        ("responses", "/v1/responses", "openai"),
        ("messages", "/v1/messages", "anthropic"),
    ] {
        let down = Arc::new(AtomicBool::new(true));
        let provider = Provider::start(&down, move |down, asked| async move {
            match asked.path == path {
                false => error(
                    404,
                    json!({"error": {"message": "this model is served in another API only"}}),
                ),
                true if down.load(Ordering::Relaxed) => {
                    error(503, json!({"error": {"message": "overloaded"}}))
                }
                true => asked.ok(),
            }
        })
        .await;
        let file = pool_file(2, &provider, &["--dialect", dialect])
            .set("providers.local.protocol", json!(protocol));
        // The lease of a probe that dies with its process is a little longer.
        let file = file.set("failover.call_timeout_s", json!(5));
        let mut pool = Pool::start_processes(&file, 1, 2).await;
        let mut log = pool.event_log().await;
        pool.api().submit(&json!(tasks("t", 4))).await;
        opened(&mut log, 1).await;
        pool.kill_all();
        pool.start_dispatcher().await;
        pool.start_workers(1, 2);
        pool.all_are_held().await;
        opened(&mut log, 2).await;
        let up = wall_clock();
        down.store(false, Ordering::Relaxed);

        let back = closed(&mut log, "primary", SOON).await;
        assert!(
            back.since(up) <= COOLDOWN + NEWS,
            "{dialect}: the breaker closes within a cooldown: {:?}",
            back.since(up)
        );
        log.finished(4, SOON).await;
        pool.all_succeeded(&mut log, "t", 4).await;
        let elsewhere: Vec<Asked> = provider
            .asked()
            .into_iter()
            .filter(|asked| asked.path != path)
            .collect();
        assert!(
            elsewhere.is_empty(),
            "{dialect}: no other dialect was called: {elsewhere:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_waits_for_a_model_that_loads_and_holds_up_nobody() {
    const LOADS: Duration = Duration::from_secs(25);
    let state = Arc::new((AtomicBool::new(false), AtomicBool::new(false)));
    let (up, loaded) = (&state.0, &state.1);
    // The model loads only while its first client waits for the answer.
    let provider = Provider::start(&state, |state, asked| async move {
        let (up, loaded) = (&state.0, &state.1);
        if !up.load(Ordering::Relaxed) {
            return error(503, json!({"error": {"message": "starting"}}));
        }
        if asked.model() == "primary" && !loaded.load(Ordering::Relaxed) {
            tokio::time::sleep(LOADS).await;
            loaded.store(true, Ordering::Relaxed);
        }
        asked.ok()
    })
    .await;
    let file = pool_file(2, &provider, &[]).set("failover.call_timeout_s", json!(40));
    let mut file = file.set("dispatcher.max_hand_backs", json!(1000));
    for id in ["001", "002"] {
        file = file.set_of(id, "backup_llm", json!("local/backup"));
    }
    let mut pool = Pool::start_processes(&file, 1, 2).await;
    let mut log = pool.event_log().await;
    pool.api().submit(&json!(tasks("t", 4))).await;
    opened(&mut log, 1).await;
    let back_up = wall_clock();
    up.store(true, Ordering::Relaxed);

    let other = closed(&mut log, "backup", SOON).await;
    assert!(
        other.since(back_up) <= COOLDOWN + NEWS,
        "one slow probe holds up no other: {:?}",
        other.since(back_up)
    );
    let slow = closed(&mut log, "primary", SOON * 2).await;
    let limit = COOLDOWN + Duration::from_secs(30);
    assert!(
        slow.since(back_up) <= limit,
        "the probe waits for the model: {:?}",
        slow.since(back_up)
    );
    log.finished(4, SOON).await;
    pool.all_succeeded(&mut log, "t", 4).await;

    // The same again, and the worker gets a SIGTERM during the probe.
    up.store(false, Ordering::Relaxed);
    loaded.store(false, Ordering::Relaxed);
    pool.api().submit(&json!(tasks("again", 4))).await;
    log.until("the breaker is open once more", SOON, |entries| {
        let open =
            |entry: &&Entry| entry.is("probed") && entry.model() == "primary" && entry.at > slow;
        entries
            .iter()
            .any(|entry| open(&entry) && entry.text("fault") == "unavailable")
            .then_some(())
    })
    .await;
    let before = provider.asked().len();
    up.store(true, Ordering::Relaxed);
    eventually("the primary gets a call", SOON, async || {
        provider
            .asked()
            .iter()
            .skip(before)
            .any(|asked| asked.model() == "primary" && asked.is_probe())
            .then_some(())
    })
    .await;
    let told = wall_clock();
    pool.stop().await;
    let took = wall_clock().since(told);
    assert!(
        took < LOADS / 2,
        "a process does not wait for its probe to end: {took:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_believes_a_valid_answer_and_nothing_else() {
    let phase = Arc::new(AtomicU8::new(0));
    let provider = Provider::start(&phase, |phase, asked| async move {
        match phase.load(Ordering::Relaxed) {
            0 => error(503, json!({"error": {"message": "down"}})),
            1 => page(200),
            2 => page(400),
            _better => asked.ok(),
        }
    })
    .await;
    let file = pool_file(2, &provider, &[]).set("dispatcher.max_hand_backs", json!(1000));
    let pool = Pool::start_processes(&file, 1, 2).await;
    let mut log = pool.event_log().await;
    pool.api().submit(&json!(tasks("t", 4))).await;
    opened(&mut log, 1).await;
    for (next, what) in [(1, "a page with status 200"), (2, "a page with status 400")] {
        phase.store(next, Ordering::Relaxed);
        let since = wall_clock();
        let fault = log
            .until(what, SOON, |entries| {
                // The probe after the next one certainly began in this phase.
                found(entries, "primary")
                    .filter(|(at, _)| *at > since)
                    .nth(1)
                    .map(|(_, fault)| fault.to_owned())
            })
            .await;
        assert_eq!(fault, "unavailable", "{what} does not close the breaker");
    }
    phase.store(3, Ordering::Relaxed);
    log.finished(4, SOON).await;
    pool.all_succeeded(&mut log, "t", 4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_has_an_llm_probed_before_its_long_wait_is_over() {
    let down = Arc::new(AtomicBool::new(true));
    let provider = Provider::start(&down, |down, asked| async move {
        match down.load(Ordering::Relaxed) {
            true => error(503, json!({"error": {"message": "overloaded"}})),
            false => asked.ok(),
        }
    })
    .await;
    let file = pool_file(2, &provider, &[]).set("failover.circuit_breaker.cooldown_s", json!(3600));
    let pool = Pool::start_processes(&file, 1, 2).await;
    let mut log = pool.event_log().await;
    let probe = ["breaker", "probe", "local/primary"];
    let nothing = pool.try_command_line(&probe).await;
    let said = String::from_utf8_lossy(&nothing.stderr).into_owned();
    assert!(
        said.contains("no breaker of local/primary is open"),
        "nothing is open yet: {said}"
    );
    pool.api().submit(&json!(tasks("t", 4))).await;
    let open = |status: &PoolStatus| status.0["breakers"][0]["state"] == "open";
    pool.status_where("the breaker is open", open).await;
    down.store(false, Ordering::Relaxed);
    pool.command_line(&probe).await;
    closed(&mut log, "primary", SOON).await;
    log.finished(4, SOON).await;
    pool.all_succeeded(&mut log, "t", 4).await;
}
