//! The dispatcher: takes tasks in, publishes them, decides results by the log, forwards them, answers questions.
//!
//! It keeps nothing on disk: kill it, start another, and that one reads the log and goes on. Several can run at once.

mod acknowledge;
pub mod api;
pub mod check;
pub mod cli;
pub mod configure;
pub mod dashboard;
pub mod history;
pub mod intake;
mod llm_probe;
pub mod pool_view;
pub mod replies;
pub mod retired;
pub mod retries;
mod tables;
pub mod unroutable;
