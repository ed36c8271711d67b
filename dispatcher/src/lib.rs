//! The dispatcher: takes tasks in, publishes them, decides results by the log, forwards them, answers questions.
//!
//! It keeps nothing on disk: kill it, start another, and that one reads the log and goes on. Several can run at once.

pub mod api;
mod consumer;
pub mod dashboard;
pub mod dead;
pub mod format;
pub mod history;
pub mod intake;
pub mod maintenance;
mod pool_metrics;
mod queue_depths;
pub mod reissue;
pub mod report;
mod results;
pub mod serve;
pub mod views;
pub mod why;
