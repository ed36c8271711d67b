//! `/dead`: list, show, retry and drop dead letters, the messages that could not be handled.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use lapin::message::Delivery;
use pool_api::dead::{AllRetried, DeadLetter, DeadList, DeadMessage, Dropped, Kept, Nothing};
use pool_api::tasks::Retried;
use pool_broker::fault::{Point, point};
use pool_broker::headers::{self, text_header};

use super::app::{App, detached};
use super::error::ApiError;
use super::extract::{Path, RawBody, read};
use crate::dead::letter::describe;
use crate::dead::retry::{NotRetried, retry as retry_letter};
use crate::dead::{DeadLetterScan, MOST};
use crate::intake::NotTaken;

/// The most dead letters that one request retries.
const RETRIED_AT_ONCE: usize = 200;

async fn find(app: &App, id: &str) -> Result<(DeadLetterScan, Delivery), ApiError> {
    let found = app.dead.find(id).await.map_err(ApiError::unavailable)?;
    found.ok_or_else(|| {
        let detail = format!(
            "no dead letter {id} among the first {MOST} of pool.dead; `pool dead list` lists them"
        );
        ApiError::new(StatusCode::NOT_FOUND, detail)
    })
}

/// A retry has no parameters.
fn no_parameters(body: &[u8]) -> Result<(), ApiError> {
    if !body.is_empty() {
        let Nothing {} = read(body, "{} or nothing")?;
    }
    Ok(())
}

pub async fn list(State(app): State<App>) -> Result<Json<DeadList>, ApiError> {
    detached(async move {
        let (letters, total) = app.dead.list().await.map_err(ApiError::unavailable)?;
        Ok(Json(DeadList { total, letters }))
    })
    .await
}

pub async fn show(
    State(app): State<App>,
    Path(id): Path<String>,
) -> Result<Json<DeadMessage>, ApiError> {
    detached(async move {
        let (scan, delivery) = find(&app, &id).await?;
        let message = message(&delivery);
        scan.end().await;
        Ok(Json(message))
    })
    .await
}

fn message(delivery: &Delivery) -> DeadMessage {
    let properties = &delivery.properties;
    let known = [
        ("message_id", properties.message_id()),
        ("reply_to", properties.reply_to()),
        ("correlation_id", properties.correlation_id()),
        ("content_type", properties.content_type()),
        ("type", properties.kind()),
    ];
    let known = known
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), headers::text(value)?.to_owned())));
    let table = properties.headers().as_ref();
    let others = table
        .into_iter()
        .flat_map(|table| table.inner().keys())
        .filter_map(|name| {
            Some((
                format!("headers.{name}"),
                text_header(properties, name.as_str())?,
            ))
        });
    let body = String::from_utf8_lossy(&delivery.data);
    DeadMessage {
        letter: describe(delivery),
        routing_key: delivery.routing_key.as_str().to_owned(),
        properties: known.chain(others).collect(),
        is_utf8: matches!(body, std::borrow::Cow::Borrowed(_)),
        body: body.into_owned(),
    }
}

pub async fn retry(
    State(app): State<App>,
    Path(id): Path<String>,
    RawBody(body): RawBody,
) -> Result<Json<Retried>, ApiError> {
    no_parameters(&body)?;
    detached(async move {
        let (scan, delivery) = find(&app, &id).await?;
        let retried = match retry_letter(&app.reader.process, &app.intake, &id, &delivery).await {
            Ok(retried) => {
                point(Point::DeadRetried);
                scan.take_out(&delivery)
                    .await
                    .map(|()| retried)
                    .map_err(ApiError::unavailable)
            }
            Err(error) => Err(not_retried(error)),
        };
        scan.end().await;
        retried.map(Json)
    })
    .await
}

/// Retries one dead letter after the other until a queue is full. Nobody else can read the queue
/// meanwhile, so a long list takes several requests.
pub async fn retry_all(
    State(app): State<App>,
    RawBody(body): RawBody,
) -> Result<Json<AllRetried>, ApiError> {
    no_parameters(&body)?;
    detached(async move {
        let mut scan = app.dead.scan(MOST).await.map_err(ApiError::unavailable)?;
        let done = retry_each(&app, &mut scan).await;
        scan.end().await;
        done.map(Json)
    })
    .await
}

async fn retry_each(app: &App, scan: &mut DeadLetterScan) -> Result<AllRetried, ApiError> {
    let mut done = AllRetried {
        total: scan.all,
        ..AllRetried::default()
    };
    while done.retried.len() < RETRIED_AT_ONCE
        && let Some(delivery) = scan.next().await.map_err(ApiError::unavailable)?
    {
        let DeadLetter { id, task_id, .. } = describe(&delivery);
        match retry_letter(&app.reader.process, &app.intake, &id, &delivery).await {
            Ok(retried) => {
                point(Point::DeadRetried);
                scan.take_out(&delivery)
                    .await
                    .map_err(ApiError::unavailable)?;
                done.total -= 1;
                done.retried.push(retried);
            }
            // One bad letter, or one reply queue that refuses, does not stop the others.
            Err(
                error @ (NotRetried::NoTask(_)
                | NotRetried::NotSent(_)
                | NotRetried::NotTaken(NotTaken::Unroutable(_) | NotTaken::IdConflict(_))),
            ) => {
                done.kept.push(Kept {
                    id,
                    task_id,
                    detail: error.to_string(),
                });
            }
            Err(error) => {
                let refused = not_retried(error);
                if done.retried.is_empty() {
                    return Err(refused);
                }
                done.retry_after_s = refused.0.retry_after_s;
                break;
            }
        }
    }
    Ok(done)
}

fn not_retried(error: NotRetried) -> ApiError {
    let detail = error.to_string();
    match error {
        NotRetried::NoTask(_) | NotRetried::NotTaken(NotTaken::Unroutable(_)) => {
            ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, detail)
        }
        NotRetried::NotTaken(NotTaken::IdConflict(_)) => {
            ApiError::new(StatusCode::CONFLICT, detail)
        }
        NotRetried::Full(no_room) => no_room.into(),
        NotRetried::NotSent(_)
        | NotRetried::NotTaken(NotTaken::Broker(_) | NotTaken::Log(_) | NotTaken::NotTried)
        | NotRetried::NotReissued(_) => ApiError::unavailable(detail),
    }
}

pub async fn drop_one(
    State(app): State<App>,
    Path(id): Path<String>,
) -> Result<Json<Dropped>, ApiError> {
    detached(async move {
        let (scan, delivery) = find(&app, &id).await?;
        let dropped = scan.take_out(&delivery).await;
        scan.end().await;
        dropped.map_err(ApiError::unavailable)?;
        tracing::warn!(%id, "an operator dropped a dead letter");
        Ok(Json(Dropped {
            dropped: 1,
            left: None,
        }))
    })
    .await
}

pub async fn drop_all(State(app): State<App>) -> Result<Json<Dropped>, ApiError> {
    detached(async move {
        let (dropped, left) = app.dead.drop_all().await.map_err(ApiError::unavailable)?;
        tracing::warn!(dropped, left, "an operator dropped dead letters");
        Ok(Json(Dropped {
            dropped,
            left: Some(left),
        }))
    })
    .await
}
