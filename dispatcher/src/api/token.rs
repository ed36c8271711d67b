//! `POOL_API_TOKEN`: who may act, and on an address that others can reach, who may read.
//!
//! Without a token the API listens on loopback only, and whoever can log in to this machine may do everything. With one,
//! actions need it; away from loopback everything does but the empty page and the health of the process.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use pool_config::Env;
use sha2::{Digest, Sha256};

use super::problem::Problem;

pub const VARIABLE: &str = "POOL_API_TOKEN";
const SHORTEST: usize = 16;
/// What everybody may read: nothing of it tells anything about tasks.
const OPEN: [&str; 3] = ["/", "/health", "/ready"];

/// The digest of the token, so that comparing takes the same time whatever was sent. No Debug of the token itself.
#[derive(Clone, Copy)]
pub struct Token([u8; 32]);

/// Who may do what.
#[derive(Clone, Copy)]
pub enum Access {
    /// On loopback, without a token.
    Everybody,
    /// On loopback: reading is free.
    TokenToAct(Token),
    TokenForAll(Token),
}

/// Whether a request may act; handlers find it among the request's extensions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MayAct(pub bool);

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidAccess {
    #[error(
        "{0} can be reached from other machines, and {VARIABLE} is not set: set it (or {VARIABLE}_FILE, a file) to a secret of at \
         least {SHORTEST} characters, or listen on 127.0.0.1 (`dispatcher.listen` in the pool file, or --listen)"
    )]
    Open(SocketAddr),
    #[error(
        "{VARIABLE} has fewer than {SHORTEST} characters: make one with `openssl rand -hex 16`"
    )]
    Short,
    #[error("{VARIABLE}_FILE {0}")]
    Unreadable(String),
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

impl Token {
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
    /// When everybody on the network could use the API, or the token can be guessed.
    pub fn new(listen: SocketAddr, env: &Env) -> Result<Self, InvalidAccess> {
        match env.secret(VARIABLE).map_err(InvalidAccess::Unreadable)? {
            Some(token) if token.len() < SHORTEST => Err(InvalidAccess::Short),
            Some(token) if is_local(listen.ip()) => Ok(Self::TokenToAct(Token::new(&token))),
            Some(token) => Ok(Self::TokenForAll(Token::new(&token))),
            None if is_local(listen.ip()) => Ok(Self::Everybody),
            None => Err(InvalidAccess::Open(listen)),
        }
    }

    fn check(self, method: &Method, path: &str, headers: &HeaderMap) -> Result<MayAct, Problem> {
        let reads = method == Method::GET || method == Method::HEAD;
        let open = reads && OPEN.contains(&path);
        let (token, may_read) = match self {
            Self::Everybody => return Ok(MayAct(true)),
            Self::TokenToAct(token) => (token, true),
            Self::TokenForAll(token) => (token, open),
        };
        match sent(headers) {
            Some(sent) if token.is(sent) => Ok(MayAct(true)),
            // A wrong token, of another dispatcher for example, takes away nothing that everybody has.
            Some(_) if open => Ok(MayAct(false)),
            Some(_) => Err(refuse("this is not the token of this dispatcher")),
            None if reads && may_read => Ok(MayAct(false)),
            None => Err(refuse("this needs the token of this dispatcher")),
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

fn refuse(what: &str) -> Problem {
    let detail = format!(
        "{what}: send `Authorization: Bearer …` ({VARIABLE}; the command line sends it when it is set)"
    );
    Problem::new(StatusCode::UNAUTHORIZED, detail)
}

/// Lets a request through, or asks for the token.
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
        let env = token.map(|token| (VARIABLE, token)).into_iter().collect();
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
            // What is read only.
            Ok(MayAct(false)) => 203,
            Err(problem) => problem.status,
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
        assert!(access("[::]:6141", None).is_err(), "the same in IPv6");
        assert_eq!(
            access("127.0.0.1:6141", Some("short")).err(),
            Some(InvalidAccess::Short),
            "a token to guess"
        );
        assert!(access("127.0.0.1:6141", None).is_ok(), "loopback");
        assert!(
            access("[::1]:6141", Some("")).is_ok(),
            "a variable that is set to nothing is not set"
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
