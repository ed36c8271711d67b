//! The HTTP API as the command line uses it.

use anyhow::{Context, bail};
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
        let token = Env::of_process().get(VARIABLE).map(ToOwned::to_owned);
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

    /// # Errors
    /// Likewise.
    pub async fn post<T: DeserializeOwned>(&self, path: &str, body: Vec<u8>) -> anyhow::Result<T> {
        let body = self.send(Method::POST, path, Some(body)).await?;
        serde_json::from_slice(&body).with_context(|| format!("the answer of {}{path} is not understood", self.url))
    }

    /// # Errors
    /// Likewise.
    pub async fn delete<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        let body = self.send(Method::DELETE, path, None).await?;
        serde_json::from_slice(&body).with_context(|| format!("the answer of {}{path} is not understood", self.url))
    }

    async fn send(&self, method: Method, path: &str, body: Option<Vec<u8>>) -> anyhow::Result<Vec<u8>> {
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
            return Ok(bytes.to_vec());
        }
        let Ok(problem) = serde_json::from_slice::<Problem>(&bytes) else {
            bail!("{}{path} answered {status}", self.url)
        };
        let errors = problem.errors.iter().map(|error| format!("\n  task {}: {}", error.index, error.message));
        bail!("{}{}", problem.detail, errors.collect::<String>())
    }
}
