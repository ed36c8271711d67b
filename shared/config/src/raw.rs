//! The pool file as people write it. Each section has its own file, which also holds its defaults and its checks.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::agent::RawAgent;
use super::broker::RawBroker;
use super::cost::RawCost;
use super::defaults::RawDefaults;
use super::dispatcher::RawDispatcher;
use super::events::RawEvents;
use super::failover::RawFailover;
use super::llms::RawLlm;
use super::load_balancing::RawLoadBalancing;
use super::prices::RawPrice;
use super::programmers::RawProgrammer;
use super::providers::RawProvider;
use super::sandbox::{RawAcceptance, RawSandbox};
use super::workspace::RawWorkspace;
use pool_core::id::{Capability, LlmName, ProgrammerId};

/// The pool file of Programmer Pool: who is in the pool, with which LLMs and limits, and how the pool behaves.
#[derive(Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(title = "Programmer Pool: pool file")]
pub(super) struct RawPool {
    /// How many programmers the list has; a guard against one that got lost while editing.
    pub(super) pool_size: Option<usize>,
    /// What one task may use, for programmers that set nothing else.
    pub(super) defaults: RawDefaults,
    /// The programmers. Each does one task at a time.
    #[schemars(required, length(min = 1))]
    pub(super) programmers: Vec<RawProgrammer>,
    /// Which of several able programmers gets a task.
    pub(super) load_balancing: RawLoadBalancing,
    /// What happens when an LLM fails.
    pub(super) failover: RawFailover,
    /// Capabilities that programmers offer beside their own: capability → ids.
    pub(super) capability_routing: BTreeMap<Capability, Vec<ProgrammerId>>,
    /// The budget of the whole pool, in US dollars a day.
    pub(super) cost_optimization: RawCost,
    /// Where LLMs are served, by the part of their name before the slash. `ollama`, `openai`, `anthropic` and
    /// `deepseek` are known; set only what differs.
    #[schemars(extend("propertyNames" = {"pattern": "^[a-z0-9][a-z0-9_-]{0,31}$"}))]
    pub(super) providers: BTreeMap<String, RawProvider>,
    /// Facts about single LLMs, by their names. All of it is optional.
    pub(super) llms: BTreeMap<LlmName, RawLlm>,
    /// What LLMs cost, in US dollars per million tokens. Every LLM whose provider is not free needs one.
    pub(super) prices: BTreeMap<LlmName, RawPrice>,
    /// The program that edits code.
    pub(super) agent: RawAgent,
    /// Where agents work, and on which repositories.
    pub(super) workspace: RawWorkspace,
    /// What agents and acceptance checks may do on the machine.
    pub(super) sandbox: RawSandbox,
    /// Acceptance checks.
    pub(super) acceptance: RawAcceptance,
    /// RabbitMQ.
    pub(super) broker: RawBroker,
    /// The event log.
    pub(super) events: RawEvents,
    /// The dispatcher.
    pub(super) dispatcher: RawDispatcher,
}
