//! `GET /health` of a programmer, on a port of its own: alive, and how it is; `GET /ready`: whether it can take tasks, as
//! far as its process is concerned; and `GET /metrics` of the process.
//! Both of the process alone on the address of `--listen`, which is known before the programmers are: for containers.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use metrics_exporter_prometheus::PrometheusHandle;
use pool_shared::broker::process::Process;
use pool_shared::broker::status::BrokerStatus;
use pool_shared::config::{self, Pool};
use pool_shared::heartbeat::Gate;
use pool_shared::standing::Standing;
use pool_shared::status::{ProgrammerStatus, Seen, programmer_status};
use pool_shared::time::wall_clock;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// What a programmer says of itself.
#[derive(Clone)]
pub struct Health {
    pub programmer: config::Programmer,
    pub port: u16,
    pub process: Process,
    pub pool: Arc<Pool>,
    pub status: watch::Receiver<Gate>,
    pub metrics: PrometheusHandle,
}

/// Takes the programmer's port; 0 = any free one.
///
/// # Errors
/// When the port is taken; the text names it.
pub async fn bind(port: u16) -> std::io::Result<TcpListener> {
    TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await
}

/// Serves until shutdown.
pub async fn serve(listener: TcpListener, health: Health, shutdown: CancellationToken) {
    let app = Router::new().route("/health", get(alive)).route("/ready", get(ready)).route("/metrics", get(metrics));
    let app = app.with_state(health);
    serve_app(listener, app, shutdown).await;
}

/// Serves what is known of a worker's process, whichever programmers it has.
pub async fn serve_process(listener: TcpListener, process: Process, metrics: PrometheusHandle) {
    let shutdown = process.shutdown.clone();
    let app = Router::new()
        .route("/health", get(process_answer))
        .with_state(process)
        .route("/metrics", get(async move || metrics.render()));
    serve_app(listener, app, shutdown).await;
}

async fn serve_app(listener: TcpListener, app: Router, shutdown: CancellationToken) {
    if let Err(error) = axum::serve(listener, app).with_graceful_shutdown(shutdown.cancelled_owned()).await {
        tracing::error!(%error, "health is not served any more");
    }
}

async fn metrics(State(health): State<Health>) -> String {
    health.metrics.render()
}

/// Answers while the process lives, whatever the state of its broker: to start it again would not help.
async fn alive(State(health): State<Health>) -> Response {
    answer(&health, StatusCode::OK, None)
}

/// 503 with the reason while something is wrong that is not the task's, the budget's or an operator's matter.
async fn ready(State(health): State<Health>) -> Response {
    let trouble = trouble(&health);
    let status = if trouble.is_none() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    answer(&health, status, trouble)
}

fn trouble(health: &Health) -> Option<String> {
    if let Some(trouble) = health.process.broker().trouble() {
        return Some(trouble);
    }
    if !health.process.log.is_fresh() {
        return Some("the event log cannot be read up to its end".to_owned());
    }
    unfit(&health.status.borrow())
}

/// What this gate says is wrong with the process.
fn unfit(gate: &Gate) -> Option<String> {
    match gate {
        Gate::Consuming | Gate::Busy { .. } => None,
        Gate::Shut { reason, detail } => reason.is_trouble().then(|| format!("{}: {detail}", reason.as_str())),
    }
}

fn answer(health: &Health, status: StatusCode, trouble: Option<String>) -> Response {
    let gate = health.status.borrow().clone();
    let process = &health.process;
    let seen = Seen { gate, port: health.port, worker: process.name.clone() };
    let programmer = process.log.read(|fold| {
        let standing = Standing { pool: &health.pool, fold, now: fold.now().max(wall_clock()) };
        programmer_status(&standing, &health.programmer, Some(seen))
    });
    let broker = process.broker();
    (status, Json(Answer { programmer, version: env!("CARGO_PKG_VERSION"), broker, trouble })).into_response()
}

/// 200 while the process follows the event log.
async fn process_answer(State(process): State<Process>) -> Response {
    let detail = if process.log.is_fresh() {
        process.clock.now().err().map(|off| off.to_string())
    } else {
        Some("the event log cannot be read up to its end; is the broker reachable?".to_owned())
    };
    let status = if detail.is_none() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let broker = process.consume.endpoint().address();
    let answer = ProcessAnswer { worker: process.name.clone(), version: env!("CARGO_PKG_VERSION"), broker, detail };
    (status, Json(answer)).into_response()
}

#[derive(Serialize)]
struct ProcessAnswer {
    worker: String,
    version: &'static str,
    broker: String,
    /// What is wrong.
    detail: Option<String>,
}

/// The programmer as in the status of the pool, and what only its process knows.
#[derive(Serialize)]
struct Answer {
    #[serde(flatten)]
    programmer: ProgrammerStatus,
    version: &'static str,
    broker: BrokerStatus,
    /// Why it is not ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    trouble: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use pool_shared::heartbeat::ShutReason;

    #[test]
    fn a_programmer_is_ready_unless_something_is_wrong_with_its_process() {
        let shut = |reason| unfit(&Gate::Shut { reason, detail: "why".to_owned() });
        assert_eq!(shut(ShutReason::Held), Some("held: why".to_owned()), "another process has it");
        assert_eq!(shut(ShutReason::Config), Some("config: why".to_owned()), "it has the wrong pool file");
        assert_eq!(shut(ShutReason::Budget), None, "tomorrow it works again");
        assert_eq!(shut(ShutReason::Paused), None, "an operator wants it so");
        assert_eq!(unfit(&Gate::Consuming), None, "it waits for a task");
    }
}
