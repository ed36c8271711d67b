//! LLMs as the whole pool speaks of them: what a breaker belongs to, and the failures that count against it.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::id::{LlmName, ProgrammerId};

/// What a breaker belongs to: an LLM where it is served. Two names for one address are two accounts, with limits and keys
/// of their own; a server on a loopback address is another one on every host.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LlmKey {
    pub base_url: String,
    pub llm: LlmName,
    /// Only of loopback addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
}

impl LlmKey {
    /// The LLM at `base_url`, as seen from `host`.
    pub fn new(base_url: &str, llm: &LlmName, host: &str) -> Self {
        let host = is_loopback(base_url).then(|| host.to_owned());
        Self {
            base_url: base_url.to_owned(),
            llm: llm.clone(),
            host,
        }
    }
}

impl fmt::Display for LlmKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.llm, self.base_url)?;
        self.host
            .as_ref()
            .map_or(Ok(()), |host| write!(f, " on {host}"))
    }
}

fn is_loopback(base_url: &str) -> bool {
    let Ok(url) = url::Url::parse(base_url) else {
        return false;
    };
    match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost",
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

/// Whose use of an LLM a breaker governs: of all, of the programmers on one host, or of a single one (its key, its
/// egress, its poisonous task).
#[derive(
    Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    Pool,
    Host(String),
    Programmer(ProgrammerId),
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pool => f.write_str("all"),
            Self::Host(host) => write!(f, "host {host}"),
            Self::Programmer(id) => f.write_str(&id.display_name()),
        }
    }
}

/// The dialect that a call was made in. A provider may serve an LLM in one of them only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Dialect {
    /// OpenAI's chat completions.
    Chat,
    /// OpenAI's Responses.
    Responses,
    /// Anthropic's Messages.
    Messages,
}

/// A failure that speaks of the LLM and not of the request.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    RateLimited,
    Timeout,
    Unavailable,
    ModelUnavailable,
    Auth,
}

impl Fault {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RateLimited => "rate_limited",
            Self::Timeout => "timeout",
            Self::Unavailable => "unavailable",
            Self::ModelUnavailable => "model_unavailable",
            Self::Auth => "auth",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loopback_address_is_another_llm_on_every_host() {
        for (base_url, local) in [
            ("http://127.0.0.1:11434/v1", true),
            ("http://[::1]:11434/v1", true),
            ("http://localhost/v1", true),
            ("https://api.openai.com/v1", false),
            ("http://10.0.0.7:11434/v1", false),
            ("http://localhost.example.org/v1", false),
        ] {
            let llm = LlmName::new("p/m").expect("an LLM");
            assert_eq!(
                LlmKey::new(base_url, &llm, "h").host.is_some(),
                local,
                "{base_url}"
            );
        }
    }
}
