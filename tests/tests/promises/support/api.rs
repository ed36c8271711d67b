//! The dispatcher's HTTP API, as a client sees it.

use std::time::Duration;

use pool_core::result::ResultMessage;
use reqwest::{Client, Method, Response, StatusCode};
use serde_json::Value;

use super::eventually;

/// An HTTP client for one test; a shared one would not survive its runtime.
pub(crate) fn http() -> Client {
    // The pool speaks plain HTTP on loopback and needs no certificates, but reqwest needs a TLS
    // provider. The first one that is set stays.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::builder()
        .no_proxy()
        .tls_certs_only([])
        .timeout(Duration::from_secs(60))
        .build()
        .expect("an HTTP client")
}

/// The API at a URL.
#[derive(Debug, Clone)]
pub(crate) struct Api {
    url: String,
    client: Client,
}

impl Api {
    pub(crate) fn at(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            client: http(),
        }
    }

    /// `POST /tasks` with any body and content type.
    pub(crate) async fn post(&self, body: impl Into<String>, headers: &[(&str, &str)]) -> Response {
        let mut request = self
            .client
            .post(format!("{}/tasks", self.url))
            .body(body.into());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.send().await.expect("the API answers")
    }

    /// Submits tasks; all must be accepted.
    pub(crate) async fn submit(&self, tasks: &Value) -> Value {
        let (status, body) = self.try_submit(tasks).await;
        assert!(
            status.is_success(),
            "the submission was not accepted: {status} {body}"
        );
        body
    }

    pub(crate) async fn try_submit(&self, tasks: &Value) -> (StatusCode, Value) {
        let answer = self
            .post(tasks.to_string(), &[("content-type", "application/json")])
            .await;
        (
            answer.status(),
            answer.json().await.expect("the API answers in JSON"),
        )
    }

    /// Submits a task; None if the dispatcher does not answer.
    pub(crate) async fn try_post(&self, task: &Value) -> Option<StatusCode> {
        let request = self.client.post(format!("{}/tasks", self.url)).json(task);
        request.send().await.ok().map(|answer| answer.status())
    }

    /// The answer to `GET`, whatever its status; null if there is no answer.
    pub(crate) async fn get(&self, path: &str) -> Value {
        match self.client.get(format!("{}{path}", self.url)).send().await {
            Ok(answer) => answer.json().await.unwrap_or_default(),
            Err(_) => Value::Null,
        }
    }

    /// The answer to `GET` with its status.
    pub(crate) async fn try_get(&self, path: &str) -> (StatusCode, Value) {
        let answer = self
            .client
            .get(format!("{}{path}", self.url))
            .send()
            .await
            .expect("the API answers");
        (
            answer.status(),
            answer.json().await.expect("the API answers in JSON"),
        )
    }

    /// The answer to `GET` as text.
    pub(crate) async fn text(&self, path: &str) -> String {
        let answer = self
            .client
            .get(format!("{}{path}", self.url))
            .send()
            .await
            .expect("the API answers");
        answer.text().await.expect("a text")
    }

    /// The answer to `DELETE`, whatever its status.
    pub(crate) async fn delete(&self, path: &str) -> Value {
        let answer = self
            .client
            .delete(format!("{}{path}", self.url))
            .send()
            .await
            .expect("the API answers");
        answer.json().await.expect("the API answers in JSON")
    }

    /// Sends any other request; gives the status and the answer.
    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        body: &Value,
    ) -> (StatusCode, Value) {
        let request = self
            .client
            .request(method, format!("{}{path}", self.url))
            .json(body);
        let answer = request.send().await.expect("the API answers");
        (
            answer.status(),
            answer.json().await.expect("the API answers in JSON"),
        )
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    pub(crate) async fn status(&self) -> Value {
        self.get("/programmer_pool/status").await
    }

    /// The patch of a task as text.
    pub(crate) async fn patch(&self, id: &str) -> String {
        let answer = self
            .client
            .get(format!("{}/tasks/{id}/patch", self.url))
            .send()
            .await
            .expect("the API answers");
        let status = answer.status();
        let text = answer.text().await.expect("a text");
        assert!(status.is_success(), "task {id} has no patch: {text}");
        text
    }

    /// Waits for a task's result, which does not include the patch.
    pub(crate) async fn result(&self, id: &str, limit: Duration) -> ResultMessage {
        eventually(&format!("task {id} has a result"), limit, async || {
            let view = self.get(&format!("/tasks/{id}")).await;
            serde_json::from_value(view["result"].clone()).ok()
        })
        .await
    }
}
