//! One connection that is made again whenever it is gone.
//!
//! A task of its own holds it: it connects, watches, and connects again with growing pauses, for as long as it takes.
//! So an outage is one matter of this link, with one voice, and not of everybody who uses it.

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
use super::refusal::{Cause, NotConnected};
use super::{BrokerError, Endpoint, unacknowledged_too_long, within};
use pool_core::time::Timestamp;
use pool_telemetry::broker::{Blocked, Down, TakenBack, Up};
use pool_telemetry::clock::wall_clock;

/// How often a connection is looked at that says nothing.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// How a link is.
#[derive(Debug, Clone)]
pub enum State {
    /// There is no connection, and another attempt is made or about to be.
    Away {
        since: Timestamp,
        error: Option<NotConnected>,
    },
    Connected {
        since: Timestamp,
        connection: Arc<Connection>,
    },
    /// Connected, but the broker takes no messages: it is out of memory or disk.
    Blocked {
        since: Timestamp,
        reason: String,
        connection: Arc<Connection>,
    },
}

impl State {
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

/// A connection for one purpose. Cheap to clone; the last clone takes the connection with it.
#[derive(Debug, Clone)]
pub struct Link(Arc<Held>);

#[derive(Debug)]
struct Held {
    link: Arc<Shared>,
    closing: CancellationToken,
    _keeper: AbortOnDropHandle<()>,
}

#[derive(Debug)]
struct Shared {
    endpoint: Endpoint,
    purpose: &'static str,
    /// It is to be there as long as the process.
    lasting: bool,
    state: watch::Sender<State>,
    /// How many connections there were.
    made: AtomicU64,
}

impl Link {
    /// Begins to connect.
    pub fn new(endpoint: Endpoint, purpose: &'static str) -> Self {
        Self::begin(endpoint, purpose, true)
    }

    /// One for a short while, of which neither logs nor metrics tell: that it is gone is no outage.
    pub fn brief(endpoint: Endpoint, purpose: &'static str) -> Self {
        Self::begin(endpoint, purpose, false)
    }

