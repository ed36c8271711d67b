//! The actions of the page take effect in the pool.

use serde_json::json;

use super::{go, open, texts};
use crate::support::bench::Bench;
use crate::support::pool::{task, tasks};
use crate::support::{SOON, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn a_task_is_submitted_and_cancelled_from_the_page() {
    let mut bench = Bench::with(&["001", "006"]).await;
    bench.pool.start_worker(&["--all"]);
    bench.pool.all_consume().await;
    let browser = open(&bench.pool).await;
    browser
        .until(
            "the page shows the capabilities of the programmers",
            r#"document.querySelectorAll(".programmer").length === 2"#,
        )
        .await;
    browser.click("#new-task").await;
    browser
        .write("[name=instruction]", "Say \"hello\" & <b>smile</b>")
        .await;
    browser.write("[name=repository]", "nowhere/../app").await;
    browser.click("#submit .primary").await;
    let problem = browser.text("#submit .problem").await;
    assert!(
        problem.contains("repository"),
        "the form names the mistake and keeps what was written: {problem}"
    );
    browser
        .script(r#"document.querySelector("[name=repository]").value = """#)
        .await;
    browser.write("[name=repository]", "app").await;
    browser.click("[name=capability][value=fast]").await;
    browser
        .write(
            "[name=checks]",
            "greets: grep -q 'hello world' \"a file.txt\"",
        )
        .await;
    browser.click("#submit .primary").await;

    bench.agents_started(1).await;
    let list = bench.pool.api().get("/tasks").await;
    let id = list["tasks"][0]["id"].as_str().expect("an id").to_owned();
    let taken = bench.pool.api().get(&format!("/tasks/{id}")).await["task"].clone();
    assert_eq!(
        taken["instruction"], "Say \"hello\" & <b>smile</b>",
        "the instruction arrives word for word"
    );
    assert_eq!(
        taken["capabilities"],
        json!(["fast"]),
        "the capabilities arrive"
    );
    let check = json!([{"name": "greets", "run": ["grep", "-q", "hello world", "a file.txt"]}]);
    assert_eq!(
        taken["acceptance"], check,
        "the command is split as it was quoted"
    );

    browser
        .until(
            "its page is open",
            &format!("location.hash === \"#/tasks/{id}\""),
        )
        .await;
    browser.click(".task-top .danger").await;
    assert!(
        browser.text("dialog").await.contains("is lost"),
        "the page asks before it cancels"
    );
    browser.click("dialog .primary").await;
    browser
        .until(
            "it shows that it is cancelled",
            r#"document.querySelector(".task-top .badge").innerText === "cancelled""#,
        )
        .await;
    assert_eq!(
        bench.pool.api().get(&format!("/tasks/{id}")).await["status"],
        "cancelled",
        "the API says that it is cancelled"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn programmers_and_routes_are_paused_and_resumed_from_the_page() {
    let mut bench = Bench::with(&["001", "006"]).await;
    bench.pool.start_worker(&["--all"]);
    bench.pool.all_consume().await;
    let browser = open(&bench.pool).await;
    browser.click("[aria-label='Pause Prog-001']").await;
    browser
        .until(
            "the programmer's card says why it is shut",
            r#"document.querySelector('[data-id="001"]').innerText.includes("paused")"#,
        )
        .await;
    assert!(
        bench.pool.status().await.is_shut_for("001", "paused"),
        "the API says that it is paused"
    );
    browser.click("[aria-label='Resume Prog-001']").await;
    bench.pool.all_consume().await;
    browser.click("[aria-label='Pause route fast']").await;
    eventually("the route is paused", SOON, async || {
        let pauses = bench.pool.api().get("/programmer_pool/pauses").await;
        (pauses["pauses"][0]["target"] == json!({"what": "route", "name": "fast"})).then_some(())
    })
    .await;
    browser
        .until(
            "the page marks the paused route",
            r#"[...document.querySelectorAll(".route")].some((one) => one.innerText.includes("paused"))"#,
        )
        .await;
    bench.pool.api().submit(&task("held")).await;
    bench.agents_started(1).await;
    browser.click("[aria-label='Pause the pool']").await;
    assert!(
        browser.text("dialog").await.contains("Pause the pool?"),
        "the page asks before it pauses the whole pool"
    );
    browser.click("dialog .primary").await;
    browser
        .until(
            "the banner says so",
            r##"document.querySelector("#banner").innerText.includes("pool is paused since")"##,
        )
        .await;
    browser
        .until(
            "the card of a busy programmer is marked",
            r#"document.querySelector('[data-state=busy]')?.innerText.includes("paused")"#,
        )
        .await;
    let said = bench.pool.command_line(&["status"]).await;
    assert!(
        said.starts_with("the pool is paused since"),
        "the command line says it in its first line: {said}"
    );
    browser.click("#banner button").await;
    browser
        .until(
            "the pool runs again",
            r##"document.querySelector("#banner").hidden"##,
        )
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_tasks_of_a_filter_are_cancelled_at_once_and_no_others() {
    let bench = Bench::with(&["001"]).await;
    let mut these = tasks("these", 30);
    these
        .iter_mut()
        .for_each(|task| task["labels"] = json!({"run_id": "old"}));
    these.push(task("other"));
    bench.pool.api().submit(&json!(these)).await;
    let browser = open(&bench.pool).await;
    go(&browser, &bench.pool, "tasks").await;
    browser.write("#label", "run_id=old").await;
    browser
        .until(
            "only the matching tasks are counted",
            r##"document.querySelector("#total").innerText === "30 tasks""##,
        )
        .await;
    browser.click(".bulk .danger").await;
    let question = browser.text("dialog").await;
    assert!(
        question.contains("Cancel 30 tasks?"),
        "the page asks first and gives the number: {question}"
    );
    browser.click("dialog .primary").await;
    eventually("thirty are cancelled", SOON, async || {
        (bench.pool.api().get("/tasks?status=cancelled").await["total"] == 30).then_some(())
    })
    .await;
    assert_eq!(
        bench.pool.api().get("/tasks/other").await["status"],
        "queued",
        "the other task is not cancelled"
    );
    browser
        .until(
            "the rows show it",
            r#"[...document.querySelectorAll(".task-row .badge")].every((one) => one.innerText === "cancelled")"#,
        )
        .await;
    assert!(
        texts(&browser, ".toast")
            .await
            .iter()
            .any(|said| said.contains("30 of 30")),
        "a message gives the number"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn why_a_task_waits_is_said_and_one_that_did_not_succeed_is_made_again_from_the_page() {
    let mut bench = Bench::with(&["001"]).await;
    bench.begin("first").await;
    bench.pool.api().submit(&task("second")).await;
    let browser = open(&bench.pool).await;
    go(&browser, &bench.pool, "tasks/second").await;
    browser
        .until(
            "the page names the programmers that can do it and their tasks",
            r#"document.querySelector(".why .detail")?.innerText.includes("first")"#,
        )
        .await;
    let shown = browser.text(".why").await;
    let sentence = bench.pool.api().get("/tasks/second/why").await["sentence"]
        .as_str()
        .expect("a sentence")
        .to_owned();
    let (beginning, _) = sentence.split_once(':').unwrap_or((&sentence, ""));
    assert!(
        shown.starts_with(beginning),
        "{shown:?} is what the API says: {sentence:?}"
    );

    bench.pool.api().delete("/tasks/second").await;
    browser.click(".task-top .primary").await;
    browser
        .until(
            "the page of the new task opens",
            r##"location.hash.startsWith("#/tasks/") && location.hash !== "#/tasks/second""##,
        )
        .await;
    let id = browser
        .script("return location.hash.slice(8)")
        .await
        .as_str()
        .expect("an id")
        .to_owned();
    let again = bench.pool.api().get(&format!("/tasks/{id}")).await;
    assert_eq!(
        again["task"]["retry_of"], "second",
        "the new task is a copy of the old one: {again}"
    );
    assert_eq!(again["status"], "queued", "and waits");
    bench.go();
    browser
        .until(
            "and succeeds",
            r#"document.querySelector(".task-top .badge").innerText === "succeeded""#,
        )
        .await;
    assert_eq!(
        browser
            .script("return document.querySelector('.task-top .primary').hidden")
            .await,
        true,
        "a succeeded task has no retry button"
    );
}
