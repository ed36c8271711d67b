//! The limits of a task hold over all its attempts and hand-backs, however each attempt ended. The
//! result has the usage of all of them.

use pool_core::id::ProgrammerId;
use pool_core::money::MicroUsd;
use pool_core::result::{ErrorKind, Status, Usage};
use serde_json::{Value, json};

use crate::support::pool::tasks;
use crate::support::{Ledger, Llm, Pool, PoolFile, SOON};

const LIMIT: MicroUsd = MicroUsd(500_000);
/// The worst case of a call with the usual limit of 16,384 output tokens is slightly above this.
const WORST: MicroUsd = MicroUsd(327_680);
/// The cost of an answered call.
const CALL: MicroUsd = MicroUsd(4 * 100 + 20 * 50);

/// Paid programmers that may find an LLM out any number of times: no breaker, many hand-backs.
fn paid(programmers: usize, llm: &Llm, agent: &[&str]) -> PoolFile {
    let file = PoolFile::grown(programmers, "paid/primary", None).calling(agent);
    let file = file.paid_llm("paid/primary", &llm.base_url(), ("4", "20"));
    file.set("failover.circuit_breaker", json!({"enabled": false}))
}

async fn paid_llm() -> Llm {
    Llm::start_with_usage(100, 50).await
}

/// A task that may cost half a dollar.
fn limited() -> Value {
    let mut task = tasks("t", 1).remove(0);
    task["limits"] = json!({"max_cost_usd": "0.50"});
    json!([task])
}

