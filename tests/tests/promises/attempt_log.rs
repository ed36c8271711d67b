//! A log line about an attempt names the task, the programmer and the attempt, so that an operator
//! can follow one task through a worker's log.

use std::sync::Arc;

use pool_core::result::Status;
use serde_json::json;

use crate::support::pool::task;
use crate::support::provider::error;
use crate::support::{Pool, PoolFile, Provider, SOON};

#[tokio::test(flavor = "multi_thread")]
async fn each_log_line_of_an_attempt_whose_llm_call_fails_names_task_programmer_and_attempt() {
    let provider = Provider::start(&Arc::default(), |_: Arc<()>, asked| async move {
        if asked.model() == "primary" {
            return error(500, json!({"error": {"message": "out of memory"}}));
        }
        asked.ok()
    })
    .await;
    let file = PoolFile::grown(1, "local/primary", Some("local/backup"))
        .llm(&provider.base_url())
        .calling(&["--calls", "1"]);
    let pool = Pool::start_processes(&file, 1, 1).await;
    pool.api().submit(&task("traced")).await;
    let result = pool.api().result("traced", SOON).await;
    assert_eq!(
        result.status,
        Status::Succeeded,
        "the backup answers: {result:?}"
    );
    pool.worker_prints(0, "finished").await;

    let log = pool.worker_log(0);
    let lines: Vec<&str> = log.lines().collect();
    let position = |word: &str| {
        let found = lines.iter().position(|line| line.contains(word));
        found.unwrap_or_else(|| panic!("no line with {word:?}:\n{log}"))
    };
    let of_attempt = &lines[position("started")..=position("finished")];
    assert!(
        of_attempt
            .iter()
            .any(|line| line.contains("LLM call failed")),
        "the failed call is logged:\n{log}"
    );
    let attempt = result.attempt.expect("an attempt").to_string();
    for field in [
        "task_id=traced",
        "programmer=001",
        &format!("attempt={attempt}"),
    ] {
        for line in of_attempt {
            assert_eq!(
                line.matches(field).count(),
                1,
                "{field} stands once in: {line}"
            );
        }
    }
}
