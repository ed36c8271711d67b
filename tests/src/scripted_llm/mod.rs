//! An LLM provider that answers from a script: for the trial without keys, and for every test that
//! needs an LLM to succeed, fail, hang or lie on command.
//!
//! `answer` parses answers, `script` chooses one for a request, `render` turns it into the protocol
//! (all pure). `server` is the HTTP shell, and `connection` lets it break a connection on purpose.
//! Agents that edit through tools speak other protocols: `dialects` is their shell, `responses` and
//! `messages` are the protocols, and `turn` makes calls of the agent's own tools from scripted
//! edits.

mod answer;
mod connection;
mod dialects;
mod log;
mod messages;
mod render;
mod responses;
mod script;
mod server;
mod turn;

pub use answer::{Answer, Behave, Edit, Fail, Rule, ScriptError, TokenUsage, UsageReport};
pub use log::LoggedRequest;
pub use script::Script;
pub use server::ScriptedLlm;
