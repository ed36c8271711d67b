//! `GET /health` of a programmer, on a port of its own, and `GET /metrics` of the process.

use std::net::{Ipv4Addr, SocketAddr};

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use metrics_exporter_prometheus::PrometheusHandle;
use pool_shared::config;
use pool_shared::heartbeat::Gate;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// What a programmer says of itself.
#[derive(Clone)]
pub struct Health {
    pub programmer: config::Programmer,
    pub port: u16,
    pub broker: String,
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
    let (status, state, reason) = match &gate {
        Gate::Consuming => (StatusCode::OK, "idle", String::new()),
        Gate::Busy { task, .. } => (StatusCode::OK, "busy", format!("working on {task}")),
        Gate::Shut { reason, detail } => {
            (StatusCode::SERVICE_UNAVAILABLE, "shut", format!("{}: {detail}", reason.as_str()))
        }
    };
    let programmer = &health.programmer;
    let body = json!({
        "id": programmer.id,
        "agent": programmer.id.display_name(),
        "port": health.port,
        "state": state,
        "reason": reason,
        "primary_llm": programmer.primary(),
        "backup_llm": programmer.llms.get(1),
        "current_llm": programmer.primary(),
        "using_backup": false,
        "capabilities": programmer.capabilities,
        "version": env!("CARGO_PKG_VERSION"),
        "broker": health.broker,
    });
    (status, Json(body)).into_response()
}
