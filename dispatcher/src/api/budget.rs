//! `/budget`: today's spending, and a new limit for today.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use pool_api::budget::{BudgetStatus, LimitPeriod, NewLimit};
use pool_core::event::{BudgetSet, Event};

use super::app::App;
use super::error::ApiError;
use super::extract::{RawBody, read};

pub async fn show(State(app): State<App>) -> Json<BudgetStatus> {
    Json(app.reader.budget())
}

pub async fn set(
    State(app): State<App>,
    RawBody(body): RawBody,
) -> Result<Json<BudgetStatus>, ApiError> {
    let new: NewLimit = read(
        &body,
        r#"for example {"limit_usd": "60.00", "for": "today"}"#,
    )?;
    if app.reader.budget().max_daily_spend_usd.is_none() {
        let detail = "the pool has no budget: cost_optimization.enabled is false in the pool file";
        return Err(ApiError::new(StatusCode::CONFLICT, detail));
    }
    let LimitPeriod::Today = new.span;
    app.append_event(Event::from(BudgetSet {
        limit_usd: new.limit_usd,
    }))
    .await?;
    tracing::warn!(limit_usd = %new.limit_usd, "an operator set today's budget");
    Ok(show(State(app)).await)
}
