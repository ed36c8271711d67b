//! Asks every provider of the pool whether the key is accepted and the models exist. Free of
//! charge: it only lists models and makes no LLM call.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::future::join_all;
use pool_config::{Env, did_you_mean};
use pool_core::id::LlmName;
use pool_core::pool::{Pool, Protocol, Provider};
use serde::Deserialize;

use crate::client::innermost;

/// The time limit for one provider.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(10);
/// Anthropic's own header, needed for its list of models on either protocol
/// (<https://docs.anthropic.com/en/api/versioning>).
const ANTHROPIC_VERSION: &str = "2023-06-01";
/// How many models are shown when none resembles the missing one.
const NAMED_MODELS: usize = 5;

/// The result for one LLM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LlmReport {
    pub(crate) llm: LlmName,
    pub(crate) finding: Finding,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Finding {
    Ok,
    KeyMissing {
        variable: String,
    },
    AuthRefused {
        status: u16,
        variable: Option<String>,
    },
    ModelUnknown {
        served: Vec<String>,
    },
    Unreachable {
        problem: String,
    },
}

impl Finding {
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::KeyMissing { .. } => "key missing",
            Self::AuthRefused { .. } => "auth refused",
            Self::ModelUnknown { .. } => "model unknown",
            Self::Unreachable { .. } => "unreachable",
        }
    }
}

impl LlmReport {
    pub(crate) fn is_ok(&self) -> bool {
        self.finding == Finding::Ok
    }

    /// The next step; empty if the LLM is available.
    pub(crate) fn next_step(&self) -> String {
        let provider = self.llm.provider();
        let is_ollama = provider == "ollama";
        match &self.finding {
            Finding::Ok => String::new(),
            Finding::KeyMissing { variable } => {
                format!("set {variable} in the environment of dispatcher and workers")
            }
            Finding::AuthRefused {
                status,
                variable: Some(variable),
            } => {
                format!("the provider refuses the key in {variable} ({status}): set a valid key")
            }
            Finding::AuthRefused {
                status,
                variable: None,
            } => {
                format!(
                    "the provider needs a key ({status}): set providers.{provider}.api_key_env to the name of its variable"
                )
            }
            Finding::ModelUnknown { .. } if is_ollama => {
                format!("run `ollama pull {}`", self.llm.model())
            }
            Finding::ModelUnknown { served } => models_hint(self.llm.model(), served),
            Finding::Unreachable { problem } if is_ollama => {
                format!(
                    "{problem}; start Ollama there (`ollama serve`), or check providers.ollama.base_url"
                )
            }
            Finding::Unreachable { problem } => {
                format!("{problem}; check providers.{provider}.base_url")
            }
        }
    }
}

fn models_hint(model: &str, served: &[String]) -> String {
    if let Some(meant) = did_you_mean(model, served.iter().map(String::as_str)) {
        return format!("did you mean {meant}?");
    }
    let named = served
        .iter()
        .take(NAMED_MODELS)
        .map(String::as_str)
        .collect::<Vec<_>>()
        .join(", ");
    match served.len().saturating_sub(NAMED_MODELS) {
        0 if served.is_empty() => "the provider offers no models to this key".to_owned(),
        0 => format!("available: {named}"),
        more => format!("available: {named} and {more} more"),
    }
}

/// One report for each LLM that a programmer uses, sorted by name. All providers are asked at the
/// same time, each once.
pub(crate) async fn probe(pool: &Pool, env: &Env, timeout: Duration) -> Vec<LlmReport> {
    let llms: BTreeSet<&LlmName> = pool
        .programmers
        .iter()
        .flat_map(|programmer| &programmer.llms)
        .collect();
    let used = pool
        .providers
        .iter()
        .filter(|(name, _)| llms.iter().any(|llm| llm.provider() == name.as_str()));
    let answers = join_all(
        used.map(|(name, provider)| async move { (name, ask(provider, env, timeout).await) }),
    )
    .await;
    llms.into_iter()
        .filter_map(|llm| {
            let (_, answer) = answers
                .iter()
                .find(|(name, _)| llm.provider() == name.as_str())?;
            Some(LlmReport {
                llm: llm.clone(),
                finding: judge(llm, answer),
            })
        })
        .collect()
}

