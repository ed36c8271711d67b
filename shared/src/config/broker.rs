//! Section `broker`: RabbitMQ.

use lapin::uri::AMQPUri;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::checks::Checks;
use super::position::At;
use super::{Broker, Secret};

const MOST_CHANNELS: u64 = 256;
/// The heartbeat of AMQP is a 16-bit number of seconds; more than this notices a dead peer too late.
const MOST_HEARTBEAT_S: u64 = 600;

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(inline)]
pub(super) struct RawBroker {
    /// amqp:// or amqps://. The environment variable AMQP_URL wins over it: keep passwords there.
    url: String,
    /// Seconds after which a silent connection is given up.
    #[schemars(range(min = 1, max = 600))]
    heartbeat_s: u64,
    /// Seconds for every single answer of the broker.
    #[schemars(range(min = 1, max = 86400))]
    timeout_s: u64,
    /// Channels that publish at once, in each process.
    #[schemars(range(min = 1, max = 256))]
    publish_channels: u64,
}

impl Default for RawBroker {
    fn default() -> Self {
        Self {
            url: "amqp://guest:guest@127.0.0.1:5672/%2f".to_owned(),
            heartbeat_s: 10,
            timeout_s: 10,
            publish_channels: 32,
        }
    }
}

impl RawBroker {
    pub(super) fn check(self, checks: &mut Checks) -> Broker {
        let at = At::top("broker");
        if let Err(problem) = check_url(&self.url) {
            checks.mistake(&at.key("url"), problem);
        }
        checks.within(&at.key("heartbeat_s"), self.heartbeat_s, 1..=MOST_HEARTBEAT_S, "seconds");
        checks.within(&at.key("publish_channels"), self.publish_channels, 1..=MOST_CHANNELS, "channels");
        Broker {
            url: Secret::new(self.url),
            heartbeat: std::time::Duration::from_secs(self.heartbeat_s),
            timeout: checks.seconds(&at.key("timeout_s"), self.timeout_s),
            publish_channels: usize::try_from(self.publish_channels).unwrap_or(usize::MAX),
        }
    }
}

/// Says what is wrong without repeating the URL, which may hold a password.
pub(super) fn check_url(url: &str) -> Result<(), &'static str> {
    match url.parse::<AMQPUri>() {
        Ok(_) => Ok(()),
        Err(_) => Err("is no URL of a broker: write amqp://user:password@host:5672/%2f, or amqps://…"),
    }
}
