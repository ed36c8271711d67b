//! The HTTP API: the same answers for people, scripts and the command line.
//!
//! Errors are `application/problem+json`. [`guard`] keeps web pages of others out.

pub mod again;
pub mod budget;
pub mod control;
pub mod dead;
pub mod events;
pub mod guard;
pub mod health;
pub mod problem;
pub mod report;
mod submission;
pub mod submit;
pub mod tasks;
pub mod token;
mod uncut;
pub mod why;

use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, State};
use axum::routing::{get, post};
use axum::{Json, Router, middleware};
use metrics_exporter_prometheus::PrometheusHandle;
use pool_shared::broker::process::Process;
use pool_shared::config::Pool;
use tokio::sync::Semaphore;

use crate::dashboard::{Hub, Journal, Outputs, page};
use crate::dead::DeadLetters;
use crate::history::History;
use crate::intake::Intake;
use crate::pool_view::{self, Beats, PoolStatus};

/// One request may bring many tasks of at most 1 MiB each.
const MAX_REQUEST_BYTES: usize = 64 * 1024 * 1024;

/// What the handlers need. Cheap to clone.
#[derive(Clone)]
pub struct App {
    pub process: Process,
    pub pool: Arc<Pool>,
    pub history: History,
    pub intake: Intake,
    pub dead: DeadLetters,
    pub beats: Beats,
    pub metrics: PrometheusHandle,
    /// Of `pool`.
    pub config_hash: Arc<str>,
    pub access: token::Access,
    pub journal: Journal,
    pub outputs: Outputs,
    pub hub: Hub,
    /// Places for open event streams.
    pub streams: Arc<Semaphore>,
}

/// All routes of the API.
pub fn router(app: App) -> Router {
    Router::new()
        .route("/", get(page::page))
        .route("/events", get(events::pool))
        .route("/tasks/{id}/events", get(events::task))
        .route("/tasks", post(submit::submit).get(tasks::list))
        .route("/tasks/{id}", get(tasks::show).delete(control::cancel))
        .route("/tasks/{id}/patch", get(tasks::patch))
        .route("/tasks/{id}/retry", post(again::retry))
        .route("/tasks/{id}/requeue", post(again::requeue))
        .route("/dead", get(dead::list).delete(dead::drop_all))
        .route("/dead/{id}", get(dead::show).delete(dead::drop_one))
        .route("/dead/{id}/retry", post(dead::retry))
        .route("/tasks/{id}/why", get(why::show))
        .route("/programmer_pool/status", get(status))
        .route("/programmer_pool/pauses", get(control::pauses))
        .route("/programmer_pool/pause", post(control::pause))
        .route("/programmer_pool/resume", post(control::resume))
        .route("/report", get(report::show))
        .route("/budget", get(budget::show).post(budget::set))
        .route("/health", get(health::health))
        .route("/ready", get(health::ready))
        .route("/metrics", get(metrics))
        .fallback(problem::not_found)
        .method_not_allowed_fallback(problem::method_not_allowed)
        .layer(middleware::from_fn_with_state(app.access, token::check))
        .layer(middleware::from_fn_with_state(app.pool.dispatcher.listen.ip(), guard::guard))
        .layer(DefaultBodyLimit::max(MAX_REQUEST_BYTES))
        .with_state(app)
}

async fn metrics(State(app): State<App>) -> String {
    app.metrics.render()
}

async fn status(State(app): State<App>) -> Json<PoolStatus> {
    Json(pool_view::status(&app.process, &app.pool, &app.beats).await)
}