    fn begin(endpoint: Endpoint, purpose: &'static str, lasting: bool) -> Self {
        let (state, _) = watch::channel(State::Away {
            since: wall_clock(),
            error: None,
        });
        let link = Arc::new(Shared {
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

    pub fn endpoint(&self) -> &Endpoint {
        &self.0.link.endpoint
    }

    pub fn purpose(&self) -> &'static str {
        self.0.link.purpose
    }

    /// How the link is, now and from now on.
    pub fn state(&self) -> watch::Receiver<State> {
        self.0.link.state.subscribe()
    }

    /// Which connection this is: with another one, what was delivered before has gone back to its queue.
    pub fn number(&self) -> u64 {
        self.0.link.made.load(Ordering::Acquire)
    }

    /// For who would not wait for it.
    ///
    /// # Errors
    /// When there is no connection now.
    pub fn is_there(&self) -> Result<(), BrokerError> {
        match &*self.0.link.state.borrow() {
            State::Away { error, .. } => Err(self.away(error.clone())),
            State::Connected { .. } | State::Blocked { .. } => Ok(()),
        }
    }

    /// Waits for the first connection.
    ///
    /// # Errors
    /// When the broker is there and says no: nothing that waiting would cure.
    pub async fn first_connection(&self) -> Result<(), BrokerError> {
        let mut state = self.state();
        let known = state.wait_for(|state| match state {
            State::Away { error, .. } => {
                error.as_ref().is_some_and(|error| error.cause.is_refusal())
            }
            State::Connected { .. } | State::Blocked { .. } => true,
        });
        match known.await.as_deref() {
            Ok(State::Away {
                error: Some(error), ..
            }) => Err(BrokerError::Connect(error.clone())),
            Ok(_) => Ok(()),
            Err(_) => Err(self.away(None)),
        }
    }

    /// A fresh channel. Waits for the connection to come back, but not for ever; the caller backs off and asks again.
    ///
    /// # Errors
    /// When there is no connection, or the broker does not open a channel in time. A connection on which that happens is
    /// kept as long as it is one: what others hold through it (an exclusive queue) would shut out whoever comes with
    /// another. A peer that is gone is found by the heartbeats.
    pub async fn channel(&self) -> Result<Channel, BrokerError> {
        let mut state = self.state();
        let connected = state.wait_for(|state| state.connection().is_some());
        let connection = match tokio::time::timeout(self.endpoint().timeout(), connected).await {
            Ok(Ok(state)) => state.connection().map(Arc::clone),
            Ok(Err(_)) | Err(_) => None,
        };
        self.channel_on(connection).await
    }

    /// A fresh channel for publishing: when it is known that there is no connection, whoever publishes hears it at once.
    ///
    /// # Errors
    /// As of [`Link::channel`].
    pub async fn channel_now(&self) -> Result<Channel, BrokerError> {
        let known = match &*self.0.link.state.borrow() {
            State::Away { error: None, .. } => None,
            state @ (State::Away { .. } | State::Connected { .. } | State::Blocked { .. }) => {
                Some(state.connection().map(Arc::clone))
            }
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
        within(self.endpoint().timeout(), what, connection.create_channel()).await
    }

    fn error(&self) -> Option<NotConnected> {
        match &*self.0.link.state.borrow() {
            State::Away { error, .. } => error.clone(),
            State::Connected { .. } | State::Blocked { .. } => None,
        }
    }

    fn away(&self, error: Option<NotConnected>) -> BrokerError {
        let unknown = || {
            self.endpoint()
                .not_connected(Cause::Away("there is no connection yet".to_owned()))
        };
        BrokerError::Connect(error.unwrap_or_else(unknown))
    }

    /// Why the broker takes no messages, if that is known.
    pub fn blocked(&self) -> Option<String> {
        match &*self.0.link.state.borrow() {
            State::Blocked { reason, .. } => Some(reason.clone()),
            State::Away { .. } | State::Connected { .. } => None,
        }
    }

    /// Ends when the broker takes no messages, with the reason.
    pub async fn until_blocked(&self) -> String {
        let mut state = self.state();
        loop {
            if let State::Blocked { reason, .. } = &*state.borrow_and_update() {
                return reason.clone();
            }
            if state.changed().await.is_err() {
                // The link is gone, and with it whatever could block.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Ends when messages can be published.
    pub async fn until_usable(&self) {
        // Without a link nothing is worth waiting for.
        let _ = self.state().wait_for(State::is_usable).await;
    }

    /// Ends the connection in order, so that the broker returns what is unacknowledged at once.
    pub async fn close(&self) {
        self.0.closing.cancel();
        let error = self
            .endpoint()
            .not_connected(Cause::Away("this process is ending".to_owned()));
        let was = self.0.link.state.send_replace(State::Away {
            since: wall_clock(),
            error: Some(error),
        });
        if let Some(connection) = was.connection() {
            // A broker that does not answer finds out by itself.
            let _ = within(
                self.endpoint().timeout(),
                "close",
                connection.close(200, "bye".into()),
            )
            .await;
        }
    }
}

impl Shared {
    /// Connects again and again.
    async fn keep(self: Arc<Self>) {
        let mut backoff = Backoff::default();
        let mut outage = Outage {
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
                    // A connection that breaks as soon as it is made is no success.
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

    /// Shows how the connection is until it is gone; gives why.
    async fn watch(&self, connection: Arc<Connection>) -> NotConnected {
        let status = connection.status().clone();
        let mut events = connection.events_listener();
        self.made.fetch_add(1, Ordering::AcqRel);
        self.state.send_replace(State::Connected {
            since: wall_clock(),
            connection: Arc::clone(&connection),
        });
        let mut last = "the broker has closed the connection".to_owned();
        // What came before somebody listened shows in the status only.
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
                (State::Connected { .. }, Some(reason)) => State::Blocked {
                    since: wall_clock(),
                    reason: reason.to_owned(),
                    connection: connection(),
                },
                (State::Blocked { .. }, None) => State::Connected {
                    since: wall_clock(),
                    connection: connection(),
                },
                (State::Away { .. } | State::Connected { .. } | State::Blocked { .. }, _) => {
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

/// The time without a connection, told once.
struct Outage<'a> {
    link: &'a Shared,
    since: Instant,
    /// What was said about it last.
    told: Option<Cause>,
    /// There was a connection before.
    was_up: bool,
}

impl Outage<'_> {
    fn goes_on(&mut self, error: NotConnected) {
        let Shared {
            purpose,
            lasting,
            state,
            ..
        } = self.link;
        // Another cause is news; the same in other words is not.
        let news = self.told.as_ref().map(std::mem::discriminant)
            != Some(std::mem::discriminant(&error.cause));
        // Whether a refusal at the start is the end is for whoever waits for the connection to say.
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
            State::Away { since, .. } => *since,
            State::Connected { .. } | State::Blocked { .. } => wall_clock(),
        };
        state.send_replace(State::Away {
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

/// Ends when a channel cannot be used any more: for whoever has work in hand on it, and does not ask it for more.
pub async fn gone(channel: &Channel) {
    while channel.status().connected() {
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Closes a channel whose state is not known any more, so that the broker takes back what it delivered on it.
pub async fn discard(channel: &Channel, endpoint: &Endpoint) {
    if channel.status().connected() {
        // When even that fails the connection is gone, and with it the channel.
        let _ = within(
            endpoint.timeout(),
            "close a channel",
            channel.close(200, "starting over".into()),
        )
        .await;
    }
}
