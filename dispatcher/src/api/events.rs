//! Server-sent events: `GET /events` for the whole pool, `GET /tasks/{id}/events` for one task.
//!
//! Events are for display; no process decides anything by them. All streams end with the process,
//! and their number is limited.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::sse::{Event, KeepAlive, KeepAliveStream, Sse};
use futures_util::{Stream, StreamExt, stream};
use pool_api::events::{Hello, Printed, Timeline};
use pool_api::tasks::TaskView;
use pool_telemetry::clock::wall_clock;
use serde::Serialize;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast};
use tokio::time::interval;

use super::app::App;
use super::error::ApiError;
use super::extract::Path;
use super::tasks::known;
use super::token::MayAct;
use crate::dashboard::hub::{Hub, HubMessage, Joined};
use crate::history::output::AttemptOutput;
use crate::views::older::{self, TimeRange};
use crate::views::timeline;

/// A comment is sent after this long without an event, to show that the connection lives.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// How often a task's stream checks for changes.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// The most open streams of one dispatcher.
pub const STREAMS: usize = 500;

type Boxed = std::pin::Pin<Box<dyn Stream<Item = Result<Event, Infallible>> + Send>>;
type EventStream = Sse<KeepAliveStream<Boxed>>;

fn named(name: &str, data: &impl Serialize) -> Event {
    Event::default()
        .event(name)
        .data(serde_json::to_string(data).unwrap_or_default())
}

fn respond(
    app: &App,
    place: OwnedSemaphorePermit,
    events: impl Stream<Item = Event> + Send + 'static,
) -> EventStream {
    let ended = app.ending.clone();
    let events = events.map(move |event| {
        // Dropping the stream frees its place.
        let _ = &place;
        Ok(event)
    });
    let events: Boxed = Box::pin(events.take_until(async move { ended.cancelled().await }));
    Sse::new(events).keep_alive(KeepAlive::new().interval(HEARTBEAT))
}

fn place(app: &App) -> Result<OwnedSemaphorePermit, ApiError> {
    Arc::<Semaphore>::clone(&app.streams)
        .try_acquire_owned()
        .map_err(|_| {
            let detail = format!(
                "all {STREAMS} event streams are in use; close some dashboard pages or `pool watch` commands"
            );
            ApiError::unavailable(detail)
        })
}

/// `GET /events`: first `hello`; then `state` whenever the pool has changed, and `tasks` with the
/// tasks that have changed. A few times a second at most. After a break, `Last-Event-ID` continues
/// the stream; otherwise the whole `state` is sent again.
pub async fn pool(
    State(app): State<App>,
    Extension(may_act): Extension<MayAct>,
    headers: HeaderMap,
) -> Result<EventStream, ApiError> {
    let place = place(&app)?;
    let last = headers.get("last-event-id").and_then(|id| id.to_str().ok());
    let Joined {
        state,
        missed,
        then,
    } = app.hub.join(&app.reader, last);
    let hello = Hello {
        time: wall_clock(),
        may_act: may_act.0,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        resumed: state.is_none(),
    };
    let hello = named("hello", &hello);
    let hub = app.hub.clone();
    let first: Vec<Event> = std::iter::once(hello)
        .chain(
            state
                .iter()
                .chain(&missed)
                .map(|message| event(&hub, message)),
        )
        .collect();
    let rest = stream::unfold((hub, then), |(hub, mut then)| async move {
        let next = next(&hub, &mut then).await?;
        Some((next, (hub, then)))
    });
    Ok(respond(&app, place, stream::iter(first).chain(rest)))
}

async fn next(hub: &Hub, then: &mut broadcast::Receiver<HubMessage>) -> Option<Event> {
    match then.recv().await {
        Ok(message) => Some(event(hub, &message)),
        Err(RecvError::Lagged(_)) => {
            // A page that fell behind continues with the present state and asks for the tasks it
            // missed.
            *then = then.resubscribe();
            Some(event(hub, &hub.state()))
        }
        Err(RecvError::Closed) => None,
    }
}

fn event(hub: &Hub, message: &HubMessage) -> Event {
    Event::default()
        .id(hub.id(message))
        .event(message.name)
        .data(&*message.data)
}

/// The parts that a task's stream has already sent.
struct TaskStream {
    app: App,
    view: TaskView,
    version: Option<u64>,
    output: Option<(u64, Option<AttemptOutput>)>,
    every: tokio::time::Interval,
}

/// `GET /tasks/{id}/events`: two kinds of events.
///
/// - `timeline` has all lines, and comes whenever there is a new one.
/// - `output` has what the agent and the acceptance checks have printed since the last one, as
///   sections in order. The first section continues the last one sent if both are of the same
///   check. `reset` means that the output starts over.
///
/// A new connection gets everything.
pub async fn task(State(app): State<App>, Path(id): Path<String>) -> Result<EventStream, ApiError> {
    let place = place(&app)?;
    let view = known(&app, &id)?;
    let told = TaskStream {
        app: app.clone(),
        view,
        version: None,
        output: None,
        every: interval(LOOK_EVERY),
    };
    let events = stream::unfold(told, |mut told| async move {
        let event = told.next().await;
        Some((event, told))
    });
    Ok(respond(&app, place, events))
}

impl TaskStream {
    async fn next(&mut self) -> Event {
        loop {
            let version = self.app.reader.journal.version_of(&self.view.id);
            if self.version != Some(version) {
                self.version = Some(version);
                return self.timeline().await;
            }
            let version = self.app.outputs.version_of(&self.view.id);
            if version > 0 && self.output.as_ref().map(|(known, _)| *known) != Some(version) {
                return self.output(version);
            }
            self.every.tick().await;
        }
    }

    async fn timeline(&self) -> Event {
        let mut entries = self.app.reader.journal.entries(&self.view.id);
        let mut problem = None;
        if entries.is_empty() {
            let to = self.view.finished_at.unwrap_or_else(wall_clock);
            match older::entries(
                &self.app.reader.process,
                &self.view.id,
                TimeRange {
                    from: self.view.submitted_at,
                    to,
                },
            )
            .await
            {
                Ok(found) => entries = found,
                Err(error) => problem = Some(error.to_string()),
            }
        }
        named(
            "timeline",
            &Timeline {
                lines: timeline::lines(&entries),
                problem,
            },
        )
    }

    fn output(&mut self, version: u64) -> Event {
        let now = self.app.outputs.of(&self.view.id);
        let before = self.output.take().and_then(|(_, output)| output);
        let added = before
            .as_ref()
            .zip(now.as_ref())
            .and_then(|(before, now)| now.since(before));
        let data = match (added, &now) {
            (Some(sections), _) => Printed {
                sections,
                ..Printed::default()
            },
            (None, Some(now)) => Printed {
                reset: true,
                attempt: Some(now.attempt),
                programmer: Some(now.programmer.clone()),
                left_out: Some(now.left_out),
                sections: now.sections.clone(),
            },
            (None, None) => Printed {
                reset: true,
                ..Printed::default()
            },
        };
        self.output = Some((version, now));
        named("output", &data)
    }
}
