//! The LLM gateway: the one loopback port through which an agent reaches LLMs, and the record of what came of it.
//!
//! A call walks `gateway` (port, token) → `call` (one call, and the place of failover) → `request` (read, checked) →
//! `session` (the worst case set aside; `pricing` decides) → `upstream` (place, key, provider) → `classify` (once) →
//! `session` (settled, recorded, `telemetry`) → `reply`, as a stream where the agent wants one. What is particular to one
//! of the protocols that agents speak is in `protocol`. The agent never sees a provider's key, error or half an answer.

mod answer;
mod call;
mod classify;
mod gateway;
mod pricing;
mod protocol;
pub mod record;
mod reply;
mod request;
mod session;
mod telemetry;
mod upstream;

pub use gateway::{Gateway, Session};
pub use session::CallPlan;
pub use upstream::{UpstreamError, Upstreams};

#[cfg(test)]
mod tests;
