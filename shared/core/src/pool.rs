//! The validated pool file: the programmers, their LLMs and limits, and the behaviour of the pool. It is complete, with all
//! defaults filled in. The crate `pool-config` reads it.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::id::{Capability, LlmName, ProgrammerId};
use crate::llm::{LlmKey, is_loopback};
use crate::money::MicroUsd;
use crate::patterns::PathPattern;
pub use crate::price::Price;
pub use crate::secret::Secret;
use crate::source::Repository;

/// A validated pool file.
#[derive(Debug, Clone)]
pub struct Pool {
    /// The absolute path of the file, for messages.
    pub file: PathBuf,
    /// Sorted by id; at least one, with unique ids.
    pub programmers: Vec<Programmer>,
    /// Which of several able programmers gets a task.
    pub load_balancing: LoadBalancing,
    /// The handling of failing LLMs.
    pub failover: Failover,
    /// The budget of a day.
    pub cost: CostOptimization,
    /// By the part of an LLM's name before the slash. It has an entry for every LLM of every programmer.
    pub providers: BTreeMap<String, Provider>,
    /// Facts about single LLMs.
    pub llms: BTreeMap<LlmName, LlmSettings>,
    /// It has an entry for every LLM that is not free.
    pub prices: BTreeMap<LlmName, Price>,
    /// Those of `prices` that are not in the pool file but in the catalogue that it names.
    pub catalogue_prices: BTreeSet<LlmName>,
    /// The program that edits code.
    pub agent: Agent,
    /// Where agents work.
    pub workspace: Workspace,
    /// The limits of agents and acceptance checks on the machine.
    pub sandbox: Sandbox,
    /// Limits of a change.
    pub patch: Patch,
    /// Acceptance checks.
    pub acceptance: Acceptance,
    /// The connection to RabbitMQ.
    pub broker: Broker,
    /// The event log.
    pub events: Events,
    /// The dispatcher.
    pub dispatcher: DispatcherConfig,
}

/// One programmer.
#[derive(Debug, Clone)]
pub struct Programmer {
    /// `001`; unique in the pool.
    pub id: ProgrammerId,
    /// The port of its `GET /health`; 0: any free one.
    pub port: u16,
    /// The primary LLM first, then the backups; at least one.
    pub llms: Vec<LlmName>,
    /// Those in its own entry and those from `capability_routing`; at most 8.
    pub capabilities: BTreeSet<Capability>,
    /// The limits of a task that it works on.
    pub limits: JobLimits,
}

impl Programmer {
    /// Its first LLM.
    pub fn primary(&self) -> &LlmName {
        &self.llms[0]
    }
}

/// The limits of one task. The task's own `limits` can lower these values, not raise them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobLimits {
    /// The time-out of one attempt (`timeout_s`).
    pub timeout: Duration,
    /// The time-out of one run of the agent (`max_duration_per_job_s`).
    pub agent_timeout: Duration,
    /// Input and output tokens of a task (`max_tokens_per_job`).
    pub max_tokens: u64,
    /// The cost of a task (`max_cost_per_job_usd`).
    pub max_cost: MicroUsd,
    /// Tokens that fit into the context of the LLMs.
    pub context_limit: u64,
    /// False: the result is a patch, and no commit is made.
    pub auto_commit: bool,
    /// Runs of the agent for one task; 0 means 1.
    pub max_fix_iterations: u32,
}

/// Which of several able programmers gets a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    /// All consumers have the same priority, so the broker gives a task to any free programmer. Also written `round_robin`.
    LeastLoaded,
    /// The programmer with the fewest surplus capabilities first.
    CapabilityMatch,
}

/// Section `load_balancing`.
#[derive(Debug, Clone)]
pub struct LoadBalancing {
    /// Which of several able programmers gets a task.
    pub strategy: Strategy,
    /// Programmers whose primary LLM is free come first.
    pub prefer_free_models: bool,
    /// Tasks that may wait in a queue for each of its programmers; None: any number.
    pub max_queue_per_programmer: Option<u32>,
    /// A programmer without a heartbeat for this long is `down`. Heartbeats are sent three times as often.
    pub health_check_interval: Duration,
    /// How long a task waits for a free programmer before paid ones may take it; zero: not at all.
    pub spill_to_paid_after: Duration,
}

