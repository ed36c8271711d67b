//! `scripts/quickstart --chaos` keeps the promises of the README's first page: every act shows its
//! event, and an error comes with its reason. `readme` runs the quick start without `--chaos`.

use std::process::Command;
use std::time::Duration;

use serde_json::json;

use crate::support::checkout::Checkout;
use crate::support::machine::checkout;
use crate::support::process::Running;
use crate::support::{Llm, Pool, PoolFile, eventually};

/// It takes a minute and a half, or longer on two busy cores.
const ENDS_WITHIN: Duration = Duration::from_secs(420);

#[tokio::test(flavor = "multi_thread")]
async fn chaos_once_shows_every_act_and_all_its_tasks_succeed() {
    let checkout = Checkout::with_programs().await;
    let mut command = checkout.command(&checkout.path().join("scripts/quickstart"));
    command.args(["--chaos", "--once"]);
    let mut chaos = Running::start("chaos", checkout.path(), &command);
    let status = eventually("it ends", ENDS_WITHIN, async || chaos.has_ended()).await;
    let said = chaos.log();
    assert!(status.success(), "{said}");
    let shown = [
        "BREAKER OPEN",
        "TO THE BACKUP",
        "BREAKER CLOSED",
        "ON THE PRIMARY",
        "GATE SHUT",
        "BUDGET",
        "CALLS",
    ];
    for words in shown.into_iter().chain([
        "--- The end of the round",
        "Stopping everything that was started",
    ]) {
        assert!(said.contains(words), "the output has {words:?}: {said}");
    }
    let end = said
        .lines()
        .find(|line| line.contains("tasks since the start: "))
        .unwrap_or_default();
    let words: Vec<&str> = end.split_whitespace().collect();
    assert!(
        end.ends_with(" succeeded.") && words.first() == words.get(words.len() - 2),
        "all tasks succeeded: {end}"
    );
    let (status, said) = checkout.pool(&["status"]);
    assert_eq!(
        (status, said.contains("running")),
        (Some(3), false),
        "no process of the pool is left: {said}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn chaos_prints_the_request_that_the_pool_refuses_and_the_reason() {
    let llm = Llm::start().await;
    let file = PoolFile::sample()
        .only(&["009", "010"])
        .llm(&llm.base_url())
        .calling(&[]);
    let pool =
        Pool::start(&file.with("cost_optimization", json!({"max_daily_spend_usd": 50}))).await;
    let mut command = Command::new("python3");
    let script = checkout().join("scripts/lib/chaos.py");
    let llm_url = llm.base_url();
    let llm_url = llm_url
        .strip_suffix("/v1")
        .expect("the address of a provider");
    command.args([
        "-IS",
        script.to_str().expect("a path in UTF-8"),
        llm_url,
        "--once",
    ]);
    command.env("POOL_URL", pool.url().trim_end());
    crate::support::Repository::sample(&pool.repository("sample"));
    let mut chaos = Running::start("chaos", pool.path(), &command);
    let status = chaos.ended().await;
    let said = chaos.log();
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(
        !said.contains("Traceback"),
        "a user must not see a traceback: {said}"
    );
    let last = said.lines().last().unwrap_or_default();
    for words in [
        "chaos: POST ",
        "/tasks was answered 422",
        "no programmer offers `fast`",
    ] {
        assert!(last.contains(words), "the last line has {words:?}: {last}");
    }
}
