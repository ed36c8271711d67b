//! The broker's address and credentials, and one attempt at a connection, with a time-out.
//!
//! lapin runs each connection in its own thread, which waits as long as the peer is silent. So a failed attempt must close
//! its socket, or every attempt at a silent peer would leave a thread behind.

use std::io;
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lapin::tcp::AsyncTcpStream;
use lapin::uri::{AMQPScheme, AMQPUri, SASLMechanism};
use lapin::{Connection, ConnectionProperties, ErrorKind};

use super::connect_error::{Cause, NotConnected, cause_of};
use super::{BrokerError, tls};

/// How to reach the broker, and the name under which the management UI shows this process.
#[derive(Debug, Clone)]
pub struct Endpoint {
    config: pool_core::pool::Broker,
    process: String,
}

impl Endpoint {
    /// `process`: the name of this process, the first part of its connections' names.
    pub fn new(config: pool_core::pool::Broker, process: impl Into<String>) -> Self {
        Self {
            config,
            process: process.into(),
        }
    }

    /// The time-out of every single await on the broker (`broker.timeout_s`).
    pub fn timeout(&self) -> Duration {
        self.config.timeout
    }

    /// The number of channels for publishing (`broker.publish_channels`).
    pub fn publish_channels(&self) -> usize {
        self.config.publish_channels
    }

    /// Host, port and virtual host, without user and password.
    pub fn address(&self) -> String {
        let url = self.config.url.expose();
        let address = url
            .rsplit_once('@')
            .or_else(|| url.split_once("://"))
            .map_or(url, |(_, address)| address);
        address
            .split_once('?')
            .map_or(address, |(address, _)| address)
            .to_owned()
    }

    /// A new connection; `purpose` is added to its name in the management UI.
    ///
    /// # Errors
    /// When the broker cannot be reached or refuses. The text names the address and what to do. It says more when the
    /// connection was never up (`was_up` is false).
    pub async fn connect(&self, purpose: &str, was_up: bool) -> Result<Connection, BrokerError> {
        let limit = self.timeout();
        let connected = match tokio::time::timeout(limit, self.try_connect(purpose, was_up)).await {
            Ok(connected) => connected,
            Err(_) => Err(Cause::Away(format!(
                "no answer within {} s",
                limit.as_secs()
            ))),
        };
        connected.map_err(|cause| BrokerError::Connect(self.not_connected(cause)))
    }

    /// The error for this cause.
    pub(super) fn not_connected(&self, cause: Cause) -> NotConnected {
        NotConnected {
            address: self.address(),
            cause,
        }
    }

    async fn try_connect(&self, purpose: &str, was_up: bool) -> Result<Connection, Cause> {
        let uri = self.uri()?;
        let tls = match uri.scheme {
            AMQPScheme::AMQP => None,
            AMQPScheme::AMQPS => Some(tls::connector(&self.config).await.map_err(Cause::Files)?),
        };
        let name = format!("{} ({purpose})", self.process);
        let properties = ConnectionProperties::default().with_connection_name(name.into());
        let runtime =
            lapin::runtime::default_runtime().map_err(|error| Cause::Away(error.to_string()))?;
        let attempt = Attempt(Socket::default());
        let opened = attempt.0.clone();
        let connect = Connection::connector(
            uri.clone(),
            runtime,
            async move |uri, runtime| {
                let stream = AsyncTcpStream::connect(&runtime, addresses(&uri).await?).await?;
                if let AsyncTcpStream::Plain(plain) = &stream {
                    opened.hold(plain.get_ref())?;
                }
                match &tls {
                    None => Ok(stream),
                    Some(tls) => Ok(stream.into_rustls(tls, &uri.authority.host).await?),
                }
            },
            properties,
        );
        let connection = match connect.await {
            Ok(connection) => connection,
            // The port was right before. Probing what it speaks would cost a broker in trouble one more connection.
            Err(error) if was_up => return Err(cause_of(&error, &uri)),
            Err(error) => return Err(self.explain(&error, &uri).await),
        };
        attempt.0.keep();
        Ok(connection)
    }

