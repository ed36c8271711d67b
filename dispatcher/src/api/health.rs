//! `GET /health` says that this dispatcher is alive, and its condition. `GET /ready` says whether
//! it can do its work.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use pool_api::pool::PoolStatus;
use pool_broker::status::BrokerStatus;
use schemars::JsonSchema;
use serde::Serialize;

use super::app::App;

/// The condition of this dispatcher.
#[derive(Serialize, JsonSchema)]
pub struct Health {
    /// `ok` or `degraded`.
    status: &'static str,
    version: &'static str,
    broker: BrokerStatus,
    /// The reason why it is degraded.
    detail: Option<String>,
    config_hash: String,
    programmers: usize,
}

/// 200 as long as the process lives, even without the broker: restarting it would not help.
pub async fn health(State(app): State<App>) -> Response {
    (StatusCode::OK, Json(look(&app))).into_response()
}

/// 503 with the reason while it cannot do its work.
pub async fn ready(State(app): State<App>) -> Response {
    let health = look(&app);
    let status = if health.detail.is_none() {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (status, Json(health)).into_response()
}

fn look(app: &App) -> Health {
    let detail = app.reader.trouble();
    Health {
        status: if detail.is_none() { "ok" } else { "degraded" },
        version: env!("CARGO_PKG_VERSION"),
        broker: app.reader.process.broker(),
        programmers: app.reader.pool.programmers.len(),
        config_hash: app.reader.config_hash.to_string(),
        detail,
    }
}

/// `GET /programmer_pool/status`.
pub(super) async fn status(State(app): State<App>) -> Json<PoolStatus> {
    Json(app.reader.pool_status().await)
}

/// `GET /metrics`.
pub(super) async fn metrics(State(app): State<App>) -> String {
    app.metrics.render()
}
