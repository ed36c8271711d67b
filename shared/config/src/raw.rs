//! The pool file as people write it. Each section has its own source file, with its defaults and its checks.

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
use super::patch::RawPatch;
use super::prices::RawPrice;
use super::programmers::RawProgrammer;
use super::providers::RawProvider;
use super::sandbox::{RawAcceptance, RawSandbox};
use super::workspace::RawWorkspace;
use pool_core::id::{Capability, LlmName, ProgrammerId};

/// The pool file of Programmer Pool: the programmers, their LLMs and limits, and the behaviour of the pool.
#[derive(Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(title = "Programmer Pool: pool file")]
pub(super) struct RawPool {
    /// The number of programmers in the list: a guard against losing one while editing.
    pub(super) pool_size: Option<usize>,
    /// Limits for one task. A programmer can override each value.
    pub(super) defaults: RawDefaults,
    /// The programmers. Each does one task at a time.
    #[schemars(required, length(min = 1))]
    pub(super) programmers: Vec<RawProgrammer>,
    /// How a task is given to one of several able programmers.
    pub(super) load_balancing: RawLoadBalancing,
    /// The handling of failing LLMs.
    pub(super) failover: RawFailover,
    /// Further capabilities of programmers: a list of programmer ids for each capability.
    pub(super) capability_routing: BTreeMap<Capability, Vec<ProgrammerId>>,
    /// The budget of the whole pool, in US dollars per day.
    pub(super) cost_optimization: RawCost,
    /// The servers of LLMs, by the part of an LLM's name before the slash. `ollama`, `openai`, `anthropic` and
    /// `deepseek` are built in; write only the keys that differ.
    #[schemars(extend("propertyNames" = {"pattern": "^[a-z0-9][a-z0-9_-]{0,31}$"}))]
    pub(super) providers: BTreeMap<String, RawProvider>,
    /// Facts about single LLMs, by their names. This section is optional.
    pub(super) llms: BTreeMap<LlmName, RawLlm>,
    /// The prices of LLMs, in US dollars per million tokens. Every LLM whose provider is not free needs one.
    pub(super) prices: BTreeMap<LlmName, RawPrice>,
    /// Prices for LLMs that `prices` does not have: `built_in` for those that came with the program, or a file that
    /// `scripts/prices` has made. Default: none.
    pub(super) price_catalogue: Option<String>,
    /// The program that edits code.
    pub(super) agent: RawAgent,
    /// Where agents work, and which repositories they may work on.
    pub(super) workspace: RawWorkspace,
    /// The limits of agents and acceptance checks on the machine.
    pub(super) sandbox: RawSandbox,
    /// Limits of a change. Tasks can add to `protect`, and cannot loosen anything.
    pub(super) patch: RawPatch,
    /// Acceptance checks.
    pub(super) acceptance: RawAcceptance,
    /// The connection to RabbitMQ.
    pub(super) broker: RawBroker,
    /// The event log.
    pub(super) events: RawEvents,
    /// The dispatcher.
    pub(super) dispatcher: RawDispatcher,
}
