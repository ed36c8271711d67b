//! `GET /health`: this dispatcher is alive, and how it is; `GET /ready`: whether it can do its work.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use pool_broker::status::BrokerStatus;
use schemars::JsonSchema;
use serde::Serialize;

use super::App;

/// How this dispatcher is.
#[derive(Serialize, JsonSchema)]
pub struct Health {
    /// `ok` or `degraded`.
    status: &'static str,
    version: &'static str,
    broker: BrokerStatus,
    /// What is wrong.
    detail: Option<String>,
    config_hash: String,
    programmers: usize,
}

/// 200 as long as it lives, whatever the state of the broker: to start it again would not help.
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
    let detail = trouble(app);
    Health {
        status: if detail.is_none() { "ok" } else { "degraded" },
        version: env!("CARGO_PKG_VERSION"),
        broker: app.process.broker(),
        programmers: app.pool.programmers.len(),
        config_hash: app.config_hash.to_string(),
        detail,
    }
}

/// Why this dispatcher cannot see or do its work.
pub(crate) fn trouble(app: &App) -> Option<String> {
    if let Some(trouble) = app.process.broker().trouble() {
        return Some(trouble);
    }
    if !app.process.log.is_fresh() {
        return Some(
            "the event log cannot be read up to its end; is the broker reachable?".to_owned(),
        );
    }
    if let Err(off) = app.process.clock.now() {
        return Some(off.to_string());
    }
    let in_force = app.process.log.read(|fold| {
        fold.configuration()
            .map(|configuration| configuration.hash.clone())
    });
    let file = app.pool.file.display();
    match in_force {
        None => Some(format!(
            "no configuration is in force; this dispatcher is about to put {file} into force"
        )),
        Some(hash) if *hash != *app.config_hash => Some(format!(
            "{file} is not the configuration in force: a dispatcher with another file was started after this one. Start \
                 the one with the right file again; the last start counts"
        )),
        Some(_) => None,
    }
}