/// A failure that moves a call to the backup LLMs.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum FailureCondition {
    /// The answer is not complete within `call_timeout_s`.
    Timeout,
    /// The provider cannot be reached, fails, or refuses the key.
    ApiError,
    /// The provider refuses the call because of a rate limit (429).
    RateLimit,
    /// The provider does not serve this model.
    ModelUnavailable,
}

/// Section `failover`.
#[derive(Debug, Clone)]
pub struct Failover {
    /// Whether a failing call moves to the backup LLMs.
    pub enabled: bool,
    /// How often a failing call is repeated on the same LLM.
    pub max_retries: u32,
    /// The pause before a repetition.
    pub retry_delay: Duration,
    /// Failures that `failure_conditions` does not list move a call too.
    pub always_failover: bool,
    /// The failures that move a call to the backup LLMs.
    pub failure_conditions: BTreeSet<FailureCondition>,
    /// The time-out of one LLM call, from the request to the last byte of the answer.
    pub call_timeout: Duration,
    /// When breakers open and close.
    pub breaker: BreakerConfig,
}

/// Section `failover.circuit_breaker`.
#[derive(Debug, Clone)]
pub struct BreakerConfig {
    /// Whether there are breakers.
    pub enabled: bool,
    /// A breaker opens after this many failures within the window …
    pub failure_threshold: u32,
    /// … if at least this many of 1,000 calls failed: `failure_ratio` in thousandths.
    pub failed_of_1000: u16,
    /// How long a failure counts.
    pub window: Duration,
    /// How long a breaker stays open before it is probed.
    pub cooldown: Duration,
    /// Whether programmers share their breakers.
    pub scope: BreakerScope,
}

/// Whether programmers share their breakers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum BreakerScope {
    /// Failures of one programmer count for all.
    Pool,
    /// Each programmer has its own breakers.
    Programmer,
}

/// Section `cost_optimization`.
#[derive(Debug, Clone)]
pub struct CostOptimization {
    /// Whether spending is limited.
    pub enabled: bool,
    /// Programmers whose primary LLM is free come first.
    pub prefer_free_over_paid: bool,
    /// The budget of a day.
    pub max_daily_spend: MicroUsd,
    /// The pool warns when a day's spending has reached this amount.
    pub alert_threshold: MicroUsd,
    /// The zone in which the day begins and ends, in the form that [`crate::rules::zone`] reads.
    pub time_zone: String,
}

/// The HTTP API of a provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum Protocol {
    /// Chat completions and Responses, below `base_url` (which usually ends in `/v1`).
    OpenAi,
    /// Messages, below `base_url` with or without `/v1`; only for agents that speak it themselves.
    Anthropic,
}

/// A server of LLMs.
#[derive(Debug, Clone)]
pub struct Provider {
    /// Without a trailing slash, for example `http://127.0.0.1:11434/v1`.
    pub base_url: String,
    /// The environment variable of the worker that contains the key; None: no key is sent.
    pub api_key_env: Option<String>,
    /// The API that it serves.
    pub protocol: Protocol,
    /// Whether its calls cost nothing.
    pub free: bool,
    /// The most simultaneous calls of one worker process; more wait in the gateway. None: no limit.
    pub max_concurrent: Option<u32>,
    /// The field of the output limit in chat completions; None: the worker finds out.
    pub output_limit_field: Option<OutputLimitField>,
}

impl Provider {
    /// The URL below which requests go: `base_url`, with `/v1` added for protocol anthropic if it is missing, because
    /// Anthropic's own clients are configured without it.
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
        is_loopback(&self.base_url)
    }
}

crate::words!(
    /// The field of a chat-completions request that limits the output.
    #[schemars(inline)]
    pub enum OutputLimitField {
        /// The name that most providers know.
        MaxTokens = "max_tokens",
        /// OpenAI's newer name. Its reasoning models refuse the other one.
        MaxCompletionTokens = "max_completion_tokens",
    }
);

/// Facts about one LLM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LlmSettings {
    /// The highest output limit that the provider accepts for it, in tokens; None: the worker finds out.
    pub max_output: Option<u64>,
}

