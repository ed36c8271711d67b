//! The HTTP side: one loopback port for each programmer. Only the holder of a task's token gets
//! access.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Extension, FromRequest, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use axum::routing::{get, post};
use axum::serve::ListenerExt as _;
use pool_core::llm::Dialect;
use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::Instrument as _;

use super::protocol::RequestHead;
use super::record::RunRecord;
use super::session::{CallPlan, SessionState, TokenDigest, digest};
use super::upstream::Upstreams;
use super::{call, reply};

const MAX_REQUEST_BYTES: usize = 16 * 1024 * 1024;

/// The port through which a programmer's agents reach their LLMs. Dropping it ends its sessions.
pub struct Gateway {
    port: u16,
    sessions: Arc<Sessions>,
    _server: DropGuard,
}

/// One task's access. Dropping it makes the token invalid and gives up open calls.
pub struct LlmSession {
    port: u16,
    token: String,
    state: Arc<SessionState>,
    sessions: Arc<Sessions>,
}

struct Sessions {
    upstreams: Arc<Upstreams>,
    open: Mutex<Vec<Arc<SessionState>>>,
}

impl Sessions {
    fn lock(&self) -> MutexGuard<'_, Vec<Arc<SessionState>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, token: &TokenDigest) -> Option<Arc<SessionState>> {
        self.lock()
            .iter()
            .find(|session| session.token == *token)
            .cloned()
    }
}

impl Gateway {
    /// Listens on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// When no port is free.
    pub async fn start(upstreams: Arc<Upstreams>) -> std::io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let port = listener.local_addr()?.port();
        let sessions = Arc::new(Sessions {
            upstreams,
            open: Mutex::default(),
        });
        let stop = CancellationToken::new();
        serve(listener, &sessions, stop.clone());
        Ok(Self {
            port,
            sessions,
            _server: stop.drop_guard(),
        })
    }

    /// Opens a session for one run. Its token is valid at the programmer's port.
    pub fn open(&self, plan: CallPlan) -> LlmSession {
        let session = self.open_apart(plan);
        self.sessions.lock().push(Arc::clone(&session.state));
        session
    }

    /// Opens a session for a run in a network of its own. Its token is valid only on the listeners
    /// that [`LlmSession::server`] serves, and not at the programmer's port, which every user of
    /// the machine can reach.
    pub fn open_apart(&self, plan: CallPlan) -> LlmSession {
        // 256 bits from the operating system's random numbers, through a cryptographic generator.
        let token: String = rand::random::<[u8; 32]>()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let state = Arc::new(SessionState::new(digest(token.as_bytes()), plan));
        LlmSession {
            port: self.port,
            token,
            state,
            sessions: Arc::clone(&self.sessions),
        }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        for session in self.sessions.lock().drain(..) {
            session.ended.cancel();
        }
    }
}

impl LlmSession {
    /// The address that the agent uses as its provider's: `http://127.0.0.1:PORT/v1`.
    pub fn base_url(&self) -> String {
        format!("http://127.0.0.1:{}/v1", self.port)
    }

    /// The port of [`Self::base_url`].
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Answers on listeners that were made in another network, at the port of [`Self::base_url`],
    /// until the session ends. Only this session's token is valid there.
    pub fn server(&self) -> impl Fn(std::net::TcpListener) + Send + Sync + 'static {
        let (only, ended) = (
            Arc::new(Sessions {
                upstreams: Arc::clone(&self.sessions.upstreams),
                open: Mutex::new(vec![Arc::clone(&self.state)]),
            }),
            self.state.ended.clone(),
        );
        move |listener| {
            let listener = listener
                .set_nonblocking(true)
                .and_then(|()| TcpListener::from_std(listener));
            match listener {
                Ok(listener) => serve(listener, &only, ended.clone()),
                Err(error) => {
                    tracing::error!(%error, "cannot serve the gateway in the sandbox of a run");
                }
            }
        }
    }

    /// The token that the agent uses as its API key.
    pub fn token(&self) -> &str {
        &self.token
    }

    pub fn record(&self) -> RunRecord {
        self.state.record()
    }

    pub fn open_calls(&self) -> usize {
        self.state.open_calls()
    }

    /// How many calls the agent has begun so far.
    pub fn calls_begun(&self) -> u64 {
        self.state.calls_begun()
    }

    /// When a call last began or ended; before the first call, when the session was opened.
    pub fn last_activity(&self) -> Instant {
        self.state.last_activity()
    }

    /// Ends the session and returns its whole record. Calls that were still open are in it, charged
    /// with their worst case.
    pub async fn close(self) -> RunRecord {
        self.end();
        self.state.all_calls_ended().await;
        self.state.record()
    }

    fn end(&self) {
        self.sessions
            .lock()
            .retain(|session| !Arc::ptr_eq(session, &self.state));
        self.state.ended.cancel();
    }
}

impl Drop for LlmSession {
    fn drop(&mut self) {
        self.end();
    }
}

/// Answers on a listener until `stop` is cancelled.
fn serve(listener: TcpListener, sessions: &Arc<Sessions>, stop: CancellationToken) {
    // Answers are small and awaited, so none may wait for a full packet. If a socket refuses the
    // option, it is only slower.
    let listener = listener.tap_io(|stream| drop(stream.set_nodelay(true)));
    let serving = axum::serve(listener, router(Arc::clone(sessions)))
        .with_graceful_shutdown(stop.cancelled_owned());
    // Accepting is retried without end, so serving ends only on request.
    tokio::spawn(async move { serving.await });
}

