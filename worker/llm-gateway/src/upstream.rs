//! The providers: their addresses, their keys, and how many calls each takes at once. One value for
//! each worker process.

use std::collections::BTreeMap;
use std::error::Error;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use pool_core::id::LlmName;
use pool_core::pool::{OutputLimitField, Pool, Price, Protocol, Provider, Secret};
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, Response, Url};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::classify::{BodyEnd, Exchange, RetryAfter};
use super::known::{Known, KnownLlms};
use super::pricing::Tariff;
use super::protocol::{Dialect, Form, LimitField, Scanner};
use super::request::AgentRequest;
use super::telemetry::KeyMissing;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
pub(super) const MAX_ANSWER_BYTES: usize = 16 * 1024 * 1024;
/// How long to wait, after the end of an answer, for the end of the HTTP response. Then the next
/// call can reuse the connection.
const REST_WITHIN: Duration = Duration::from_millis(100);
/// How long to wait for the body of a refusal. Its status says what it means; the body only gives
/// people the reason.
const REASON_WITHIN: Duration = Duration::from_secs(2);

/// Why a provider cannot be used as it is configured.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    #[error("providers.{provider}.base_url {url:?} is not an http or https URL")]
    Url { provider: String, url: String },
    #[error(
        "the key of provider {provider}, environment variable {variable}, has characters that an HTTP header must not have"
    )]
    Key { provider: String, variable: String },
    #[error(
        "failed to make an HTTP client for provider {provider}: {source}; are CA certificates installed?"
    )]
    Client {
        provider: String,
        source: reqwest::Error,
    },
}

/// All providers of a pool.
pub struct Upstreams {
    providers: BTreeMap<String, Upstream>,
    prices: BTreeMap<LlmName, Price>,
    pub(super) known: KnownLlms,
}

enum Key {
    NotNeeded,
    Known(Secret),
    Missing { variable: String },
}

/// The addresses of a provider, by protocol.
enum Addresses {
    OpenAi { chat: Url, responses: Url },
    Anthropic { messages: Url },
}

impl Addresses {
    fn of(provider: &Provider) -> Result<Self, <Url as FromStr>::Err> {
        let at = |path: &str| format!("{}/{path}", provider.versioned_url()).parse::<Url>();
        Ok(match provider.protocol {
            Protocol::OpenAi => Self::OpenAi {
                chat: at("chat/completions")?,
                responses: at("responses")?,
            },
            Protocol::Anthropic => Self::Anthropic {
                messages: at("messages")?,
            },
        })
    }

    fn get(&self, dialect: Dialect) -> Option<&Url> {
        match (self, dialect) {
            (Self::OpenAi { chat, .. }, Dialect::Chat) => Some(chat),
            (Self::OpenAi { responses, .. }, Dialect::Responses) => Some(responses),
            (Self::Anthropic { messages }, Dialect::Messages) => Some(messages),
            (Self::OpenAi { .. }, Dialect::Messages)
            | (Self::Anthropic { .. }, Dialect::Chat | Dialect::Responses) => None,
        }
    }

    fn any(&self) -> &Url {
        match self {
            Self::OpenAi { chat: url, .. } | Self::Anthropic { messages: url } => url,
        }
    }
}

/// One provider.
pub(super) struct Upstream {
    addresses: Addresses,
    client: Client,
    key: Key,
    free: bool,
    /// The field in the pool file, if any.
    limit_field: Option<OutputLimitField>,
    places: Option<Semaphore>,
}

impl Upstreams {
    /// Reads the providers. `env` looks up a variable in the worker's environment. A missing key is
    /// not an error: calls of that provider fail with class `auth`, and the others go on.
    ///
    /// # Errors
    /// [`UpstreamError`] if a URL or a key cannot be used at all.
    pub fn new(
        pool: &Pool,
        env: impl Fn(&str) -> Option<String>,
    ) -> Result<Arc<Self>, UpstreamError> {
        Self::with(
            &pool.providers,
            pool.prices.clone(),
            KnownLlms::from_file(&pool.llms),
            env,
        )
    }

    #[cfg(test)]
    pub(super) fn from_parts(
        providers: &BTreeMap<String, Provider>,
        prices: BTreeMap<LlmName, Price>,
        env: impl Fn(&str) -> Option<String>,
    ) -> Result<Arc<Self>, UpstreamError> {
        Self::with(providers, prices, KnownLlms::default(), env)
    }

