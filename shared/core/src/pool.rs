//! The validated pool file: the programmers, their LLMs and limits, and how the pool behaves. Complete: a value that has a
//! default is not optional. The crate `pool-config` reads it.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use url::{Host, Url};

use crate::id::{Capability, LlmName, ProgrammerId};
use crate::llm::LlmKey;
use crate::money::MicroUsd;
pub use crate::secret::Secret;

/// A validated pool file.
#[derive(Debug, Clone)]
pub struct Pool {
    /// Where it was read from, for messages.
    pub file: PathBuf,
    /// Sorted by id, at least one, ids unique.
    pub programmers: Vec<Programmer>,
    pub load_balancing: LoadBalancing,
    pub failover: Failover,
    pub cost: CostOptimization,
    /// By the part of an LLM name before the slash; has an entry for every LLM of every programmer.
    pub providers: BTreeMap<String, Provider>,
    pub llms: BTreeMap<LlmName, LlmSettings>,
    /// Has an entry for every LLM that is not free.
    pub prices: BTreeMap<LlmName, Price>,
    pub agent: Agent,
    pub workspace: Workspace,
    pub sandbox: Sandbox,
    pub acceptance: Acceptance,
    pub broker: Broker,
    pub events: Events,
    pub dispatcher: DispatcherConfig,
}

#[derive(Debug, Clone)]
pub struct Programmer {
    pub id: ProgrammerId,
    /// Port of `GET /health`; 0 = any free one.
    pub port: u16,
    /// Primary first, then the backups; at least one.
    pub llms: Vec<LlmName>,
    /// Its own and those that `capability_routing` adds; at most 8.
    pub capabilities: BTreeSet<Capability>,
    pub limits: JobLimits,
}

impl Programmer {
    pub fn primary(&self) -> &LlmName {
        &self.llms[0]
    }
}

/// What one task may use. A task's own `limits` can lower these, never raise them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobLimits {
    /// The whole task (`timeout_s`).
    pub timeout: Duration,
    /// One run of the agent (`max_duration_per_job_s`).
    pub agent_timeout: Duration,
    pub max_tokens: u64,
    pub max_cost: MicroUsd,
    pub context_limit: u64,
    /// False: the patch is the result, no commit is made.
    pub auto_commit: bool,
    pub max_fix_iterations: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strategy {
    /// Equal priorities: the broker hands a task to a programmer with a free slot. Also written `round_robin`.
    LeastLoaded,
    /// The programmer with the fewest surplus capabilities first.
    CapabilityMatch,
}

#[derive(Debug, Clone)]
pub struct LoadBalancing {
    pub strategy: Strategy,
    pub prefer_free_models: bool,
    /// None: any number of tasks may wait.
    pub max_queue_per_programmer: Option<u32>,
    /// Heartbeats go out at a third of it.
    pub health_check_interval: Duration,
    pub spill_to_paid_after: Duration,
}

#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum FailureCondition {
    /// No complete answer within `call_timeout_s`.
    Timeout,
    /// Unavailable and auth.
    ApiError,
    /// 429.
    RateLimit,
    /// The provider does not serve this model.
    ModelUnavailable,
}

#[derive(Debug, Clone)]
pub struct Failover {
    pub enabled: bool,
    pub max_retries: u32,
    pub retry_delay: Duration,
    pub always_failover: bool,
    pub failure_conditions: BTreeSet<FailureCondition>,
    /// One LLM call, from the request to the last byte of the answer.
    pub call_timeout: Duration,
    pub breaker: BreakerConfig,
}

#[derive(Debug, Clone)]
pub struct BreakerConfig {
    pub enabled: bool,
    pub failure_threshold: u32,
    /// The least share of failures among the last calls: `failure_ratio`, in thousandths.
    pub failed_of_1000: u16,
    pub window: Duration,
    pub cooldown: Duration,
    pub scope: BreakerScope,
}

/// Who learns from whose failures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum BreakerScope {
    Pool,
    Programmer,
}

