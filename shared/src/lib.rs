//! The code that the dispatcher, the worker and the operator's command share.
//!
//! - Wire formats: `id`, `money`, `time`, `task`, `result`, `event`, `heartbeat`, `progress`.
//! - Pure decisions: `routing`, `fold`, `rules`, `standing`, `status`.
//! - The pool file: `config`. The broker layer: `broker`. Logs and metrics: `telemetry`.
//!
//! Nothing here runs an agent or serves HTTP to people.

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