    pub(super) fn with(
        providers: &BTreeMap<String, Provider>,
        prices: BTreeMap<LlmName, Price>,
        known: KnownLlms,
        env: impl Fn(&str) -> Option<String>,
    ) -> Result<Arc<Self>, UpstreamError> {
        // If another call was first, it has installed the same provider.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let providers = providers
            .iter()
            .map(|(name, provider)| Ok((name.clone(), Upstream::new(name, provider, &env)?)))
            .collect::<Result<_, UpstreamError>>()?;
        Ok(Arc::new(Self {
            providers,
            prices,
            known,
        }))
    }

    pub(super) fn provider(&self, llm: &LlmName) -> Option<&Upstream> {
        self.providers.get(llm.provider())
    }

    /// Whether an agent's request can go to this LLM. A provider that is missing in the pool file
    /// is another mistake, so it passes here.
    pub(super) fn speaks(&self, llm: &LlmName, dialect: Dialect) -> bool {
        self.provider(llm)
            .is_none_or(|upstream| upstream.addresses.get(dialect).is_some())
    }

    /// The prices of an LLM. None: it is neither free nor priced, so it may not be called.
    pub(super) fn tariff(&self, llm: &LlmName) -> Option<Tariff> {
        if self.provider(llm)?.free {
            Some(Tariff::Free)
        } else {
            self.prices.get(llm).copied().map(Tariff::Paid)
        }
    }
}

impl Upstream {
    fn new(
        name: &str,
        provider: &Provider,
        env: &impl Fn(&str) -> Option<String>,
    ) -> Result<Self, UpstreamError> {
        let invalid_url = || UpstreamError::Url {
            provider: name.to_owned(),
            url: provider.base_url.clone(),
        };
        let addresses = Addresses::of(provider).map_err(|_| invalid_url())?;
        if !matches!(addresses.any().scheme(), "http" | "https") {
            return Err(invalid_url());
        }
        let client = client(addresses.any()).map_err(|source| UpstreamError::Client {
            provider: name.to_owned(),
            source,
        })?;
        Ok(Self {
            addresses,
            client,
            key: key(name, provider, env)?,
            free: provider.free,
            limit_field: provider.output_limit_field,
            places: provider
                .max_concurrent
                .map(|places| Semaphore::new(places as usize)),
        })
    }

    pub(super) fn protocol(&self) -> Protocol {
        match self.addresses {
            Addresses::OpenAi { .. } => Protocol::OpenAi,
            Addresses::Anthropic { .. } => Protocol::Anthropic,
        }
    }

    pub(super) fn secret(&self) -> Option<&str> {
        match &self.key {
            Key::Known(secret) => Some(secret.expose()),
            Key::NotNeeded | Key::Missing { .. } => None,
        }
    }

    /// The field in which this provider takes an output limit in chat completions. OpenAI has a new
    /// name for it, and its newest models refuse the old one, which all other providers know.
    pub(super) fn limit_field(&self, known: Known) -> LimitField {
        match known.field.or(self.limit_field) {
            Some(field) => LimitField::Only(field),
            None if self.addresses.any().host_str() == Some("api.openai.com") => {
                LimitField::Usually(OutputLimitField::MaxCompletionTokens)
            }
            None => LimitField::Usually(OutputLimitField::MaxTokens),
        }
    }

    /// Waits until the provider may get one more call. The caller keeps the place until the answer
    /// is complete.
    pub(super) async fn place(&self) -> Option<SemaphorePermit<'_>> {
        match &self.places {
            // The semaphore is never closed.
            Some(places) => places.acquire().await.ok(),
            None => None,
        }
    }

    fn authorization(&self, secret: &Secret) -> (HeaderName, HeaderValue) {
        match self.addresses {
            Addresses::OpenAi { .. } => (
                AUTHORIZATION,
                sensitive(&format!("Bearer {}", secret.expose())),
            ),
            Addresses::Anthropic { .. } => (
                HeaderName::from_static("x-api-key"),
                sensitive(secret.expose()),
            ),
        }
    }

    /// Sends one request. Reads the answer to its last byte within `timeout`. `body` is the agent's
    /// request, written for this provider.
    pub(super) async fn send(
        &self,
        agents: &AgentRequest,
        body: Vec<u8>,
        timeout: Duration,
    ) -> Exchange {
        let (envelope, form) = (&agents.envelope, agents.form());
        let Some(url) = self.addresses.get(envelope.dialect) else {
            return Exchange::NotConnected {
                reason: format!("the provider does not speak {}", envelope.dialect),
            };
        };
        let mut url = url.clone();
        url.set_query(envelope.query);
        let mut request = self
            .client
            .post(url)
            .header(CONTENT_TYPE, "application/json")
            .body(body);
        for (name, value) in &envelope.headers {
            request = request.header(*name, value);
        }
        match &self.key {
            Key::NotNeeded => {}
            Key::Known(secret) => {
                let (name, value) = self.authorization(secret);
                request = request.header(name, value);
            }
            Key::Missing { variable } => {
                return Exchange::KeyMissing {
                    variable: variable.clone(),
                };
            }
        }
        let exchange = async {
            match request.send().await {
                Ok(response) => receive(response, form).await,
                Err(error) if error.is_connect() || error.is_builder() => Exchange::NotConnected {
                    reason: reason(error),
                },
                Err(error) => Exchange::Silent {
                    reason: reason(error),
                },
            }
        };
        tokio::time::timeout(timeout, exchange)
            .await
            .unwrap_or(Exchange::TimedOut { after: timeout })
    }
}

