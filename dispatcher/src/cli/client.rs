//! The HTTP API as the command line uses it.

use anyhow::{Context, anyhow, bail};
use pool_shared::config::Env;
use reqwest::Method;
use serde::de::DeserializeOwned;

use super::PoolUrl;
use crate::api::problem::Problem;
use crate::api::token::VARIABLE;

/// A dispatcher's API.
pub struct Client {
    http: reqwest::Client,
    url: String,
    token: Option<String>,
}

impl Client {
    /// # Errors
    /// When no HTTP client can be made on this machine.
    pub fn new(url: &PoolUrl) -> anyhow::Result<Self> {
        // Fails only when another part of this process has chosen a provider: that one serves as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder().no_proxy().build().context("failed to set up HTTP")?;
        let token = Env::of_process().secret(VARIABLE).map_err(|problem| anyhow!("{VARIABLE}_FILE {problem}"))?;
        Ok(Self { http, url: url.url.trim_end_matches('/').to_owned(), token })
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// # Errors
    /// When no dispatcher answers, or it answers with a problem: its text.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        let body = self.send(Method::GET, path, None).await?;
        serde_json::from_slice(&body).with_context(|| format!("the answer of {}{path} is not understood", self.url))
    }

    /// # Errors
    /// Likewise.
    pub async fn text(&self, path: &str) -> anyhow::Result<String> {
        let body = self.send(Method::GET, path, None).await?;
        Ok(String::from_utf8_lossy(&body).into_owned())
    }

    /// What the dispatcher says of itself, well or not.
    ///
    /// # Errors
    /// When no dispatcher answers.
    pub async fn health(&self) -> anyhow::Result<(reqwest::StatusCode, String)> {
        let answer = self.http.get(format!("{}/ready", self.url)).send().await;
        let answer = answer.with_context(|| format!("no dispatcher answers at {}", self.url))?;
        Ok((answer.status(), answer.text().await?))
    }

    /// # Errors
    /// Likewise.
    pub async fn post<T: DeserializeOwned>(&self, path: &str, body: Vec<u8>) -> anyhow::Result<T> {
        let body = self.send(Method::POST, path, Some(body)).await?;
        serde_json::from_slice(&body).with_context(|| format!("the answer of {}{path} is not understood", self.url))
    }

    /// With a query.
    ///
    /// # Errors
    /// Likewise.
    pub async fn get_with<T: DeserializeOwned>(&self, path: &str, query: &[(&str, &str)]) -> anyhow::Result<T> {
        let url = reqwest::Url::parse_with_params(&format!("{}{path}", self.url), query);
        let url = url.with_context(|| format!("{} is no URL; set POOL_URL", self.url))?;
        self.get(&format!("{path}?{}", url.query().unwrap_or_default())).await
    }

    /// # Errors
    /// Likewise.
    pub async fn delete<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        let body = self.send(Method::DELETE, path, None).await?;
        serde_json::from_slice(&body).with_context(|| format!("the answer of {}{path} is not understood", self.url))
    }

    async fn send(&self, method: Method, path: &str, body: Option<Vec<u8>>) -> anyhow::Result<Vec<u8>> {
        match self.ask(method, path, body).await? {
            Ok(answer) => Ok(answer),
            Err(problem) => Err(in_words(&problem)),
        }
    }

    /// `POST`; a problem is an answer, too, because it may say when to try again.
    ///
    /// # Errors
    /// When no dispatcher answers, or what answers is none.
    pub async fn try_post<T: DeserializeOwned>(&self, path: &str, body: Vec<u8>) -> anyhow::Result<Result<T, Problem>> {
        match self.ask(Method::POST, path, Some(body)).await? {
            Ok(answer) => {
                let read = serde_json::from_slice(&answer);
                read.map(Ok).with_context(|| format!("the answer of {}{path} is not understood", self.url))
            }
            Err(problem) => Ok(Err(problem)),
        }
    }

    async fn ask(&self, method: Method, path: &str, body: Option<Vec<u8>>) -> anyhow::Result<Result<Vec<u8>, Problem>> {
        let mut request = self.http.request(method, format!("{}{path}", self.url));
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body);
        }
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        let answer = request.send().await.with_context(|| {
            format!("no dispatcher answers at {}; start one with `dispatcher serve`, or set POOL_URL", self.url)
        })?;
        let status = answer.status();
        let bytes = answer.bytes().await.with_context(|| format!("the answer of {} broke off", self.url))?;
        if status.is_success() {
            return Ok(Ok(bytes.to_vec()));
        }
        match serde_json::from_slice::<Problem>(&bytes) {
            Ok(problem) => Ok(Err(problem)),
            Err(_) => bail!("{}{path} answered {status}", self.url),
        }
    }
}

/// A problem as an error for people.
pub(super) fn in_words(problem: &Problem) -> anyhow::Error {
    let errors = problem.errors.iter().map(|error| format!("\n  task {}: {}", error.index, error.message));
    anyhow::anyhow!("{}{}", problem.detail, errors.collect::<String>())
}
