//! Extractors for path, query and body. A request that cannot be read is answered with a
//! [`ApiError`], like every other error.

use std::future::ready;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, FailedToBufferBody, PathRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::{StatusCode, header};
use futures_util::StreamExt;
use pool_api::MAX_REQUEST_BYTES;
use pool_core::object::Object;
use pool_core::wrong::in_words;
use serde::de::DeserializeOwned;

use super::error::ApiError;

const SWALLOWED_WITHIN: Duration = Duration::from_secs(10);

/// The path parameter `{id}`.
#[derive(FromRequestParts)]
#[from_request(via(axum::extract::Path), rejection(ApiError))]
pub struct Path<T>(pub T);

/// The query parameters.
#[derive(FromRequestParts)]
#[from_request(via(axum::extract::Query), rejection(ApiError))]
pub struct Query<T>(pub T);

/// The body as raw bytes.
pub struct RawBody(pub Bytes);

impl<S: Send + Sync> FromRequest<S> for RawBody {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
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

/// Reads and discards a body that is too large: a client that is cut off while it sends does not
/// see the answer. A client that asks first (`Expect: 100-continue`) gets the answer without
/// sending.
async fn swallow(body: axum::body::Body) {
    let reading = body
        .into_data_stream()
        .take_while(|piece| ready(piece.is_ok()))
        .for_each(|_| ready(()));
    let _ = tokio::time::timeout(SWALLOWED_WITHIN, reading).await;
}

/// Parses a JSON body. `example` shows the caller what to send instead.
///
/// # Errors
/// 422 when the body is not JSON of this type.
pub fn read<T: DeserializeOwned>(body: &[u8], example: &str) -> Result<T, ApiError> {
    let read = serde_json::from_slice::<Object<T>>(body).map(|Object(read)| read);
    read.map_err(|error| {
        ApiError::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            format!("{}; send {example}", in_words(&error, body)),
        )
    })
}

fn too_large() -> ApiError {
    let detail = format!(
        "the request is larger than {MAX_REQUEST_BYTES} bytes; send fewer tasks per request (`pool submit` does that)"
    );
    ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, detail)
}

impl From<BytesRejection> for ApiError {
    fn from(rejection: BytesRejection) -> Self {
        if let BytesRejection::FailedToBufferBody(FailedToBufferBody::LengthLimitError(_)) =
            rejection
        {
            return too_large();
        }
        Self::new(rejection.status(), rejection.body_text())
    }
}

impl From<PathRejection> for ApiError {
    fn from(rejection: PathRejection) -> Self {
        Self::new(rejection.status(), rejection.body_text())
    }
}

impl From<QueryRejection> for ApiError {
    fn from(rejection: QueryRejection) -> Self {
        let why = std::error::Error::source(&rejection)
            .map_or_else(|| rejection.body_text(), ToString::to_string);
        Self::new(rejection.status(), about_query(&why))
    }
}

/// Names the query parameter that is wrong, from serde's "name: unknown field `name`, expected …".
fn about_query(why: &str) -> String {
    let Some((name, mistake)) = why.split_once(": ") else {
        return format!("the query parameters cannot be read: {why}");
    };
    let expected = mistake
        .strip_prefix("unknown field ")
        .and_then(|rest| rest.split_once(", expected "));
    match expected {
        Some((_, known)) => format!(
            "unknown query parameter `{name}`; known: {}",
            known.trim_start_matches("one of ")
        ),
        None => format!("query parameter `{name}`: {mistake}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn refused(
        request: axum::http::request::Builder,
        body: &'static str,
    ) -> Option<ApiError> {
        let request = request
            .body(axum::body::Body::from(body))
            .expect("a request");
        RawBody::from_request(request, &()).await.err()
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
        assert_eq!(problem.0.status, 400, "{problem:?}");
        assert_eq!(
            problem.0.detail,
            "query parameter `limit`: invalid digit found in string"
        );
    }

    #[test]
    fn an_unknown_query_parameter_is_named_with_those_that_are_known() {
        assert_eq!(
            about_query("sort: unknown field `sort`, expected one of `limit`, `offset`"),
            "unknown query parameter `sort`; known: `limit`, `offset`"
        );
    }

    #[tokio::test]
    async fn a_body_that_is_said_to_be_too_large_is_refused_before_it_is_read() {
        let length = |bytes: usize| Request::post("/").header(header::CONTENT_LENGTH, bytes);
        let problem = refused(length(MAX_REQUEST_BYTES + 1), "")
            .await
            .expect("it is refused");
        assert_eq!(problem.0.status, 413, "{problem:?}");
        assert!(
            problem.0.detail.contains("67108864 bytes"),
            "it says the limit: {problem:?}"
        );
        assert!(
            refused(length(2), "{}").await.is_none(),
            "a small one is taken"
        );
    }
}
