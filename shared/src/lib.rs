//! What every process of Programmer Pool agrees on.
//!
//! The wire (`id`, `money`, `time`, `task`, `result`, `event`), the pure decisions (`routing`, `fold`), the pool
//! file (`config`) and the broker layer (`broker`). Nothing here runs an agent or serves HTTP to people.

pub mod broker;
pub mod config;
pub mod event;
pub mod fault;
pub mod fold;
pub mod heartbeat;
pub mod id;
pub mod llm;
pub mod money;
pub mod object;
pub mod pause;
pub mod progress;
pub mod result;
pub mod routing;
pub mod rules;
pub mod source;
pub mod standing;
pub mod status;
pub mod task;
pub mod telemetry;
pub mod time;
pub mod wrong;
