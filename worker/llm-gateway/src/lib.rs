//! The LLM gateway: the one loopback port through which an agent reaches LLMs, and the record of what came of it.
//!
//! A call walks `gateway` (port, token) → `request` (read, checked) → `call`, which asks one LLM after another, as
//! `permits` (breakers, budget) and `failover` (what failed how) let it: `session` (the worst case set aside; `pricing`
//! decides) → `upstream` (place, key, provider) → `classify` (once) → `session` (settled, recorded, `telemetry`); and
//! then `reply`, as a stream where the agent wants one. What is particular to one of the protocols that agents speak is
//! in `protocol`. The agent never sees a provider's key, error or half an answer.

mod answer;
mod body;
mod bound;
mod call;
mod classify;
mod error_inside;
mod estimate;
mod failover;
mod gateway;
mod known;
mod lesson;
mod moderation;
pub mod permits;
mod pricing;
mod probe;
mod protocol;
pub mod record;
mod reply;
mod request;
mod session;
mod telemetry;
mod upstream;

pub use failover::candidates;
pub use gateway::{Gateway, Session};
pub use probe::Probed;
pub use session::CallPlan;
pub use upstream::{UpstreamError, Upstreams};

#[cfg(test)]
mod tests;
