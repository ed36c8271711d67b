//! Today's budget, and the request that sets its limit.

use std::collections::BTreeMap;

use pool_core::id::{LlmName, ProgrammerId};
use pool_core::money::MicroUsd;
use pool_core::time::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Today's budget: `GET /budget`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct BudgetStatus {
    /// `null` if spending is not limited.
    pub max_daily_spend_usd: Option<MicroUsd>,
    pub alert_threshold_usd: MicroUsd,
    /// The limit was set for this day only, by `pool budget set`.
    pub set_for_today: bool,
    /// The cost of today's calls, plus the reservations of lost workers.
    pub spent_usd: MicroUsd,
    /// The part of it that lost workers had reserved. Their real cost is unknown, so the whole
    /// reservation counts until they report. It is in `by_programmer`, but not in `by_llm`.
    #[serde(default)]
    pub lost_usd: MicroUsd,
    /// The most that running tasks may still spend.
    pub reserved_usd: MicroUsd,
    /// The amount that can still be reserved; `null` without a limit.
    pub left_usd: Option<MicroUsd>,
    /// Whether spending has reached the alert threshold.
    pub alert: bool,
    /// The day in the budget's time zone, such as `2026-01-31`.
    pub day: Option<String>,
    pub day_ends: Option<Timestamp>,
    pub time_zone: String,
    pub by_llm: BTreeMap<LlmName, MicroUsd>,
    pub by_programmer: BTreeMap<ProgrammerId, MicroUsd>,
    /// Warnings for the operator who sets the limit.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// `POST /budget`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NewLimit {
    /// US dollars. May be less than what is already spent: then no more paid calls are made today.
    pub limit_usd: MicroUsd,
    #[serde(rename = "for")]
    pub span: LimitPeriod,
}

/// How long a limit applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Span")]
#[serde(rename_all = "snake_case")]
pub enum LimitPeriod {
    /// Until the day ends in the time zone of the budget.
    Today,
}
