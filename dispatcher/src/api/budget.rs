//! `/budget`: today's spending, and a new limit for today.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use pool_core::event::{BudgetSet, Event};
use pool_core::money::MicroUsd;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::app::App;
use super::extract::{Body, read};
use super::problem::Problem;
use crate::views::llms::{self, BudgetStatus};

/// How long a limit applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Span {
    /// Until the day ends in the time zone of the budget.
    Today,
}

/// `POST /budget`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NewLimit {
    /// US dollars. May be less than what is already spent: then no more paid calls are made today.
    pub limit_usd: MicroUsd,
    #[serde(rename = "for")]
    pub span: Span,
}

pub async fn show(State(app): State<App>) -> Json<BudgetStatus> {
    Json(
        app.reader
            .process
            .log
            .read(|fold| llms::budget(&app.reader.pool, fold)),
    )
}

pub async fn set(State(app): State<App>, Body(body): Body) -> Result<Json<BudgetStatus>, Problem> {
    let new: NewLimit = read(
        &body,
        r#"for example {"limit_usd": "60.00", "for": "today"}"#,
    )?;
    if app
        .reader
        .process
        .log
        .read(|fold| fold.budget.limit())
        .is_none()
    {
        let detail = "the pool has no budget: cost_optimization.enabled is false in the pool file";
        return Err(Problem::new(StatusCode::CONFLICT, detail));
    }
    let Span::Today = new.span;
    app.append_event(Event::from(BudgetSet {
        limit_usd: new.limit_usd,
    }))
    .await?;
    tracing::warn!(limit_usd = %new.limit_usd, "an operator set today's budget");
    Ok(show(State(app)).await)
}