fn router(sessions: Arc<Sessions>) -> Router {
    let calls = |dialect| post(move |request: AdmittedRequest| request.answer(dialect));
    Router::new()
        .route("/v1/chat/completions", calls(Dialect::Chat))
        .route("/v1/responses", calls(Dialect::Responses))
        .route("/v1/messages", calls(Dialect::Messages))
        .route("/v1/messages/count_tokens", post(count_tokens))
        .route("/v1/models", get(models))
        .fallback(nothing_here)
        .method_not_allowed_fallback(nothing_here)
        .layer(DefaultBodyLimit::max(MAX_REQUEST_BYTES))
        .layer(from_fn_with_state(Arc::clone(&sessions), admit))
        .with_state(sessions)
}

/// Admits only requests with a loopback `Host` header and a token. A request that a web page was
/// tricked into sending has another `Host`.
async fn admit(
    State(sessions): State<Arc<Sessions>>,
    mut request: Request,
    next: Next,
) -> Response {
    if !request
        .headers()
        .get(header::HOST)
        .is_some_and(is_loopback_host)
    {
        return reply::error(
            StatusCode::FORBIDDEN,
            "wrong_host",
            "the Host header must be a loopback address",
        );
    }
    let session =
        presented_token(request.headers()).and_then(|token| sessions.find(&digest(token)));
    let Some(session) = session else {
        return unknown_token();
    };
    request.extensions_mut().insert(session);
    next.run(request).await
}

fn unknown_token() -> Response {
    let message = "the token is missing, wrong, or belongs to a task that has ended";
    reply::error(StatusCode::UNAUTHORIZED, "invalid_token", message)
}

fn is_loopback_host(host: &HeaderValue) -> bool {
    let Ok(host) = host.to_str() else {
        return false;
    };
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split_once(']').map_or(rest, |(address, _)| address),
        None => host.split_once(':').map_or(host, |(name, _)| name),
    };
    name.eq_ignore_ascii_case("localhost")
        || name
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

/// The token, from OpenAI's header or from Anthropic's.
fn presented_token(headers: &HeaderMap) -> Option<&[u8]> {
    match headers.get(header::AUTHORIZATION) {
        Some(value) => {
            let (scheme, token) = value.as_bytes().split_at_checked("Bearer ".len())?;
            scheme.eq_ignore_ascii_case(b"Bearer ").then_some(token)
        }
        None => headers.get("x-api-key").map(HeaderValue::as_bytes),
    }
}

/// A request that the gateway has admitted to a session.
struct AdmittedRequest {
    sessions: Arc<Sessions>,
    session: Arc<SessionState>,
    request: Request,
}

impl FromRequest<Arc<Sessions>> for AdmittedRequest {
    type Rejection = Response;

    async fn from_request(request: Request, sessions: &Arc<Sessions>) -> Result<Self, Response> {
        let session = request.extensions().get::<Arc<SessionState>>().cloned();
        let session = session.ok_or_else(unknown_token)?;
        Ok(Self {
            sessions: Arc::clone(sessions),
            session,
            request,
        })
    }
}

impl AdmittedRequest {
    async fn answer(self, dialect: Dialect) -> Response {
        let Self {
            sessions,
            session,
            request,
        } = self;
        let head = RequestHead::read(dialect, request.headers(), request.uri().query());
        let body = Bytes::from_request(request, &()).await;
        let body = match &body {
            Ok(body) => Ok(body.as_ref()),
            Err(rejection) if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE => {
                Err(MAX_REQUEST_BYTES)
            }
            Err(_) => {
                return reply::error(
                    StatusCode::BAD_REQUEST,
                    "bad_request",
                    "the request did not arrive whole",
                );
            }
        };
        call::answer(&session, &sessions.upstreams, head, body)
            .instrument(session.span.clone())
            .await
    }
}

async fn count_tokens(body: Bytes) -> Response {
    reply::token_count(&body)
}

async fn models(Extension(session): Extension<Arc<SessionState>>) -> Response {
    reply::models(&session.plan.llms)
}

async fn nothing_here(request: Request) -> Response {
    let (method, path) = (request.method(), request.uri().path());
    let message = format!(
        "{method} {path} is not served here; use POST /v1/chat/completions, /v1/responses or /v1/messages, or GET \
         /v1/models"
    );
    reply::error(StatusCode::NOT_FOUND, "not_found", &message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_machine_are_a_loopback_host() {
        for host in [
            "127.0.0.1",
            "127.0.0.1:8080",
            "localhost:1",
            "LOCALHOST",
            "[::1]:80",
            "[::1]",
            "127.9.9.9",
        ] {
            assert!(
                is_loopback_host(&HeaderValue::from_static(host)),
                "{host} is this machine"
            );
        }
        for host in [
            "",
            "example.org",
            "127.0.0.1.example.org",
            "localhost.example.org:80",
            "10.0.0.1",
            "[fe80::1]",
        ] {
            assert!(
                !is_loopback_host(&HeaderValue::from_static(host)),
                "{host} is somewhere else"
            );
        }
    }
}
