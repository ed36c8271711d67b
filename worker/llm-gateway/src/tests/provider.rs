//! A provider between the gateway and the scripted LLM. It keeps the requests that it gets, and
//! refuses some.

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::routing::post;
use tokio::sync::mpsc;

use super::*;

/// Status and message of a refusal. None: the request goes on to the scripted LLM.
pub(super) type Taste = fn(&Value) -> Option<(u16, String)>;

pub(super) fn takes_all(_: &Value) -> Option<(u16, String)> {
    None
}

pub(super) struct Picky {
    pub(super) rig: Rig,
    bodies: mpsc::UnboundedReceiver<Bytes>,
}

#[derive(Clone)]
struct Behind {
    seen: mpsc::UnboundedSender<Bytes>,
    client: Client,
    url: String,
    taste: Taste,
}

async fn serve(State(behind): State<Behind>, uri: Uri, body: Bytes) -> (StatusCode, Bytes) {
    let _ = behind.seen.send(body.clone());
    let request: Value = serde_json::from_slice(&body).expect("the gateway sends JSON");
    if let Some((status, message)) = (behind.taste)(&request) {
        let status = StatusCode::from_u16(status).expect("a status");
        return (
            status,
            json!({"error": {"message": message, "type": "invalid_request_error"}})
                .to_string()
                .into(),
        );
    }
    let answer = behind
        .client
        .post(format!("{}{uri}", behind.url))
        .body(body)
        .send()
        .await;
    let answer = answer.expect("the scripted LLM answers");
    (answer.status(), answer.bytes().await.expect("a whole body"))
}

impl Picky {
    pub(super) async fn start(taste: Taste, plan: CallPlan) -> Self {
        Self::start_with(taste, plan, upstreams_at).await
    }

    /// Starts the provider. `upstreams` makes the pool's providers from its address.
    pub(super) async fn start_with(
        taste: Taste,
        plan: CallPlan,
        upstreams: fn(&str) -> Arc<Upstreams>,
    ) -> Self {
        let mut rig = Rig::start(plan.clone()).await;
        let (seen, bodies) = mpsc::unbounded_channel();
        let behind = Behind {
            seen,
            client: rig.client.clone(),
            url: rig.llm.url(),
            taste,
        };
        let router = Router::new().fallback(post(serve)).with_state(behind);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a free port");
        let base_url = format!("http://{}/v1", listener.local_addr().expect("an address"));
        tokio::spawn(async move { axum::serve(listener, router).await });
        rig.gateway = Gateway::start(upstreams(&base_url))
            .await
            .expect("a free port");
        rig.session = rig.gateway.open(plan);
        Self { rig, bodies }
    }

    pub(super) async fn send(&self, path: &str, body: String) -> (StatusCode, String) {
        let url = format!("{}/{path}", self.rig.session.base_url());
        let response = self
            .rig
            .client
            .post(url)
            .bearer_auth(self.rig.session.token())
            .body(body)
            .send()
            .await;
        let response = response.expect("the gateway answers");
        (
            response.status(),
            response.text().await.expect("a whole body"),
        )
    }

    /// The next request that the provider got.
    pub(super) async fn got(&mut self) -> String {
        let seen = self.bodies.recv().await.expect("the provider was asked");
        String::from_utf8(seen.to_vec()).expect("UTF-8")
    }

    /// How many requests the provider got that no test has looked at.
    pub(super) fn more(&self) -> usize {
        self.bodies.len()
    }

    /// The request that the provider got, after checking that the agent got a good answer.
    pub(super) async fn seen(&mut self, path: &str, body: &str) -> String {
        let (status, text) = self.send(path, body.to_owned()).await;
        assert_eq!(status, StatusCode::OK, "{path}: {body}: {text}");
        self.got().await
    }
}
