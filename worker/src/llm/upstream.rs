//! The providers: where they are, their keys, how many calls each takes at once. One for each worker process.

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use pool_shared::config::{Pool, Price, Protocol, Provider, Secret};
use pool_shared::id::LlmName;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Client, Response, Url};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::classify::{BodyEnd, Exchange, RetryAfter};
use super::pricing::Tariff;
use super::telemetry::KeyMissing;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
pub(super) const MAX_ANSWER_BYTES: usize = 16 * 1024 * 1024;

/// A provider that cannot be used as it is configured.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    #[error("providers.{provider}.base_url {url:?} is no http or https URL")]
    Url { provider: String, url: String },
    #[error(
        "the key of provider {provider}, environment variable {variable}, holds characters that no header may have"
    )]
    Key { provider: String, variable: String },
    #[error("no HTTP client for provider {provider}: {source}; are CA certificates installed?")]
    Client { provider: String, source: reqwest::Error },
}

/// All providers of a pool.
pub struct Upstreams {
    providers: BTreeMap<String, Upstream>,
    prices: BTreeMap<LlmName, Price>,
}

enum Key {
    NotNeeded,
    Known(Secret),
    Missing { variable: String },
}

/// One provider.
pub(super) struct Upstream {
    chat_url: Url,
    client: Client,
    key: Key,
    pub(super) protocol: Protocol,
    free: bool,
    places: Option<Semaphore>,
}

impl Upstreams {
    /// `env` looks up a variable in the worker's environment. A key that is not there is no error: calls of that
    /// provider fail with class `auth`, the others go on.
    ///
    /// # Errors
    /// [`UpstreamError`] when a URL or a key cannot be used at all.
    pub fn new(pool: &Pool, env: impl Fn(&str) -> Option<String>) -> Result<Arc<Self>, UpstreamError> {
        Self::from_parts(&pool.providers, pool.prices.clone(), env)
    }

    pub(super) fn from_parts(
        providers: &BTreeMap<String, Provider>,
        prices: BTreeMap<LlmName, Price>,
        env: impl Fn(&str) -> Option<String>,
    ) -> Result<Arc<Self>, UpstreamError> {
        // Whoever was first has installed the same one.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let providers = providers
            .iter()
            .map(|(name, provider)| Ok((name.clone(), Upstream::new(name, provider, &env)?)))
            .collect::<Result<_, UpstreamError>>()?;
        Ok(Arc::new(Self { providers, prices }))
    }

    pub(super) fn provider(&self, llm: &LlmName) -> Option<&Upstream> {
        self.providers.get(llm.provider())
    }

    /// None: neither free nor priced, so it may not be called.
    pub(super) fn tariff(&self, llm: &LlmName) -> Option<Tariff> {
        if self.provider(llm)?.free { Some(Tariff::Free) } else { self.prices.get(llm).copied().map(Tariff::Paid) }
    }
}

impl Upstream {
    fn new(name: &str, provider: &Provider, env: &impl Fn(&str) -> Option<String>) -> Result<Self, UpstreamError> {
        let invalid_url = || UpstreamError::Url { provider: name.to_owned(), url: provider.base_url.clone() };
        let chat_url: Url = format!("{}/chat/completions", provider.base_url).parse().map_err(|_| invalid_url())?;
        if !matches!(chat_url.scheme(), "http" | "https") {
            return Err(invalid_url());
        }
        let client = client(&chat_url).map_err(|source| UpstreamError::Client { provider: name.to_owned(), source })?;
        Ok(Self {
            chat_url,
            client,
            key: key(name, provider, env)?,
            protocol: provider.protocol,
            free: provider.free,
            places: provider.max_concurrent.map(|places| Semaphore::new(places as usize)),
        })
    }

    pub(super) fn secret(&self) -> Option<&str> {
        match &self.key {
            Key::Known(secret) => Some(secret.expose()),
            Key::NotNeeded | Key::Missing { .. } => None,
        }
    }

