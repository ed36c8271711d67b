//! Dead letters, the budget and the report show what the API says and do what the API does, and
//! their texts stay text.

use lapin::BasicProperties;
use lapin::options::BasicPublishOptions;
use lapin::types::{AMQPValue, FieldTable};
use reqwest::Method;
use serde_json::{Value, json};

use super::{go, open, texts};
use crate::support::amqp::channel;
use crate::support::pool::task;
use crate::support::{Browser, Pool, PoolFile, SOON, eventually};

const ATTACK: &str = r#"<img src=x onerror="window.hit=1"><script>window.hit=1</script>"#;

/// A message that is not a task, published as anybody could: to `pool.tasks`, or as a dead letter.
async fn publish(pool: &Pool, exchange: &str, id: &str, body: &[u8]) {
    let (_connection, channel) = channel(&pool.amqp_url()).await;
    let mut headers = FieldTable::default();
    headers.insert(ATTACK.into(), AMQPValue::LongString(ATTACK.into()));
    let properties = BasicProperties::default()
        .with_message_id(id.into())
        .with_headers(headers);
    let options = BasicPublishOptions::default();
    let publish = channel.basic_publish(exchange.into(), "any".into(), options, body, properties);
    publish.await.expect("a publish").await.expect("a confirm");
}

async fn letters(pool: &Pool) -> Vec<Value> {
    pool.api().get("/dead").await["letters"]
        .as_array()
        .cloned()
        .unwrap_or_default()
}

async fn are_dead(pool: &Pool, count: usize) -> Vec<Value> {
    eventually("all are in pool.dead", SOON, async || {
        Some(letters(pool).await).filter(|all| all.len() == count)
    })
    .await
}

