//! The page shows what the API says, on any screen and by keyboard, also after its dispatcher was
//! gone.

use serde_json::json;

use super::{go, is_live, open, texts};
use crate::support::bench::Bench;
use crate::support::pool::task;
use crate::support::{Pool, PoolFile, SOON, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn the_page_shows_what_the_api_says_and_follows_it() {
    let mut bench = Bench::with(&["001", "006", "009"]).await;
    bench.pool.start_worker(&["--programmers", "001,006"]);
    let idle = |status: &crate::support::status::PoolStatus| status.available() == Some(2);
    bench
        .pool
        .status_where("two are idle, and one is down", idle)
        .await;
    let browser = open(&bench.pool).await;
    let body = json!({"id": "job", "instruction": "Count to four", "repository": "app", "capabilities": ["fast"],
        "labels": {"run_id": "r7"}, "acceptance": [{"name": "four is there", "run": ["grep", "-q", "four", "readme.txt"]}]});
    bench.pool.api().submit(&body).await;
    bench
        .pool
        .api()
        .submit(&json!({"id": "behind", "instruction": "x", "repository": "app", "capabilities": ["fast"]}))
        .await;
    bench.agents_started(1).await;

    browser
        .until(
            "001 is busy",
            r#"document.querySelector('[data-id="001"]')?.dataset.state === "busy""#,
        )
        .await;
    let status = bench.pool.status().await;
    for programmer in status.programmers() {
        let card = browser
            .text(&format!(
                "[data-id=\"{}\"]",
                programmer["id"].as_str().expect("an id")
            ))
            .await;
        for field in ["agent", "state", "current_llm"] {
            let value = programmer[field].as_str().expect("a text");
            assert!(
                card.contains(value),
                "{field} {value} of the API is on the card: {card}"
            );
        }
    }
    assert!(
        browser
            .text("[data-id=\"001\"]")
            .await
            .contains("Count to four"),
        "the card shows the task of 001"
    );
    assert!(
        browser
            .text("[data-id=\"009\"]")
            .await
            .contains("no heartbeat"),
        "why 009 is down"
    );
    let counted = r#"[...document.querySelectorAll(".route")].some((route) => route.innerText.includes("1 running · 1 waiting"))"#;
    browser
        .until("the route has one running and one waiting task", counted)
        .await;
    let first = texts(&browser, ".kpi .value").await;
    assert_eq!(
        first[..3],
        ["2 / 3", "1", "1"],
        "the numbers are: available, running, waiting"
    );

    bench.go();
    bench.pool.api().result("behind", SOON).await;
    browser
        .until(
            "both have succeeded",
            r#"document.querySelectorAll(".kpi .value")[3].innerText === "2""#,
        )
        .await;
    browser.click(".task-row[data-id=job]").await;
    let change = browser.text(".diff .add").await;
    assert!(
        change.contains("+four"),
        "the changed line has its colour: {change}"
    );
    let page = browser.text("main").await;
    let result = bench.pool.api().result("job", SOON).await;
    for part in [
        "succeeded",
        "run_id=r7",
        "four is there",
        "passed",
        "Prog-001 began attempt 1",
        "Count to four",
    ] {
        assert!(
            page.contains(part),
            "{part:?} is on the page of the task: {page}"
        );
    }
    assert!(
        page.contains(&result.commit.expect("a commit")[..12]),
        "the page shows the commit of the result"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_shows_an_agents_output_while_it_runs_and_after_another_dispatcher_took_over() {
    let mut pool = Pool::set_up_shared(&PoolFile::sample()).await;
    let go_on = pool.signs().join("go");
    let agent = r#"echo "looking around"; until [ -e "$1.1" ]; do sleep 0.05; done
        echo "found it"; until [ -e "$1.2" ]; do sleep 0.05; done; printf "%0300d\n" 4 >>readme.txt"#;
    let arguments = [
        "/bin/sh",
        "-c",
        agent,
        "agent",
        go_on.to_str().expect("a path in UTF-8"),
    ];
    pool.rewrite(&PoolFile::sample().only(&["001"]).command(&arguments));
    pool.start_dispatcher().await;
    pool.start_worker(&["--all"]);
    pool.all_consume().await;
    pool.api().submit(&task("talks")).await;
    let browser = open(&pool).await;
    go(&browser, &pool, "tasks/talks").await;
    browser
        .until(
            "the page shows the first words",
            r#"document.querySelector(".term").innerText.includes("looking around")"#,
        )
        .await;
    std::fs::write(go_on.with_extension("1"), "").expect("a sign");
    browser
        .until(
            "the page shows the next words",
            r#"document.querySelector(".term").innerText.includes("found it")"#,
        )
        .await;

    let address = pool
        .url()
        .trim_end()
        .trim_start_matches("http://")
        .to_owned();
    pool.kill_dispatcher();
    browser
        .until(
            "a banner says that the dispatcher is gone",
            r##"!document.querySelector("#banner").hidden"##,
        )
        .await;
    let banner = browser.text("#banner").await;
    assert!(
        banner.contains("No connection to the dispatcher"),
        "the banner says it in words: {banner}"
    );
    pool.start_dispatcher_at(&address, &[]).await;
    is_live(&browser).await;
    go(&browser, &pool, "tasks/talks").await;
    let both = r#"document.querySelector(".term").innerText.trim() === "looking around\nfound it""#;
    browser
        .until("another dispatcher knows all of it, once", both)
        .await;
    std::fs::write(go_on.with_extension("2"), "").expect("a sign");
    browser
        .until(
            "the page shows the end without a reload",
            r#"document.querySelector(".task-top .badge").innerText === "succeeded""#,
        )
        .await;
    browser.size(360, 740).await;
    browser
        .until(
            "the change with one long line is shown",
            r#"document.querySelector(".diff .add")"#,
        )
        .await;
    assert_eq!(
        browser
            .script("return document.documentElement.scrollWidth")
            .await,
        360,
        "only the change scrolls sideways, not the page"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_shows_an_acceptance_checks_output_while_it_runs() {
    let mut pool = Pool::set_up_shared(&PoolFile::sample()).await;
    let go_on = pool.signs().join("go");
    let sign = go_on.to_str().expect("a path in UTF-8");
    pool.rewrite(&PoolFile::sample().only(&["001"]).command(&[
        "/bin/sh",
        "-c",
        "echo edited; echo four >>readme.txt",
    ]));
    pool.start_dispatcher().await;
    pool.start_worker(&["--all"]);
    pool.all_consume().await;
    let check =
        r#"echo "1 of 2 passed"; until [ -e "$0" ]; do sleep 0.05; done; echo "2 of 2 passed""#;
    let acceptance = json!([{"name": "quick", "run": ["true"]}, {"name": "unit tests", "run": ["sh", "-c", check, sign]}]);
    let body =
        json!({"id": "checked", "instruction": "x", "repository": "app", "acceptance": acceptance});
    pool.api().submit(&body).await;
    let browser = open(&pool).await;
    go(&browser, &pool, "tasks/checked").await;
    browser
        .until(
            "the output so far is shown",
            r#"document.querySelector(".term").innerText.includes("1 of 2 passed")"#,
        )
        .await;
    let shown = browser.text(".term").await;
    let before = |a: &str, b: &str| shown.find(a).zip(shown.find(b)).is_some_and(|(a, b)| a < b);
    assert!(
        before("edited", "Check: quick") && before("Check: quick", "Check: unit tests"),
        "each output follows the name of its check: {shown}"
    );
    assert_eq!(
        pool.api().get("/tasks/checked").await["status"],
        "running",
        "it still runs"
    );
    std::fs::write(&go_on, "").expect("a sign");
    browser
        .until(
            "its end",
            r#"document.querySelector(".term").innerText.includes("2 of 2 passed")"#,
        )
        .await;
    assert_eq!(
        texts(&browser, ".term .by").await,
        ["Check: quick", "Check: unit tests"],
        "each once"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_finds_its_dispatcher_again_and_shows_what_it_has_missed() {
    let mut pool = Pool::start(&PoolFile::sample().only(&["001"])).await;
    let browser = open(&pool).await;
    go(&browser, &pool, "tasks").await;
    assert!(
        browser.text(".tasks .empty").await.contains("No tasks yet"),
        "an empty list says what to do"
    );
    let address = pool
        .url()
        .trim_end()
        .trim_start_matches("http://")
        .to_owned();
    pool.kill_dispatcher();
    browser
        .until(
            "it is disconnected",
            r##"document.querySelector("#connection").dataset.state === "lost""##,
        )
        .await;
    assert!(
        browser
            .script(r##"return document.querySelector("#new-task").disabled"##)
            .await
            == true,
        "no action is offered"
    );
    // Another dispatcher accepts the task in the meantime.
    pool.start_dispatcher().await;
    pool.api().submit(&task("missed")).await;
    pool.api().result("missed", SOON).await;
    pool.start_dispatcher_at(&address, &[]).await;
    is_live(&browser).await;
    browser
        .until(
            "the page shows the task that it has missed",
            r#"document.querySelector(".task-row[data-id=missed] .badge")?.innerText === "succeeded""#,
        )
        .await;
    assert!(
        browser
            .script(r##"return document.querySelector("#banner").hidden"##)
            .await
            == true,
        "nothing is wrong any more"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_fits_a_phone_and_works_by_keyboard() {
    let bench = Bench::with(&["001", "006"]).await;
    let long = "w".repeat(64);
    bench
        .pool
        .api()
        .submit(&json!({"id": long, "instruction": long.repeat(3), "repository": "app", "labels": {"k": long}}))
        .await;
    let browser = open(&bench.pool).await;
    for scheme in ["light", "dark"] {
        browser.prefer(scheme).await;
        for width in [320, 390, 768, 1280] {
            browser.size(width, 740).await;
            for place in ["", "tasks", &format!("tasks/{long}")] {
                go(&browser, &bench.pool, place).await;
                browser
                    .until(
                        "the view has content",
                        r#"document.querySelector("main").innerText.length > 40"#,
                    )
                    .await;
                let wide = browser
                    .script("return document.documentElement.scrollWidth")
                    .await;
                assert!(
                    wide.as_u64() <= Some(u64::from(width)),
                    "#/{place} at {width} is {wide} wide"
                );
            }
        }
    }
    let dark = browser
        .script("return getComputedStyle(document.body).backgroundColor")
        .await;
    browser.prefer("light").await;
    let light = browser
        .script("return getComputedStyle(document.body).backgroundColor")
        .await;
    assert_ne!(dark, light, "the dark page has other colours");

    go(&browser, &bench.pool, "").await;
    for width in [390, 1280] {
        browser.size(width, 740).await;
        let lines = r#"document.querySelectorAll(".route .nums").forEach((one) => {
            one.textContent = "2 running · 1,056 waiting · 1,175 messages"; });
            return Math.max(...[...document.querySelectorAll(".route .title")].map((one) => one.offsetHeight))"#;
        let high = browser.script(lines).await;
        assert!(
            high.as_u64() <= Some(30),
            "the name of a route is on one line at {width}: {high}"
        );
    }
    browser.press("\u{e004}").await;
    assert_eq!(
        browser
            .script("return document.activeElement.className")
            .await,
        "skip",
        "the first Tab goes past the head"
    );
    bench.pool.api().submit(&task("newer")).await;
    browser
        .until(
            "the latest tasks are shown",
            r#"document.querySelectorAll(".task-row").length === 2"#,
        )
        .await;
    browser.press("j").await;
    browser.press("\u{e015}").await;
    let place = r#"document.activeElement.getAttribute("aria-posinset") === "2""#;
    browser
        .until("keys go through the latest tasks, too", place)
        .await;
    browser.press("/").await;
    assert_eq!(
        browser.script("return document.activeElement.id").await,
        "search",
        "/ searches"
    );
    browser.press("\u{e00c}").await;
    browser
        .until("the list", r#"document.querySelector(".task-row")"#)
        .await;
    browser.press("j").await;
    browser.press("\u{e007}").await;
    browser
        .until(
            "Enter opens the task",
            r##"location.hash === "#/tasks/newer""##,
        )
        .await;
    browser.press("n").await;
    assert_eq!(
        browser.script("return document.activeElement.name").await,
        "instruction",
        "n opens the form for a task"
    );
    let nameless = r##"return [...document.querySelectorAll("button, input, select, textarea, a")].filter((one) =>
        one.offsetParent && !(one.innerText || one.ariaLabel || one.closest("label"))).map((one) => one.outerHTML)"##;
    assert_eq!(
        browser.script(nameless).await,
        json!([]),
        "everything has a name for a screen reader"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_says_what_is_wrong_with_the_dispatcher() {
    let mut pool = Pool::start(&PoolFile::sample().only(&["001"])).await;
    let browser = open(&pool).await;
    eventually("the dispatcher is ready", SOON, async || {
        (browser
            .script(r##"return document.querySelector("#banner").hidden"##)
            .await
            == true)
            .then_some(())
    })
    .await;
    // Another dispatcher puts another pool file in force.
    pool.rewrite(&PoolFile::sample().only(&["001", "002"]));
    let url = pool.url();
    pool.start_dispatcher().await;
    browser
        .until(
            "the first dispatcher's page says so",
            r##"document.querySelector("#banner").innerText.includes("not the configuration in force")"##,
        )
        .await;
    assert_ne!(url, pool.url(), "the page belongs to the first dispatcher");
    assert_eq!(
        browser
            .script(r##"return document.querySelector("#connection").innerText"##)
            .await,
        "stale",
        "the page of a dispatcher that is not ready is not live"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_keys_are_explained_in_words() {
    let pool = Bench::with(&["001"]).await.pool;
    let browser = open(&pool).await;
    browser.press("?").await;
    let said = browser.text("dialog[aria-label=Keys]").await;
    for words in [
        "search tasks",
        "new task",
        "next, previous",
        "budget, report, dead letters",
    ] {
        assert!(said.contains(words), "{words:?} is explained: {said}");
    }
    assert!(!said.contains("object"), "every key has words: {said}");
    browser.press("\u{e00c}").await;
    browser.script("location.hash = '#/nonsense'").await;
    browser
        .until(
            "an unknown view says so",
            r#"document.querySelector("main").innerText.includes("not found")"#,
        )
        .await;
}
