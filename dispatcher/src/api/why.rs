//! `GET /tasks/{id}/why`: why a task waits.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use pool_core::eligibility::Standing;
use pool_core::id::TaskId;
use pool_telemetry::clock::wall_clock;

use super::App;
use super::extract::Path;
use super::problem::Problem;
use super::tasks::known;
use crate::why::{Look, Why, why};

/// One sentence, and the details.
///
/// # Errors
/// 404 when the log knows no such task.
pub async fn show(State(app): State<App>, Path(id): Path<String>) -> Result<Json<Why>, Problem> {
    let view = known(&app, &id)?;
    let gone = || {
        Problem::new(
            StatusCode::NOT_FOUND,
            format!("the log knows no task {id} any more"),
        )
    };
    explain(&app, &view.id).map(Json).ok_or_else(gone)
}

/// From what this dispatcher knows now.
pub(super) fn explain(app: &App, id: &TaskId) -> Option<Why> {
    let heard = app.heard();
    let fresh = app.process.log.is_fresh();
    app.process.log.read(|fold| {
        let standing = Standing {
            pool: &app.pool,
            fold,
            now: fold.now().max(wall_clock()),
        };
        why(
            &Look {
                standing: &standing,
                routes: &app.process.routes,
                heard: &heard,
                fresh,
            },
            id,
        )
    })
}
