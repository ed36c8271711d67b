//! `POOL_API_TOKEN`: who may act, and who may read when other machines can reach the API.
//!
//! Without a token the API listens on loopback only, and every user of this machine may do
//! everything. With a token, actions need it. Beyond loopback, everything needs it except the empty
//! page and the health of the process.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use pool_api::TOKEN_VARIABLE;
use pool_config::Env;
use sha2::{Digest, Sha256};

use super::error::ApiError;

const SHORTEST: usize = 16;
/// Paths that everybody may read; they reveal nothing about tasks.
const OPEN: [&str; 3] = ["/", "/health", "/ready"];

/// The digest of the token, so that a comparison takes the same time whatever was sent. The token
/// itself is never kept.
#[derive(Clone, Copy)]
pub struct ApiToken([u8; 32]);

/// Which requests need the token.
#[derive(Clone, Copy)]
pub enum Access {
    /// On loopback, without a token.
    Everybody,
    /// On loopback with a token: reading is free.
    TokenToAct(ApiToken),
    TokenForAll(ApiToken),
}

/// Whether a request may act; handlers find it among the request's extensions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MayAct(pub bool);

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidAccess {
    #[error(
        "other machines can reach {0}, and {TOKEN_VARIABLE} is not set: set it (or {TOKEN_VARIABLE}_FILE, the path of a file) to a secret of at \
         least {SHORTEST} characters, or listen on 127.0.0.1 (`dispatcher.listen` in the pool file, or --listen)"
    )]
    Open(SocketAddr),
    #[error(
        "{TOKEN_VARIABLE} has fewer than {SHORTEST} characters; generate one with `openssl rand -hex 16`"
    )]
    Short,
    #[error("{TOKEN_VARIABLE}_FILE {0}")]
    Unreadable(String),
}

impl fmt::Debug for ApiToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

impl ApiToken {
    fn new(token: &str) -> Self {
        Self(Sha256::digest(token).into())
    }

    fn is(self, sent: &str) -> bool {
        let other: [u8; 32] = Sha256::digest(sent).into();
        self.0
            .iter()
            .zip(other)
            .fold(0, |different, (mine, theirs)| different | (mine ^ theirs))
            == 0
    }
}

impl Access {
    /// # Errors
    /// When everybody on the network could use the API, or the token is too short.
    pub fn new(listen: SocketAddr, env: &Env) -> Result<Self, InvalidAccess> {
        match env
            .secret(TOKEN_VARIABLE)
            .map_err(InvalidAccess::Unreadable)?
        {
            Some(token) if token.len() < SHORTEST => Err(InvalidAccess::Short),
            Some(token) if is_local(listen.ip()) => Ok(Self::TokenToAct(ApiToken::new(&token))),
            Some(token) => Ok(Self::TokenForAll(ApiToken::new(&token))),
            None if is_local(listen.ip()) => Ok(Self::Everybody),
            None => Err(InvalidAccess::Open(listen)),
        }
    }

    fn check(self, method: &Method, path: &str, headers: &HeaderMap) -> Result<MayAct, ApiError> {
        let reads = method == Method::GET || method == Method::HEAD;
        let open = reads && OPEN.contains(&path);
        let (token, may_read) = match self {
            Self::Everybody => return Ok(MayAct(true)),
            Self::TokenToAct(token) => (token, true),
            Self::TokenForAll(token) => (token, open),
        };
        match sent(headers) {
            Some(sent) if token.is(sent) => Ok(MayAct(true)),
            // A wrong token, perhaps of another dispatcher, still allows what needs no token.
            Some(_) if open => Ok(MayAct(false)),
            Some(_) => Err(refuse("wrong token for this dispatcher")),
            None if reads && may_read => Ok(MayAct(false)),
            None => Err(refuse("this request needs the token of this dispatcher")),
        }
    }
}

fn is_local(ip: IpAddr) -> bool {
    ip.to_canonical().is_loopback()
}

