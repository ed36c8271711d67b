//! The form for a new task sends what the user meant or nothing, and the list stays as the user
//! left it.

use serde_json::json;

use super::{go, open, texts};
use crate::support::bench::Bench;
use crate::support::pool::tasks;
use crate::support::{Browser, Pool, PoolFile, SOON};

const ESCAPE: &str = "\u{e00c}";

/// A form with an instruction, a repository and these checks.
async fn filled_in(pool: &Pool, checks: &str) -> Browser {
    let browser = open(pool).await;
    browser.click("#new-task").await;
    for (field, value) in [
        ("instruction", "Count to four"),
        ("repository", "app"),
        ("checks", checks),
    ] {
        browser.write(&format!("[name={field}]"), value).await;
    }
    browser
}

#[tokio::test(flavor = "multi_thread")]
async fn the_form_says_at_the_field_what_it_does_not_understand_and_keeps_what_was_written() {
    let bench = Bench::with(&["001"]).await;
    let browser = filled_in(&bench.pool, "tests: grep -q 'four readme.txt").await;
    browser
        .script(r##"document.querySelector("#more").open = true"##)
        .await;
    for (field, value) in [
        ("timeout", "60s"),
        ("cost", "cheap"),
        ("labels", "run_id=7 nolabel"),
        ("id", "no good"),
    ] {
        browser.write(&format!("[name={field}]"), value).await;
    }
    browser
        .script(r##"document.querySelector("#more").open = false"##)
        .await;
    browser.click("#submit .primary").await;
    browser
        .until(
            "every wrong field is marked",
            r##"document.querySelectorAll("#submit [aria-invalid]").length === 5"##,
        )
        .await;
    let said = texts(&browser, "#submit .wrong").await.join("\n");
    for words in [
        "A quote of “tests” is not closed",
        "“nolabel” is not key=value",
        "whole seconds",
        "dollars",
        "An id has",
    ] {
        assert!(
            said.contains(words),
            "the field has the message {words:?}: {said}"
        );
    }
    assert_eq!(
        browser.script("return document.activeElement.name").await,
        "checks",
        "the first wrong field has the focus"
    );
    assert_eq!(
        bench.pool.api().get("/tasks").await["total"],
        0,
        "nothing is sent"
    );

    browser.press(ESCAPE).await;
    browser
        .until(
            "the form is closed",
            r##"!document.querySelector("#submit")"##,
        )
        .await;
    browser.click("#new-task").await;
    let value = async |name: &str| {
        browser
            .script(&format!(
                "return document.querySelector('[name={name}]').value"
            ))
            .await
    };
    assert_eq!(
        value("instruction").await,
        "Count to four",
        "the text is there again"
    );
    assert_eq!(
        value("timeout").await,
        "60s",
        "the other fields are there again"
    );
    for (field, right) in [
        ("checks", "tests: grep -q four readme.txt"),
        ("timeout", "60"),
        ("cost", "0.5"),
        ("labels", "run_id=7"),
        ("id", "mine"),
    ] {
        browser
            .script(&format!(
                "document.querySelector('[name={field}]').value = ''"
            ))
            .await;
        browser.write(&format!("[name={field}]"), right).await;
    }
    browser.click("#submit .primary").await;
    browser
        .until(
            "the page of the task opens",
            r##"location.hash === "#/tasks/mine""##,
        )
        .await;
    let taken = bench.pool.api().get("/tasks/mine").await["task"].clone();
    assert_eq!(
        taken["limits"]["timeout_s"], 60,
        "the time limit is the one that was meant: {taken}"
    );
    assert_eq!(taken["labels"], json!({"run_id": "7"}), "the label arrives");
    browser.click("#new-task").await;
    assert_eq!(
        value("instruction").await,
        "",
        "the form is empty after a submission"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_form_sends_what_a_task_says_about_its_evidence() {
    let bench = Bench::with(&["001"]).await;
    let browser = filled_in(&bench.pool, "plain: true\ntests: python3 test.py").await;
    browser
        .script(r##"document.querySelectorAll("#evidence, #more").forEach((one) => { one.open = true; })"##)
        .await;
    browser.write("[name=id]", "mine").await;
    let of = |check: &str, name: &str| format!("[name={name}][data-check={check}]");
    for (field, wrong) in [
        (of("tests", "tries"), "6"),
        (of("tests", "overlay"), "assert True"),
        ("[name=protect]".to_owned(), "tests/**\n/src"),
    ] {
        browser.write(&field, wrong).await;
    }
    browser.click("#submit .primary").await;
    browser
        .until(
            "every wrong field is marked",
            r##"document.querySelectorAll("#submit [aria-invalid]").length === 3"##,
        )
        .await;
    let said = texts(&browser, "#submit .wrong").await.join("\n");
    for words in ["from 1 to 5", "Begin with ===", "“/src” is not a pattern"] {
        assert!(said.contains(words), "{words:?}: {said}");
    }
    let value = async |css: &str| {
        let script = format!("return document.querySelector('{css}').value");
        browser.script(&script).await
    };
    // A new line above, and another name: the options stay with their check.
    for text in [
        "first: true\nplain: true\ntests: python3 test.py",
        "first: true\nplain: true\nall: python3 test.py",
    ] {
        let script = format!(
            "const checks = document.querySelector('[name=checks]'); checks.value = {}; \
             checks.dispatchEvent(new Event('input', {{bubbles: true}}))",
            json!(text)
        );
        browser.script(&script).await;
    }
    browser.press(ESCAPE).await;
    browser
        .until(
            "the form is closed",
            r##"!document.querySelector("#submit")"##,
        )
        .await;
    browser.click("#new-task").await;
    assert_eq!(value(&of("all", "tries")).await, "6", "the draft has it");
    for (field, right) in [
        (of("all", "tries"), "2"),
        (
            of("all", "overlay"),
            "=== tests/hidden.py\nassert True\n\n=== b.txt\n",
        ),
        ("[name=protect]".to_owned(), "tests/**\n*.lock"),
    ] {
        browser
            .script(&format!("document.querySelector('{field}').value = ''"))
            .await;
        browser.write(&field, right).await;
    }
    browser
        .script(&format!(
            "document.querySelector('{}').value = 'fails'",
            of("all", "before")
        ))
        .await;
    browser.click("#submit .primary").await;
    browser
        .until(
            "the page of the task opens",
            r##"location.hash === "#/tasks/mine""##,
        )
        .await;
    let taken = bench.pool.api().get("/tasks/mine").await["task"].clone();
    assert_eq!(taken["protect"], json!(["tests/**", "*.lock"]), "{taken}");
    assert_eq!(
        taken["acceptance"],
        json!([
            {"name": "first", "run": ["true"]},
            {"name": "plain", "run": ["true"]},
            {"name": "all", "run": ["python3", "test.py"], "before": "fails", "tries": 2,
                "overlay": {"tests/hidden.py": "assert True\n", "b.txt": ""}},
        ]),
        "the options are those of their check"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn from_a_task_one_comes_back_to_the_list_as_it_was() {
    let bench = Bench::with(&["001"]).await;
    bench.pool.api().submit(&json!(tasks("many", 150))).await;
    let browser = open(&bench.pool).await;
    go(&browser, &bench.pool, "tasks?status=queued").await;
    browser
        .until(
            "the list",
            r##"document.querySelector("#total").innerText === "150 tasks""##,
        )
        .await;
    browser.script("window.scrollTo(0, 3000)").await;
    browser
        .until(
            "rows far below are drawn",
            r#"document.querySelector(".task-row[aria-posinset='70']")"#,
        )
        .await;
    browser.press("j").await;
    let top = browser
        .script("return document.activeElement.getBoundingClientRect().top")
        .await
        .as_f64();
    assert!(
        top.is_some_and(|top| (60.0..200.0).contains(&top)),
        "j begins with the first visible row: {top:?}"
    );
    for way in [ESCAPE, "the link"] {
        let place = browser.script("return window.scrollY").await;
        browser
            .script("document.querySelector('.task-row[aria-posinset=\"70\"]').click()")
            .await;
        browser
            .until(
                "a task",
                r#"document.querySelector(".task-top .badge")?.innerText === "queued""#,
            )
            .await;
        match way {
            ESCAPE => browser.press(way).await,
            _ => browser.click(".task-top a").await,
        }
        browser
            .until(
                "the list has the same filter",
                r##"location.hash === "#/tasks?status=queued""##,
            )
            .await;
        browser
            .until(
                "the list has the same scroll position",
                &format!("window.scrollY === {place}"),
            )
            .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_was_submitted_again_is_left_out_of_another_retry_of_many() {
    let mut pool = Pool::set_up_shared(&PoolFile::sample()).await;
    pool.rewrite(
        &PoolFile::sample()
            .only(&["001"])
            .command(&["/bin/sh", "-c", "exit 1"]),
    );
    pool.start_dispatcher().await;
    pool.api().submit(&json!(tasks("t", 3))).await;
    for id in ["t-1", "t-2", "t-3"] {
        pool.api().delete(&format!("/tasks/{id}")).await;
        pool.api().result(id, SOON).await;
    }
    pool.command_line(&["retry", "t-1"]).await;
    let browser = open(&pool).await;
    go(&browser, &pool, "tasks?status=cancelled").await;
    let retry = "[...document.querySelectorAll('.bulk button')].find((one) => one.innerText === 'Retry all')";
    browser
        .until(
            "the button is offered",
            &format!("{retry}?.offsetParent && !{retry}.disabled"),
        )
        .await;
    browser.script(&format!("{retry}.click()")).await;
    let question = browser.text("dialog").await;
    assert!(
        question.contains("Retry 2 tasks?") && question.contains("1 was retried before"),
        "{question}"
    );
    let focus = browser
        .script("return document.activeElement.innerText")
        .await;
    assert_eq!(
        focus, "Go back",
        "the button that changes nothing has the focus"
    );
    assert_eq!(
        texts(&browser, "dialog .primary").await,
        ["Retry 2 tasks"],
        "the button names its action"
    );
    browser.click("dialog .primary").await;
    browser
        .until(
            "the new tasks are done",
            r#"document.querySelector(".toast")?.innerText.includes("2 of 2")"#,
        )
        .await;
    browser
        .script(&format!(
            "document.querySelectorAll('.toast').forEach((one) => one.remove()); {retry}.click()"
        ))
        .await;
    let said = browser.text(".toast").await;
    assert!(
        said.contains("3 were retried before"),
        "the next click submits nothing: {said}"
    );
    assert_eq!(pool.api().get("/tasks").await["total"], 6, "each once");
}
