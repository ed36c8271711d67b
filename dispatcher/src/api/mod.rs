//! The HTTP API: the same answers for people, scripts and the command line.
//!
//! Errors are `application/problem+json`. [`guard`] keeps web pages of others out. [`routes`] lists and describes all.

pub mod again;
pub mod budget;
pub mod control;
pub mod dead;
mod decide;
pub mod events;
pub mod extract;
pub mod filter;
pub mod guard;
pub mod health;
mod openapi;
pub mod problem;
pub mod report;
pub mod routes;
mod submission;
pub mod submit;
pub mod tasks;
pub mod token;
mod uncut;
pub mod why;

use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, State};
use axum::{Json, Router, middleware};
use metrics_exporter_prometheus::PrometheusHandle;
use pool_broker::process::Process;
use pool_core::pool::Pool;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::dashboard::{Hub, Journal};
use crate::dead::DeadLetters;
use crate::history::{History, Outputs};
use crate::intake::Intake;
use crate::pool_view::{self, Beats, PoolStatus, Snapshot};

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
    /// No more requests are taken, and event streams end.
    pub ending: CancellationToken,
}

impl App {
    /// Who was heard of lately.
    pub fn heard(&self) -> Snapshot {
        self.beats.snapshot(
            self.pool.load_balancing.health_check_interval,
            &self.process.broker(),
        )
    }
}

/// All routes of the API, and what is in front of them.
pub fn router(app: App) -> Router {
    routes::routes()
        .router()
        .fallback(problem::not_found)
        .method_not_allowed_fallback(problem::method_not_allowed)
        .layer(middleware::from_fn_with_state(app.access, token::check))
        .layer(middleware::from_fn_with_state(
            app.pool.dispatcher.listen.ip(),
            guard::guard,
        ))
        .layer(DefaultBodyLimit::max(extract::MAX_REQUEST_BYTES))
        .with_state(app)
}

async fn metrics(State(app): State<App>) -> String {
    app.metrics.render()
}

async fn status(State(app): State<App>) -> Json<PoolStatus> {
    Json(pool_view::status(&app).await)
}

async fn description() -> Json<serde_json::Value> {
    Json(routes::document())
}
