//! The dispatcher's server-sent events, continued after a break. Changes that were too many for
//! single events are fetched with a request.

use std::time::Duration;

use anyhow::anyhow;
use futures_util::StreamExt as _;
use pool_api::events::{Changed, Live};
use pool_api::tasks::{TaskList, TaskView};
use pool_core::id::ProgrammerId;
use sse_stream::{Sse, SseStream};
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::time::Instant;

use super::WatchFilter;
use crate::client::{Client, innermost};

/// The most tasks that the API returns at once.
const PAGE: usize = 5_000;
/// When the whole pool is followed, the newest tasks that are fetched.
const NEWEST: usize = 200;

/// The first pause before a new connection. Each failure doubles it, up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// One message of the feed.
#[derive(Debug)]
pub(super) enum FeedMessage {
    Connected,
    State(Box<Live>),
    Tasks(Vec<TaskView>),
    /// The followed tasks, or the newest ones, in their present state.
    Listed(Vec<TaskView>),
    /// The connection is lost; trying again.
    Lost(String),
    /// Trying again would not help.
    Failed(anyhow::Error),
}

/// The receiver is gone.
struct Gone;

/// Starts the feed; it ends when the receiver is gone.
pub(super) fn start(client: Client, filter: WatchFilter) -> Receiver<FeedMessage> {
    let (heard, receiver) = channel(16);
    tokio::spawn(async move {
        let mut feed = Feed {
            client,
            filter,
            heard,
            last: None,
        };
        // Ends when the receiver is gone.
        let Err(Gone) = feed.forever().await;
    });
    receiver
}

struct Feed {
    client: Client,
    filter: WatchFilter,
    heard: Sender<FeedMessage>,
    /// The id of the last event.
    last: Option<String>,
}

impl Feed {
    async fn forever(&mut self) -> Result<std::convert::Infallible, Gone> {
        let (mut pause, mut connected) = (FIRST_PAUSE, false);
        loop {
            let began = Instant::now();
            match self.once(&mut connected).await? {
                // A failure of the first connection is reported at once.
                Err(error) if !connected => self.say(FeedMessage::Failed(error)).await?,
                Err(error) => self.say(FeedMessage::Lost(format!("{error:#}"))).await?,
                Ok(()) => {
                    let words = format!("the dispatcher at {} has ended", self.client.url());
                    self.say(FeedMessage::Lost(words)).await?;
                }
            }
            if began.elapsed() > LONGEST_PAUSE {
                pause = FIRST_PAUSE;
            }
            tokio::time::sleep(pause).await;
            pause = LONGEST_PAUSE.min(pause * 2);
        }
    }

    async fn say(&self, heard: FeedMessage) -> Result<(), Gone> {
        self.heard.send(heard).await.map_err(|_| Gone)
    }

    /// Runs one connection to its end.
    async fn once(&mut self, connected: &mut bool) -> Result<anyhow::Result<()>, Gone> {
        let answer = match self.client.events("/events", self.last.as_deref()).await {
            Ok(answer) => answer,
            Err(error) => return Ok(Err(error)),
        };
        let mut events = SseStream::from_bytes_stream(answer.bytes_stream());
        while let Some(event) = events.next().await {
            let event = match event {
                Ok(event) => event,
                Err(error) => {
                    return Ok(Err(anyhow!(
                        "the connection broke off ({})",
                        innermost(&error)
                    )));
                }
            };
            let heard = match self.understand(&event).await {
                Ok(heard) => heard,
                Err(error) => return Ok(Err(error)),
            };
            for heard in heard {
                self.say(heard).await?;
            }
            *connected = true;
            self.last = event.id.or(self.last.take());
        }
        Ok(Ok(()))
    }

    async fn understand(&self, event: &Sse) -> anyhow::Result<Vec<FeedMessage>> {
        let data = event.data.as_deref().unwrap_or_default();
        Ok(match event.event.as_deref() {
            // The list has the changes that the feed missed.
            Some("hello") => vec![
                FeedMessage::Connected,
                FeedMessage::Listed(self.list().await?),
            ],
            Some("state") => vec![FeedMessage::State(Box::new(serde_json::from_str(data)?))],
            Some("tasks") => {
                let changed: Changed = serde_json::from_str(data)?;
                if changed.many {
                    vec![FeedMessage::Listed(self.list().await?)]
                } else {
                    vec![FeedMessage::Tasks(changed.tasks)]
                }
            }
            _ => Vec::new(),
        })
    }

    async fn list(&self) -> anyhow::Result<Vec<TaskView>> {
        let WatchFilter {
            tasks,
            label,
            programmer,
        } = &self.filter;
        let mut found = Vec::new();
        for id in tasks {
            let view: TaskView = self.client.get(&format!("/tasks/{id}")).await?;
            // Without the parts that lists leave out.
            found.push(TaskView {
                result: None,
                task: None,
                ..view
            });
        }
        if !tasks.is_empty() {
            return Ok(found);
        }
        let Some(label) = label else {
            let limit = NEWEST.to_string();
            let query = [
                ("limit", Some(limit.as_str())),
                ("programmer", programmer.as_ref().map(ProgrammerId::as_str)),
            ];
            return Ok(self
                .client
                .get_with::<TaskList>("/tasks", &query)
                .await?
                .tasks);
        };
        loop {
            let (limit, offset) = (PAGE.to_string(), found.len().to_string());
            let query = [
                ("label", Some(label.as_ref())),
                ("limit", Some(&limit)),
                ("offset", Some(&offset)),
            ];
            let page: TaskList = self.client.get_with("/tasks", &query).await?;
            let is_last = page.tasks.len() < PAGE;
            found.extend(page.tasks);
            if is_last {
                return Ok(found);
            }
        }
    }
}
