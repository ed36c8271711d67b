//! Section `providers`: the servers of LLMs. The well-known ones are built in and can be overridden key by key.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use url::Url;

use super::checks::Checks;
use super::env::Env;
use super::position::At;
use super::{OutputLimitField, Protocol, Provider};
use pool_core::id::LlmName;

#[derive(Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(title = "provider", inline)]
pub(super) struct RawProvider {
    /// The address, for example http://127.0.0.1:11434/v1. With protocol anthropic the /v1 may be left out. A built-in provider
    /// with another base_url loses its built-in api_key_env, so that a key goes only where you want it.
    #[schemars(url)]
    base_url: Option<String>,
    /// The NAME of the worker's environment variable that contains the key. Without it no key is sent.
    #[schemars(regex(pattern = r"^[A-Za-z_][A-Za-z0-9_]*$"))]
    api_key_env: Option<String>,
    /// Its API: openai (chat completions, and Responses where the provider serves them; the default) or anthropic
    /// (Messages). An agent reaches only LLMs whose provider serves the agent's API.
    protocol: Option<Protocol>,
    /// Whether calls cost nothing. LLMs of other providers need an entry in `prices`. Default: false.
    free: Option<bool>,
    /// The most simultaneous calls of one worker process; more calls wait. Default: no limit.
    #[schemars(range(min = 1))]
    max_concurrent: Option<u32>,
    /// The name of the output limit in its chat completions: max_tokens or max_completion_tokens. Default: the agent's
    /// choice, until the provider refuses it.
    output_limit_field: Option<OutputLimitField>,
}

/// The built-in providers. Anthropic is reached over its chat-completions endpoint, because aider speaks that;
/// `protocol: anthropic` is for agents that speak Messages themselves.
fn built_in() -> BTreeMap<String, Provider> {
    let provider = |base_url: &str, key: Option<&str>| Provider {
        base_url: base_url.to_owned(),
        api_key_env: key.map(str::to_owned),
        protocol: Protocol::OpenAi,
        free: key.is_none(),
        max_concurrent: None,
        output_limit_field: None,
    };
    [
        ("ollama", provider("http://127.0.0.1:11434/v1", None)),
        (
            "openai",
            provider("https://api.openai.com/v1", Some("OPENAI_API_KEY")),
        ),
        (
            "anthropic",
            provider("https://api.anthropic.com/v1", Some("ANTHROPIC_API_KEY")),
        ),
        (
            "deepseek",
            provider("https://api.deepseek.com/v1", Some("DEEPSEEK_API_KEY")),
        ),
    ]
    .map(|(name, provider)| (name.to_owned(), provider))
    .into()
}

/// The built-in providers and those of the file, with addresses that the environment overrides.
pub(super) fn check(
    raw: BTreeMap<String, RawProvider>,
    env: &Env,
    checks: &mut Checks,
) -> BTreeMap<String, Provider> {
    let mut providers = built_in();
    for (name, entry) in raw {
        let at = At::top("providers").key(&name);
        if LlmName::new(format!("{name}/x")).is_err() {
            checks.mistake(
                &at,
                "is not a valid provider name: write 1 to 32 characters of a-z 0-9 _ -",
            );
        }
        let known = providers.remove(&name);
        if let Some(provider) = entry.check(&at, known, checks) {
            providers.insert(name, provider);
        }
    }
    for (name, provider) in &mut providers {
        let variable = url_variable(name);
        match env.get(&variable).map(right_url) {
            None => {}
            Some(Ok(url)) => provider.base_url = url,
            Some(Err(problem)) => checks.elsewhere(&format!("{variable} (environment)"), problem),
        }
    }
    providers
}

/// The variable that overrides a provider's address for one process. In a container 127.0.0.1 is not the machine that the
/// pool file means.
fn url_variable(provider: &str) -> String {
    format!(
        "POOL_{}_URL",
        provider.to_ascii_uppercase().replace('-', "_")
    )
}

impl RawProvider {
    fn check(self, at: &At, known: Option<Provider>, checks: &mut Checks) -> Option<Provider> {
        if let Some(variable) = &self.api_key_env
            && !is_variable(variable)
        {
            let problem = "is not a name of an environment variable: write for example OPENAI_API_KEY, never the key itself";
            checks.mistake(&at.key("api_key_env"), problem);
        }
        if self.max_concurrent == Some(0) {
            checks.mistake(
                &at.key("max_concurrent"),
                "0 lets no call pass: write at least 1, or leave it out for no limit",
            );
        }
        let known_key = known
            .as_ref()
            .filter(|_| self.base_url.is_none())
            .and_then(|p| p.api_key_env.clone());
        let base_url = match self.base_url {
            Some(url) => check_url(&at.key("base_url"), &url, checks),
            None => known.as_ref().map(|provider| provider.base_url.clone()),
        };
        if base_url.is_none() {
            checks.mistake(
                &at.key("base_url"),
                "is missing: write for example http://127.0.0.1:11434/v1",
            );
        }
        Some(Provider {
            base_url: base_url.unwrap_or_default(),
            api_key_env: self.api_key_env.or(known_key),
            protocol: self
                .protocol
                .or(known.as_ref().map(|p| p.protocol))
                .unwrap_or(Protocol::OpenAi),
            free: self
                .free
                .or(known.as_ref().map(|p| p.free))
                .unwrap_or(false),
            max_concurrent: self.max_concurrent.or(known.and_then(|p| p.max_concurrent)),
            output_limit_field: self.output_limit_field,
        })
    }
}

pub(super) fn is_variable(name: &str) -> bool {
    name.bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && !name.is_empty()
}

/// The URL without a trailing slash; None when it is wrong, after reporting the mistake.
fn check_url(at: &At, text: &str, checks: &mut Checks) -> Option<String> {
    match right_url(text) {
        Ok(url) => Some(url),
        Err(problem) => {
            checks.broken(at, problem);
            None
        }
    }
}

/// The URL without a trailing slash, or what is wrong with it.
fn right_url(text: &str) -> Result<String, String> {
    let right = "write for example http://127.0.0.1:11434/v1";
    Err(match Url::parse(text) {
        Err(error) => format!("{text:?} is not a valid URL ({error}): {right}"),
        Ok(url) if !matches!(url.scheme(), "http" | "https") => {
            format!("\"{}:\" is not supported: {right}", url.scheme())
        }
        Ok(url) if !url.username().is_empty() || url.password().is_some() => {
            "contains a user or password: put the key into an environment variable and name it in api_key_env".to_owned()
        }
        Ok(url) if url.query().is_some() || url.fragment().is_some() => {
            format!("{text:?} has a ? or # part, which a base URL cannot have: {right}")
        }
        Ok(_) => return Ok(text.trim_end_matches('/').to_owned()),
    })
}