#[derive(Debug, Clone)]
pub struct CostOptimization {
    pub enabled: bool,
    pub prefer_free_over_paid: bool,
    pub max_daily_spend: MicroUsd,
    pub alert_threshold: MicroUsd,
    /// Where the day begins: a name that [`crate::rules::zone`] knows.
    pub time_zone: String,
}

/// The HTTP protocol that a provider speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum Protocol {
    /// Chat completions and Responses, below `base_url` (which usually ends in `/v1`).
    OpenAi,
    /// Messages, below `base_url` with or without `/v1`; only for agents that speak it themselves.
    Anthropic,
}

#[derive(Debug, Clone)]
pub struct Provider {
    /// Without a trailing slash, for example `http://127.0.0.1:11434/v1`.
    pub base_url: String,
    /// The environment variable of the worker that holds the key; None: no key is sent.
    pub api_key_env: Option<String>,
    pub protocol: Protocol,
    pub free: bool,
    /// Calls over it wait in the gateway; None: no limit.
    pub max_concurrent: Option<u32>,
    /// None: the worker finds out.
    pub output_limit_field: Option<OutputLimitField>,
}

impl Provider {
    /// What requests go below: `base_url`, which for protocol anthropic may lack the `/v1` at its end, because Anthropic's
    /// own clients are told it without.
    pub fn versioned_url(&self) -> Cow<'_, str> {
        match self.protocol {
            Protocol::Anthropic if !self.base_url.ends_with("/v1") => {
                Cow::Owned(format!("{}/v1", self.base_url))
            }
            Protocol::Anthropic | Protocol::OpenAi => Cow::Borrowed(&self.base_url),
        }
    }

    /// Whether calls to it stay on this machine.
    pub fn is_loopback(&self) -> bool {
        Url::parse(&self.base_url)
            .ok()
            .is_some_and(|url| match url.host() {
                Some(Host::Domain(name)) => name == "localhost",
                Some(Host::Ipv4(address)) => address.is_loopback(),
                Some(Host::Ipv6(address)) => address.is_loopback(),
                None => false,
            })
    }
}

/// The field of a chat-completions request that limits the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum OutputLimitField {
    MaxTokens,
    /// OpenAI's newer name. Its reasoning models refuse the other one.
    MaxCompletionTokens,
}

impl OutputLimitField {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MaxTokens => "max_tokens",
            Self::MaxCompletionTokens => "max_completion_tokens",
        }
    }
}

/// Facts about one LLM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LlmSettings {
    /// The most output tokens that it takes as a limit; None: the worker finds out.
    pub max_output: Option<u64>,
}

/// Dollars per million tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Price {
    pub input: MicroUsd,
    pub cached_input: MicroUsd,
    pub output: MicroUsd,
}

/// By what the last event of an agent is known in its output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LastEvent {
    /// Anywhere in a line.
    Text(String),
    /// A line that is a JSON object with these fields, and maybe more.
    Fields(serde_json::Map<String, serde_json::Value>),
}

impl LastEvent {
    /// A text that is a JSON object means its fields.
    pub fn new(text: impl Into<String>) -> Self {
        let text = text.into();
        serde_json::from_str(&text).map_or(Self::Text(text), Self::Fields)
    }

    /// Nothing that an agent prints could match it.
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Text(text) => text.trim().is_empty(),
            Self::Fields(fields) => fields.is_empty(),
        }
    }
}

