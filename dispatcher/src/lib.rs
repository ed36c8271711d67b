//! The dispatcher: accepts tasks, publishes them, decides results by the event log, delivers them,
//! and serves the HTTP API.
//!
//! It keeps nothing on disk: a new dispatcher reads the event log and continues the work of one
//! that was killed. Several can run at once.

mod acknowledge;
mod again;
pub mod api;
pub mod bodies;
pub mod configure;
mod consumer;
pub mod dashboard;
pub mod dead;
pub mod deadlines;
mod depths;
pub mod figures;
pub mod history;
pub mod intake;
mod numbers;
pub mod pool_view;
mod postman;
pub mod reissue;
pub mod repair;
pub mod replies;
pub mod report;
pub mod restate;
pub mod retired;
pub mod retries;
pub mod room;
pub mod serve;
pub mod unroutable;
pub mod why;