fn judge(llm: &LlmName, answer: &Result<Vec<String>, Finding>) -> Finding {
    // Ollama lists `name:latest` for a model that is called `name`.
    let is_model =
        |served: &String| served.strip_suffix(":latest").unwrap_or(served) == llm.model();
    match answer {
        Err(finding) => finding.clone(),
        Ok(served)
            if served
                .iter()
                .any(|name| name == llm.model() || is_model(name)) =>
        {
            Finding::Ok
        }
        Ok(served) => Finding::ModelUnknown {
            served: served.clone(),
        },
    }
}

#[derive(Deserialize)]
struct Models {
    data: Vec<Model>,
}

#[derive(Deserialize)]
struct Model {
    id: String,
}

/// The models that the provider offers to this key.
async fn ask(provider: &Provider, env: &Env, timeout: Duration) -> Result<Vec<String>, Finding> {
    let key = match &provider.api_key_env {
        None => None,
        Some(variable) => match env.secret(variable) {
            Ok(Some(key)) => Some(key),
            Ok(None) | Err(_) => {
                return Err(Finding::KeyMissing {
                    variable: variable.clone(),
                });
            }
        },
    };
    let unreachable = |error: reqwest::Error| Finding::Unreachable {
        problem: explain(error, timeout),
    };
    let request = client(provider, timeout)
        .map_err(unreachable)?
        .get(models_url(provider));
    let response = authorize(request, provider, key.as_deref())
        .send()
        .await
        .map_err(unreachable)?;
    let status = response.status();
    match status.as_u16() {
        200 => {}
        401 | 403 => {
            let variable = provider.api_key_env.clone();
            return Err(Finding::AuthRefused {
                status: status.as_u16(),
                variable,
            });
        }
        404 => {
            let problem = format!(
                "no list of models below {} (404; it usually ends in /v1)",
                provider.base_url
            );
            return Err(Finding::Unreachable { problem });
        }
        _ => {
            return Err(Finding::Unreachable {
                problem: format!("{} answered {status}", provider.base_url),
            });
        }
    }
    let body = response.bytes().await.map_err(unreachable)?;
    match serde_json::from_slice::<Models>(&body) {
        Ok(models) => Ok(models.data.into_iter().map(|model| model.id).collect()),
        Err(_) => Err(Finding::Unreachable {
            problem: format!("{} did not answer with a list of models", provider.base_url),
        }),
    }
}

/// Follows no redirect, because the key would be sent along; asks loopback providers without a
/// proxy.
fn client(provider: &Provider, timeout: Duration) -> reqwest::Result<reqwest::Client> {
    // Fails only if this process has installed a provider already, which serves as well.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let builder = reqwest::Client::builder()
        .timeout(timeout)
        .redirect(reqwest::redirect::Policy::none());
    if provider.is_loopback() {
        builder.no_proxy().build()
    } else {
        builder.build()
    }
}

fn models_url(provider: &Provider) -> String {
    // Anthropic lists twenty models at a time unless asked for more.
    let query = if is_anthropic(provider) {
        "?limit=1000"
    } else {
        ""
    };
    format!("{}/models{query}", provider.versioned_url())
}

fn authorize(
    request: reqwest::RequestBuilder,
    provider: &Provider,
    key: Option<&str>,
) -> reqwest::RequestBuilder {
    match key {
        None => request,
        Some(key) if is_anthropic(provider) => request
            .header("x-api-key", key)
            .header("anthropic-version", ANTHROPIC_VERSION),
        Some(key) => request.bearer_auth(key),
    }
}

/// Anthropic's chat-completions endpoint takes a bearer token, but its list of models only the
/// headers of its own API.
fn is_anthropic(provider: &Provider) -> bool {
    provider.protocol == Protocol::Anthropic
        || provider.base_url.starts_with("https://api.anthropic.com/")
}

/// The innermost reason of the error; the errors around it only repeat the URL.
fn explain(error: reqwest::Error, timeout: Duration) -> String {
    let url = error
        .url()
        .map(|url| url.origin().ascii_serialization())
        .unwrap_or_default();
    if error.is_timeout() {
        return format!("no answer from {url} within {} s", timeout.as_secs());
    }
    format!("{url}: {}", innermost(&error))
}

#[cfg(test)]
#[path = "llm_probe/tests.rs"]
mod tests;
