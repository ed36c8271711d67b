//! One connection to the broker that is restored whenever it is lost.
//!
//! A Tokio task owns it: the task connects, watches the connection, and connects again with growing pauses, without a limit.
//! So the link handles and logs an outage once, and the users of the connection need not.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use lapin::{Channel, Connection, Event};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::backoff::Backoff;
use super::connect_error::{Cause, NotConnected};
use super::{BrokerError, Endpoint, unacknowledged_too_long, with_timeout};
use pool_core::time::Timestamp;
use pool_telemetry::broker::{Blocked, Down, TakenBack, Up};
use pool_telemetry::clock::wall_clock;

/// How often a connection without events is checked.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// The state of a link.
#[derive(Debug, Clone)]
pub enum LinkState {
    /// Not connected. The link is connecting, or pauses before it tries again.
    Away {
        /// When the connection was lost, or when the link began.
        since: Timestamp,
        /// Why the last attempt failed; None before the first has ended.
        error: Option<NotConnected>,
    },
    /// The connection works.
    Connected {
        /// When it was made.
        since: Timestamp,
        /// lapin's connection.
        connection: Arc<Connection>,
    },
    /// Connected, but the broker takes no messages: it is low on memory or disk.
    Blocked {
        /// When the alarm began.
        since: Timestamp,
        /// The broker's words.
        reason: String,
        /// lapin's connection.
        connection: Arc<Connection>,
    },
}

impl LinkState {
    fn connection(&self) -> Option<&Arc<Connection>> {
        match self {
            Self::Away { .. } => None,
            Self::Connected { connection, .. } | Self::Blocked { connection, .. } => {
                Some(connection)
            }
        }
    }

    /// Whether messages can be published.
    fn is_usable(&self) -> bool {
        match self {
            Self::Connected { .. } => true,
            Self::Away { .. } | Self::Blocked { .. } => false,
        }
    }
}

/// A connection for one purpose. Cheap to clone; dropping the last clone closes the connection.
#[derive(Debug, Clone)]
pub struct Link(Arc<Held>);

#[derive(Debug)]
struct Held {
    link: Arc<Connector>,
    closing: CancellationToken,
    _keeper: AbortOnDropHandle<()>,
}

#[derive(Debug)]
struct Connector {
    endpoint: Endpoint,
    purpose: &'static str,
    /// Its loss is an outage, which logs and metrics report.
    lasting: bool,
    state: watch::Sender<LinkState>,
    /// The number of connections so far.
    made: AtomicU64,
}

impl Link {
    /// Begins to connect.
    pub fn new(endpoint: Endpoint, purpose: &'static str) -> Self {
        Self::begin(endpoint, purpose, true)
    }

    /// A connection for a short while. Logs and metrics do not report it, because its end is not an outage.
    pub fn brief(endpoint: Endpoint, purpose: &'static str) -> Self {
        Self::begin(endpoint, purpose, false)
    }

    fn begin(endpoint: Endpoint, purpose: &'static str, lasting: bool) -> Self {
        let (state, _) = watch::channel(LinkState::Away {
            since: wall_clock(),
            error: None,
        });
        let link = Arc::new(Connector {
            endpoint,
            purpose,
            lasting,
            state,
            made: AtomicU64::new(0),
        });
        let closing = CancellationToken::new();
        let keeping = Arc::clone(&link).keep();
        let ended = closing.clone();
        let keeper = tokio::spawn(async move {
            let _ends = ended.clone().drop_guard();
            tokio::select! {
                () = ended.cancelled() => {}
                () = keeping => {}
            }
        });
        Self(Arc::new(Held {
            link,
            closing,
            _keeper: AbortOnDropHandle::new(keeper),
        }))
    }

    /// Ends when nobody keeps the connection any more: the link was closed, or its task has panicked.
    pub fn ended(&self) -> impl Future<Output = ()> + Send + use<> {
        self.0.closing.clone().cancelled_owned()
    }

    /// The broker that it connects to.
    pub fn endpoint(&self) -> &Endpoint {
        &self.0.link.endpoint
    }