async fn is_plain(browser: &Browser) {
    let markup = browser
        .script(r#"return document.querySelectorAll("main img, main script").length"#)
        .await;
    assert_eq!(markup, 0, "no text became markup");
    assert!(
        browser.script("return window.hit").await.is_null(),
        "no script ran"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_shown_with_all_that_is_in_them_taken_up_again_and_dropped() {
    let pool = Pool::start(&PoolFile::sample().only(&["001"])).await;
    let browser = open(&pool).await;
    go(&browser, &pool, "dead").await;
    assert!(
        browser
            .text("main .empty")
            .await
            .contains("No dead letters"),
        "there is no dead letter yet"
    );
    publish(
        &pool,
        "pool.dlx",
        "bad-1",
        format!("\u{fffd}\0\u{1b}[2J{ATTACK}").as_bytes(),
    )
    .await;
    publish(&pool, "pool.tasks", "bad-2", b"\xff\xfe").await;
    let all = are_dead(&pool, 2).await;

    browser
        .until(
            "the page shows them without a reload",
            r#"document.querySelectorAll(".letter").length === 2"#,
        )
        .await;
    browser
        .until(
            "the page shows their number",
            r##"document.querySelector("#dead-count").innerText === "2""##,
        )
        .await;
    let shown = browser.text(".letters").await;
    for letter in &all {
        let reason = letter["reason"].as_str().expect("a reason");
        let (kind, message) = reason.split_once(": ").expect("kind and message");
        assert!(
            shown.contains(kind) && shown.contains(message),
            "the reason {reason}: {shown}"
        );
        assert!(
            shown.contains(letter["task_id"].as_str().expect("an id")),
            "the letter names its task: {shown}"
        );
    }
    let row = |letter: &Value| {
        format!(
            ".letter[data-id=\"{}\"]",
            letter["id"].as_str().expect("an id")
        )
    };
    let of = |id: &str| {
        all.iter()
            .find(|letter| letter["task_id"] == id)
            .expect("a letter")
    };
    browser.press("j").await;
    browser.press("\u{e007}").await;
    let body = browser.text(".letter .term").await;
    assert!(!body.is_empty(), "the keyboard opens a letter");
    browser.script(r#"document.querySelectorAll(".letter .open").forEach((one) => one.ariaExpanded === "true" || one.click())"#).await;
    let detail = format!("{} .term", row(of("bad-1")));
    assert!(
        browser.text(&detail).await.contains(ATTACK),
        "the body is shown as text"
    );
    browser
        .until(
            "the other letter says that its body is not all text",
            &format!(
                "document.querySelector('{}').innerText.includes('not valid UTF-8')",
                row(of("bad-2"))
            ),
        )
        .await;
    assert!(
        browser
            .text(&row(of("bad-1")))
            .await
            .matches(ATTACK)
            .count()
            >= 3,
        "the letter shows the header's name and value, and the body"
    );
    is_plain(&browser).await;

    browser
        .click(&format!("{} .actions button", row(of("bad-1"))))
        .await;
    browser
        .until(
            "the page says why the letter cannot be retried",
            r#"document.querySelector(".toast.bad")?.innerText.includes("not a task")"#,
        )
        .await;
    browser
        .click(&format!("{} .danger", row(of("bad-1"))))
        .await;
    browser.click("dialog .primary").await;
    let left = are_dead(&pool, 1).await;
    assert_eq!(left[0]["task_id"], "bad-2", "the dropped letter is gone");
    browser
        .until(
            "the list has one letter less",
            r#"document.querySelectorAll(".letter").length === 1"#,
        )
        .await;
    browser.click(".head .danger").await;
    browser.click("dialog .primary").await;
    browser
        .until(
            "all letters are gone",
            r#"document.querySelector("main .empty")?.innerText.includes("No dead letters")"#,
        )
        .await;
    // A look takes the letters out and gives them back: the page's last one may have come before they were there again.
    assert_eq!(are_dead(&pool, 0).await, Vec::<Value>::new(), "really");
}

#[tokio::test(flavor = "multi_thread")]
async fn all_dead_letters_are_taken_up_again_by_one_button_and_what_cannot_be_is_told() {
    let pool = Pool::start(&PoolFile::sample().only(&["001"])).await;
    for id in ["good-1", "good-2"] {
        publish(&pool, "pool.dlx", id, task(id).to_string().as_bytes()).await;
    }
    publish(&pool, "pool.dlx", "bad", b"no task").await;
    are_dead(&pool, 3).await;
    let browser = open(&pool).await;
    go(&browser, &pool, "dead").await;
    browser
        .until(
            "all letters are shown",
            r#"document.querySelectorAll(".letter").length === 3"#,
        )
        .await;
    browser.script(r#"[...document.querySelectorAll("main .head button")].find((one) => one.innerText === "Retry all").click()"#).await;
    browser
        .until(
            "the page shows the result",
            r#"document.querySelector(".toast")?.innerText.includes("2 retried; 1 could not be")"#,
        )
        .await;
    browser
        .until(
            "one letter is left",
            r#"document.querySelectorAll(".letter").length === 1"#,
        )
        .await;
    for id in ["good-1", "good-2"] {
        pool.api().result(id, SOON).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_budget_shows_the_day_and_takes_another_limit() {
    let pool = Pool::start(&PoolFile::sample().only(&["001", "006"])).await;
    let browser = open(&pool).await;
    go(&browser, &pool, "budget").await;
    let limit = pool.api().get("/budget").await["max_daily_spend_usd"]
        .as_str()
        .expect("a limit")
        .to_owned();
    let shown = browser.text("main").await;
    assert!(
        shown.contains(&format!("${limit}")),
        "the page shows the limit {limit}: {shown}"
    );
    browser.write("[name=limit]", "0").await;
    browser
        .script(r#"document.querySelector("[name=limit]").value = "7.25""#)
        .await;
    browser.click(".limit .primary").await;
    browser
        .until(
            "the new limit is shown",
            r#"document.querySelector("main .facts").innerText.includes("$7.25 (set for today)")"#,
        )
        .await;
    let now = pool.api().get("/budget").await;
    assert_eq!(
        (&now["max_daily_spend_usd"], &now["set_for_today"]),
        (&json!("7.25"), &json!(true)),
        "and holds"
    );
    pool.command_line(&["budget", "set", "--limit", "9", "--today"])
        .await;
    browser
        .until(
            "a limit that another client sets appears without a reload",
            r#"document.querySelector("main").innerText.includes("$9.00")"#,
        )
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_report_is_what_the_api_counts_and_can_be_kept() {
    let pool = Pool::start(&PoolFile::sample().only(&["001"])).await;
    let browser = open(&pool).await;
    go(&browser, &pool, "report").await;
    browser
        .until(
            "the report is empty before a task has ended",
            r#"document.querySelector("main .empty")?.innerText.includes("No tasks ended")"#,
        )
        .await;
    let mut labelled = task("one");
    labelled["labels"] = json!({"run_id": ATTACK});
    pool.api().submit(&labelled).await;
    pool.api().result("one", SOON).await;
    browser
        .script("location.hash = '#/report?since=24h&by=programmer'")
        .await;
    let row = browser.text(".report tbody tr").await;
    let report = pool.api().get("/report?since=24h&by=programmer").await;
    assert_eq!(report["groups"][0]["name"], "001", "{report}");
    assert!(
        row.starts_with("001") && row.contains("100 %"),
        "the page shows the same numbers: {row:?}"
    );
    let names = texts(&browser, ".report thead th").await;
    assert_eq!(
        names.first().map(String::as_str),
        Some("Programmer"),
        "{names:?}"
    );

    browser.script("window.made = []; URL.createObjectURL = (file) => { file.text().then((text) => window.made.push([file.type, text])); return '#/report'; }").await;
    for form in ["csv", "html"] {
        browser.click(&format!("#{form}")).await;
        let made = browser
            .until("the button makes a file", "window.made.splice(0)[0]")
            .await;
        let (_, answer) = pool
            .api()
            .send(Method::GET, "/report?since=24h&by=programmer", &Value::Null)
            .await;
        assert_eq!(answer["total"]["tasks"], 1, "{answer}");
        let (kind, text) = (
            made[0].as_str().unwrap_or_default(),
            made[1].as_str().unwrap_or_default(),
        );
        assert!(
            kind.starts_with(&format!("text/{form}")) && text.contains("001"),
            "{form}: {kind} {text}"
        );
    }
    browser
        .script(
            "location.hash = '#/report?' + new URLSearchParams({since: 'all', by: 'label:run_id'})",
        )
        .await;
    browser
        .until(
            "the report is by label",
            r#"document.querySelector(".report tbody th")?.innerText.includes("<img")"#,
        )
        .await;
    is_plain(&browser).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_views_fit_a_phone_and_say_when_they_cannot_be_shown() {
    let mut pool = Pool::start(&PoolFile::sample().only(&["001"])).await;
    publish(
        &pool,
        "pool.tasks",
        &"w".repeat(64),
        "x".repeat(5000).as_bytes(),
    )
    .await;
    are_dead(&pool, 1).await;
    pool.api().submit(&task("t")).await;
    pool.api().result("t", SOON).await;
    let browser = open(&pool).await;
    for scheme in ["light", "dark"] {
        browser.prefer(scheme).await;
        for width in [360, 768, 1280] {
            browser.size(width, 740).await;
            for (place, shown) in [
                ("dead", ".letter"),
                ("budget", "main .facts dt"),
                ("report", ".report"),
            ] {
                go(&browser, &pool, place).await;
                browser
                    .until(
                        "the view is shown",
                        &format!("document.querySelector('{shown}')?.offsetParent"),
                    )
                    .await;
                browser
                    .script("document.querySelector('.letter .open')?.click()")
                    .await;
                let wide = browser
                    .script("return document.documentElement.scrollWidth")
                    .await;
                assert!(
                    wide.as_u64() <= Some(u64::from(width)),
                    "#/{place} at {width} is {wide} wide"
                );
                let key = place.chars().next().expect("a letter").to_string();
                browser.script("location.hash = '#/tasks'").await;
                browser.press(&key).await;
                browser
                    .until(
                        "its key opens the view",
                        &format!("location.hash === '#/{place}'"),
                    )
                    .await;
            }
        }
    }
    let nameless = r##"return [...document.querySelectorAll("button, input, select, textarea, a")].filter((one) =>
        one.offsetParent && !(one.innerText || one.ariaLabel || one.closest("label"))).map((one) => one.outerHTML)"##;
    assert_eq!(
        browser.script(nameless).await,
        json!([]),
        "everything has a name for a screen reader"
    );
    pool.kill_dispatcher();
    for (place, words) in [("dead", "Failed to load"), ("report", "Failed to load")] {
        browser
            .script(&format!("location.hash = '#/{place}'"))
            .await;
        browser
            .until(
                "the page says that the view cannot be shown",
                &format!("document.querySelector('main').innerText.includes('{words}')"),
            )
            .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_action_that_needs_the_token_is_not_offered_without_it() {
    let mut pool = Pool::set_up_shared(&PoolFile::sample().only(&["001"])).await;
    pool.start_dispatcher_at("127.0.0.1:0", &[("POOL_API_TOKEN", "a-token-of-this-test")])
        .await;
    pool.start_worker(&["--all"]);
    pool.all_consume().await;
    publish(&pool, "pool.tasks", "bad", b"no task").await;
    are_dead(&pool, 1).await;
    let browser = open(&pool).await;
    for (place, shown) in [("dead", ".letter"), ("budget", "main .facts dt")] {
        go(&browser, &pool, place).await;
        browser
            .until(
                "the view is shown",
                &format!("document.querySelector('{shown}')?.offsetParent"),
            )
            .await;
        browser.until("no action is offered", r#"![...document.querySelectorAll("main .letter .actions, main .danger, main .limit")].some((one) => one.offsetParent)"#).await;
    }
}