#[derive(Debug, Clone)]
pub struct Agent {
    pub kind: AgentKind,
    /// Ends an agent that has printed nothing, has no LLM call open and computes nothing for so long.
    pub no_output_timeout: Duration,
    /// The last event that it prints.
    pub done_when: Option<LastEvent>,
    /// Environment variables of the worker that the agent may see.
    pub env_allow: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AgentKind {
    /// `program`: the aider executable; `edit_format`: `diff`, `whole`, …
    Aider {
        program: PathBuf,
        edit_format: String,
    },
    /// Program and arguments, and more variables for its environment; `{prompt} {prompt_file} {files} {worktree}
    /// {base_url} {token} {model}` are filled in.
    Command {
        argv: Vec<String>,
        env: Vec<(String, String)>,
    },
    /// Does nothing at all, for measuring.
    Noop,
}

#[derive(Debug, Clone)]
pub struct Workspace {
    /// Below it a worker keeps worktrees, mirrors and scratch directories. Absolute.
    pub dir: PathBuf,
    /// Local repositories must lie below one of these. Absolute.
    pub roots: Vec<PathBuf>,
    pub author_name: String,
    pub author_email: String,
    /// For each git command on a remote.
    pub fetch_timeout: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum SandboxLevel {
    /// Its worktree, what it needs to run, and no network but its gateway.
    Strict,
    /// Files as with `strict`; the network stays open.
    Files,
    /// No kernel sandbox: limits, time-outs and a cleared environment only.
    Off,
}

#[derive(Debug, Clone)]
pub struct Sandbox {
    pub level: SandboxLevel,
    /// Address space of one process, bytes; 0 = unlimited.
    pub max_memory_bytes: u64,
    /// Size of one written file, bytes.
    pub max_file_bytes: u64,
    /// Processes and threads of the user; 0 = unlimited.
    pub max_processes: u64,
    /// What is kept of an agent's or a check's output, bytes.
    pub max_output_bytes: usize,
}

#[derive(Debug, Clone)]
pub struct Acceptance {
    /// For checks without a `timeout_s` of their own.
    pub timeout: Duration,
}

#[derive(Debug, Clone)]
pub struct Broker {
    /// `amqp://` or `amqps://`; `AMQP_URL` in the environment wins.
    pub url: Secret,
    /// Who signed the broker's certificate; None: whomever the machine trusts.
    pub ca_file: Option<PathBuf>,
    pub client_certificate: Option<ClientCertificate>,
    pub heartbeat: Duration,
    /// For every single await on the broker.
    pub timeout: Duration,
    /// Channels that publish at once.
    pub publish_channels: usize,
}

/// Who a process is for the broker. Files in PEM; read for every connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    pub cert_file: PathBuf,
    pub key_file: PathBuf,
}

#[derive(Debug, Clone)]
pub struct Events {
    /// Retention of both streams, as RabbitMQ writes it: `7D`.
    pub max_age: String,
    /// The same as a time.
    pub age: Duration,
    pub segment_bytes: u64,
    /// The pulse of the pool.
    pub tick: Duration,
    /// A log that is silent for so long is stale.
    pub stale: Duration,
}

#[derive(Debug, Clone)]
pub struct DispatcherConfig {
    /// Address and port of the HTTP API.
    pub listen: std::net::SocketAddr,
    /// How often a task is started before it is given up as `poison`.
    pub max_attempts: u32,
    /// Before the second attempt; twice as long before each further one.
    pub retry_delay: Duration,
    /// How often it may be handed back because no LLM was left for it.
    pub max_hand_backs: u32,
    /// After so long a task that is in no queue and with nobody is published again.
    pub repair_after: Duration,
    /// After so long a result whose reply queue does not take it goes to `pool.dead`.
    pub reply_patience: Duration,
    /// How long a worker waits for its running task after SIGTERM.
    pub drain_timeout: Duration,
}

impl Events {
    /// How often what must not fall off the end of the log is said again.
    pub fn restate_every(&self) -> Duration {
        self.age / 4
    }
}

impl Pool {
    /// Whether calls of this LLM cost nothing.
    pub fn is_free(&self, llm: &LlmName) -> bool {
        self.providers
            .get(llm.provider())
            .is_some_and(|provider| provider.free)
    }

    /// What the breaker of this LLM belongs to, as seen from `host`.
    pub fn llm_key(&self, llm: &LlmName, host: &str) -> LlmKey {
        let base_url = self
            .providers
            .get(llm.provider())
            .map_or("", |provider| provider.base_url.as_str());
        LlmKey::new(base_url, llm, host)
    }

    pub fn programmer(&self, id: &ProgrammerId) -> Option<&Programmer> {
        self.programmers
            .iter()
            .find(|programmer| programmer.id == *id)
    }

    /// Who offers what: the input of routing.
    pub fn capabilities(&self) -> BTreeMap<ProgrammerId, BTreeSet<Capability>> {
        self.programmers
            .iter()
            .map(|p| (p.id.clone(), p.capabilities.clone()))
            .collect()
    }
}
