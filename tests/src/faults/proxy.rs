//! A TCP proxy in front of the broker that acts as a bad network: it cuts, resets, swallows, delays
//! and slows connections.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};

/// Bytes that are read at once; also the most that a throttled connection sends at once.
const CHUNK: usize = 16 * 1024;
/// Chunks that can be on their way in one direction, for a line with a long delay.
const ON_THE_WAY: usize = 1024;
/// The fuse is not set.
const NOT_ARMED: u64 = u64::MAX;

/// The state of the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weather {
    Fair,
    /// Swallows all data without an error. New connections are accepted and swallowed, too.
    BlackHole,
    /// Delays data by `latency`, and passes at most this many bytes a second in each direction of
    /// each connection.
    Slow {
        latency: Duration,
        bytes_per_s: u32,
    },
    /// Resets new connections.
    Refusing,
}

/// The way in which connections end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Fin,
    Rst,
}

#[derive(Debug)]
struct State {
    /// New connections go to the next of these addresses in turn, past those that refuse.
    upstreams: Vec<SocketAddr>,
    weather: watch::Sender<Weather>,
    /// The number of the last storm and how it ended connections. Open connections end when it
    /// changes.
    storm: watch::Sender<(u64, End)>,
    /// Bytes that may still pass from clients to the broker before the connection that carries the
    /// last one is reset.
    fuse: AtomicU64,
    connections: AtomicU64,
}

/// A listening proxy. Dropping it ends it and all connections.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    state: Arc<State>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// Listens on a free port of loopback.
    ///
    /// # Errors
    /// When no port is free.
    pub async fn start(upstream: SocketAddr) -> anyhow::Result<Self> {
        Self::balance(vec![upstream]).await
    }

    /// A proxy in front of several addresses, in turn.
    ///
    /// # Errors
    /// When no port is free.
    pub async fn balance(upstreams: Vec<SocketAddr>) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))
            .await
            .context("failed to listen")?;
        let address = listener.local_addr()?;
        let state = Arc::new(State {
            upstreams,
            weather: watch::Sender::new(Weather::Fair),
            storm: watch::Sender::new((0, End::Fin)),
            fuse: AtomicU64::new(NOT_ARMED),
            connections: AtomicU64::new(0),
        });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&state)));
        Ok(Self {
            address,
            state,
            accepting,
        })
    }

    /// A proxy in front of the broker of this URL.
    ///
    /// # Errors
    /// When the URL has no address, or no port is free.
    pub async fn in_front_of(amqp_url: &str) -> anyhow::Result<Self> {
        let (_, _, address) = parts(amqp_url)?;
        Self::start(
            address
                .parse()
                .with_context(|| format!("{address} is not a host:port address"))?,
        )
        .await
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The same URL with the address of this proxy.
    ///
    /// # Errors
    /// When the URL has no address.
    pub fn url(&self, amqp_url: &str) -> anyhow::Result<String> {
        let (login, path, _) = parts(amqp_url)?;
        Ok(format!("{login}@{}{path}", self.address))
    }

    /// Changes the weather for open and new connections.
    pub fn set(&self, weather: Weather) {
        self.state.weather.send_replace(weather);
    }

    /// Ends every connection in order (FIN).
    pub fn cut(&self) {
        self.storm(End::Fin);
    }

    /// Ends every connection with RST.
    pub fn reset(&self) {
        self.storm(End::Rst);
    }

    /// Resets, once, the connection that carries this byte to the broker, counted from now on over
    /// all connections.
    pub fn reset_after(&self, bytes: u64) {
        self.state.fuse.store(bytes, Ordering::SeqCst);
    }

    /// Whether [`Self::reset_after`] has reset a connection.
    pub fn has_blown(&self) -> bool {
        self.state.fuse.load(Ordering::SeqCst) == NOT_ARMED
    }

    /// The number of connections so far.
    pub fn connections(&self) -> u64 {
        self.state.connections.load(Ordering::SeqCst)
    }

    fn storm(&self, end: End) {
        self.state.storm.send_modify(|(number, how)| {
            *number += 1;
            *how = end;
        });
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.storm(End::Rst);
    }
}

