//! The providers: their addresses, their keys, and how many calls each takes at once. One value for
//! each worker process.

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use pool_core::id::LlmName;
use pool_core::llm::Dialect;
use pool_core::pool::{OutputLimitField, Pool, Price, Protocol, Provider, Secret};
use pool_core::price::UtcDay;
use pool_core::time::Timestamp;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue};
use reqwest::{Client, Response, Url};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::classify::{BodyEnd, Exchange};
use super::llm_limits::{LearnedLimits, LlmLimits};
use super::pricing::Tariff;
use super::protocol::{self, AnswerForm, LimitField, Scanner};
use super::request::{AgentRequest, Terms};
use super::telemetry::KeyMissing;
use super::waiting::WaitHeaders;

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
    pub(super) limits: LearnedLimits,
}

enum ApiKey {
    NotNeeded,
    Known(Secret),
    Missing { variable: String },
}

/// One provider.
pub(super) struct Upstream {
    protocol: Protocol,
    /// The address for each dialect that it speaks.
    addresses: BTreeMap<Dialect, Url>,
    client: Client,
    key: ApiKey,
    free: bool,
    terms: Terms,
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
            LearnedLimits::from_file(&pool.llms),
            env,
        )
    }

    #[cfg(test)]
    pub(super) fn from_parts(
        providers: &BTreeMap<String, Provider>,
        prices: BTreeMap<LlmName, Price>,
        env: impl Fn(&str) -> Option<String>,
    ) -> Result<Arc<Self>, UpstreamError> {
        Self::with(providers, prices, LearnedLimits::default(), env)
    }

    pub(super) fn with(
        providers: &BTreeMap<String, Provider>,
        prices: BTreeMap<LlmName, Price>,
        limits: LearnedLimits,
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
            limits,
        }))
    }

    pub(super) fn provider(&self, llm: &LlmName) -> Option<&Upstream> {
        self.providers.get(llm.provider())
    }

    /// Whether an agent's request can go to this LLM. A provider that is missing in the pool file
    /// is another mistake, so it passes here.
    pub(super) fn speaks(&self, llm: &LlmName, dialect: Dialect) -> bool {
        self.provider(llm)
            .is_none_or(|upstream| upstream.addresses.contains_key(&dialect))
    }

    /// The prices of an LLM at this time. None: it is neither free nor priced, so it may not be called.
    pub(super) fn tariff(&self, llm: &LlmName, now: Timestamp) -> Option<Tariff> {
        if self.provider(llm)?.free {
            Some(Tariff::Free)
        } else {
            let price = self.prices.get(llm)?;
            Some(Tariff::Paid(price.on(UtcDay::of(now))))
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
        let at = |path: &str| {
            let url = format!("{}/{path}", provider.versioned_url()).parse::<Url>();
            url.map_err(|_| invalid_url())
        };
        let url = at("")?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(invalid_url());
        }
        let addresses = match provider.protocol {
            Protocol::OpenAi => BTreeMap::from([
                (Dialect::Chat, at("chat/completions")?),
                (Dialect::Responses, at("responses")?),
            ]),
            Protocol::Anthropic => BTreeMap::from([(Dialect::Messages, at("messages")?)]),
        };
        let client = client(&url).map_err(|source| UpstreamError::Client {
            provider: name.to_owned(),
            source,
        })?;
        let is_openai = url
            .host_str()
            .is_some_and(|host| host == "api.openai.com" || host.ends_with(".api.openai.com"));
        // OpenAI has a new name for the limit, and its newest models refuse the old one, which all
        // other providers know.
        let limit_field = match provider.output_limit_field {
            Some(field) => LimitField::Only(field),
            None if is_openai => LimitField::Usually(OutputLimitField::MaxCompletionTokens),
            None => LimitField::Usually(OutputLimitField::MaxTokens),
        };
        Ok(Self {
            protocol: provider.protocol,
            addresses,
            client,
            key: key(name, provider, env)?,
            free: provider.free,
            terms: Terms {
                limit_field,
                asks_for_standard_tier: is_openai,
            },
            places: provider
                .max_concurrent
                .map(|places| Semaphore::new(places as usize)),
        })
    }

    pub(super) fn protocol(&self) -> Protocol {
        self.protocol
    }

    pub(super) fn secret(&self) -> Option<&str> {
        match &self.key {
            ApiKey::Known(secret) => Some(secret.expose()),
            ApiKey::NotNeeded | ApiKey::Missing { .. } => None,
        }
    }

    /// How this provider takes a request.
    pub(super) fn terms(&self, limits: LlmLimits) -> Terms {
        let usual = self.terms.limit_field;
        Terms {
            limit_field: limits.field.map_or(usual, LimitField::Only),
            ..self.terms
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
        match self.protocol {
            Protocol::OpenAi => (
                AUTHORIZATION,
                sensitive(&format!("Bearer {}", secret.expose())),
            ),
            Protocol::Anthropic => (
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
        let (head, form) = (&agents.head, agents.form());
        let Some(url) = self.addresses.get(&head.dialect) else {
            return Exchange::NotConnected {
                reason: format!(
                    "the provider does not speak {}",
                    protocol::name(head.dialect)
                ),
            };
        };
        let mut url = url.clone();
        url.set_query(head.query);
        let mut request = self
            .client
            .post(url)
            .header(CONTENT_TYPE, "application/json")
            .body(body);
        for (name, value) in &head.headers {
            request = request.header(*name, value);
        }
        match &self.key {
            ApiKey::NotNeeded => {}
            ApiKey::Known(secret) => {
                let (name, value) = self.authorization(secret);
                request = request.header(name, value);
            }
            ApiKey::Missing { variable } => {
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
) -> Result<ApiKey, UpstreamError> {
    let Some(variable) = provider.api_key_env.clone() else {
        return Ok(ApiKey::NotNeeded);
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
        return Ok(ApiKey::Missing { variable });
    };
    if HeaderValue::from_str(&value).is_err() {
        return Err(UpstreamError::Key {
            provider: name.to_owned(),
            variable,
        });
    }
    Ok(ApiKey::Known(Secret::new(value)))
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

async fn receive(mut response: Response, form: AnswerForm) -> Exchange {
    let status = response.status();
    let waits = WaitHeaders::of(response.headers());
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
        waits,
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
