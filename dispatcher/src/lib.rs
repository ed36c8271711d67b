//! The dispatcher: takes tasks in, publishes them, decides results by the log, forwards them, answers questions.
//!
//! It keeps nothing on disk: kill it, start another, and that one reads the log and goes on. Several can run at once.

mod acknowledge;
mod again;
pub mod api;
pub mod bodies;
mod consumer;
pub mod dashboard;
pub mod dead;
mod depths;
pub mod figures;
pub mod history;
pub mod intake;
mod maintenance;
mod numbers;
pub mod pool_view;
mod postman;
pub mod reissue;
pub mod replies;
pub mod report;
pub mod room;
pub mod serve;
pub mod why;
