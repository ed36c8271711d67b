//! `GET /report`: results and costs of the tasks of a period.

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use pool_api::report::{By, Report, Since};
use schemars::JsonSchema;
use serde::Deserialize;

use super::app::App;
use super::error::ApiError;
use super::extract::Query;
use crate::report::{csv, html, reading};

/// The page loads and runs nothing, whatever the names of tasks and LLMs contain.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'";

/// The query parameters of a report.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReportQuery {
    /// `7d` (the default), `24h`, `90m`, a time, or `all`.
    #[schemars(regex(pattern = r"^([0-9]{1,9}[dhms]|all)$"))]
    since: Option<String>,
    /// `llm` (the default), `programmer`, `route`, or `label:` and its name.
    #[schemars(regex(pattern = r"^(llm|programmer|route|label:.+)$"))]
    by: Option<String>,
    /// The format of the answer.
    #[serde(default)]
    format: AnswerFormat,
}

#[derive(Debug, Clone, Copy, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum AnswerFormat {
    #[default]
    Json,
    Csv,
    Html,
}

/// The report as JSON, CSV or an HTML page.
///
/// # Errors
/// 400 when a parameter is not understood; 503 while the history has not been read.
pub async fn show(
    State(app): State<App>,
    Query(asked): Query<ReportQuery>,
) -> Result<Response, ApiError> {
    let bad = |detail: String| ApiError::new(StatusCode::BAD_REQUEST, detail);
    let since: Since = asked
        .since
        .map_or(Ok(Since::default()), |text| text.parse())
        .map_err(|e| bad(e.to_string()))?;
    let by: By = asked
        .by
        .map_or(Ok(By::default()), |text| text.parse())
        .map_err(|e| bad(e.to_string()))?;
    app.reader.history.whole().map_err(ApiError::unavailable)?;
    let made = tokio::task::spawn_blocking(move || {
        let report = reading::report(&app.reader, since, &by);
        render(&report, asked.format)
    })
    .await;
    let failed = |detail: String| ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, detail);
    made.map_err(|error| failed(error.to_string()))?
        .map_err(|error| failed(format!("failed to draw: {error:#}")))
}

fn render(report: &Report, form: AnswerFormat) -> anyhow::Result<Response> {
    Ok(match form {
        AnswerFormat::Json => Json(report).into_response(),
        AnswerFormat::Csv => (
            [(header::CONTENT_TYPE, "text/csv; charset=utf-8")],
            csv::text(report)?,
        )
            .into_response(),
        AnswerFormat::Html => {
            let kind = (header::CONTENT_TYPE, "text/html; charset=utf-8");
            (
                [kind, (header::CONTENT_SECURITY_POLICY, POLICY)],
                html::page(report)?,
            )
                .into_response()
        }
    })
}
