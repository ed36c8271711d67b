//! The command line's client of the HTTP API. Every error names the request, the mistake and the
//! next step.

use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use pool_api::TOKEN_VARIABLE;
use pool_api::problem::Problem;
use pool_config::Env;
use reqwest::{Method, RequestBuilder, Response, StatusCode, Url};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::config::{self, Dispatcher, UrlSource, http_url};

const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// An open event stream sends something every 15 s.
const SILENT: Duration = Duration::from_secs(40);

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct PoolUrl {
    /// The URL of a dispatcher's API (default: `url` of ~/.config/pool/config.yaml, or
    /// http://127.0.0.1:6141)
    #[arg(long, env = "POOL_URL", value_parser = http_url)]
    url: Option<Url>,
}

/// A client of one dispatcher's API.
pub(crate) struct Client {
    http: reqwest::Client,
    url: String,
    /// Where the URL comes from.
    source: UrlSource,
    token: Option<String>,
}

impl Client {
    /// # Errors
    /// When the user's file is wrong, or this machine cannot make an HTTP client.
    pub(crate) fn new(url: &PoolUrl) -> anyhow::Result<Self> {
        let dispatcher = config::dispatcher(url.url.as_ref(), &Env::of_process())?;
        if let Some(warning) = &dispatcher.warning {
            eprintln!("warning: {warning}");
        }
        Self::of(dispatcher)
    }

    /// # Errors
    /// When this machine cannot make an HTTP client.
    pub(crate) fn of(dispatcher: Dispatcher) -> anyhow::Result<Self> {
        // Fails only if another part of this process has chosen a provider, which serves as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let url = dispatcher.url.as_str().trim_end_matches('/').to_owned();
        let http = client(&url).build().context("failed to set up HTTP")?;
        Ok(Self {
            http,
            url,
            source: dispatcher.source,
            token: dispatcher.token,
        })
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// # Errors
    /// When no dispatcher answers, or it answers with a problem, whose text becomes the error.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        self.read(path, &self.send(Method::GET, path).await?)
    }

    /// `GET` with the parameters that have a value.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub(crate) async fn get_with<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&str, Option<&str>)],
    ) -> anyhow::Result<T> {
        self.get(&with_query(path, query)?).await
    }

    /// # Errors
    /// As [`get`](Self::get).
    pub(crate) async fn text(&self, path: &str) -> anyhow::Result<String> {
        let body = self.send(Method::GET, path).await?;
        Ok(String::from_utf8_lossy(&body).into_owned())
    }

    /// # Errors
    /// As [`get`](Self::get).
    pub(crate) async fn delete<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        self.read(path, &self.send(Method::DELETE, path).await?)
    }

    /// # Errors
    /// As [`get`](Self::get).
    pub(crate) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> anyhow::Result<T> {
        let answer = self.try_post(path, body).await?;
        answer.map_err(|problem| in_words(&problem))
    }

    /// `POST`. A problem is returned as an answer, because it may say when to try again.
    ///
    /// # Errors
    /// When no dispatcher answers, or the server at this address is not a dispatcher.
    pub(crate) async fn try_post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> anyhow::Result<Result<T, Problem>> {
        let request = self.http.post(self.at(path)).json(body);
        match self.ask(path, request).await? {
            Ok(answer) => {
                let body = self.body(answer).await?;
                self.read(path, &body).map(Ok)
            }
            Err(problem) => Ok(Err(problem)),
        }
    }

    /// The dispatcher's health report, whether it is healthy or not.
    ///
    /// # Errors
    /// When no dispatcher answers.
    pub(crate) async fn health<T: DeserializeOwned>(&self) -> anyhow::Result<(StatusCode, T)> {
        let answer = self.perform(self.http.get(self.at("/ready"))).await?;
        let status = answer.status();
        Ok((status, self.read("/ready", &self.body(answer).await?)?))
    }

    /// Opens a stream of server-sent events that starts after event `last`. It has no end, and is
    /// never silent for long.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub(super) async fn events(&self, path: &str, last: Option<&str>) -> anyhow::Result<Response> {
        let http = client(&self.url)
            .read_timeout(SILENT)
            .build()
            .context("failed to set up HTTP")?;
        let mut request = http.get(self.at(path));
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let answer = self.ask(path, request).await?;
        answer.map_err(|problem| in_words(&problem))
    }

    fn at(&self, path: &str) -> String {
        format!("{}{path}", self.url)
    }

    fn read<T: DeserializeOwned>(&self, path: &str, body: &[u8]) -> anyhow::Result<T> {
        serde_json::from_slice(body).with_context(|| {
            format!(
                "failed to read the answer of {}{path}; check that it is a dispatcher of this version (--url or POOL_URL)",
                self.url
            )
        })
    }

    async fn body(&self, answer: Response) -> anyhow::Result<Vec<u8>> {
        let broke_off = || format!("the connection to {} broke off during its answer", self.url);
        Ok(answer.bytes().await.with_context(broke_off)?.to_vec())
    }

    async fn send(&self, method: Method, path: &str) -> anyhow::Result<Vec<u8>> {
        let answer = self
            .ask(path, self.http.request(method, self.at(path)))
            .await?;
        self.body(answer.map_err(|problem| in_words(&problem))?)
            .await
    }

    async fn perform(&self, mut request: RequestBuilder) -> anyhow::Result<Response> {
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        request.send().await.map_err(|error| {
            let mut reason = innermost(&error);
            if self.url.starts_with("https:") && reason.contains("InvalidContentType") {
                reason = "the server speaks http, not https".to_owned();
            }
            anyhow!(
                "no dispatcher answers at {} ({reason}). The URL is from {}; start a dispatcher with `dispatcher serve`, or set --url or POOL_URL",
                self.url, self.source
            )
        })
    }

    /// The answer if the request succeeded; otherwise the problem that the dispatcher reports.
    async fn ask(
        &self,
        path: &str,
        request: RequestBuilder,
    ) -> anyhow::Result<Result<Response, Problem>> {
        let answer = self.perform(request).await?;
        let status = answer.status();
        if status.is_success() {
            return Ok(Ok(answer));
        }
        match serde_json::from_slice::<Problem>(&self.body(answer).await?) {
            Ok(problem) => Ok(Err(problem)),
            Err(_) => bail!(
                "{}{path} answered {status}, so it is not a dispatcher; set --url or POOL_URL",
                self.url
            ),
        }
    }
}