    /// Finds the cause of a failed first attempt. A broker silently closes a plain connection to a TLS port, so this probes
    /// whether the port speaks TLS.
    async fn explain(&self, error: &lapin::Error, uri: &AMQPUri) -> Cause {
        let cause = cause_of(error, uri);
        let hang_ups = [
            io::ErrorKind::ConnectionReset,
            io::ErrorKind::ConnectionAborted,
        ];
        let hung_up = cause == Cause::NoAmqp
            || matches!(error.kind(), ErrorKind::IOError(error) if hang_ups.contains(&error.kind()));
        if hung_up
            && uri.scheme == AMQPScheme::AMQP
            && let Ok(addresses) = addresses(uri).await
            && tls::is_spoken_by(uri, addresses).await
        {
            return Cause::Tls;
        }
        cause
    }

    fn uri(&self) -> Result<AMQPUri, Cause> {
        let url = self.config.url.expose();
        // The parser's message may repeat the password.
        let mut uri: AMQPUri = url.parse().map_err(|_| Cause::Url)?;
        let heartbeat = u16::try_from(self.config.heartbeat.as_secs()).unwrap_or(u16::MAX);
        uri.query.heartbeat.get_or_insert(heartbeat);
        if self.config.client_certificate.is_some() && !url.contains('@') {
            // The URL names no user: the certificate does.
            uri.query
                .auth_mechanism
                .get_or_insert(SASLMechanism::External);
        }
        Ok(uri)
    }
}

pub(super) async fn addresses(uri: &AMQPUri) -> io::Result<Vec<std::net::SocketAddr>> {
    Ok(
        tokio::net::lookup_host((uri.authority.host.as_str(), uri.authority.port))
            .await?
            .collect(),
    )
}

/// The socket of a connection that is not open yet. It is shut when the attempt is dropped.
#[derive(Clone, Default)]
struct Socket(Arc<Mutex<Option<std::net::TcpStream>>>);

impl Socket {
    fn take(&self) -> Option<std::net::TcpStream> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn hold(&self, stream: &tokio::net::TcpStream) -> io::Result<()> {
        let copy = stream.as_fd().try_clone_to_owned()?;
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(copy.into());
        Ok(())
    }

    /// The connection is open: lapin closes the socket from now on.
    fn keep(&self) {
        drop(self.take());
    }
}

/// Shuts the socket when the attempt is dropped.
struct Attempt(Socket);

impl Drop for Attempt {
    fn drop(&mut self) {
        if let Some(socket) = self.0.take() {
            // It may be gone already.
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pool_core::pool::Secret;
    use tokio::io::AsyncReadExt as _;

    fn endpoint(url: &str) -> Endpoint {
        let second = Duration::from_secs(1);
        let config = pool_core::pool::Broker {
            url: Secret::new(url),
            ca_file: None,
            client_certificate: None,
            heartbeat: second,
            timeout: second,
            publish_channels: 1,
        };
        Endpoint::new(config, "a test")
    }

    #[test]
    fn an_address_has_no_password() {
        let with = endpoint("amqps://user:se@cret@broker.lan:5671/%2f?heartbeat=5");
        assert_eq!(
            with.address(),
            "broker.lan:5671/%2f",
            "host, port and virtual host"
        );
        assert_eq!(
            endpoint("amqp://broker.lan").address(),
            "broker.lan",
            "no user"
        );
    }

    #[tokio::test]
    async fn whoever_gives_up_on_a_silent_peer_leaves_no_connection_behind() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let silent = tokio::spawn(async move {
            let (mut peer, _) = listener.accept().await.expect("somebody connects");
            let mut heard = Vec::new();
            // Ends when the other side has closed.
            peer.read_to_end(&mut heard).await.map(|_| heard)
        });
        let error = endpoint(&format!("amqp://127.0.0.1:{port}/%2f"))
            .connect("test", false)
            .await
            .expect_err("nobody answers");
        assert!(
            error.to_string().contains("no answer within 1 s"),
            "{error}"
        );
        let heard = tokio::time::timeout(Duration::from_secs(5), silent)
            .await
            .expect("the socket is closed");
        let heard = heard.expect("no panic").expect("an orderly end");
        assert_eq!(heard, b"AMQP\0\0\x09\x01", "it had said hello");
    }
}
