//! Section `broker`: the connection to RabbitMQ.

use std::path::{Path, PathBuf};

use amq_protocol_uri::{AMQPScheme, AMQPUri};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::checks::{Checks, SectionChecks};
use super::paths::resolve;
use super::position::At;
use super::{Broker, ClientCertificate, Secret};

const MOST_CHANNELS: u64 = 256;
/// The longest AMQP heartbeat. AMQP allows 65,535 s, but more than this notices a dead peer too late.
const MOST_HEARTBEAT_S: u64 = 600;

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(inline)]
pub(super) struct RawBroker {
    /// amqp:// or amqps://. The environment variable AMQP_URL overrides it; keep passwords there.
    url: String,
    /// For amqps://: the certificate (PEM) of the CA that signed the broker's certificate. Default: the CAs that the machine
    /// trusts. A relative path starts from this file's directory.
    ca_file: Option<String>,
    /// For amqps://, if the broker asks for it: the certificate of this process (PEM), followed by intermediate ones. When
    /// the URL names no user, the certificate is the login (EXTERNAL).
    client_cert_file: Option<String>,
    /// The private key of `client_cert_file` (PEM, without a passphrase).
    client_key_file: Option<String>,
    /// Seconds after which a silent connection is given up.
    #[schemars(range(min = 1, max = 600))]
    heartbeat_s: u64,
    /// Seconds that a process waits for every single answer of the broker.
    #[schemars(range(min = 1, max = 86400))]
    timeout_s: u64,
    /// Channels for publishing in each process; each has one message in flight.
    #[schemars(range(min = 1, max = 256))]
    publish_channels: u64,
}

impl Default for RawBroker {
    fn default() -> Self {
        Self {
            url: "amqp://guest:guest@127.0.0.1:5672/%2f".to_owned(),
            ca_file: None,
            client_cert_file: None,
            client_key_file: None,
            heartbeat_s: 10,
            timeout_s: 10,
            publish_channels: 32,
        }
    }
}

impl RawBroker {
    pub(super) fn check(self, base: &Path, checks: &mut Checks) -> Broker {
        let mut section = checks.section(At::top("broker"));
        if let Err(problem) = check_url(&self.url) {
            section.mistake("url", problem);
        }
        section.within(
            "heartbeat_s",
            self.heartbeat_s,
            1..=MOST_HEARTBEAT_S,
            "seconds",
        );
        section.within(
            "publish_channels",
            self.publish_channels,
            1..=MOST_CHANNELS,
            "channels",
        );
        let mut file = |key: &str, path: Option<&String>| {
            path.map(|path| check_file(&mut section, key, base, path))
        };
        let ca_file = file("ca_file", self.ca_file.as_ref());
        let cert_file = file("client_cert_file", self.client_cert_file.as_ref());
        let key_file = file("client_key_file", self.client_key_file.as_ref());
        if cert_file.is_some() != key_file.is_some() {
            let (has, lacks) = match cert_file {
                Some(_) => ("client_cert_file", "client_key_file"),
                None => ("client_key_file", "client_cert_file"),
            };
            section.mistake(
                has,
                format!("needs `{lacks}` beside it: a certificate and its key belong together"),
            );
        }
        let pair = cert_file.zip(key_file);
        Broker {
            url: Secret::new(self.url),
            ca_file,
            client_certificate: pair.map(|(cert_file, key_file)| ClientCertificate {
                cert_file,
                key_file,
            }),
            heartbeat: std::time::Duration::from_secs(self.heartbeat_s),
            timeout: section.seconds("timeout_s", self.timeout_s),
            publish_channels: usize::try_from(self.publish_channels).unwrap_or(usize::MAX),
        }
    }
}

fn check_file(section: &mut SectionChecks<'_>, key: &str, base: &Path, path: &str) -> PathBuf {
    if path.is_empty() {
        section.mistake(
            key,
            "is empty: write the path of a file in PEM format, or remove the key",
        );
    }
    resolve(base, path)
}

/// Refuses certificates with a plain URL: they would not be used, and nothing would be encrypted.
pub(super) fn check_tls(broker: &Broker, checks: &mut Checks) {
    let plain = broker
        .url
        .expose()
        .parse::<AMQPUri>()
        .is_ok_and(|uri| uri.scheme == AMQPScheme::AMQP);
    let at = At::top("broker");
    let given = [
        ("ca_file", broker.ca_file.is_some()),
        ("client_cert_file", broker.client_certificate.is_some()),
    ];
    for (key, _) in given.into_iter().filter(|(_, given)| plain && *given) {
        checks.mistake(
            &at.key(key),
            "is for amqps:// only: begin the URL with it (also in AMQP_URL), or remove the key",
        );
    }
}

/// Checks the URL. The message does not repeat it, because it may contain a password.
pub(super) fn check_url(url: &str) -> Result<(), &'static str> {
    match url.parse::<AMQPUri>() {
        Ok(_) => Ok(()),
        Err(_) => {
            Err("is not a valid broker URL: write amqp://user:password@host:5672/%2f, or amqps://…")
        }
    }
}
