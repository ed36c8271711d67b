//! Section `dispatcher`: its HTTP API, and its rules for attempts and results.

use std::net::SocketAddr;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::DispatcherConfig;
use super::checks::Checks;
use super::position::At;

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(inline)]
pub(super) struct RawDispatcher {
    /// The address and port of the HTTP API.
    listen: String,
    /// How often a task is started before it fails for good.
    #[schemars(range(min = 1, max = 100))]
    max_attempts: u32,
    /// Seconds between a failed attempt and the next one; doubled after each further attempt.
    #[schemars(range(max = 300))]
    retry_delay_s: u64,
    /// How often a task may be handed back because none of the programmer's LLMs was available, and how often because the sandbox could not be set up.
    #[schemars(range(max = 1000))]
    max_hand_backs: u32,
    /// Seconds after which a lost task, which is in no queue and with no programmer, is published again.
    #[schemars(range(min = 1, max = 86400))]
    repair_after_s: u64,
    /// Seconds that a result waits for a reply queue that refuses it; then it goes to pool.dead.
    #[schemars(range(min = 1, max = 86400))]
    reply_patience_s: u64,
    /// Seconds for which a worker lets running tasks continue after SIGTERM.
    #[schemars(range(min = 1, max = 86400))]
    drain_timeout_s: u64,
}

const LISTEN: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 6141);

impl Default for RawDispatcher {
    fn default() -> Self {
        Self {
            listen: LISTEN.to_string(),
            max_attempts: 3,
            retry_delay_s: 10,
            max_hand_backs: 10,
            repair_after_s: 60,
            reply_patience_s: 60,
            drain_timeout_s: 60,
        }
    }
}

impl RawDispatcher {
    pub(super) fn check(self, checks: &mut Checks) -> DispatcherConfig {
        let mut section = checks.section(At::top("dispatcher"));
        section.within("max_attempts", self.max_attempts, 1..=100, "attempts");
        section.within(
            "max_hand_backs",
            self.max_hand_backs,
            0..=1000,
            "hand-backs",
        );
        section.within("retry_delay_s", self.retry_delay_s, 0..=300, "seconds");
        let listen = self.listen.parse().unwrap_or_else(|_| {
            let problem = format!(
                "{:?} is not an address with a port: write for example {LISTEN}",
                self.listen
            );
            section.mistake("listen", problem);
            LISTEN
        });
        DispatcherConfig {
            listen,
            max_attempts: self.max_attempts,
            retry_delay: Duration::from_secs(self.retry_delay_s),
            max_hand_backs: self.max_hand_backs,
            repair_after: section.seconds("repair_after_s", self.repair_after_s),
            reply_patience: section.seconds("reply_patience_s", self.reply_patience_s),
            drain_timeout: section.seconds("drain_timeout_s", self.drain_timeout_s),
        }
    }
}
