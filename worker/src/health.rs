//! `GET /health` of a programmer, on a port of its own, and `GET /metrics` of the process; both of the process alone on the
//! address of `--listen`, which is known before the programmers are: for containers.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use metrics_exporter_prometheus::PrometheusHandle;
use pool_shared::broker::process::Process;
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
    let app = Router::new().route("/health", get(answer)).route("/metrics", get(metrics)).with_state(health);
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

/// 200 while it can take or does work, 503 with the reason while its gate is shut.
async fn answer(State(health): State<Health>) -> Response {
    let gate = health.status.borrow().clone();
    let status = match &gate {
        Gate::Consuming | Gate::Busy { .. } => StatusCode::OK,
        Gate::Shut { .. } => StatusCode::SERVICE_UNAVAILABLE,
    };
    let process = &health.process;
    let seen = Seen { gate, port: health.port, worker: process.name.clone() };
    let programmer = process.log.read(|fold| {
        let standing = Standing { pool: &health.pool, fold, now: fold.now().max(wall_clock()) };
        programmer_status(&standing, &health.programmer, Some(seen))
    });
    let broker = process.consume.endpoint().address();
    (status, Json(Answer { programmer, version: env!("CARGO_PKG_VERSION"), broker })).into_response()
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
    broker: String,
}
