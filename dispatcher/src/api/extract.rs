//! What handlers take from a request. What cannot be taken is a [`Problem`], like every other error.

use std::future::ready;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, FailedToBufferBody, PathRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::{StatusCode, header};
use futures_util::StreamExt;
use pool_core::object::Object;
use pool_core::wrong::in_words;
use serde::de::DeserializeOwned;

use super::problem::Problem;

/// One request may bring many tasks of at most 1 MiB each.
pub const MAX_REQUEST_BYTES: usize = 64 * 1024 * 1024;

const SWALLOWED_WITHIN: Duration = Duration::from_secs(10);

/// What stands for `{id}`.
#[derive(FromRequestParts)]
#[from_request(via(axum::extract::Path), rejection(Problem))]
pub struct Path<T>(pub T);

/// What stands behind the question mark.
#[derive(FromRequestParts)]
#[from_request(via(axum::extract::Query), rejection(Problem))]
pub struct Query<T>(pub T);

/// The body, which nobody has looked at yet.
pub struct Body(pub Bytes);

impl<S: Send + Sync> FromRequest<S> for Body {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let told = request
            .headers()
            .get(header::CONTENT_LENGTH)
            .and_then(|length| length.to_str().ok()?.parse().ok());
        if told.is_some_and(|length: usize| length > MAX_REQUEST_BYTES) {
            let asks_first = request.headers().contains_key(header::EXPECT);
            if !asks_first {
                swallow(request.into_body()).await;
            }
            return Err(too_large());
        }
        Ok(Self(Bytes::from_request(request, state).await?))
    }
}

/// Reads what nobody wants: a client that is cut off while it sends does not see the answer. Who asks before he sends
/// (`Expect: 100-continue`) need not send at all.
async fn swallow(body: axum::body::Body) {
    let reading = body
        .into_data_stream()
        .take_while(|piece| ready(piece.is_ok()))
        .for_each(|_| ready(()));
    let _ = tokio::time::timeout(SWALLOWED_WITHIN, reading).await;
}

/// What a body says; `example` is said to whoever has sent something else.
///
/// # Errors
/// 422 when it is none.
pub fn read<T: DeserializeOwned>(body: &[u8], example: &str) -> Result<T, Problem> {
    let read = serde_json::from_slice::<Object<T>>(body).map(|Object(read)| read);
    read.map_err(|error| {
        Problem::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            format!("{}; send {example}", in_words(&error, body)),
        )
    })
}

fn too_large() -> Problem {
    let detail = format!(
        "the request has more than {MAX_REQUEST_BYTES} bytes; send fewer tasks in one (`pool submit` does that)"
    );
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail)
}

impl From<BytesRejection> for Problem {
    fn from(rejection: BytesRejection) -> Self {
        if let BytesRejection::FailedToBufferBody(FailedToBufferBody::LengthLimitError(_)) =
            rejection
        {
            return too_large();
        }
        Self::new(rejection.status(), rejection.body_text())
    }
}

impl From<PathRejection> for Problem {
    fn from(rejection: PathRejection) -> Self {
        Self::new(rejection.status(), rejection.body_text())
    }
}

impl From<QueryRejection> for Problem {
    fn from(rejection: QueryRejection) -> Self {
        let why = std::error::Error::source(&rejection)
            .map_or_else(|| rejection.body_text(), ToString::to_string);
        Self::new(
            rejection.status(),
            format!("what stands behind the ? cannot be read: {why}"),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn refused(request: axum::http::request::Builder, body: &'static str) -> Option<Problem> {
        let request = request
            .body(axum::body::Body::from(body))
            .expect("a request");
        Body::from_request(request, &()).await.err()
    }

    #[tokio::test]
    async fn a_query_that_cannot_be_read_is_named() {
        #[derive(Debug, serde::Deserialize)]
        struct Wanted {
            #[serde(rename = "limit")]
            _limit: u32,
        }
        let (mut parts, ()) = Request::get("/tasks?limit=many")
            .body(())
            .expect("a request")
            .into_parts();
        let problem = Query::<Wanted>::from_request_parts(&mut parts, &())
            .await
            .err()
            .expect("it is refused");
        assert_eq!(problem.status, 400, "{problem:?}");
        assert_eq!(
            problem.detail,
            "what stands behind the ? cannot be read: limit: invalid digit found in string"
        );
    }

    #[tokio::test]
    async fn a_body_that_is_said_to_be_too_large_is_refused_before_it_is_read() {
        let length = |bytes: usize| Request::post("/").header(header::CONTENT_LENGTH, bytes);
        let problem = refused(length(MAX_REQUEST_BYTES + 1), "")
            .await
            .expect("it is refused");
        assert_eq!(problem.status, 413, "{problem:?}");
        assert!(
            problem.detail.contains("67108864 bytes"),
            "it says the limit: {problem:?}"
        );
        assert!(
            refused(length(2), "{}").await.is_none(),
            "a small one is taken"
        );
    }
}