    /// `consume`, `publish`, …: a label of metrics and a part of the connection's name.
    pub fn purpose(&self) -> &'static str {
        self.0.link.purpose
    }

    /// The state, now and after every change.
    pub fn state(&self) -> watch::Receiver<LinkState> {
        self.0.link.state.subscribe()
    }

    /// The number of the connection. When it changes, everything that was delivered before has returned to its queue.
    pub fn number(&self) -> u64 {
        self.0.link.made.load(Ordering::Acquire)
    }

    /// Checks for a connection without waiting.
    ///
    /// # Errors
    /// When the link is not connected now.
    pub fn is_there(&self) -> Result<(), BrokerError> {
        match &*self.0.link.state.borrow() {
            LinkState::Away { error, .. } => Err(self.away(error.clone())),
            LinkState::Connected { .. } | LinkState::Blocked { .. } => Ok(()),
        }
    }

    /// Waits for the first connection.
    ///
    /// # Errors
    /// When the broker refuses for a reason that waiting does not cure.
    pub async fn first_connection(&self) -> Result<(), BrokerError> {
        let mut state = self.state();
        let known = state.wait_for(|state| match state {
            LinkState::Away { error, .. } => {
                error.as_ref().is_some_and(|error| error.cause.is_refusal())
            }
            LinkState::Connected { .. } | LinkState::Blocked { .. } => true,
        });
        match known.await.as_deref() {
            Ok(LinkState::Away {
                error: Some(error), ..
            }) => Err(BrokerError::Connect(error.clone())),
            Ok(_) => Ok(()),
            Err(_) => Err(self.away(None)),
        }
    }

    /// A fresh channel. Waits for the connection at most for the time-out; after an error the caller backs off and asks again.
    ///
    /// # Errors
    /// When the link is not connected, or the broker does not open a channel in time. The link keeps such a connection: an
    /// exclusive queue that is held through it would shut out a new one. AMQP heartbeats find out when the peer is gone.
    pub async fn channel(&self) -> Result<Channel, BrokerError> {
        let mut state = self.state();
        let connected = state.wait_for(|state| state.connection().is_some());
        let connection = match tokio::time::timeout(self.endpoint().timeout(), connected).await {
            Ok(Ok(state)) => state.connection().map(Arc::clone),
            Ok(Err(_)) | Err(_) => None,
        };
        self.channel_on(connection).await
    }

    /// Opens a channel for this work and closes it afterwards, so that unacknowledged deliveries return to their queues.
    ///
    /// # Errors
    /// Those of [`Link::channel`], and of the work.
    pub async fn on_channel<T, W>(&self, work: impl FnOnce(Channel) -> W) -> Result<T, BrokerError>
    where
        W: Future<Output = Result<T, BrokerError>>,
    {
        let channel = self.channel().await?;
        let done = work(channel.clone()).await;
        discard(&channel, self.endpoint()).await;
        done
    }

    /// A fresh channel for publishing. It fails without waiting when the connection is known to be lost.
    ///
    /// # Errors
    /// Those of [`Link::channel`].
    pub async fn channel_now(&self) -> Result<Channel, BrokerError> {
        let known = match &*self.0.link.state.borrow() {
            LinkState::Away { error: None, .. } => None,
            state @ (LinkState::Away { .. }
            | LinkState::Connected { .. }
            | LinkState::Blocked { .. }) => Some(state.connection().map(Arc::clone)),
        };
        match known {
            Some(connection) => self.channel_on(connection).await,
            None => self.channel().await,
        }
    }

    async fn channel_on(
        &self,
        connection: Option<Arc<Connection>>,
    ) -> Result<Channel, BrokerError> {
        let Some(connection) = connection else {
            return Err(self.away(self.error()));
        };
        let what = format!(
            "open a channel to RabbitMQ at {}",
            self.endpoint().address()
        );
        with_timeout(self.endpoint().timeout(), what, connection.create_channel()).await
    }

    fn error(&self) -> Option<NotConnected> {
        match &*self.0.link.state.borrow() {
            LinkState::Away { error, .. } => error.clone(),
            LinkState::Connected { .. } | LinkState::Blocked { .. } => None,
        }
    }

    fn away(&self, error: Option<NotConnected>) -> BrokerError {
        let unknown = || {
            self.endpoint()
                .not_connected(Cause::Away("not connected yet".to_owned()))
        };
        BrokerError::Connect(error.unwrap_or_else(unknown))
    }

    /// Why the broker takes no messages; None while it takes them.
    pub fn blocked(&self) -> Option<String> {
        match &*self.0.link.state.borrow() {
            LinkState::Blocked { reason, .. } => Some(reason.clone()),
            LinkState::Away { .. } | LinkState::Connected { .. } => None,
        }
    }

    /// Waits until the broker takes no messages, and gives the reason.
    pub async fn until_blocked(&self) -> String {
        let mut state = self.state();
        loop {
            if let LinkState::Blocked { reason, .. } = &*state.borrow_and_update() {
                return reason.clone();
            }
            if state.changed().await.is_err() {
                // The link has ended and will not block any more.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Waits until messages can be published.
    pub async fn until_usable(&self) {
        // The link has ended: there is nothing to wait for.
        let _ = self.state().wait_for(LinkState::is_usable).await;
    }

    /// Closes the connection, so that the broker returns unacknowledged messages immediately.
    pub async fn close(&self) {
        self.0.closing.cancel();
        let error = self
            .endpoint()
            .not_connected(Cause::Away("this process is ending".to_owned()));
        let was = self.0.link.state.send_replace(LinkState::Away {
            since: wall_clock(),
            error: Some(error),
        });
        if let Some(connection) = was.connection() {
            // A broker that does not answer will notice the closed socket.
            let _ = with_timeout(
                self.endpoint().timeout(),
                "close",
                connection.close(200, "bye".into()),
            )
            .await;
        }
    }
}

impl Connector {
    /// Connects, and connects again after every loss, for ever.
    async fn keep(self: Arc<Self>) {
        let mut backoff = Backoff::default();
        let mut outage = ConnectionOutage {
            link: &self,
            since: Instant::now(),
            told: None,
            was_up: false,
        };
        loop {
            let error = match self.endpoint.connect(self.purpose, outage.was_up).await {
                Ok(connection) => {
                    outage.over();
                    let began = Instant::now();
                    let error = self.watch(Arc::new(connection)).await;
                    // A connection that breaks as soon as it is made is not a success.
                    backoff.worked_for(began.elapsed());
                    outage.since = Instant::now();
                    error
                }
                Err(BrokerError::Connect(error)) => error,
                Err(error) => self.endpoint.not_connected(Cause::Away(error.to_string())),
            };
            outage.goes_on(error);
            backoff.wait().await;
        }
    }

    /// Publishes the state of the connection until it is lost, and gives the reason of the loss.
    async fn watch(&self, connection: Arc<Connection>) -> NotConnected {
        let status = connection.status().clone();
        let mut events = connection.events_listener();
        self.made.fetch_add(1, Ordering::AcqRel);
        self.state.send_replace(LinkState::Connected {
            since: wall_clock(),
            connection: Arc::clone(&connection),
        });
        let mut last = "the broker has closed the connection".to_owned();
        // An alarm from before the listener began shows in the status only.
        let mut reason = status.blocked().then(|| "connection.blocked".to_owned());
        while status.connected() {
            self.show_blocked(&connection, reason.as_deref());
            tokio::select! {
                event = events.next() => match event {
                    Some(Event::ConnectionBlocked(why)) => reason = Some(why),
                    Some(Event::ConnectionUnblocked) => reason = None,
                    Some(Event::Error(error)) => {
                        if let Some(said) = unacknowledged_too_long(&error) {
                            TakenBack { purpose: self.purpose, said: &said }.emit();
                        }
                        last = error.to_string();
                    }
                    Some(_) => {}
                    None => break,
                },
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
        self.endpoint.not_connected(Cause::Away(last))
    }

    fn show_blocked(&self, connection: &Arc<Connection>, reason: Option<&str>) {
        let connection = || Arc::clone(connection);
        self.state.send_if_modified(|state| {
            let next = match (&*state, reason) {
                (LinkState::Connected { .. }, Some(reason)) => LinkState::Blocked {
                    since: wall_clock(),
                    reason: reason.to_owned(),
                    connection: connection(),
                },
                (LinkState::Blocked { .. }, None) => LinkState::Connected {
                    since: wall_clock(),
                    connection: connection(),
                },
                (
                    LinkState::Away { .. }
                    | LinkState::Connected { .. }
                    | LinkState::Blocked { .. },
                    _,
                ) => {
                    return false;
                }
            };
            if self.lasting {
                Blocked {
                    purpose: self.purpose,
                    reason,
                }
                .emit();
            }
            *state = next;
            true
        });
    }
}

/// The time without a connection, which is logged once.
struct ConnectionOutage<'a> {
    link: &'a Connector,
    since: Instant,
    /// The cause that was logged last.
    told: Option<Cause>,
    /// Whether there was a connection before.
    was_up: bool,
}

impl ConnectionOutage<'_> {
    fn goes_on(&mut self, error: NotConnected) {
        let Connector {
            purpose,
            lasting,
            state,
            ..
        } = self.link;
        // Log another cause; do not log the same cause in other words.
        let news = self.told.as_ref().map(std::mem::discriminant)
            != Some(std::mem::discriminant(&error.cause));
        // A refusal at the start may end the process: the caller that waits for the first connection reports it.
        let quiet = !self.was_up && error.cause.is_refusal();
        if *lasting {
            Down {
                purpose,
                error: &error,
                lost: self.was_up && self.told.is_none(),
                news: news && !quiet,
            }
            .emit();
        }
        self.told = Some(error.cause.clone());
        let since = match &*state.borrow() {
            LinkState::Away { since, .. } => *since,
            LinkState::Connected { .. } | LinkState::Blocked { .. } => wall_clock(),
        };
        state.send_replace(LinkState::Away {
            since,
            error: Some(error),
        });
    }

    fn over(&mut self) {
        let away = self.told.take().map(|_| self.since.elapsed());
        if self.link.lasting {
            Up {
                purpose: self.link.purpose,
                away,
                again: self.was_up,
            }
            .emit();
        }
        self.was_up = true;
    }
}

/// Waits until a channel is closed, for a caller that holds a delivery and asks the channel for nothing else.
pub async fn gone(channel: &Channel) {
    while channel.status().connected() {
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Closes a channel whose state is not known, so that its unacknowledged deliveries return to their queues.
pub async fn discard(channel: &Channel, endpoint: &Endpoint) {
    if channel.status().connected() {
        // If closing fails, the connection is lost and the channel with it.
        let _ = with_timeout(
            endpoint.timeout(),
            "close a channel",
            channel.close(200, "starting over".into()),
        )
        .await;
    }
}