/// Checks that the parts of a usage add up.
fn is_sound(usage: &Usage) {
    let by_llm: MicroUsd = usage.by_llm.iter().map(|of| of.cost_usd).sum();
    let calls: u64 = usage.by_llm.iter().map(|of| of.calls).sum();
    assert_eq!(
        (by_llm, calls),
        (usage.cost_usd, usage.calls),
        "the parts add up: {usage:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_limit_holds_over_all_hand_backs_and_the_result_says_what_they_cost() {
    let llm = paid_llm().await;
    let pool = Pool::start_processes(&paid(2, &llm, &[]), 2, 1).await;
    let mut log = pool.event_log().await;
    // Every call is lost and charged with its worst case.
    llm.fail(&[json!({"model": "*", "behave": "drop"})]).await;
    pool.api().submit(&limited()).await;
    let result = pool.api().result("t-1", SOON * 2).await;

    let failure = result.error.as_ref().expect("a failed task");
    assert_eq!(
        (result.status, failure.kind),
        (Status::Failed, ErrorKind::TokenLimit),
        "{failure:?}"
    );
    let asked = llm.requests().await.len() as u64;
    let usage = &result.usage;
    assert!(
        usage.cost_usd > WORST && usage.cost_usd <= LIMIT,
        "the usage has all calls and is within the limit: {usage:?}"
    );
    assert_eq!(
        (asked, usage.calls),
        (2, 3),
        "two calls were sent, and the third did not fit"
    );
    is_sound(usage);
    log.finished(1, SOON).await;
    let ledger = Ledger::after(log.read().await);
    assert_eq!(
        (ledger.spent, ledger.reserved()),
        (usage.cost_usd, MicroUsd::ZERO),
        "the day's budget has the same usage"
    );
    pool.status_where("the pool counts nothing twice", |status| {
        status.spent() == usage.cost_usd
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_worker_cannot_spend_what_a_killed_one_may_have_spent() {
    let llm = paid_llm().await;
    let mut pool = Pool::start_processes(&paid(2, &llm, &["--calls", "2"]), 2, 1).await;
    let mut log = pool.event_log().await;
    llm.fail(&[json!({"model": "*", "prompt": "call 2 of 2", "hold": true})])
        .await;
    pool.api().submit(&limited()).await;
    llm.until("its second call is open", SOON, |requests| {
        (requests.len() == 2).then_some(())
    })
    .await;
    let who = log.started("t-1").await;
    pool.kill_worker_of(&who);
    llm.until(
        "another programmer is in its second call",
        SOON,
        |requests| (requests.len() == 4).then_some(()),
    )
    .await;
    llm.recover().await;
    let result = pool.api().result("t-1", SOON).await;
    assert_eq!(
        result.status,
        Status::Succeeded,
        "the limit is not used up: {result:?}"
    );
    assert_ne!(
        result.programmer,
        Some(who),
        "another programmer has done it"
    );

    let usage = &result.usage;
    // The first attempt: an answered call, and one with an unknown outcome. The second attempt: two
    // answered calls.
    let least = CALL + CALL + CALL + WORST;
    assert!(
        usage.cost_usd >= least && usage.cost_usd <= LIMIT,
        "the usage is an upper bound within the limit: {usage:?}"
    );
    assert_eq!((usage.calls, usage.estimated), (4, true), "{usage:?}");
    is_sound(usage);
    let told: Vec<u64> = llm
        .requests()
        .await
        .iter()
        .filter_map(|seen| seen.fields["max_tokens"].as_u64())
        .collect();
    assert_eq!(told[0], 16_384, "the first attempt has the full limit");
    assert!(
        told[2] < 9_000,
        "the second attempt has a lower limit: {told:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_task_says_what_it_has_cost() {
    let llm = paid_llm().await;
    let pool = Pool::start_processes(&paid(1, &llm, &["--calls", "3"]), 1, 1).await;
    let mut log = pool.event_log().await;
    let mut submitter = pool.submitter("me").await;
    llm.fail(&[json!({"model": "*", "prompt": "call 3 of 3", "hold": true})])
        .await;
    submitter.submit("work", &tasks("t", 1)[0]).await;
    llm.until("its third call is open", SOON, |requests| {
        (requests.len() == 3).then_some(())
    })
    .await;
    pool.api().delete("/tasks/t-1").await;

    let told = submitter.reply(SOON).await;
    let usage = &told.usage;
    assert_eq!(
        (told.status, usage.calls, usage.failed_calls),
        (Status::Cancelled, 3, 1),
        "{usage:?}"
    );
    assert!(
        usage.cost_usd >= CALL + CALL + WORST,
        "the usage has two answered calls and one that may have been answered: {usage:?}"
    );
    is_sound(usage);
    let shown = pool.api().result("t-1", SOON).await;
    assert_eq!(shown.usage, told.usage, "the API has the same usage");
    log.read().await;
    assert_eq!(
        Ledger::after(&log.entries).spent,
        usage.cost_usd,
        "the day's budget has the same usage"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_is_given_back_by_a_worker_that_ends_says_what_both_attempts_have_cost() {
    let llm = paid_llm().await;
    let file = paid(2, &llm, &["--calls", "2"]).set("dispatcher.drain_timeout_s", json!(1));
    let mut pool = Pool::start_processes(&file, 2, 1).await;
    let mut log = pool.event_log().await;
    llm.fail(&[json!({"model": "*", "prompt": "call 2 of 2", "hold": true})])
        .await;
    pool.api().submit(&limited()).await;
    let who: ProgrammerId = log.started("t-1").await;
    llm.until("its second call is open", SOON, |requests| {
        (requests.len() == 2).then_some(())
    })
    .await;
    let index = usize::from(who.as_str() != "001");
    pool.worker(index).terminate();
    llm.until(
        "the other programmer is in its second call",
        SOON,
        |requests| (requests.len() == 4).then_some(()),
    )
    .await;
    llm.recover().await;
    let result = pool.api().result("t-1", SOON).await;
    assert_eq!(result.status, Status::Succeeded, "{result:?}");
    let usage = &result.usage;
    assert_eq!((usage.calls, usage.failed_calls), (4, 1), "{usage:?}");
    assert!(
        usage.cost_usd >= CALL + CALL + CALL + WORST && usage.cost_usd <= LIMIT,
        "the usage is that of both attempts: {usage:?}"
    );
    is_sound(usage);
    pool.status_where("the day's budget has the same", |status| {
        status.spent() == usage.cost_usd
    })
    .await;
}
