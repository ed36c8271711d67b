//! Events about programmers and the whole pool.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::id::{Capability, ProgrammerId};
use crate::pause::{Pause, Target};
use crate::rules::Rules;

/// An event about programmers or the whole pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum PoolEvent {
    /// Carries the time forward when nothing else happens.
    Tick,
    /// This configuration is in force from here on.
    Configured(Configuration),
    /// The target takes no more tasks until it is resumed.
    Paused(TargetPaused),
    /// The pause of this target ends.
    Resumed(TargetResumed),
    /// A ready process on this host holds this programmer.
    Up(ProgrammerUp),
    /// An event that this version of the pool does not know.
    Unknown,
}

/// The values of `configured`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Configuration {
    /// The hash of the pool file's values that must agree between processes.
    pub hash: String,
    /// The offer of each programmer; the routes follow from it.
    pub capabilities: BTreeMap<ProgrammerId, BTreeSet<Capability>>,
    /// The values by which the fold decides.
    #[serde(default)]
    pub rules: Rules,
    /// A repetition, before the first one falls out of the log's retention. It does not replace another configuration.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub again: bool,
}

/// The values of `paused`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetPaused {
    /// A programmer, a route or the pool.
    pub target: Target,
    /// The effect on running tasks.
    pub pause: Pause,
    /// Set in a repetition, before the first event falls out of retention: when the pause began. The repetition does not
    /// bring back a pause that ended after that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since_ms: Option<u64>,
}

/// The values of `resumed`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetResumed {
    /// As in `paused`.
    pub target: Target,
}

/// The values of `up`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgrammerUp {
    /// The programmer.
    pub programmer: ProgrammerId,
    /// The name of the host; empty in events of older versions.
    #[serde(default)]
    pub host: String,
    /// A repetition, before the first event falls out of retention.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub again: bool,
}