/// How the last event of an agent is recognised in its output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LastEvent {
    /// A line that contains this text.
    Text(String),
    /// A line that is a JSON object with at least these fields.
    Fields(serde_json::Map<String, serde_json::Value>),
}

impl LastEvent {
    /// Reads `done_when`: a text that is a JSON object stands for its fields.
    pub fn new(text: impl Into<String>) -> Self {
        let text = text.into();
        serde_json::from_str(&text).map_or(Self::Text(text), Self::Fields)
    }

    /// Whether it is empty, so that it would match every line.
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Text(text) => text.trim().is_empty(),
            Self::Fields(fields) => fields.is_empty(),
        }
    }
}

/// Section `agent`.
#[derive(Debug, Clone)]
pub struct Agent {
    /// The program.
    pub kind: AgentKind,
    /// An agent that prints nothing, has no open LLM call and computes nothing for this long is stopped.
    pub no_output_timeout: Duration,
    /// The last event that the agent prints.
    pub done_when: Option<LastEvent>,
    /// Environment variables of the worker that the agent may see.
    pub env_allow: Vec<String>,
    /// Whether a fork server may start its runs.
    pub warm: bool,
    /// For a command: the modules that its fork server imports. Empty: it has none.
    pub warm_modules: Vec<String>,
}

/// The program that edits code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AgentKind {
    /// aider.
    Aider {
        /// The executable; a bare name is looked up in `PATH`.
        program: PathBuf,
        /// `diff`, `whole`, …
        edit_format: String,
    },
    /// Any command line. `{prompt} {prompt_file} {files} {worktree} {base_url} {token} {model}` are filled in.
    Command {
        /// The program and its arguments.
        argv: Vec<String>,
        /// Further variables for its environment.
        env: Vec<(String, String)>,
    },
    /// Does nothing, for measuring the pool.
    Noop,
}

/// Section `workspace`.
#[derive(Debug, Clone)]
pub struct Workspace {
    /// The directory for worktrees, mirrors and scratch files. Absolute.
    pub dir: PathBuf,
    /// A local repository must be below one of these directories. Absolute.
    pub roots: Vec<PathBuf>,
    /// The author of commits.
    pub author_name: String,
    /// The author's address.
    pub author_email: String,
    /// The time-out of each git command on a remote.
    pub fetch_timeout: Duration,
    /// The most bytes of trees that a worker keeps for later attempts; 0: it keeps none.
    pub keep_trees_bytes: u64,
}

crate::words!(
    /// How far agents and checks are locked in.
    #[schemars(inline)]
    pub enum SandboxLevel {
        /// The strongest level that works on the worker's machine: `strict` or else `files`.
        Auto = "auto",
        /// Namespaces: the agent sees its worktree and what it needs to run, and reaches only its gateway.
        Strict = "strict",
        /// Landlock: files as with `strict`, but without a network, processes and a `/tmp` of its own.
        Files = "files",
        /// No kernel sandbox: limits, time-outs and a cleared environment only.
        Off = "off",
    }
);

crate::words!(
    /// The network of agents and checks.
    #[schemars(inline)]
    pub enum SandboxNetwork {
        /// The gateway of the agent's LLMs, and nothing else.
        Gateway = "gateway",
        /// The network of the worker's machine.
        Host = "host",
    }
);

/// Section `sandbox`.
#[derive(Debug, Clone)]
pub struct Sandbox {
    /// How far agents and checks are locked in. A running worker replaces `auto` by what it uses.
    pub level: SandboxLevel,
    /// The network of agents and checks, unless the level is `off`.
    pub network: SandboxNetwork,
    /// Paths that agents and checks may read besides the usual ones.
    pub read: Vec<PathBuf>,
    /// Paths that they may write besides their own directories.
    pub write: Vec<PathBuf>,
    /// Variables of agents and checks.
    pub env: Vec<(String, String)>,
    /// Address space of one process, in bytes; 0: unlimited.
    pub max_memory_bytes: u64,
    /// Size of one written file, in bytes.
    pub max_file_bytes: u64,
    /// Processes and threads of the worker's user or, with `strict`, of a run; 0: unlimited.
    pub max_processes: u64,
    /// Memory of all processes of a run, in bytes; 0: unlimited.
    pub max_total_memory_bytes: u64,
    /// Bytes that a run may add to the disk; 0: unlimited.
    pub max_disk_bytes: u64,
    /// The part of an agent's or a check's output that is kept, in bytes.
    pub max_output_bytes: usize,
}

