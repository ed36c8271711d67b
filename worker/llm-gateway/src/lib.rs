//! The LLM gateway: the only way for an agent to reach LLMs is one loopback port. The gateway
//! records every call.
//!
//! A call goes through these modules:
//!
//! 1. `gateway` checks the port and the token. `request` reads and checks the body.
//! 2. `call` asks one LLM after another. `permits` say which it may ask, by breakers and budget,
//!    and `failover` says what follows a failure.
//! 3. For each LLM, `session` sets the worst case aside, by the numbers of `pricing`. `upstream`
//!    waits for a place, adds the key and sends. `classify` names the outcome once. `session`
//!    settles and records it, and `telemetry` reports it.
//! 4. `reply` answers the agent, as a stream if it asked for one.
//!
//! Each dialect that agents speak has its rules in `protocol`. The agent never sees a provider's
//! key, a provider's error or half an answer.

mod answer;
mod bound;
mod call;
mod charge;
pub mod class;
mod classify;
mod error_inside;
mod estimate;
mod failover;
mod gateway;
mod lesson;
mod llm_limits;
mod moderation;
pub mod permits;
mod pricing;
mod probe;
mod protocol;
pub mod record;
mod refusal;
mod reply;
mod request;
mod session;
mod telemetry;
mod upstream;
mod waiting;

pub use failover::candidates;
pub use gateway::{Gateway, LlmSession};
pub use probe::Probed;
pub use session::CallPlan;
pub use upstream::{UpstreamError, Upstreams};

#[cfg(test)]
mod tests;
