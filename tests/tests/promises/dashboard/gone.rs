//! The page does not show a lost worker, broker or dispatcher as if it were there.

use super::{go, open, texts};
use crate::support::bench::Bench;
use crate::support::pool::task;
use crate::support::{Pool, PoolFile, PrivateBroker};

#[tokio::test(flavor = "multi_thread")]
async fn the_page_of_a_task_whose_worker_is_gone_says_so_and_offers_nothing_without_a_dispatcher() {
    let mut bench = Bench::with(&["001"]).await;
    let worker = bench.begin("left").await;
    let browser = open(&bench.pool).await;
    go(&browser, &bench.pool, "tasks/left").await;
    let badge =
        |word: &str| format!("document.querySelector('.task-top .badge').innerText === '{word}'");
    browser.until("it runs", &badge("running")).await;
    bench.pool.kill_worker(worker);
    browser
        .until("the task does not run any more", &badge("queued"))
        .await;
    browser
        .until(
            "the page says which programmer had it",
            r#"document.querySelector(".why").innerText.includes("whose worker has lost its connection to the broker")"#,
        )
        .await;
    bench.pool.kill_dispatcher();
    browser
        .until(
            "no action is offered",
            r#"document.querySelector(".task-top .danger").disabled"#,
        )
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reason_that_keeps_several_programmers_is_shown_once() {
    let bench = Bench::with(&["001", "009", "010"]).await;
    bench.pool.api().submit(&task("waits")).await;
    let browser = open(&bench.pool).await;
    go(&browser, &bench.pool, "tasks/waits").await;
    let said = "Prog-001, Prog-009 and Prog-010: no heartbeat";
    browser
        .until(
            "one line names all of them",
            &format!("document.querySelector('.why')?.innerText.includes('{said}')"),
        )
        .await;
    assert_eq!(
        texts(&browser, ".why .detail > div").await.len(),
        1,
        "no other line names them"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_broker_nothing_is_said_of_programmers_and_llms() {
    let broker = PrivateBroker::take().await;
    let mut pool = Pool::set_up_at(&broker, &PoolFile::sample().only(&["001"])).await;
    pool.start_dispatcher().await;
    pool.start_worker(&["--all"]);
    pool.all_consume().await;
    let browser = open(&pool).await;
    browser
        .until(
            "the page shows no problem",
            r#"document.querySelector("main").innerText.includes("All LLMs answer")"#,
        )
        .await;
    broker.node.kill().await.expect("the broker is killed");
    browser
        .until(
            "the state of every programmer is unknown",
            r#"document.querySelector(".kpi .value").innerText.startsWith("?")"#,
        )
        .await;
    let shown = browser.text("main").await;
    for guess in ["All LLMs answer", "all on their primary", "0 busy"] {
        assert!(!shown.contains(guess), "{guess:?} is not known: {shown}");
    }
    broker.node.start().await.expect("the broker is up again");
    browser
        .until(
            "the page shows no problem again",
            r#"document.querySelector("main").innerText.includes("All LLMs answer")"#,
        )
        .await;
}
