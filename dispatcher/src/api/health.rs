//! `GET /health` says that this dispatcher is alive, and its condition. `GET /ready` says whether
//! it can do its work.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use pool_broker::status::BrokerStatus;
use schemars::JsonSchema;
use serde::Serialize;

use super::App;

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

/// Why this dispatcher cannot do its work, or cannot see the pool.
pub(crate) fn trouble(app: &App) -> Option<String> {
    if let Some(trouble) = app.process.broker().trouble() {
        return Some(trouble);
    }
    if !app.process.log.is_fresh() {
        return Some(
            "the event log cannot be read to its end; check that the broker is reachable"
                .to_owned(),
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
            "no configuration is in force yet; this dispatcher is putting {file} into force"
        )),
        Some(hash) if *hash != *app.config_hash => Some(format!(
            "{file} is not the configuration in force: another dispatcher was started later with a different file. The last
                     start counts: restart the dispatcher that has the right file"
        )),
        Some(_) => None,
    }
}
