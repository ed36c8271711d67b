//! The decisions that every process of the pool makes alike.
//!
//! - Messages: `task`, `result`, `event`, `heartbeat`, `progress`, and the values in them (`id`, `money`, `time`, …).
//! - The state that the events amount to: `state`.
//! - The validated pool file: `pool`, `price`, `rules`, `config_hash`.
//! - Questions about both: `routing`, `eligibility`, `clock_check`.
//! - The order of tasks that are submitted together: `expected`.
//!
//! Everything here is pure: the time and random numbers are arguments, and nothing asks the machine, the network or a clock.

pub mod clock_check;
pub mod config_hash;
pub mod eligibility;
pub mod event;
pub mod expected;
pub mod heartbeat;
pub mod id;
pub mod id_table;
pub mod llm;
pub mod money;
pub mod object;
pub mod patterns;
pub mod pause;
pub mod pool;
pub mod price;
pub mod progress;
pub mod result;
pub mod routing;
pub mod rules;
pub mod sandbox;
mod secret;
pub mod source;
pub mod state;
pub mod task;
mod task_state;
pub mod time;
mod words;
pub mod wrong;
