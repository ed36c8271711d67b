//! Section `dispatcher`: the manager, and what it decides about tasks.

use std::net::SocketAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::DispatcherConfig;
use super::checks::Checks;
use super::position::At;

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(inline)]
pub(super) struct RawDispatcher {
    /// Address and port of the HTTP API.
    listen: String,
    /// How often a task is started before it is given up.
    #[schemars(range(min = 1, max = 100))]
    max_attempts: u32,
    /// How often a task may be handed back because no LLM was left for it.
    #[schemars(range(max = 1000))]
    max_hand_backs: u32,
    /// Seconds that a worker gives its running task after SIGTERM.
    #[schemars(range(min = 1, max = 86400))]
    drain_timeout_s: u64,
}

const LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 6141);

impl Default for RawDispatcher {
    fn default() -> Self {
        Self { listen: LISTEN.to_string(), max_attempts: 3, max_hand_backs: 10, drain_timeout_s: 60 }
    }
}

impl RawDispatcher {
    pub(super) fn check(self, checks: &mut Checks) -> DispatcherConfig {
        let at = At::top("dispatcher");
        checks.within(&at.key("max_attempts"), u64::from(self.max_attempts), 1..=100, "attempts");
        checks.within(&at.key("max_hand_backs"), u64::from(self.max_hand_backs), 0..=1000, "hand-backs");
        let listen = self.listen.parse().unwrap_or_else(|_| {
            let problem = format!("{:?} is no address and port: write for example {LISTEN}", self.listen);
            checks.mistake(&at.key("listen"), problem);
            LISTEN
        });
        DispatcherConfig {
            listen,
            max_attempts: self.max_attempts,
            max_hand_backs: self.max_hand_backs,
            drain_timeout: checks.seconds(&at.key("drain_timeout_s"), self.drain_timeout_s),
        }
    }
}
