//! Every route of the API with its description.

use axum::Json;
use pool_api::budget::{BudgetStatus, NewLimit};
use pool_api::control::{BreakerList, EndOfPause, NewBreakerOrder, NewPause, PauseList};
use pool_api::dead::{AllRetried, DeadList, DeadMessage, Dropped, Nothing};
use pool_api::events::{Changed, Hello, Live, Printed, Timeline};
use pool_api::pool::PoolStatus;
use pool_api::report::Report;
use pool_api::tasks::{Force, Requeued, Retried, TaskList, TaskView};
use pool_api::why::Why;
use pool_core::id::TaskId;
use pool_core::task::TaskMessage;
use schemars::JsonSchema;
use serde_json::Value;

use super::app::App;
use super::health::Health;
use super::openapi::{Api, StreamEvent};
use super::report::ReportQuery;
use super::{budget, control, dead, events, health, report, resubmit, submit, tasks};
use crate::dashboard::page;
use crate::views::filter::Filter;

const ABOUT_A_TASK: [&str; 6] = [
    "showTask",
    "showPatch",
    "whyTaskWaits",
    "retryTask",
    "requeueTask",
    "cancelTask",
];

/// `POST /tasks` accepts one task, a list, or a list in an object.
#[derive(JsonSchema)]
#[serde(untagged)]
#[expect(
    dead_code,
    reason = "only for the description; `submission.rs` parses the body"
)]
enum Submission {
    One(Box<TaskMessage>),
    List(Vec<TaskMessage>),
    Wrapped(Wrapped),
}

#[derive(JsonSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "only for the description")]
struct Wrapped {
    tasks: Vec<TaskMessage>,
}

/// A single task for a single task, a list for a list.
#[derive(JsonSchema)]
#[schemars(rename = "Taken")]
#[serde(untagged)]
#[expect(dead_code, reason = "only for the description")]
enum SubmissionAnswer {
    One(Box<TaskView>),
    List(Vec<TaskView>),
}

pub(super) fn routes() -> Api<App> {
    process(pool(dead_letters(one_task(all_tasks(Api::new())))))
}

/// `GET /openapi.json`.
async fn description() -> Json<Value> {
    Json(document())
}

/// The document that `GET /openapi.json` gives.
pub fn document() -> Value {
    routes().document()
}

fn all_tasks(api: Api<App>) -> Api<App> {
    api.route("GET /tasks", tasks::list, |route| {
        route
            .is("listTasks", "List tasks, newest first")
            .query::<Filter>()
            .answers::<TaskList>(200, "the matching tasks")
    })
    .route("POST /tasks", submit::submit, |route| {
        route
            .is("submitTasks", "Submit one task or many; all or none")
            .body::<Submission>()
            .answers::<SubmissionAnswer>(201, "submitted")
            .answers::<SubmissionAnswer>(200, "all had been submitted before")
            .problems(&[400, 409, 429, 503])
            .leads_to(201, "/id", &ABOUT_A_TASK)
    })
}

fn one_task(api: Api<App>) -> Api<App> {
    api.route("GET /tasks/{id}", tasks::show, |route| {
        route
            .is("showTask", "Show a task, its message and its result")
            .id::<TaskId>()
            .answers::<TaskView>(200, "the task")
            .problems(&[503])
    })
    .route("DELETE /tasks/{id}", control::cancel, |route| {
        route
            .is(
                "cancelTask",
                "Cancel a task: it never starts, or it is stopped",
            )
            .id::<TaskId>()
            .answers::<TaskView>(200, "it is cancelled")
            .problems(&[409, 503])
    })
    .route("GET /tasks/{id}/patch", tasks::patch, |route| {
        route
            .is("showPatch", "Get the patch of a task, for `git apply`")
            .id::<TaskId>()
            .answers_text(200, "text/x-patch", "the patch")
            .problems(&[503])
    })
    .route("GET /tasks/{id}/why", tasks::why, |route| {
        route
            .is(
                "whyTaskWaits",
                "Explain why a task waits, or what it is doing",
            )
            .id::<TaskId>()
            .answers::<Why>(200, "one sentence, and details for each programmer")
    })
    .route("GET /tasks/{id}/events", events::task, |route| {
        let route = route
            .is(
                "followTask",
                "Follow a task's timeline and its agent's output",
            )
            .id::<TaskId>();
        let events = [
            StreamEvent::of::<Timeline>(
                "timeline",
                "all lines, first at once and then whenever there is a new one",
            ),
            StreamEvent::of::<Printed>(
                "output",
                "what the agent and the checks have printed since the last such event",
            ),
        ];
        route
            .streams(
                "Server-sent events. A new connection gets everything.",
                &events,
            )
            .problems(&[503])
    })
    .route("POST /tasks/{id}/retry", resubmit::retry, |route| {
        route
            .is("retryTask", "Submit a finished task again as a new one")
            .id::<TaskId>()
            .body::<Force>()
            .answers::<Retried>(200, "the new task")
            .problems(&[409, 429, 503])
    })
    .route("POST /tasks/{id}/requeue", resubmit::requeue, |route| {
        route
            .is("requeueTask", "Put an unfinished task back into its queue")
            .id::<TaskId>()
            .body::<Force>()
            .answers::<Requeued>(200, "the task is in its queue")
            .problems(&[409, 429, 503])
    })
}

