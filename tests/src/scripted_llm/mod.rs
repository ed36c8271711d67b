//! An LLM provider that answers what a script says: for the trial run without keys, and for every test that needs
//! an LLM to succeed, fail, hang or lie on command.
//!
//! `answer` reads answers, `script` chooses one for a request, `render` turns it into the protocol (all pure);
//! `server` is the HTTP shell and `connection` lets it break a connection on purpose.

mod answer;
mod connection;
mod log;
mod render;
mod script;
mod server;

pub use answer::{Answer, Behave, Edit, Fail, Rule, ScriptError, TokenUsage, UsageReport};
pub use log::LoggedRequest;
pub use script::Script;
pub use server::ScriptedLlm;
