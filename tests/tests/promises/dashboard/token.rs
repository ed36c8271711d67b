//! `POOL_API_TOKEN`: on loopback reading needs no token, but acting does; and without a token the
//! API is not open to a network.

use std::process::Command;

use serde_json::json;

use super::open;
use crate::support::machine::program;
use crate::support::pool::task;
use crate::support::{Pool, PoolFile, SOON};

const SECRET: &str = "a-token-of-this-test";

#[tokio::test(flavor = "multi_thread")]
async fn with_a_token_the_page_only_shows_until_it_is_given() {
    let file = PoolFile::sample().only(&["001"]);
    let mut pool = Pool::set_up_shared(&file).await;
    pool.start_dispatcher_at("127.0.0.1:0", &[("POOL_API_TOKEN", SECRET)])
        .await;
    pool.start_worker(&["--all"]);
    pool.all_consume().await;
    let (refused, why) = pool.api().try_submit(&task("early")).await;
    assert_eq!(
        refused.as_u16(),
        401,
        "an action without the token is refused: {why}"
    );
    assert!(
        why["detail"]
            .as_str()
            .is_some_and(|text| text.contains("POOL_API_TOKEN")),
        "the answer says what to do: {why}"
    );

    let browser = open(&pool).await;
    browser
        .until(
            "the page says that it is read-only",
            r##"!document.querySelector("#key").hidden"##,
        )
        .await;
    let offered = browser.script(r##"return document.querySelector("#new-task").hidden && !document.querySelector(".pauses button:not([hidden])")"##);
    assert_eq!(
        offered.await,
        true,
        "no action is offered that the API would refuse"
    );
    browser.click("#key").await;
    browser
        .write("#token input", "another-token-altogether")
        .await;
    browser.click("#token .primary").await;
    browser
        .until(
            "the page asks again after a wrong token",
            r##"document.querySelector("#token")?.innerText.includes("Wrong token")"##,
        )
        .await;
    browser
        .until(
            "the page is live without a token",
            r##"document.querySelector("#connection").dataset.state === "live""##,
        )
        .await;
    let given_up = browser
        .script("return sessionStorage.length === 0 && document.querySelector('#banner').hidden")
        .await;
    assert_eq!(given_up, true, "the wrong token is forgotten");
    browser.write("#token input", SECRET).await;
    browser.click("#token .primary").await;
    browser.click("[aria-label='Pause Prog-001']").await;
    pool.status_where("the page may act now", |status| {
        status.is_shut_for("001", "paused")
    })
    .await;
    let kept = browser
        .script("return [localStorage.length, document.cookie, location.href.includes('token')]")
        .await;
    assert_eq!(kept, json!([0, "", false]), "the token is in this tab only");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_sends_the_token_when_it_is_set() {
    let mut pool = Pool::set_up_shared(&PoolFile::sample().only(&["001"])).await;
    pool.start_dispatcher_at("127.0.0.1:0", &[("POOL_API_TOKEN", SECRET)])
        .await;
    let run = async |token: &str| {
        let mut command = Command::new(program("pool"));
        command
            .args(["pause", "--all"])
            .env("POOL_URL", pool.url().trim_end())
            .env("POOL_API_TOKEN", token);
        tokio::task::spawn_blocking(move || command.output())
            .await
            .expect("a thread")
            .expect("the command runs")
    };
    let without = run("").await;
    let said = String::from_utf8_lossy(&without.stderr).into_owned();
    assert!(
        !without.status.success() && said.contains("needs the token"),
        "{said}"
    );
    let with = run(SECRET).await;
    assert!(
        with.status.success(),
        "{}",
        String::from_utf8_lossy(&with.stderr)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dispatcher_that_others_could_reach_does_not_start_without_a_token() {
    let pool = Pool::start(&PoolFile::sample().only(&["001"])).await;
    let mut command = Command::new(program("dispatcher"));
    // It is refused before it listens.
    command
        .args(["serve", "--listen", "0.0.0.0:0", "--pool"])
        .arg(pool.path().join("config/pool.yaml"));
    command
        .env("AMQP_URL", pool.amqp_url())
        .env_remove("POOL_API_TOKEN");
    let ending = tokio::task::spawn_blocking(move || command.output());
    let ended = tokio::time::timeout(SOON, ending)
        .await
        .expect("the dispatcher ends at once")
        .expect("a thread")
        .expect("it runs");
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(!ended.status.success(), "it does not serve");
    assert!(
        said.contains("other machines can reach") && said.contains("POOL_API_TOKEN is not set"),
        "the message says why: {said}"
    );
}
