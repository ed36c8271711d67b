//! Keeps foreign web pages out: a page in somebody's browser can send requests to loopback, but
//! must not submit or read tasks.
//!
//! On loopback, three rules apply:
//!
//! - The `Host` must be a loopback name. A foreign name that resolves to 127.0.0.1 is DNS
//!   rebinding.
//! - An `Origin` must be our own.
//! - A body must be `application/json`, which a page cannot send across origins without asking
//!   first.

use std::net::IpAddr;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::error::ApiError;

/// Lets a request through, or answers why not.
pub async fn guard(State(listen): State<IpAddr>, request: Request, next: Next) -> Response {
    match check(listen, request.headers()) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

fn check(listen: IpAddr, headers: &HeaderMap) -> Result<(), ApiError> {
    let text = |name| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    let host = text(header::HOST).unwrap_or_default();
    if listen.to_canonical().is_loopback() && !is_loopback_name(host_of(host)) {
        let detail = format!(
            "the Host {host:?} is not a name of this machine's loopback; use 127.0.0.1 or localhost"
        );
        return Err(ApiError::new(StatusCode::FORBIDDEN, detail));
    }
    if let Some(origin) = text(header::ORIGIN)
        && origin.split_once("://").map(|(_, authority)| authority) != Some(host)
    {
        let detail = format!("requests from pages of {origin:?} are refused");
        return Err(ApiError::new(StatusCode::FORBIDDEN, detail));
    }
    Ok(())
}

/// Applies to every POST route: lets JSON through, or answers why not.
pub async fn json_only(request: Request, next: Next) -> Response {
    match is_json(request.headers()) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

fn is_json(headers: &HeaderMap) -> Result<(), ApiError> {
    let content_type = headers
        .get(header::CONTENT_TYPE)
        .map(|value| value.to_str().unwrap_or("?"));
    let content_type = content_type.unwrap_or_default();
    let mut parts = content_type.split(';').map(str::trim);
    let is_json = parts.next() == Some("application/json");
    let charset = parts
        .filter_map(|part| part.split_once('='))
        .find(|(name, _)| name.eq_ignore_ascii_case("charset"));
    let is_utf8 =
        charset.is_none_or(|(_, value)| value.trim_matches('"').eq_ignore_ascii_case("utf-8"));
    if is_json && is_utf8 {
        return Ok(());
    }
    let detail = format!("the content type is {content_type:?}; send application/json, in UTF-8");
    Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail))
}

/// The host without its port.
fn host_of(host: &str) -> &str {
    match host.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    }
}

fn is_loopback_name(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(headers: &[(header::HeaderName, &str)]) -> u16 {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(name, value.parse().expect("a header value"));
        }
        let checked = check(IpAddr::from([127, 0, 0, 1]), &map).and_then(|()| is_json(&map));
        checked.map_or_else(|problem| problem.0.status, |()| 200)
    }

    #[test]
    fn a_page_from_elsewhere_cannot_post() {
        let host = (header::HOST, "127.0.0.1:6141");
        let json = (header::CONTENT_TYPE, "application/json");
        assert_eq!(
            answer(&[host.clone(), json.clone()]),
            200,
            "a program on this machine"
        );
        let origin = (header::ORIGIN, "https://evil.example");
        assert_eq!(
            answer(&[host.clone(), json.clone(), origin]),
            403,
            "a page from elsewhere"
        );
        let null = (header::ORIGIN, "null");
        assert_eq!(
            answer(&[host.clone(), json.clone(), null]),
            403,
            "a sandboxed page"
        );
        let form = (header::CONTENT_TYPE, "text/plain");
        assert_eq!(
            answer(&[host.clone(), form]),
            415,
            "a content type that a form can send"
        );
        assert_eq!(answer(std::slice::from_ref(&host)), 415, "no content type");
        let with = |text| (header::CONTENT_TYPE, text);
        assert_eq!(
            answer(&[host.clone(), with("application/json; charset=\"UTF-8\"")]),
            200,
            "JSON is UTF-8"
        );
        assert_eq!(
            answer(&[host.clone(), with("application/json; charset=latin1")]),
            415,
            "and nothing else"
        );
        let own = (header::ORIGIN, "http://127.0.0.1:6141");
        assert_eq!(answer(&[host, json, own]), 200, "our own page");
    }

    #[test]
    fn a_foreign_name_that_resolves_to_loopback_is_refused() {
        let get = |host| {
            check(
                IpAddr::from([127, 0, 0, 1]),
                &HeaderMap::from_iter([(header::HOST, host)]),
            )
        };
        let status = |host| {
            get(axum::http::HeaderValue::from_static(host))
                .map_or_else(|problem| problem.0.status, |()| 200)
        };
        assert_eq!(status("rebind.example:6141"), 403, "DNS rebinding");
        assert_eq!(status("localhost:6141"), 200, "loopback by name");
        assert_eq!(status("[::1]:6141"), 200, "loopback by address");
    }
}