/// Splits a URL into `amqp://user:password`, `/vhost` and `host:port`.
fn parts(url: &str) -> anyhow::Result<(&str, &str, &str)> {
    let (login, rest) = url.rsplit_once('@').context("the AMQP URL has no login")?;
    let (address, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
    Ok((login, path, address))
}

async fn accept(listener: TcpListener, state: Arc<State>) {
    // Read before a connection is accepted, so that no storm between the two is missed.
    while let Ok((client, _)) = listener.accept().await {
        let storm = state.storm.subscribe();
        state.connections.fetch_add(1, Ordering::SeqCst);
        tokio::spawn(carry(client, Arc::clone(&state), storm));
    }
}

async fn carry(mut client: TcpStream, state: Arc<State>, mut storm: watch::Receiver<(u64, End)>) {
    if *state.weather.borrow() == Weather::Refusing {
        let _ = client.set_zero_linger();
        return;
    }
    let Some(mut broker) = connect(&state).await else {
        let _ = client.set_zero_linger();
        return;
    };
    let end = {
        let (from_client, to_client) = client.split();
        let (from_broker, to_broker) = broker.split();
        let up = pump(from_client, to_broker, &state, Some(&state.fuse));
        let down = pump(from_broker, to_client, &state, None);
        tokio::select! {
            end = up => end,
            end = down => end,
            changed = storm.changed() => changed.map_or(End::Rst, |()| storm.borrow().1),
        }
    };
    if end == End::Rst {
        let _ = (client.set_zero_linger(), broker.set_zero_linger());
    }
}

async fn connect(state: &State) -> Option<TcpStream> {
    let count = state.upstreams.len();
    let first = usize::try_from(state.connections.load(Ordering::SeqCst)).unwrap_or(0);
    for turn in 0..count {
        if let Ok(broker) = TcpStream::connect(state.upstreams[(first + turn) % count]).await {
            return Some(broker);
        }
    }
    None
}

/// Copies one direction until it ends. The end of one direction ends the connection.
async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    state: &State,
    fuse: Option<&AtomicU64>,
) -> End {
    let (line, mut arriving) = mpsc::channel::<(Instant, Vec<u8>)>(ON_THE_WAY);
    let reading = async move {
        let mut buffer = vec![0; CHUNK];
        loop {
            let Ok(count @ 1..) = from.read(&mut buffer).await else {
                return;
            };
            let latency = match *state.weather.borrow() {
                Weather::Slow { latency, .. } => latency,
                Weather::Fair | Weather::BlackHole | Weather::Refusing => Duration::ZERO,
            };
            if line
                .send((Instant::now() + latency, buffer[..count].to_vec()))
                .await
                .is_err()
            {
                return;
            }
        }
    };
    let writing = async {
        let mut weather = state.weather.subscribe();
        while let Some((due, bytes)) = arriving.recv().await {
            sleep_until(due).await;
            if weather
                .wait_for(|weather| *weather != Weather::BlackHole)
                .await
                .is_err()
            {
                return End::Rst;
            }
            let allowed = fuse.map_or(bytes.len(), |fuse| burn(fuse, bytes.len()));
            if deliver(&mut to, &bytes[..allowed], &weather).await.is_err() || allowed < bytes.len()
            {
                return End::Rst;
            }
        }
        End::Fin
    };
    tokio::pin!(writing);
    tokio::select! {
        end = &mut writing => end,
        // Data on its way still arrives.
        () = reading => writing.await,
    }
}

async fn deliver(
    to: &mut (impl AsyncWrite + Unpin),
    bytes: &[u8],
    weather: &watch::Receiver<Weather>,
) -> std::io::Result<()> {
    let mut rest = bytes;
    while !rest.is_empty() {
        let now = *weather.borrow();
        let (count, pause) = match now {
            Weather::Slow { bytes_per_s, .. } => {
                let tenth = usize::try_from(bytes_per_s / 10)
                    .unwrap_or(usize::MAX)
                    .clamp(1, rest.len());
                (
                    tenth,
                    Duration::from_secs_f64(tenth as f64 / f64::from(bytes_per_s)),
                )
            }
            Weather::Fair | Weather::BlackHole | Weather::Refusing => (rest.len(), Duration::ZERO),
        };
        to.write_all(&rest[..count]).await?;
        sleep(pause).await;
        rest = &rest[count..];
    }
    Ok(())
}

/// The number of these bytes that may pass; fewer if the fuse blows among them.
fn burn(fuse: &AtomicU64, bytes: usize) -> usize {
    let bytes = bytes as u64;
    let before = fuse
        .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| match left {
            NOT_ARMED => None,
            left if left < bytes => Some(NOT_ARMED),
            left => Some(left - bytes),
        })
        .unwrap_or(NOT_ARMED);
    usize::try_from(before.min(bytes)).unwrap_or(usize::MAX)
}

#[cfg(test)]
#[path = "proxy_tests.rs"]
mod tests;
