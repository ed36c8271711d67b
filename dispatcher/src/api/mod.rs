//! The HTTP API: people, scripts and the command line get the same answers.
//!
//! Errors are `application/problem+json`. [`guard`] keeps foreign web pages out. [`routes`] lists
//! and describes all routes.

mod app;
pub mod budget;
pub mod control;
pub mod dead;
pub mod error;
pub mod events;
pub mod extract;
pub mod guard;
pub mod health;
mod openapi;
pub mod report;
pub mod resubmit;
pub mod routes;
mod submission;
pub mod submit;
pub mod tasks;
pub mod token;

use axum::extract::DefaultBodyLimit;
use axum::{Router, middleware};

pub use app::App;

/// All routes of the API with their middleware.
pub fn router(app: App) -> Router {
    routes::routes()
        .router()
        .fallback(error::not_found)
        .method_not_allowed_fallback(error::method_not_allowed)
        .layer(middleware::from_fn_with_state(app.access, token::check))
        .layer(middleware::from_fn_with_state(
            app.reader.pool.dispatcher.listen.ip(),
            guard::guard,
        ))
        .layer(DefaultBodyLimit::max(pool_api::MAX_REQUEST_BYTES))
        .with_state(app)
}