    /// The field in which this provider takes an output limit that the agent did not set: OpenAI has a new name for it
    /// and its newest models refuse the old one, which everybody else knows.
    pub(super) fn limit_field(&self) -> &'static str {
        if self.chat_url.host_str() == Some("api.openai.com") { "max_completion_tokens" } else { "max_tokens" }
    }

    /// Waits until the provider may get one more call; keep the place until the answer is complete.
    pub(super) async fn place(&self) -> Option<SemaphorePermit<'_>> {
        match &self.places {
            // The semaphore is never closed.
            Some(places) => places.acquire().await.ok(),
            None => None,
        }
    }

    /// One request, from its first byte to the last one of the answer within `timeout`.
    pub(super) async fn send(&self, body: Vec<u8>, timeout: Duration) -> Exchange {
        let mut request = self.client.post(self.chat_url.clone()).header(CONTENT_TYPE, "application/json").body(body);
        match &self.key {
            Key::NotNeeded => {}
            Key::Known(secret) => request = request.header(AUTHORIZATION, bearer(secret)),
            Key::Missing { variable } => return Exchange::KeyMissing { variable: variable.clone() },
        }
        let exchange = async {
            match request.send().await {
                Ok(response) => receive(response).await,
                Err(error) if error.is_connect() || error.is_builder() => {
                    Exchange::NotConnected { reason: reason(error) }
                }
                Err(error) => Exchange::Silent { reason: reason(error) },
            }
        };
        tokio::time::timeout(timeout, exchange).await.unwrap_or(Exchange::TimedOut { after: timeout })
    }
}

fn key(name: &str, provider: &Provider, env: &impl Fn(&str) -> Option<String>) -> Result<Key, UpstreamError> {
    let Some(variable) = provider.api_key_env.clone() else { return Ok(Key::NotNeeded) };
    let value = env(&variable).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty());
    let Some(value) = value else {
        KeyMissing { provider: name, variable: &variable }.emit();
        return Ok(Key::Missing { variable });
    };
    if HeaderValue::from_str(&value).is_err() {
        return Err(UpstreamError::Key { provider: name.to_owned(), variable });
    }
    Ok(Key::Known(Secret::new(value)))
}

fn bearer(secret: &Secret) -> HeaderValue {
    // `key` has let through only what a header may hold.
    let mut value =
        HeaderValue::from_str(&format!("Bearer {}", secret.expose())).unwrap_or(HeaderValue::from_static("Bearer"));
    value.set_sensitive(true);
    value
}

/// Redirects are never followed: they would carry the key and the prompt to somebody else. A provider on this machine
/// is never reached through a proxy, and one without TLS needs no certificates.
fn client(url: &Url) -> reqwest::Result<Client> {
    let builder = Client::builder()
        .user_agent(concat!("programmer-pool/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(CONNECT_TIMEOUT);
    let builder = if is_loopback(url) { builder.no_proxy() } else { builder };
    let builder = if url.scheme() == "http" { builder.tls_certs_only([]) } else { builder };
    builder.build()
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

async fn receive(mut response: Response) -> Exchange {
    let status = response.status().as_u16();
    let retry_after = retry_after(response.headers());
    let mut body = BytesMut::new();
    let end = loop {
        match response.chunk().await {
            Ok(None) => break BodyEnd::Whole,
            Ok(Some(chunk)) if body.len() + chunk.len() > MAX_ANSWER_BYTES => {
                break BodyEnd::TooLarge { limit: MAX_ANSWER_BYTES };
            }
            Ok(Some(chunk)) => body.extend_from_slice(&chunk),
            Err(error) => break BodyEnd::Broken { reason: reason(error) },
        }
    };
    Exchange::Answered { status, retry_after, body: body.freeze(), end }
}

fn retry_after(headers: &HeaderMap) -> RetryAfter {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    RetryAfter { milliseconds: text("retry-after-ms"), seconds_or_date: text("retry-after") }
}

/// The error with its causes: the first line of reqwest's alone says nothing.
fn reason(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
