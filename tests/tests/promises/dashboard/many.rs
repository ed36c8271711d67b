//! Five thousand tasks, and the page stays quick.

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use super::{go, open};
use crate::support::pool::tasks;
use crate::support::{Pool, PoolFile};

const COUNT: usize = 5_000;
/// What a person takes for at once, on a busy machine and without optimisation.
const AT_ONCE: Duration = Duration::from_millis(1_500);

#[tokio::test(flavor = "multi_thread")]
async fn five_thousand_tasks_do_not_make_the_page_slow() {
    let mut pool = Pool::set_up_alone(&PoolFile::sample().only(&["001"])).await;
    pool.start_dispatcher().await;
    for part in 0..10 {
        pool.api().submit(&json!(tasks(&format!("part{part}"), COUNT / 10))).await;
    }
    let browser = open(&pool).await;
    go(&browser, &pool, "").await;
    browser.until("the overview", r#"document.querySelectorAll(".kpi .value")[2]?.innerText === "5000""#).await;

    let asked = Instant::now();
    browser.script("location.hash = '#/tasks'").await;
    browser.until("all are counted", r##"document.querySelector("#total")?.innerText === "5,000 tasks""##).await;
    let list = asked.elapsed();
    let rows =
        browser.script(r#"return document.querySelectorAll(".task-row").length"#).await.as_u64().expect("a number");
    assert!((10..80).contains(&rows), "only what is looked at is drawn: {rows}");

    let asked = Instant::now();
    browser.write("#search", "part7-499").await;
    browser.until("the one that is searched", r##"document.querySelector("#total").innerText === "1 task" && document.querySelectorAll(".task-row").length === 1"##).await;
    let filter = asked.elapsed();
    browser.click(".filters .ghost").await;
    browser.until("all again", r##"document.querySelector("#total").innerText === "5,000 tasks""##).await;

    // The longest time in which nothing was drawn, while somebody scrolls and work goes on.
    let watch = r"window.longest = 0; let last = performance.now();
        const frame = (at) => { window.longest = Math.max(window.longest, at - last); last = at; requestAnimationFrame(frame); };
        requestAnimationFrame((at) => { last = at; frame(at); });
        let place = 0; window.scrolling = setInterval(() => window.scrollTo(0, place += 900), 30)";
    browser.script(watch).await;
    pool.start_worker(&["--all"]);
    browser
        .until("the end of the list is reached", r#"document.querySelector('.task-row[aria-posinset="5000"]')"#)
        .await;
    browser
        .until(
            "and tasks have succeeded meanwhile",
            r##"Number(document.querySelector('[data-status=succeeded] .n').innerText.replace(",", "")) > 100"##,
        )
        .await;
    let longest =
        browser.script("clearInterval(window.scrolling); return window.longest").await.as_f64().expect("a number");
    eprintln!("5,000 tasks: list {list:?}, filter {filter:?}, {rows} rows, longest frame {longest:.0} ms");
    assert!(list < AT_ONCE, "the list is there at once: {list:?}");
    assert!(filter < AT_ONCE, "and what is searched: {filter:?}");
    assert!(longest < 500.0, "nothing hangs while it scrolls: {longest} ms");
}
