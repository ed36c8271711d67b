//! Texts of tasks, agents and files are shown as text only.

use serde_json::json;

use super::{go, open};
use crate::support::{Pool, PoolFile, SOON};

const ATTACK: &str = r#"<img src=x onerror="window.hit=1"><script>window.hit=1</script>"#;
/// A file name may be like this, without a slash.
const FILE: &str = r#"<img src=x onerror="window.hit=1">.txt"#;

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_a_task_an_agent_or_a_file_says_becomes_part_of_the_page() {
    let mut pool = Pool::set_up_shared(&PoolFile::sample()).await;
    let agent = r#"echo "$1"; until [ -e "$3" ]; do sleep 0.05; done; echo "$1"; echo "$1" >"$2"; echo "$1" >>readme.txt"#;
    let go_on = pool.signs().join("go");
    let sign = go_on.to_str().expect("a path in UTF-8");
    let file = PoolFile::sample()
        .only(&["001"])
        .command(&["/bin/sh", "-c", agent, "agent", ATTACK, FILE, sign]);
    pool.rewrite(&file);
    pool.start_dispatcher().await;
    pool.start_worker(&["--all"]);
    pool.all_consume().await;
    let body = json!({"id": "evil", "instruction": ATTACK, "repository": "app", "labels": {"a": ATTACK},
        "acceptance": [{"name": ATTACK, "run": ["echo", ATTACK]}]});
    pool.api().submit(&body).await;
    let browser = open(&pool).await;
    browser
        .until(
            "the instruction is on the programmer's card",
            r#"document.querySelector('[data-id="001"]').innerText.includes("<img")"#,
        )
        .await;
    go(&browser, &pool, "tasks/evil").await;
    browser
        .until(
            "the page shows the agent's output",
            r#"document.querySelector(".term").innerText.includes("<img")"#,
        )
        .await;
    std::fs::write(&go_on, "").expect("the sign");
    pool.api().result("evil", SOON).await;
    browser
        .until(
            "the diff names the file",
            r#"document.querySelector("main .file")"#,
        )
        .await;
    let page = browser.text("main").await;
    let name = browser
        .script(r#"return document.querySelectorAll("main .file summary .grow")[0].textContent"#)
        .await;
    assert_eq!(
        name, FILE,
        "the name of the file is shown unquoted, as text"
    );
    assert!(
        page.contains(FILE),
        "the name of the file is shown as it is: {page}"
    );
    assert!(
        page.matches(r#"<script>window.hit=1</script>"#).count() >= 4,
        "instruction, label, check and change are shown: {page}"
    );
    for place in [
        "tasks/evil",
        "tasks",
        "tasks?text=%3Cimg",
        "",
        &format!("tasks/{}", urlencoded(ATTACK)),
    ] {
        go(&browser, &pool, place).await;
        browser
            .until(
                "the view is shown",
                r#"document.querySelector("main").innerText.includes("<img")"#,
            )
            .await;
        let markup = browser
            .script(r#"return document.querySelectorAll("main img, main script").length"#)
            .await;
        assert_eq!(markup, 0, "no text became markup in #/{place}");
        assert!(
            browser.script("return window.hit").await.is_null(),
            "no script ran in #/{place}"
        );
    }
    // Even if the page wrote such markup, the browser would refuse it.
    let tried = r#"try { document.querySelector("main").innerHTML = arguments[0]; return "written"; } catch (error) { return error.name; }"#;
    assert_eq!(
        browser
            .script(&tried.replace("arguments[0]", &json!(ATTACK).to_string()))
            .await,
        "TypeError",
        "the browser refuses markup from a text"
    );
    let own = r#"const one = document.createElement("img"); one.src = "http://127.0.0.1:9/x"; document.body.append(one);
        const two = document.createElement("div"); try { two.setAttribute("onclick", "window.hit = 1"); } catch {} document.body.append(two); two.click();
        return window.hit ?? null"#;
    assert!(
        browser.script(own).await.is_null(),
        "handlers within markup do nothing"
    );
    let complaints = browser.complaints().await.join("\n");
    assert!(
        complaints.contains("Content Security Policy"),
        "requests to other hosts are refused: {complaints}"
    );
}

fn urlencoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02x}")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_asks_nobody_else_for_anything() {
    let pool = Pool::start(&PoolFile::sample().only(&["001"])).await;
    let browser = open(&pool).await;
    pool.api().submit(&crate::support::pool::task("t")).await;
    pool.api().result("t", SOON).await;
    browser.click(".task-row").await;
    browser
        .until(
            "the page of the task",
            r#"document.querySelector(".timeline li")"#,
        )
        .await;
    let others = r#"return performance.getEntriesByType("resource").map((one) => one.name).filter((name) => !name.startsWith(location.origin) && !name.startsWith("data:"))"#;
    assert_eq!(
        browser.script(others).await,
        json!([]),
        "every request goes to the dispatcher"
    );
    let answer = reqwest::get(pool.url().trim_end()).await.expect("the page");
    let policy = answer.headers()["content-security-policy"]
        .to_str()
        .expect("a text")
        .to_owned();
    assert!(
        policy.starts_with("default-src 'none'; script-src 'sha256-"),
        "the policy allows the page's own script only: {policy}"
    );
    assert!(!policy.contains("unsafe"), "{policy}");
}
