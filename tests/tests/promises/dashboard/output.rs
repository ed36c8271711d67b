//! The page of a task always shows the end of its output, and marks gaps where they are.

use serde_json::json;

use super::{go, open};
use crate::support::pool::task;
use crate::support::{Browser, Pool, PoolFile, SOON};

/// A pool with one programmer whose agent is this script; `$1` is the path of the file that lets it
/// go on.
async fn with_agent(script: &str) -> (Pool, std::path::PathBuf) {
    let mut pool = Pool::set_up_shared(&PoolFile::sample()).await;
    let sign = pool.signs().join("go");
    let arguments = [
        "/bin/sh",
        "-c",
        script,
        "agent",
        sign.to_str().expect("a path in UTF-8"),
    ];
    pool.rewrite(&PoolFile::sample().only(&["001"]).command(&arguments));
    pool.start_dispatcher().await;
    pool.start_worker(&["--all"]);
    pool.all_consume().await;
    (pool, sign)
}

/// Waits until the page of the task shows these words.
async fn shows(browser: &Browser, words: &str) {
    let shown = format!(
        "document.querySelector('.term')?.innerText.includes({})",
        json!(words)
    );
    browser.until(words, &shown).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_shows_the_newest_output_of_a_talkative_agent_with_gaps_marked_and_always_its_end()
{
    let agent = r#"seq -f "line %.0f" 1 20000; until [ -e "$1" ]; do sleep 0.05; done
        seq -f "more %.0f" 1 20000; echo "FATAL: the real reason"; exit 3"#;
    let (pool, sign) = with_agent(agent).await;
    pool.api().submit(&task("chatty")).await;
    let browser = open(&pool).await;
    go(&browser, &pool, "tasks/chatty").await;
    shows(&browser, "line 20000").await;
    let shown = browser.text(".term").await;
    assert!(
        shown.starts_with("[… ") && shown.contains(" bytes omitted …]\nline "),
        "the output begins with a whole line: {shown:.60}"
    );
    let numbers: Vec<u32> = shown
        .lines()
        .filter_map(|line| line.strip_prefix("line ")?.parse().ok())
        .collect();
    assert!(
        numbers.windows(2).all(|pair| pair[1] == pair[0] + 1),
        "the lines are complete and in order, to the end"
    );
    std::fs::write(&sign, "").expect("a sign");
    shows(&browser, "FATAL: the real reason").await;
    let shown = browser.text(".term").await;
    assert!(
        shown.contains(" bytes left out …]\nmore "),
        "the gap is marked where it is"
    );
    pool.api().result("chatty", SOON).await;
    let ended = r#"document.querySelector(".task-top .badge").innerText === "failed""#;
    browser.until("the task has ended", ended).await;
    let twice = r#"return document.querySelector(".term").innerText.split("FATAL").length - 1"#;
    assert_eq!(
        browser.script(twice).await,
        1,
        "lines that were seen live are not repeated from the result"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_words_of_an_agent_that_were_not_seen_live_are_shown_from_the_result() {
    let agent = r#"echo begun; until [ -e "$1" ]; do sleep 0.05; done; echo "its last words"; echo four >>readme.txt"#;
    let (pool, sign) = with_agent(agent).await;
    let acceptance = json!([{"name": "loud", "run": ["sh", "-c", "seq 1 40000; exit 1"]}]);
    let body =
        json!({"id": "drowned", "instruction": "x", "repository": "app", "acceptance": acceptance});
    pool.api().submit(&body).await;
    let browser = open(&pool).await;
    go(&browser, &pool, "tasks/drowned").await;
    shows(&browser, "begun").await;
    std::fs::write(&sign, "").expect("a sign");
    pool.api().result("drowned", SOON).await;
    shows(&browser, "its last words").await;
    shows(&browser, "40000").await;
}
