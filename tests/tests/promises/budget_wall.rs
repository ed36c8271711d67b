//! The budget is a hard limit: whatever happens at once, the pool never spends more in a day than
//! the limit. Free LLMs go on.

use std::time::Duration;

use pool_core::id::{AttemptId, ProgrammerId};
use pool_core::money::MicroUsd;
use pool_core::result::Status;
use pool_core::time::Timestamp;
use pool_telemetry::clock::{new_id, wall_clock};
use serde_json::json;

use crate::support::clock::{FakeClock, zone_whose_day_ends_in};
use crate::support::event_log::Entry;
use crate::support::pool::tasks;
use crate::support::status::PoolStatus;
use crate::support::{EventLog, Ledger, Llm, Pool, PoolFile, SOON};

/// The usage of each call: at one dollar and ten dollars per million tokens it costs $0.0195, just
/// below the task limit.
const USAGE: (u64, u64) = (100, 1940);
const CALL: MicroUsd = MicroUsd(19_500);
const CAP: &str = "0.02";
const LIMIT: MicroUsd = MicroUsd(50_000_000);

/// Paid programmers whose tasks may each cost `CAP`, with $50 a day.
fn paid(programmers: usize, llm: &Llm) -> PoolFile {
    let file = PoolFile::grown(programmers, "paid/primary", None).calling(&[]);
    let file = file.paid_llm("paid/primary", &llm.base_url(), ("1", "10"));
    file.set("defaults.max_cost_per_job_usd", json!(CAP))
        .set("cost_optimization.max_daily_spend_usd", json!("50.00"))
}

async fn paid_llm() -> Llm {
    Llm::start_with_usage(USAGE.0, USAGE.1).await
}

/// Records that this much was spent before.
async fn spend(log: &mut EventLog, amount_usd: &str) {
    let attempt = new_id::<AttemptId>();
    let reserved = json!({"kind": "reserved", "attempt": attempt, "programmer": "001", "amount_usd": amount_usd});
    let settled =
        json!({"kind": "settled", "attempt": attempt, "cost_usd": amount_usd, "by_llm": {}});
    let entries = log.append(&[reserved, settled]).await;
    assert!(
        entries.iter().rev().take(2).all(|entry| entry.accepted),
        "the earlier spending is in the log"
    );
}

/// Waits until no programmer takes tasks, each because of the budget.
async fn all_wait_for_budget(pool: &Pool) -> PoolStatus {
    pool.status_where("every programmer is shut because of the budget", |status| {
        status.all_are_shut_for("budget")
    })
    .await
}

fn reservations(entries: &[Entry]) -> usize {
    entries
        .iter()
        .filter(|entry| entry.is("reserved") && entry.json["task"].is_string())
        .count()
}

#[tokio::test(flavor = "multi_thread")]
async fn forty_nine_programmers_racing_at_49_90_of_50_dollars_never_pass_them() {
    const TASKS: usize = 200;
    let llm = paid_llm().await;
    let file = paid(49, &llm).set_of("049", "max_cost_per_job_usd", json!("1.00"));
    let mut pool = Pool::set_up_alone(&file).await;
    // The clock starts now, because other tests may have had the cores before.
    let (zone, midnight) = zone_whose_day_ends_in(Duration::from_secs(25));
    pool.rewrite(&file.set("cost_optimization.time_zone", json!(zone)));
    pool.start_dispatcher().await;
    pool.start_workers(7, 7);
    pool.all_are_held().await;
    let mut log = pool.event_log().await;
    spend(&mut log, "49.90").await;
    pool.status_where("049 knows that its task limit does not fit", |status| {
        status.is_shut_for("049", "budget")
    })
    .await;
    // No call is answered before every programmer has tried to reserve.
    llm.hold("*").await;
    pool.api().submit(&json!(tasks("t", TASKS))).await;
    log.until("five have reserved", SOON, |entries| {
        (reservations(entries) >= 5).then_some(())
    })
    .await;
    pool.status_where("all others wait for the budget", |status| {
        status.available() == Some(5)
    })
    .await;
    llm.recover().await;
    let status = all_wait_for_budget(&pool).await;
    let left = midnight.since(wall_clock());
    eprintln!("{left:?} are left of the day");
    assert!(
        !left.is_zero(),
        "the machine is too slow: this has to end before the day does"
    );
    let spent = status.spent();
    assert!(
        spent >= MicroUsd(49_980_000) && spent <= LIMIT,
        "exactly the reservations that fit are spent: {spent}"
    );
    assert_eq!(status.0["open_tasks"], TASKS - 5, "the other tasks wait");

    log.finished(TASKS, SOON * 6).await;
    let entries = log.read().await;
    judge_days(&Ledger::history(entries), midnight);
    let early = |entry: &&Entry| {
        entry.is("started") && entry.text("programmer") == "049" && entry.at < midnight
    };
    let early: Vec<_> = entries.iter().filter(early).collect();
    assert!(
        early.is_empty(),
        "a programmer whose task limit does not fit takes no task and returns none: {early:?}"
    );
    pool.all_succeeded(&mut log, "t", TASKS).await;
    let calls = llm
        .requests()
        .await
        .iter()
        .filter(|request| request.is_ok())
        .count();
    assert_eq!(calls, TASKS, "one paid call for each task, none twice");
}

