//! `GET /report`: what the tasks of some days came to.

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use pool_core::id::TaskId;
use pool_core::state::TaskState;
use pool_telemetry::clock::wall_clock;
use schemars::JsonSchema;
use serde::Deserialize;

use super::App;
use super::extract::Query;
use super::problem::Problem;
use crate::report::query::{By, Since};
use crate::report::tally::{self, Ended};
use crate::report::{Report, csv, html};

/// The page loads nothing and runs nothing, whatever tasks and LLMs are called.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'";

/// What a report can be asked for.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Asked {
    /// `7d` (the default), `24h`, `90m`, a time, or `all`.
    #[schemars(regex(pattern = r"^([0-9]{1,9}[dhms]|all)$"))]
    since: Option<String>,
    /// `llm` (the default), `programmer`, `route`, or `label:` and its name.
    #[schemars(regex(pattern = r"^(llm|programmer|route|label:.+)$"))]
    by: Option<String>,
    /// What the answer is.
    #[serde(default)]
    format: Form,
}

#[derive(Debug, Clone, Copy, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Form {
    #[default]
    Json,
    Csv,
    Html,
}

/// The report as JSON, CSV or a page.
///
/// # Errors
/// 400 when what is asked is not understood; 503 while the history has not been read.
pub async fn show(State(app): State<App>, Query(asked): Query<Asked>) -> Result<Response, Problem> {
    let bad = |detail: String| Problem::new(StatusCode::BAD_REQUEST, detail);
    let since: Since = asked
        .since
        .map_or(Ok(Since::default()), |text| text.parse())
        .map_err(|e| bad(e.to_string()))?;
    let by: By = asked
        .by
        .map_or(Ok(By::default()), |text| text.parse())
        .map_err(|e| bad(e.to_string()))?;
    app.history
        .whole()
        .map_err(|error| Problem::unavailable(error.to_string()))?;
    let made =
        tokio::task::spawn_blocking(move || render(&make(&app, since, &by), asked.format)).await;
    let failed = |detail: String| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, detail);
    made.map_err(|error| failed(error.to_string()))?
        .map_err(|error| failed(format!("failed to draw: {error:#}")))
}

fn make(app: &App, since: Since, by: &By) -> Report {
    let until = app
        .process
        .log
        .read(pool_core::state::Fold::now)
        .max(wall_clock());
    let since = since.at(until);
    // Meanwhile nothing is folded: only what is counted is copied.
    let ended: Vec<(TaskId, TaskState)> = app.process.log.read(|fold| {
        let counted = |state: &TaskState| {
            state
                .outcome
                .as_ref()
                .is_some_and(|outcome| outcome.at >= since)
        };
        let ended = fold.tasks.iter().filter(|(_, state)| counted(state));
        ended
            .map(|(id, state)| (id.clone(), state.clone()))
            .collect()
    });
    let details = |(id, state): (TaskId, TaskState)| {
        let entry = app.history.entry(&id).unwrap_or_default();
        let (attempts, route, labels, record) =
            (state.attempts, state.route, entry.labels, entry.record);
        state.outcome.map(|outcome| Ended {
            outcome,
            attempts,
            route,
            labels,
            record,
        })
    };
    let ended: Vec<Ended> = ended.into_iter().filter_map(details).collect();
    tally::report(&ended, by, (since, until))
}

fn render(report: &Report, form: Form) -> anyhow::Result<Response> {
    Ok(match form {
        Form::Json => Json(report).into_response(),
        Form::Csv => (
            [(header::CONTENT_TYPE, "text/csv; charset=utf-8")],
            csv::text(report)?,
        )
            .into_response(),
        Form::Html => {
            let kind = (header::CONTENT_TYPE, "text/html; charset=utf-8");
            (
                [kind, (header::CONTENT_SECURITY_POLICY, POLICY)],
                html::page(report)?,
            )
                .into_response()
        }
    })
}
