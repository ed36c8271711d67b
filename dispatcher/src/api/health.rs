//! `GET /health`: whether this dispatcher can do its work.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::App;

#[derive(Serialize)]
struct Health {
    status: &'static str,
    version: &'static str,
    /// Host and port of the broker, without the password.
    broker: String,
    detail: Option<String>,
    config_hash: String,
    programmers: usize,
}

pub async fn health(State(app): State<App>) -> Response {
    let detail = trouble(&app);
    let health = Health {
        status: if detail.is_none() { "ok" } else { "degraded" },
        version: env!("CARGO_PKG_VERSION"),
        broker: app.process.consume.endpoint().address(),
        programmers: app.pool.programmers.len(),
        config_hash: app.config_hash.to_string(),
        detail,
    };
    let status = if health.detail.is_none() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(health)).into_response()
}

pub(crate) fn trouble(app: &App) -> Option<String> {
    if !app.process.log.is_fresh() {
        return Some("the event log cannot be read up to its end; is the broker reachable?".to_owned());
    }
    if let Err(off) = app.process.clock.now() {
        return Some(off.to_string());
    }
    let in_force = app.process.log.read(|fold| fold.configuration().map(|configuration| configuration.hash.clone()));
    (in_force.as_deref() != Some(&*app.config_hash)).then(|| {
        format!("{} is not the configuration in force; another dispatcher has another file", app.pool.file.display())
    })
}