/// The path with the parameters that have a value.
///
/// # Errors
/// When the path is not that of a URL.
pub(crate) fn with_query(path: &str, query: &[(&str, Option<&str>)]) -> anyhow::Result<String> {
    let given = query
        .iter()
        .filter_map(|(name, value)| Some((name, (*value)?)));
    let url = Url::parse_with_params(&format!("http://pool{path}"), given)
        .context("failed to build the query")?;
    Ok(format!("{path}?{}", url.query().unwrap_or_default()))
}

/// Reading the machine's certificates takes longer than a request. Plain HTTP needs none.
fn client(url: &str) -> reqwest::ClientBuilder {
    let builder = reqwest::Client::builder()
        .no_proxy()
        .connect_timeout(CONNECT_WITHIN);
    if url.starts_with("http:") {
        return builder.tls_certs_only([]);
    }
    builder
}

/// The innermost cause; the errors around it only repeat the URL.
pub(super) fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut reason = error;
    while let Some(source) = reason.source() {
        reason = source;
    }
    reason.to_string()
}

/// Renders a problem for people, with the next step where the dispatcher cannot know it.
pub(super) fn in_words(problem: &Problem) -> anyhow::Error {
    let errors = problem
        .errors
        .iter()
        .map(|error| format!("\n  task {}: {}", error.index, error.message));
    anyhow!(
        "{}{}{}",
        problem.detail,
        errors.collect::<String>(),
        next_step(problem)
    )
}

fn next_step(problem: &Problem) -> String {
    match (problem.status, problem.retry_after_s) {
        (401, _) => format!(
            "\nset {TOKEN_VARIABLE} (or {TOKEN_VARIABLE}_FILE, the path of a file) to the dispatcher's token; \
             `token_file` in ~/.config/pool/config.yaml is for the `url` in it only"
        ),
        (_, Some(seconds)) => format!("\ntry again in {seconds} s"),
        (503, None) => {
            "\ntry again later; `pool health` shows the dispatcher's condition".to_owned()
        }
        (_, None) => String::new(),
    }
}