/// Checks that before midnight there are never more than five reservations at once and never more
/// than the limit; and that the next day keeps its own limit.
fn judge_days(history: &[Ledger], midnight: Timestamp) {
    let (first, second): (Vec<&Ledger>, Vec<&Ledger>) =
        history.iter().partition(|ledger| ledger.at < midnight);
    let most = first.iter().map(|ledger| ledger.open.len()).max();
    assert_eq!(
        most,
        Some(5),
        "five reservations fit, and five were open at some time"
    );
    let highest = first
        .iter()
        .map(|ledger| ledger.total())
        .max()
        .unwrap_or_default();
    assert!(
        highest <= LIMIT,
        "spent and reserved never pass the limit: {highest}"
    );
    let yesterday = first.last().map(|ledger| ledger.spent).unwrap_or_default();
    assert!(
        yesterday >= MicroUsd(49_980_000),
        "the limit is reached: {yesterday}"
    );
    let highest = second
        .iter()
        .map(|ledger| ledger.total())
        .max()
        .unwrap_or_default();
    assert!(
        highest.saturating_sub(yesterday) <= LIMIT,
        "the next day has a limit of its own: {highest}"
    );
    assert!(!second.is_empty(), "tasks run again on the next day");
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_free_primary_dies_the_paid_backup_is_used_as_far_as_the_money_goes() {
    const PROGRAMMERS: usize = 14;
    let llm = Llm::start_with_usage(USAGE.0, USAGE.1).await;
    let file = PoolFile::grown(PROGRAMMERS, "local/free", Some("paid/backup"))
        .calling(&[])
        .llm(&llm.base_url());
    // A call costs $0.28916, so three of them fit into the last dollar.
    let file = file.paid_llm("paid/backup", &llm.base_url(), ("1", "149"));
    let file = file.set("defaults.max_cost_per_job_usd", json!("0.30"));
    let breaker = json!({"failure_threshold": 3, "window_s": 60, "cooldown_s": 3});
    let pool =
        Pool::start_processes_large(&file.set("failover.circuit_breaker", breaker), 2, 7).await;
    let mut log = pool.event_log().await;
    spend(&mut log, "49.00").await;
    llm.hold("free").await;
    pool.api().submit(&json!(tasks("t", 2 * PROGRAMMERS))).await;
    llm.until(
        "every programmer is in a call of its free LLM",
        SOON,
        |requests| {
            (requests
                .iter()
                .filter(|request| request.model == "free")
                .count()
                >= PROGRAMMERS)
                .then_some(())
        },
    )
    .await;
    llm.fail_with("free", 500).await;
    let status = pool
        .status_where("nobody takes tasks any more", |status| {
            status.available() == Some(0)
        })
        .await;
    assert!(status.spent() <= LIMIT, "{status:?}");
    llm.recover().await;
    log.finished(2 * PROGRAMMERS, SOON * 4).await;

    let entries = log.read().await;
    let highest = Ledger::history(entries)
        .iter()
        .map(Ledger::total)
        .max()
        .unwrap_or_default();
    assert!(highest <= LIMIT, "never above the limit: {highest}");
    let refused: Vec<&Entry> = entries
        .iter()
        .filter(|e| !e.accepted && e.json["kind"] == "reserved")
        .collect();
    assert!(
        !refused.is_empty(),
        "more programmers asked for the paid LLM than the budget allows"
    );
    for entry in refused {
        let (task, attempt) = (entry.text("task"), entry.text("attempt"));
        let went_back = |e: &&Entry| {
            e.is("released") && e.text("attempt") == attempt && e.json["no_llm"] == true
        };
        assert_eq!(
            entries.iter().filter(went_back).count(),
            1,
            "{task} was returned when its reservation was refused"
        );
    }
    let paid_calls = llm
        .requests()
        .await
        .iter()
        .filter(|r| r.model == "backup" && r.is_ok())
        .count();
    assert_eq!(
        paid_calls, 3,
        "three calls of $0.28916 fit into a dollar: the provider has answered no more"
    );
    pool.all_succeeded(&mut log, "t", 2 * PROGRAMMERS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_reservation_of_a_killed_worker_counts_as_spent_and_another_does_its_task() {
    let llm = paid_llm().await;
    let file = paid(2, &llm).set(
        "cost_optimization",
        json!({"max_daily_spend_usd": "0.05", "alert_threshold_usd": "0.05"}),
    );
    let mut pool = Pool::start_processes(&file, 2, 1).await;
    let mut log = pool.event_log().await;
    llm.hold("*").await;
    pool.api().submit(&json!(tasks("t", 1))).await;
    let who = log
        .until("a reservation is in the log", SOON, |entries| {
            let reserved = entries.iter().find(|entry| entry.is("reserved"));
            reserved.map(|entry| entry.text("programmer").to_owned())
        })
        .await;
    pool.kill_worker_of(&ProgrammerId::new(who.as_str()).expect("an id"));
    log.until("another one has reserved", SOON, |entries| {
        (reservations(entries) == 2).then_some(())
    })
    .await;
    llm.recover().await;
    let result = pool.api().result("t-1", SOON).await;
    assert_eq!(result.status, Status::Succeeded, "{result:?}");
    assert_ne!(
        result.programmer.as_ref().map(ProgrammerId::as_str),
        Some(who.as_str()),
        "another programmer has done the task"
    );

    let ledger = Ledger::after(log.read().await);
    assert_eq!(ledger.spent, CALL, "the task cost its one answered call");
    assert_eq!(
        ledger.reserved(),
        MicroUsd(20_000),
        "the reservation of the killed worker stays"
    );
    let status = pool.status().await;
    assert_eq!(
        status.spent(),
        ledger.total(),
        "both count as spent: {status:?}"
    );
    assert_eq!(log.outcomes("t-1"), [Status::Succeeded], "one outcome");
    // One cent is left, which is less than a task limit.
    pool.api().submit(&json!(tasks("next", 1))).await;
    let left = if who == "001" { "002" } else { "001" };
    pool.status_where("the remaining programmers wait for the budget", |status| {
        status.is_shut_for(left, "budget")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_of_free_llms_needs_no_money() {
    let llm = Llm::start().await;
    let file = PoolFile::grown(2, "local/free", None)
        .llm(&llm.base_url())
        .calling(&["--calls", "2"]);
    let nothing = json!({"max_daily_spend_usd": 0, "alert_threshold_usd": 0});
    let pool = Pool::start_processes(&file.set("cost_optimization", nothing), 1, 2).await;
    let mut log = pool.event_log().await;
    pool.api().submit(&json!(tasks("t", 6))).await;
    log.finished(6, SOON).await;
    pool.all_succeeded(&mut log, "t", 6).await;
    assert_eq!(
        llm.requests().await.len(),
        12,
        "there are two calls for each task"
    );
    assert_eq!(reservations(log.read().await), 0, "there is no reservation");
}

#[tokio::test(flavor = "multi_thread")]
async fn more_money_for_today_lets_waiting_tasks_go_on() {
    let llm = paid_llm().await;
    let pool = Pool::start_processes(&paid(2, &llm), 1, 2).await;
    let mut log = pool.event_log().await;
    spend(&mut log, "49.99").await;
    pool.api().submit(&json!(tasks("t", 3))).await;
    all_wait_for_budget(&pool).await;
    assert_eq!(
        llm.requests().await.len(),
        0,
        "no call was made that could have passed the limit"
    );
    pool.command_line(&["budget", "set", "--limit", "60", "--today"])
        .await;
    log.finished(3, SOON).await;
    pool.all_succeeded(&mut log, "t", 3).await;
    let status = pool.status().await;
    assert_eq!(
        status.limit(),
        MicroUsd(60_000_000),
        "today's limit: {status:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_jumps_a_day_moves_no_wall_and_shuts_its_own_worker() {
    let llm = paid_llm().await;
    let mut pool = Pool::set_up_shared(&paid(3, &llm)).await;
    let clock = FakeClock::right(pool.path());
    pool.start_dispatcher().await;
    pool.start_worker(&["--programmers", "001"]);
    pool.start_worker_with(&["--programmers", "002"], &clock.environment());
    // With only two clocks nobody could say which one is wrong.
    pool.start_worker(&["--programmers", "003"]);
    pool.all_consume().await;
    let mut log = pool.event_log().await;
    spend(&mut log, "49.99").await;
    pool.api().submit(&json!(tasks("t", 2))).await;
    all_wait_for_budget(&pool).await;

    for offset in ["+1d", "-1d"] {
        clock.set(offset);
        let what = format!("the worker whose clock is {offset} off is shut");
        pool.status_where(&what, |status| status.is_shut_for("002", "clock"))
            .await;
        let seen = log.read().await.len();
        log.follow(
            "the log has two more pulses of the pool",
            SOON * 2,
            |entries| {
                (entries[seen..]
                    .iter()
                    .filter(|entry| entry.is("tick"))
                    .count()
                    >= 2)
                    .then_some(())
            },
        )
        .await;
        let status = pool.status().await;
        for id in ["001", "003"] {
            assert!(
                status.is_shut_for(id, "budget"),
                "{offset}: the day is not over for the others: {status:?}"
            );
        }
        assert_eq!(
            reservations(&log.entries),
            0,
            "{offset}: the programmers stay shut"
        );
        let ahead = log
            .entries
            .iter()
            .filter(|entry| entry.at > wall_clock().plus(Duration::from_secs(60)))
            .count();
        assert_eq!(
            ahead, 0,
            "{offset}: nothing is in the log with the time of a wrong clock"
        );
        clock.set("+0");
        all_wait_for_budget(&pool).await;
    }
    assert_eq!(
        llm.requests().await.len(),
        0,
        "no money was spent in the meantime"
    );
    pool.command_line(&["budget", "set", "--limit", "60", "--today"])
        .await;
    log.finished(2, SOON).await;
    pool.all_succeeded(&mut log, "t", 2).await;
}