/// Section `patch`.
#[derive(Debug, Clone)]
pub struct Patch {
    /// Paths that no change may contain.
    pub deny: Vec<PathPattern>,
    /// Paths that no agent may change.
    pub protect: Vec<PathPattern>,
    /// More protected paths, by the repository as tasks name it.
    pub protect_in: BTreeMap<Repository, Vec<PathPattern>>,
    /// The size of all changed files together, in bytes.
    pub max_bytes: u64,
}

/// Section `acceptance`.
#[derive(Debug, Clone)]
pub struct Acceptance {
    /// The time-out of checks without a `timeout_s`.
    pub timeout: Duration,
}

/// Section `broker`.
#[derive(Debug, Clone)]
pub struct Broker {
    /// `amqp://` or `amqps://`, from `AMQP_URL` in the environment or else from the file.
    pub url: Secret,
    /// The CA that signed the broker's certificate; None: the CAs that the machine trusts.
    pub ca_file: Option<PathBuf>,
    /// The certificate of this process, if the broker wants one.
    pub client_certificate: Option<ClientCertificate>,
    /// The AMQP heartbeat: a connection that is silent for longer is given up.
    pub heartbeat: Duration,
    /// The time-out of every single await on the broker.
    pub timeout: Duration,
    /// The number of channels for publishing.
    pub publish_channels: usize,
}

/// The certificate of a process. The files are in PEM format and are read for every connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    /// The certificate, followed by intermediate ones.
    pub cert_file: PathBuf,
    /// Its private key, without a passphrase.
    pub key_file: PathBuf,
}

/// Section `events`.
#[derive(Debug, Clone)]
pub struct Events {
    /// The retention of both streams, in the form of RabbitMQ: `7D`.
    pub max_age: String,
    /// `max_age` as a duration.
    pub age: Duration,
    /// The size of one segment of the streams. Retention drops whole segments.
    pub segment_bytes: u64,
    /// The silence after which some process appends a `tick`.
    pub tick: Duration,
    /// The silence after which a reader does not trust its state any more.
    pub stale: Duration,
}

/// Section `dispatcher`.
#[derive(Debug, Clone)]
pub struct DispatcherConfig {
    /// The address and port of the HTTP API.
    pub listen: std::net::SocketAddr,
    /// How often a task is started before it fails as `poison`.
    pub max_attempts: u32,
    /// The pause before the second attempt; it doubles before each further one.
    pub retry_delay: Duration,
    /// How often a task may be handed back because no LLM was available, and how often because the
    /// sandbox could not be set up.
    pub max_hand_backs: u32,
    /// How long a task may be in no queue and without an owner before it is published again.
    pub repair_after: Duration,
    /// How long a result waits for a reply queue that refuses it before it goes to `pool.dead`.
    pub reply_patience: Duration,
    /// How long a worker lets its running tasks continue after SIGTERM.
    pub drain_timeout: Duration,
}

impl Events {
    /// How often open tasks are repeated as snapshots: four times within the retention, so that none falls out of it.
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

    /// The key of this LLM's breakers for programmers on `host`.
    pub fn llm_key(&self, llm: &LlmName, host: &str) -> LlmKey {
        let base_url = self
            .providers
            .get(llm.provider())
            .map_or("", |provider| provider.base_url.as_str());
        LlmKey::new(base_url, llm, host)
    }

    /// The programmer with this id.
    pub fn programmer(&self, id: &ProgrammerId) -> Option<&Programmer> {
        self.programmers
            .iter()
            .find(|programmer| programmer.id == *id)
    }

    /// The capabilities that each programmer offers: the input of [`crate::routing::Routes::new`].
    pub fn capabilities(&self) -> BTreeMap<ProgrammerId, BTreeSet<Capability>> {
        self.programmers
            .iter()
            .map(|p| (p.id.clone(), p.capabilities.clone()))
            .collect()
    }
}