fn key(
    name: &str,
    provider: &Provider,
    env: &impl Fn(&str) -> Option<String>,
) -> Result<Key, UpstreamError> {
    let Some(variable) = provider.api_key_env.clone() else {
        return Ok(Key::NotNeeded);
    };
    let value = env(&variable)
        .map(|value| value.trim().to_owned())
        .filter(|value| !value.is_empty());
    let Some(value) = value else {
        KeyMissing {
            provider: name,
            variable: &variable,
        }
        .emit();
        return Ok(Key::Missing { variable });
    };
    if HeaderValue::from_str(&value).is_err() {
        return Err(UpstreamError::Key {
            provider: name.to_owned(),
            variable,
        });
    }
    Ok(Key::Known(Secret::new(value)))
}

/// A header value that is hidden in logs. `key` accepts only what a header may contain.
fn sensitive(text: &str) -> HeaderValue {
    let mut value = HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static(""));
    value.set_sensitive(true);
    value
}

/// The HTTP client of a provider. It never follows redirects, because they would send the key and
/// the prompt elsewhere. It reaches a provider on this machine without a proxy, and needs no
/// certificates for one without TLS.
fn client(url: &Url) -> reqwest::Result<Client> {
    let builder = Client::builder()
        .user_agent(concat!("programmer-pool/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(CONNECT_TIMEOUT);
    let builder = if is_loopback(url) {
        builder.no_proxy()
    } else {
        builder
    };
    let builder = if url.scheme() == "http" {
        builder.tls_certs_only([])
    } else {
        builder
    };
    builder.build()
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost"
        || host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

async fn receive(mut response: Response, form: Form) -> Exchange {
    let status = response.status();
    let retry_after = retry_after(response.headers());
    let mut body = BytesMut::new();
    let reading = read_body(&mut response, form.dialect, &mut body);
    let end = if status.is_success() {
        reading.await
    } else {
        tokio::time::timeout(REASON_WITHIN, reading)
            .await
            .unwrap_or(BodyEnd::Whole)
    };
    Exchange::Answered {
        form,
        status: status.as_u16(),
        retry_after,
        body: body.freeze(),
        end,
    }
}

/// Reads to the end of the answer. The provider may keep the connection open after it, or send
/// more.
async fn read_body(response: &mut Response, dialect: Dialect, body: &mut BytesMut) -> BodyEnd {
    let mut scanner = Scanner::new(dialect);
    loop {
        match response.chunk().await {
            Ok(None) => return BodyEnd::Whole,
            Ok(Some(chunk)) if body.len() + chunk.len() > MAX_ANSWER_BYTES => {
                return BodyEnd::TooLarge {
                    limit: MAX_ANSWER_BYTES,
                };
            }
            Ok(Some(chunk)) => match scanner.push(&chunk) {
                None => body.extend_from_slice(&chunk),
                Some(end) => {
                    body.extend_from_slice(&chunk[..end]);
                    if body.ends_with(b"\r\n\r") {
                        // The answer ended inside its last line break.
                        body.extend_from_slice(b"\n");
                    }
                    let rest = async { while let Ok(Some(_)) = response.chunk().await {} };
                    // The rest of the response is only read so that the connection can be reused.
                    let _ = tokio::time::timeout(REST_WITHIN, rest).await;
                    return BodyEnd::Whole;
                }
            },
            Err(error) => {
                return BodyEnd::Broken {
                    reason: reason(error),
                };
            }
        }
    }
}

fn retry_after(headers: &HeaderMap) -> RetryAfter {
    let text = |name: &str| {
        headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .map(str::to_owned)
    };
    RetryAfter {
        milliseconds: text("retry-after-ms"),
        seconds_or_date: text("retry-after"),
    }
}

/// The error with its causes: the first line of a reqwest error says too little.
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
