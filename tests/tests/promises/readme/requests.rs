//! Sends the requests of the book to the pool of the quick start.

use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};

use super::plan::NOT_SENT;
use super::{Shell, bury};
use crate::support::api::http;

/// Sends each request of the page, with each body and each parameter beside it.
pub(super) async fn all(shell: &Shell<'_>) {
    let (api, client) = (shell.api(), http());
    let task = std::fs::read_to_string(shell.checkout.path().join("task.json")).expect("task.json");
    let task: Value = serde_json::from_str(&task).expect("JSON");
    for ((method, place), beside) in shell.page.requests() {
        if NOT_SENT.iter().any(|(m, p, _)| *m == method && *p == place) {
            continue;
        }
        let target = place.replace("{id}", &about(shell, (&method, &place), &task).await);
        let url = format!("{}{target}", api.url());
        if method == "GET" {
            for query in beside
                .parameters
                .iter()
                .map(|query| with_value(query))
                .chain([String::new()])
            {
                answers(&client, &method, &format!("{url}{query}"), None).await;
            }
            continue;
        }
        let bodies = beside
            .bodies
            .iter()
            .map(|body| serde_json::from_str(body).expect("a body of the page is JSON"));
        let mut bodies: Vec<Value> = bodies.collect();
        if bodies.is_empty() {
            bodies.push(if place == "/tasks" {
                task.clone()
            } else {
                json!({})
            });
        }
        for body in &bodies {
            answers(&client, &method, &url, Some(body)).await;
        }
    }
}

/// The id of a request's object: a task in the state that it needs, a dead letter, or the finished
/// task.
async fn about(shell: &Shell<'_>, request: (&str, &str), task: &Value) -> String {
    let api = shell.api();
    match request {
        ("POST", "/tasks/{id}/requeue") | ("DELETE", "/tasks/{id}") => api.submit(task).await["id"]
            .as_str()
            .expect("an id")
            .to_owned(),
        ("POST", "/tasks/{id}/retry") => {
            let id = api.submit(task).await["id"]
                .as_str()
                .expect("an id")
                .to_owned();
            api.delete(&format!("/tasks/{id}")).await;
            id
        }
        ("GET", "/dead/{id}") => {
            bury(&shell.checkout.value("AMQP_URL").expect("a broker"), &api).await
        }
        _ => shell.variables[0].1.clone(),
    }
}

/// A value for `?status=`.
fn with_value(query: &str) -> String {
    let value = match query {
        "?status=" => "queued",
        "?programmer=" => "001",
        "?llm=" => "ollama/qwen2.5-coder:7b-instruct",
        "?text=" => "median",
        "?limit=" | "?offset=" => "5",
        _ => "",
    };
    format!("{query}{value}")
}

pub(super) async fn answers(client: &Client, method: &str, url: &str, body: Option<&Value>) {
    let method = Method::from_bytes(method.as_bytes()).expect("a method");
    let mut request = client.request(method.clone(), url);
    if let Some(body) = body {
        request = request.json(body);
    }
    // The head of the answer is enough, because a stream of events does not end.
    let answer = request.send().await.expect("the API answers");
    // In the trial no breaker is open.
    let none_is_open = url.ends_with("/breakers") && answer.status() == StatusCode::CONFLICT;
    assert!(
        answer.status().is_success() || none_is_open,
        "{method} {url} {body:?}: {}",
        answer.status()
    );
}
