//! Events about the money of the day.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::id::{AttemptId, LlmName, ProgrammerId, TaskId};
use crate::money::MicroUsd;

/// An event about the money of the day.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum BudgetEvent {
    /// Sets money aside in the day's budget, before the first paid call of an attempt or for a probe. The fold admits or
    /// refuses it at its place.
    Reserved(BudgetReserved),
    /// The true cost of an attempt replaces its reservation.
    Settled(BudgetSettled),
    /// Another limit for the day of this event, instead of the configured one.
    BudgetSet(BudgetSet),
}

/// The values of `reserved`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BudgetReserved {
    /// The attempt or the probe that will spend it.
    pub attempt: AttemptId,
    /// None: a probe.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<TaskId>,
    /// The programmer that makes the attempt.
    pub programmer: ProgrammerId,
    /// The most that the attempt may cost.
    pub amount_usd: MicroUsd,
}

/// The values of `settled`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BudgetSettled {
    /// The attempt or the probe that has ended.
    pub attempt: AttemptId,
    /// Its whole cost.
    pub cost_usd: MicroUsd,
    /// The same cost, for each LLM.
    pub by_llm: BTreeMap<LlmName, MicroUsd>,
}

/// The values of `budget_set`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BudgetSet {
    /// The limit until the day ends.
    pub limit_usd: MicroUsd,
}
