//! A worker: a process that hosts programmers. Each takes one task at a time from the broker, lets
//! its agent work in a git worktree, and publishes the result.

pub mod acceptance;
pub mod agent;
pub mod answers;
mod baselines;
pub mod health;
pub mod host;
pub mod prober;
pub mod programmer;
pub mod sandbox;
pub mod signals;
pub mod workspace;
