//! Setting a daily limit that keeps programmers from working prints a warning.

use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::support::{Pool, PoolFile};

/// Two free programmers, one whose tasks may cost $5.00 and one $1.00. The daily limit is $50.
fn mixed() -> PoolFile {
    let file = PoolFile::sample().only(&["001", "009", "006", "008"]);
    let file = file.paid_llm("paid/model", "http://127.0.0.1:9/v1", ("1", "10"));
    let file = file
        .set_of("006", "primary_llm", json!("paid/model"))
        .set_of("008", "primary_llm", json!("paid/model"));
    let file = file.set_of("006", "max_cost_per_job_usd", json!("5.00"));
    let file = file.set_of("008", "max_cost_per_job_usd", json!("1.00"));
    file.with("cost_optimization", json!({"max_daily_spend_usd": 50}))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_that_leaves_less_than_a_cap_warns_and_names_who_can_take_no_paid_task() {
    let mut pool = Pool::set_up_shared(&mixed()).await;
    pool.start_dispatcher().await;
    let set = async |limit: &str| {
        pool.command_line(&["budget", "set", "--limit", limit, "--today"])
            .await
    };
    let said = set("5.00").await;
    assert!(!said.contains("warning"), "every task limit fits: {said}");
    let said = set("4.99").await;
    let warning = said
        .lines()
        .find(|line| line.starts_with("warning: "))
        .unwrap_or_default();
    assert!(
        warning.contains("$4.99") && warning.contains("left"),
        "the output says what is left: {said}"
    );
    assert!(
        warning.contains("Prog-006") && warning.contains("$5.00"),
        "the warning names the programmer and its task limit: {warning}"
    );
    assert!(
        !warning.contains("Prog-008") && !warning.contains("Prog-001"),
        "the warning does not name the others: {warning}"
    );
    let said = set("0.50").await;
    let warning = said
        .lines()
        .find(|line| line.starts_with("warning: "))
        .unwrap_or_default();
    for words in [
        "Prog-006",
        "$5.00",
        "Prog-008",
        "$1.00",
        "max_cost_per_job_usd",
    ] {
        assert!(warning.contains(words), "it says {words:?}: {warning}");
    }
    let shown = pool.command_line(&["budget"]).await;
    assert!(
        shown.contains("Prog-008"),
        "the budget shows the programmer while its task limit does not fit: {shown}"
    );

    let body = json!({"limit_usd": "0.50", "for": "today"});
    let (status, answer) = pool.api().send(Method::POST, "/budget", &body).await;
    assert_eq!(status, StatusCode::OK, "the limit is set: {answer}");
    assert!(
        answer["warnings"][0]
            .as_str()
            .is_some_and(|text| text.contains("Prog-006")),
        "{answer}"
    );
    let answer = pool.api().get("/budget").await;
    assert_eq!(
        answer["warnings"].as_array().map(Vec::len),
        Some(1),
        "one warning is enough: {answer}"
    );
}
