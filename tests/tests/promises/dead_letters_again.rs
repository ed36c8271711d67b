//! One command retries all dead letters, and one drops them. Each dead letter gives its reason in
//! plain words, with the id of its task.

use lapin::BasicProperties;
use lapin::options::BasicPublishOptions;
use pool_core::result::Status;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::amqp::channel;
use crate::support::pool::{task, tasks};
use crate::support::{Api, Pool, PoolFile, SOON, eventually};

async fn dead(api: &Api) -> Vec<Value> {
    api.get("/dead").await["letters"]
        .as_array()
        .cloned()
        .unwrap_or_default()
}

async fn dead_when(api: &Api, count: usize) -> Vec<Value> {
    let what = format!("{count} messages are in pool.dead");
    eventually(&what, SOON, async || {
        Some(dead(api).await).filter(|all| all.len() == count)
    })
    .await
}

/// Puts messages into pool.dead, as the process that gave them up does.
async fn bury(pool: &Pool, bodies: impl IntoIterator<Item = String>) {
    let (_connection, channel) = channel(&pool.amqp_url()).await;
    for body in bodies {
        let properties = BasicProperties::default().with_delivery_mode(2);
        let options = BasicPublishOptions::default();
        let publish = channel.basic_publish(
            "pool.dlx".into(),
            "".into(),
            options,
            body.as_bytes(),
            properties,
        );
        publish.await.expect("a publish").await.expect("a confirm");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_dead_letters_are_taken_up_again_and_what_cannot_be_stays_and_is_told() {
    let pool = Pool::start(&PoolFile::sample().only(&["001"])).await;
    let api = pool.api();
    let good = tasks("good", 20).into_iter().map(|task| task.to_string());
    bury(
        &pool,
        good.chain([
            "hello".to_owned(),
            r#"{"id": "half", "instruction": "#.to_owned(),
        ]),
    )
    .await;
    dead_when(&api, 22).await;
    let done = pool.try_command_line(&["dead", "retry", "--all"]).await;
    let (said, shown) = (
        String::from_utf8_lossy(&done.stdout),
        String::from_utf8_lossy(&done.stderr),
    );
    assert_eq!(
        done.status.code(),
        Some(1),
        "two letters are left: {said}{shown}"
    );
    assert!(said.contains("20 messages retried"), "{said}");
    assert!(said.contains("2 messages still in pool.dead"), "{said}");
    assert!(
        said.contains("half") && said.contains("pool dead drop"),
        "the output names the letter and what to do: {said}"
    );
    for n in 1..=20 {
        assert_eq!(
            api.result(&format!("good-{n}"), SOON).await.status,
            Status::Succeeded,
            "good-{n} is done"
        );
    }
    assert_eq!(
        dead(&api).await.len(),
        2,
        "a message that is not a task stays"
    );
    let again = pool
        .try_command_line(&["dead", "retry", "--all", "--format", "json"])
        .await;
    let said: Value = serde_json::from_slice(&again.stdout).expect("JSON");
    assert_eq!(
        (&said["retried"], &said["total"]),
        (&json!([]), &json!(2)),
        "{said}"
    );
    pool.command_line(&["dead", "drop", "--all"]).await;
    let empty = pool.command_line(&["dead", "retry", "--all"]).await;
    assert!(
        empty.contains("0 messages retried"),
        "without letters the command succeeds: {empty}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_says_in_plain_words_and_with_its_tasks_id_why_it_is_there() {
    let pool = Pool::start(&PoolFile::sample().only(&["001"])).await;
    let mut submitter = pool.submitter("me").await;
    let with = |field: &str, value: Value| {
        let mut task = task("told");
        task[field] = value;
        task.to_string()
    };
    let without_repository = r#"{"id": "told", "instruction": "x"}"#.to_owned();
    let cases = [
        (
            r#"{"id": "told", "instruction": "#.to_owned(),
            "told",
            &["not complete", "ends"][..],
        ),
        (
            r#"{"id": "told", "instruction": "a text that is cut o"#.to_owned(),
            "told",
            &["not complete", "ends"],
        ),
        (
            r#"{"id": "told" "instruction": "x"}"#.to_owned(),
            "told",
            &["not JSON", "line 1"],
        ),
        ("hello".to_owned(), "", &["not JSON", "hello"]),
        (String::new(), "", &["empty"]),
        ("[1, 2]".to_owned(), "", &["an object", "a list"]),
        (
            with("instruction", json!(5)),
            "told",
            &["instruction", "a string", "5"],
        ),
        (
            with("colour", json!("red")),
            "told",
            &["colour", "unknown field"],
        ),
        (
            with("files", json!("a.py")),
            "told",
            &["files", "a list", "a.py"],
        ),
        (
            with("limits", json!({"timeout_s": -1})),
            "told",
            &["limits.timeout_s", "whole number", "-1"],
        ),
        (
            with("priority", json!("urgent")),
            "told",
            &["priority", "urgent", "normal", "high"],
        ),
        (without_repository, "told", &["repository", "missing"]),
    ];
    for (body, id, words) in cases {
        submitter
            .publish("any", &body, submitter.properties())
            .await;
        let reply = submitter.reply(SOON).await;
        let said = reply.error.map(|error| error.message).unwrap_or_default();
        assert_eq!(
            reply.task_id.as_ref().map_or("", |id| id.as_str()),
            id,
            "the reply to {body} must name the task"
        );
        let letters = dead_when(&pool.api(), 1).await;
        let letter = &letters[0];
        assert_eq!(
            letter["task_id"].as_str().unwrap_or_default(),
            id,
            "{letter}"
        );
        let reason = letter["reason"].as_str().unwrap_or_default();
        let listed = pool.command_line(&["dead", "list"]).await;
        for text in [&said, reason, &listed] {
            for word in words {
                assert!(
                    text.contains(word),
                    "the reason for {body} must contain {word:?}: {text}"
                );
            }
            for serdes in [
                "EOF",
                "expected value",
                "invalid type",
                "u64",
                "a sequence",
                "struct ",
                "column 0",
                "serde",
            ] {
                assert!(
                    !text.contains(serdes),
                    "the reason for {body} must not contain {serdes:?}: {text}"
                );
            }
        }
        if !id.is_empty() {
            assert!(
                reason.contains("task told"),
                "the reason must name the task: {reason}"
            );
        }
        pool.command_line(&["dead", "drop", "--all"]).await;
    }
    let (status, said) = pool
        .api()
        .send(
            Method::POST,
            "/tasks",
            &json!({"instruction": 5, "repository": "app"}),
        )
        .await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{said}");
    assert!(
        said["detail"]
            .as_str()
            .is_some_and(|text| text.contains("must be a string")),
        "the API gives the reason: {said}"
    );
}