fn dead_letters(api: Api<App>) -> Api<App> {
    api.route("GET /dead", dead::list, |route| {
        route
            .is("listDeadLetters", "List dead letters, oldest first")
            .answers::<DeadList>(200, "at most a thousand")
            .problems(&[503])
            .leads_to(
                200,
                "/letters/0/id",
                &["showDeadLetter", "retryDeadLetter", "dropDeadLetter"],
            )
    })
    .route("DELETE /dead", dead::drop_all, |route| {
        route
            .is("dropDeadLetters", "Drop all dead letters")
            .answers::<Dropped>(200, "how many were dropped")
            .problems(&[503])
    })
    .route("POST /dead/retry", dead::retry_all, |route| {
        route
            .is("retryDeadLetters", "Retry all dead letters")
            .body::<Nothing>()
            .answers::<AllRetried>(200, "which were retried, and which were not")
            .problems(&[429, 503])
    })
    .route("GET /dead/{id}", dead::show, |route| {
        route
            .is("showDeadLetter", "Show a dead letter as it arrived")
            .id::<String>()
            .answers::<DeadMessage>(200, "the message")
            .problems(&[503])
    })
    .route("DELETE /dead/{id}", dead::drop_one, |route| {
        route
            .is("dropDeadLetter", "Drop a dead letter")
            .id::<String>()
            .answers::<Dropped>(200, "the dead letter is dropped")
            .problems(&[503])
    })
    .route("POST /dead/{id}/retry", dead::retry, |route| {
        route
            .is("retryDeadLetter", "Retry a dead letter")
            .id::<String>()
            .body::<Nothing>()
            .answers::<Retried>(200, "the task that will run")
            .problems(&[409, 429, 503])
    })
}

fn pool(api: Api<App>) -> Api<App> {
    api.route("GET /programmer_pool/status", health::status, |route| {
        route
            .is(
                "showPool",
                "Show programmers, queues, breakers and the budget",
            )
            .answers::<PoolStatus>(200, "the pool as this dispatcher sees it")
    })
    .route("GET /programmer_pool/pauses", control::pauses, |route| {
        route
            .is("listPauses", "List pauses")
            .answers::<PauseList>(200, "all pauses")
    })
    .route("POST /programmer_pool/pause", control::pause, |route| {
        route
            .is(
                "pause",
                "Pause or drain a programmer, a route or the whole pool",
            )
            .body::<NewPause>()
            .answers::<PauseList>(200, "all pauses after this request")
            .problems(&[404, 503])
    })
    .route("POST /programmer_pool/resume", control::resume, |route| {
        route
            .is("resume", "End a pause")
            .body::<EndOfPause>()
            .answers::<PauseList>(200, "the remaining pauses")
            .problems(&[409, 503])
    })
    .route(
        "POST /programmer_pool/breakers",
        control::breakers,
        |route| {
            route
                .is("orderBreaker", "Probe an LLM now, or close its breakers")
                .body::<NewBreakerOrder>()
                .answers::<BreakerList>(200, "all breakers after this request")
                .problems(&[404, 409, 503])
        },
    )
    .route("GET /budget", budget::show, |route| {
        route
            .is("showBudget", "Show today's budget")
            .answers::<BudgetStatus>(200, "spent, reserved and left")
    })
    .route("POST /budget", budget::set, |route| {
        route
            .is("setBudget", "Set today's limit")
            .body::<NewLimit>()
            .answers::<BudgetStatus>(200, "the budget after this request")
            .problems(&[409, 503])
    })
    .route("GET /report", report::show, |route| {
        route
            .is(
                "report",
                "Report results and costs of the tasks of a period",
            )
            .query::<ReportQuery>()
            .answers::<Report>(200, "as JSON, CSV or an HTML page")
            .answers_text(200, "text/csv", "as JSON, CSV or an HTML page")
            .answers_text(200, "text/html", "as JSON, CSV or an HTML page")
            .problems(&[503])
    })
}

fn process(api: Api<App>) -> Api<App> {
    api.route("GET /", page::page, |route| {
        route.is("dashboard", "The dashboard").open().answers_text(
            200,
            "text/html",
            "one page that loads nothing else",
        )
    })
    .route("GET /events", events::pool, |route| {
        let route = route.is("followPool", "Follow changes in the pool");
        let route = route.header(
            "Last-Event-ID",
            "The id of the last event received: the stream continues after it",
        );
        let events = [
            StreamEvent::of::<Hello>("hello", "once, as the first event"),
            StreamEvent::of::<Live>(
                "state",
                "the pool: right after `hello` unless the stream continues, and whenever the pool changes",
            ),
            StreamEvent::of::<Changed>("tasks", "the tasks that have changed"),
        ];
        route
            .streams("Server-sent events, at most a few times a second.", &events)
            .problems(&[503])
    })
    .route("GET /health", health::health, |route| {
        route
            .is("health", "Whether this dispatcher is alive")
            .open()
            .answers::<Health>(200, "it is alive; `status` says its condition")
    })
    .route("GET /ready", health::ready, |route| {
        route.is("ready", "Whether this dispatcher can do its work").open()
            .answers::<Health>(200, "it can")
            .answers::<Health>(503, "it cannot; `detail` says why")
    })
    .route("GET /metrics", health::metrics, |route| {
        route.is("metrics", "Metrics for Prometheus").answers_text(
            200,
            "text/plain",
            "in its text format",
        )
    })
    .route("GET /openapi.json", description, |route| {
        route
            .is("openapi", "This document")
            .answers::<Value>(200, "OpenAPI 3.1")
    })
}

#[cfg(test)]
mod tests {
    use pool_config::schema_text;

    #[test]
    fn the_checked_in_document_is_that_of_the_routes() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../config/schema/openapi.json");
        let checked_in = std::fs::read_to_string(file).unwrap_or_default();
        assert!(
            checked_in == schema_text(&super::document()),
            "config/schema/openapi.json differs from the routes: \
             run `dispatcher openapi > config/schema/openapi.json`"
        );
    }
}
