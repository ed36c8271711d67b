//! The pool-wide names of LLMs: what a breaker belongs to, and the failures that count against it.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::id::{LlmName, ProgrammerId};

/// The owner of a breaker: an LLM at the address that serves it. Two names for one address are two
/// accounts, with their own limits and keys. A server on a loopback address is a different one on
/// every host.
///
/// ```
/// use pool_core::{id::LlmName, llm::LlmKey};
///
/// let llm = LlmName::new("ollama/qwen")?;
/// let on = |host| LlmKey::new("http://127.0.0.1:11434/v1", &llm, host);
/// assert_ne!(on("a"), on("b"), "each host runs its own server");
/// let hosted = |host| LlmKey::new("https://api.example.org/v1", &llm, host);
/// assert_eq!(hosted("a"), hosted("b"), "both hosts call the same server");
/// # Ok::<(), pool_core::id::InvalidName>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LlmKey {
    /// The provider's `base_url` in the pool file.
    pub base_url: String,
    /// The LLM's name in the pool file.
    pub llm: LlmName,
    /// The host that serves a loopback address; None for every other address.
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

/// Whether a server at this address runs on the machine of its caller.
pub(crate) fn is_loopback(base_url: &str) -> bool {
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

/// The programmers whose calls to an LLM one breaker governs.
#[derive(
    Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// All programmers: the LLM itself is down.
    Pool,
    /// The programmers on the host with this name: its way to the provider is broken.
    Host(String),
    /// One programmer: its key is refused, or its task makes every call fail.
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

/// The API dialect of a call. A provider may serve an LLM in some dialects and not in others.
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

crate::words!(
    /// A failed call that is evidence against the LLM, not against the request.
    pub enum Fault {
        /// The provider refused the call because of a rate limit (429).
        RateLimited = "rate_limited",
        /// No whole answer came within `call_timeout_s`.
        Timeout = "timeout",
        /// The provider could not be reached, failed (5xx), or broke its answer off.
        Unavailable = "unavailable",
        /// The provider does not serve this model (404).
        ModelUnavailable = "model_unavailable",
        /// The key is missing or refused (401, 403), or the account has no money (402).
        Auth = "auth",
    }
);

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
