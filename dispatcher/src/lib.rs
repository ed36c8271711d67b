//! The dispatcher: accepts tasks, publishes them, decides results by the event log, delivers them,
//! and serves the HTTP API.
//!
//! It keeps nothing on disk: a new dispatcher reads the event log and continues the work of one
//! that was killed. Several can run at once.

pub mod api;
pub mod dashboard;
pub mod dead;
pub mod history;
pub mod intake;
mod lost_workers;
pub mod maintenance;
mod pool_metrics;
mod queue_depths;
pub mod report;
mod results;
pub mod serve;
pub mod views;
pub mod why;
