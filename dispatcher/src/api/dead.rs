//! `/dead`: list, show, retry and drop dead letters, the messages that could not be handled.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use lapin::message::Delivery;
use pool_broker::fault::{Point, point};
use pool_broker::headers::{self, text_header};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::app::{App, detached};
use super::extract::{Body, Path, read};
use super::problem::Problem;
use crate::dead::letter::DeadLetter;
use crate::dead::retry::{NotRetried, Retried, retry as retry_letter};
use crate::dead::{DeadError, Look, MOST};
use crate::intake::NotTaken;

/// The most dead letters that one request retries.
const RETRIED_AT_ONCE: usize = 200;

/// `GET /dead`: oldest first, at most a thousand.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct DeadList {
    /// How many dead letters there are, including those not listed.
    pub total: usize,
    pub letters: Vec<DeadLetter>,
}

/// `GET /dead/{id}`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct DeadMessage {
    pub letter: DeadLetter,
    pub routing_key: String,
    /// Properties and headers whose values are text.
    pub properties: BTreeMap<String, String>,
    /// The body as text. Bytes that are not valid UTF-8 are replaced.
    pub body: String,
    pub is_utf8: bool,
}

/// `DELETE /dead` and `DELETE /dead/{id}`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Dropped {
    pub dropped: usize,
    /// How many are left among those that were looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left: Option<usize>,
}

/// A dead letter that was not retried, and why.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Kept {
    pub id: String,
    pub task_id: Option<String>,
    /// A sentence for people.
    pub detail: String,
}

/// `POST /dead/retry`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
pub struct AllRetried {
    pub retried: Vec<Retried>,
    /// Dead letters that could not be retried.
    pub kept: Vec<Kept>,
    /// How many dead letters remain, including those not looked at.
    pub total: usize,
    /// The task queues are full: send the request again after this many seconds to retry the rest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_s: Option<u32>,
}

/// The body of `retry`: empty or an empty object.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Nothing {}

fn problem(error: &DeadError) -> Problem {
    Problem::unavailable(error.to_string())
}

fn nothing(id: &str) -> Problem {
    let detail = format!(
        "no dead letter {id} among the first {MOST} of pool.dead; `pool dead list` lists them"
    );
    Problem::new(StatusCode::NOT_FOUND, detail)
}

pub async fn list(State(app): State<App>) -> Result<Json<DeadList>, Problem> {
    detached(async move {
        let (letters, total) = app.dead.list().await.map_err(|error| problem(&error))?;
        Ok(Json(DeadList { total, letters }))
    })
    .await
}

pub async fn show(
    State(app): State<App>,
    Path(id): Path<String>,
) -> Result<Json<DeadMessage>, Problem> {
    detached(async move {
        let found = app.dead.find(&id).await.map_err(|error| problem(&error))?;
        let (look, delivery) = found.ok_or_else(|| nothing(&id))?;
        let message = message(&delivery);
        look.end().await;
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
        letter: DeadLetter::of(delivery),
        routing_key: delivery.routing_key.as_str().to_owned(),
        properties: known.chain(others).collect(),
        is_utf8: matches!(body, std::borrow::Cow::Borrowed(_)),
        body: body.into_owned(),
    }
}

pub async fn retry(
    State(app): State<App>,
    Path(id): Path<String>,
    Body(body): Body,
) -> Result<Json<Retried>, Problem> {
    if !body.is_empty() {
        let Nothing {} = read(&body, "{} or nothing")?;
    }
    detached(async move {
        let found = app.dead.find(&id).await.map_err(|error| problem(&error))?;
        let (look, delivery) = found.ok_or_else(|| nothing(&id))?;
        let retried = match retry_letter(&app.reader.process, &app.intake, &id, &delivery).await {
            Ok(retried) => {
                point(Point::DeadRetried);
                look.take_out(&delivery)
                    .await
                    .map(|()| retried)
                    .map_err(|error| problem(&error))
            }
            Err(error) => Err(not_retried(error)),
        };
        look.end().await;
        retried.map(Json)
    })
    .await
}

/// Retries one dead letter after the other until a queue is full. Nobody else can read the queue
/// meanwhile, so a long list takes several requests.
pub async fn retry_all(
    State(app): State<App>,
    Body(body): Body,
) -> Result<Json<AllRetried>, Problem> {
    if !body.is_empty() {
        let Nothing {} = read(&body, "{} or nothing")?;
    }
    detached(async move {
        let mut look = app.dead.look(MOST).await.map_err(|error| problem(&error))?;
        let done = retry_each(&app, &mut look).await;
        look.end().await;
        done.map(Json)
    })
    .await
}

async fn retry_each(app: &App, look: &mut Look) -> Result<AllRetried, Problem> {
    let mut done = AllRetried {
        total: look.all,
        ..AllRetried::default()
    };
    while done.retried.len() < RETRIED_AT_ONCE
        && let Some(delivery) = look.next().await.map_err(|error| problem(&error))?
    {
        let DeadLetter { id, task_id, .. } = DeadLetter::of(&delivery);
        match retry_letter(&app.reader.process, &app.intake, &id, &delivery).await {
            Ok(retried) => {
                point(Point::DeadRetried);
                look.take_out(&delivery)
                    .await
                    .map_err(|error| problem(&error))?;
                done.total -= 1;
                done.retried.push(retried);
            }
            // One bad letter, or one reply queue that refuses, does not stop the others.
            Err(error @ (NotRetried::NoTask(_) | NotRetried::NotSent(_))) => {
                done.kept.push(Kept {
                    id,
                    task_id,
                    detail: error.to_string(),
                });
            }
            Err(
                error @ NotRetried::NotTaken(NotTaken::Unroutable(_) | NotTaken::IdConflict(_)),
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
                done.retry_after_s = refused.retry_after_s;
                break;
            }
        }
    }
    Ok(done)
}

fn not_retried(error: NotRetried) -> Problem {
    let detail = error.to_string();
    match error {
        NotRetried::NoTask(_) | NotRetried::NotTaken(NotTaken::Unroutable(_)) => {
            Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail)
        }
        NotRetried::NotTaken(NotTaken::IdConflict(_)) => Problem::new(StatusCode::CONFLICT, detail),
        NotRetried::Full(no_room) => no_room.into(),
        NotRetried::NotSent(_)
        | NotRetried::NotTaken(NotTaken::Broker(_) | NotTaken::Log(_) | NotTaken::NotTried)
        | NotRetried::NotReissued(_) => Problem::unavailable(detail),
    }
}

pub async fn drop_one(
    State(app): State<App>,
    Path(id): Path<String>,
) -> Result<Json<Dropped>, Problem> {
    detached(async move {
        let found = app.dead.find(&id).await.map_err(|error| problem(&error))?;
        let (look, delivery) = found.ok_or_else(|| nothing(&id))?;
        let dropped = look.take_out(&delivery).await;
        look.end().await;
        dropped.map_err(|error| problem(&error))?;
        tracing::warn!(%id, "an operator dropped a dead letter");
        Ok(Json(Dropped {
            dropped: 1,
            left: None,
        }))
    })
    .await
}

pub async fn drop_all(State(app): State<App>) -> Result<Json<Dropped>, Problem> {
    detached(async move {
        let (dropped, left) = app.dead.drop_all().await.map_err(|error| problem(&error))?;
        tracing::warn!(dropped, left, "an operator dropped dead letters");
        Ok(Json(Dropped {
            dropped,
            left: Some(left),
        }))
    })
    .await
}
