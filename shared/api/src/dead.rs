//! Dead letters: the messages that could not be handled.

use std::collections::BTreeMap;

use pool_core::time::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::tasks::Retried;

/// `GET /dead`: oldest first, at most a thousand.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct DeadList {
    /// How many dead letters there are, including those not listed.
    pub total: usize,
    pub letters: Vec<DeadLetter>,
}

/// One line of `GET /dead`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Letter")]
pub struct DeadLetter {
    pub id: String,
    /// `kind: message`.
    pub reason: String,
    /// The task's id, if it can be read.
    pub task_id: Option<String>,
    /// The queue that it came from.
    pub from: String,
    /// When it was put into `pool.dead`.
    pub at: Option<Timestamp>,
    pub bytes: usize,
}

/// `GET /dead/{id}`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct DeadMessage {
    pub letter: DeadLetter,
    pub routing_key: String,
    /// Properties and headers whose values are text.
    pub properties: BTreeMap<String, String>,
    /// The body as text. Bytes that are not valid UTF-8 are replaced.
    pub body: String,
    pub is_utf8: bool,
}

/// `DELETE /dead` and `DELETE /dead/{id}`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Dropped {
    pub dropped: usize,
    /// How many are left among those that were looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left: Option<usize>,
}

/// `POST /dead/retry`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
pub struct AllRetried {
    pub retried: Vec<Retried>,
    /// Dead letters that could not be retried.
    pub kept: Vec<Kept>,
    /// How many dead letters remain, including those not looked at.
    pub total: usize,
    /// The task queues are full: send the request again after this many seconds to retry the rest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_s: Option<u32>,
}

/// A dead letter that was not retried, and why.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Kept {
    pub id: String,
    pub task_id: Option<String>,
    /// A sentence for people.
    pub detail: String,
}

/// The body of `retry`: empty or an empty object.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Nothing {}
