//! The LLM gateway: the one loopback port through which an agent reaches LLMs, and the record of what came of it.

pub mod record;