fn sent(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers
        .get(header::AUTHORIZATION)?
        .to_str()
        .ok()?
        .split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn refuse(what: &str) -> ApiError {
    let detail = format!(
        "{what}: send `Authorization: Bearer …` (the command line does when {TOKEN_VARIABLE} is set)"
    );
    ApiError::new(StatusCode::UNAUTHORIZED, detail)
}

/// Lets a request through, or answers 401.
pub async fn check(State(access): State<Access>, mut request: Request, next: Next) -> Response {
    match access.check(request.method(), request.uri().path(), request.headers()) {
        Ok(may_act) => {
            request.extensions_mut().insert(may_act);
            next.run(request).await
        }
        Err(problem) => {
            let mut response = problem.into_response();
            response
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            response
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "0123456789abcdef";

    fn access(listen: &str, token: Option<&str>) -> Result<Access, InvalidAccess> {
        let env = token
            .map(|token| (TOKEN_VARIABLE, token))
            .into_iter()
            .collect();
        Access::new(listen.parse().expect("an address"), &env)
    }

    fn answer(access: Access, method: &Method, path: &str, token: Option<&str>) -> u16 {
        let mut headers = HeaderMap::new();
        if let Some(token) = token {
            headers.insert(
                header::AUTHORIZATION,
                format!("Bearer {token}").parse().expect("a header"),
            );
        }
        match access.check(method, path, &headers) {
            Ok(MayAct(true)) => 200,
            // Read-only access.
            Ok(MayAct(false)) => 203,
            Err(problem) => problem.0.status,
        }
    }

    #[test]
    fn an_address_that_others_reach_is_refused_without_a_token() {
        let open = access("0.0.0.0:6141", None).err();
        assert_eq!(
            open,
            Some(InvalidAccess::Open(
                "0.0.0.0:6141".parse().expect("an address")
            )),
            "open to all"
        );
        assert!(access("[::]:6141", None).is_err(), "open to all in IPv6");
        assert_eq!(
            access("127.0.0.1:6141", Some("short")).err(),
            Some(InvalidAccess::Short),
            "a token that can be guessed"
        );
        assert!(access("127.0.0.1:6141", None).is_ok(), "loopback");
        assert!(
            access("[::1]:6141", Some("")).is_ok(),
            "an empty variable counts as not set"
        );
    }

    #[test]
    fn on_loopback_a_token_is_needed_to_act_and_elsewhere_for_everything() {
        let local = access("127.0.0.1:6141", Some(SECRET)).expect("valid");
        let wide = access("0.0.0.0:6141", Some(SECRET)).expect("valid");
        let cases = [
            (local, Method::GET, "/tasks", None, 203),
            (local, Method::GET, "/tasks", Some(SECRET), 200),
            (local, Method::POST, "/tasks", None, 401),
            (local, Method::DELETE, "/tasks/t", None, 401),
            (
                local,
                Method::DELETE,
                "/tasks/t",
                Some("0123456789abcdeF"),
                401,
            ),
            (local, Method::DELETE, "/tasks/t", Some(SECRET), 200),
            (wide, Method::GET, "/tasks", None, 401),
            (wide, Method::GET, "/events", None, 401),
            (wide, Method::GET, "/metrics", None, 401),
            (wide, Method::GET, "/", None, 203),
            (wide, Method::GET, "/health", None, 203),
            (wide, Method::GET, "/health", Some("0123456789abcdeF"), 203),
            (wide, Method::GET, "/tasks", Some("0123456789abcdeF"), 401),
            (local, Method::GET, "/ready", Some("0123456789abcdeF"), 203),
            (wide, Method::POST, "/health", None, 401),
            (wide, Method::GET, "/tasks", Some(SECRET), 200),
        ];
        for (access, method, path, token, expected) in cases {
            let all = matches!(access, Access::TokenForAll(_));
            assert_eq!(
                answer(access, &method, path, token),
                expected,
                "{method} {path} with {token:?}, for all: {all}"
            );
        }
        let everybody = access("127.0.0.1:6141", None).expect("valid");
        assert_eq!(
            answer(everybody, &Method::POST, "/tasks", None),
            200,
            "loopback without a token"
        );
    }
}
