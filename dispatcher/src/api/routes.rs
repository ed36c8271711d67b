//! Every route of the API with its description.

use axum::Json;
use pool_api::budget::{BudgetStatus, NewLimit};
use pool_api::control::{EndOfPause, NewPause, PauseList};
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
use super::openapi::{Api, SchemaOf, schema_of};
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
#[serde(untagged)]
#[expect(dead_code, reason = "only for the description")]
enum Taken {
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
    api.get("/tasks", tasks::list, |route| {
        let route = route
            .is("listTasks", "List tasks, newest first")
            .query::<Filter>();
        route.answers::<TaskList>(200, "the matching tasks")
    })
    .post("/tasks", submit::submit, |route| {
        let route = route.is("submitTasks", "Submit one task or many; all or none");
        let route = route
            .body::<Submission>()
            .answers::<Taken>(201, "submitted");
        let route = route
            .answers::<Taken>(200, "all had been submitted before")
            .problems(&[400, 409, 429, 503]);
        route.leads_to(201, "/id", &ABOUT_A_TASK)
    })
}

fn one_task(api: Api<App>) -> Api<App> {
    api.get("/tasks/{id}", tasks::show, |route| {
        let route = route
            .is("showTask", "Show a task, its message and its result")
            .id::<TaskId>();
        route.answers::<TaskView>(200, "the task").problems(&[503])
    })
    .delete("/tasks/{id}", control::cancel, |route| {
        let route = route
            .is(
                "cancelTask",
                "Cancel a task: it never starts, or it is stopped",
            )
            .id::<TaskId>();
        route
            .answers::<TaskView>(200, "it is cancelled")
            .problems(&[409, 503])
    })
    .get("/tasks/{id}/patch", tasks::patch, |route| {
        let route = route
            .is("showPatch", "Get the patch of a task, for `git apply`")
            .id::<TaskId>();
        route
            .answers_text(200, "text/x-patch", "the patch")
            .problems(&[503])
    })
    .get("/tasks/{id}/why", tasks::why, |route| {
        let route = route
            .is(
                "whyTaskWaits",
                "Explain why a task waits, or what it is doing",
            )
            .id::<TaskId>();
        route.answers::<Why>(200, "one sentence, and details for each programmer")
    })
    .get("/tasks/{id}/events", events::task, |route| {
        let route = route
            .is(
                "followTask",
                "Follow a task's timeline and its agent's output",
            )
            .id::<TaskId>();
        let events = [
            (
                "timeline",
                schema_of::<Timeline> as SchemaOf,
                "all lines, first at once and then whenever there is a new one",
            ),
            (
                "output",
                schema_of::<Printed>,
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
    .post("/tasks/{id}/retry", resubmit::retry, |route| {
        let route = route
            .is("retryTask", "Submit a finished task again as a new one")
            .id::<TaskId>()
            .body::<Force>();
        route
            .answers::<Retried>(200, "the new task")
            .problems(&[409, 429, 503])
    })
    .post("/tasks/{id}/requeue", resubmit::requeue, |route| {
        let route = route
            .is("requeueTask", "Put an unfinished task back into its queue")
            .id::<TaskId>();
        route
            .body::<Force>()
            .answers::<Requeued>(200, "the task is in its queue")
            .problems(&[409, 429, 503])
    })
}

fn dead_letters(api: Api<App>) -> Api<App> {
    api.get("/dead", dead::list, |route| {
        let route = route.is("listDeadLetters", "List dead letters, oldest first");
        let route = route
            .answers::<DeadList>(200, "at most a thousand")
            .problems(&[503]);
        route.leads_to(
            200,
            "/letters/0/id",
            &["showDeadLetter", "retryDeadLetter", "dropDeadLetter"],
        )
    })
    .delete("/dead", dead::drop_all, |route| {
        let route = route.is("dropDeadLetters", "Drop all dead letters");
        route
            .answers::<Dropped>(200, "how many were dropped")
            .problems(&[503])
    })
    .post("/dead/retry", dead::retry_all, |route| {
        let route = route
            .is("retryDeadLetters", "Retry all dead letters")
            .body::<Nothing>();
        route
            .answers::<AllRetried>(200, "which were retried, and which were not")
            .problems(&[429, 503])
    })
    .get("/dead/{id}", dead::show, |route| {
        let route = route
            .is("showDeadLetter", "Show a dead letter as it arrived")
            .id::<String>();
        route
            .answers::<DeadMessage>(200, "the message")
            .problems(&[503])
    })
    .delete("/dead/{id}", dead::drop_one, |route| {
        let route = route
            .is("dropDeadLetter", "Drop a dead letter")
            .id::<String>();
        route
            .answers::<Dropped>(200, "the dead letter is dropped")
            .problems(&[503])
    })
    .post("/dead/{id}/retry", dead::retry, |route| {
        let route = route
            .is("retryDeadLetter", "Retry a dead letter")
            .id::<String>()
            .body::<Nothing>();
        route
            .answers::<Retried>(200, "the task that will run")
            .problems(&[409, 429, 503])
    })
}

fn pool(api: Api<App>) -> Api<App> {
    api.get("/programmer_pool/status", health::status, |route| {
        let route = route.is(
            "showPool",
            "Show programmers, queues, breakers and the budget",
        );
        route.answers::<PoolStatus>(200, "the pool as this dispatcher sees it")
    })
    .get("/programmer_pool/pauses", control::pauses, |route| {
        route
            .is("listPauses", "List pauses")
            .answers::<PauseList>(200, "all pauses")
    })
    .post("/programmer_pool/pause", control::pause, |route| {
        let route = route
            .is(
                "pause",
                "Pause or drain a programmer, a route or the whole pool",
            )
            .body::<NewPause>();
        route
            .answers::<PauseList>(200, "all pauses after this request")
            .problems(&[404, 503])
    })
    .post("/programmer_pool/resume", control::resume, |route| {
        let route = route.is("resume", "End a pause").body::<EndOfPause>();
        route
            .answers::<PauseList>(200, "the remaining pauses")
            .problems(&[409, 503])
    })
    .get("/budget", budget::show, |route| {
        route
            .is("showBudget", "Show today's budget")
            .answers::<BudgetStatus>(200, "spent, reserved and left")
    })
    .post("/budget", budget::set, |route| {
        let route = route
            .is("setBudget", "Set today's limit")
            .body::<NewLimit>();
        route
            .answers::<BudgetStatus>(200, "the budget after this request")
            .problems(&[409, 503])
    })
    .get("/report", report::show, |route| {
        let route = route
            .is(
                "report",
                "Report results and costs of the tasks of a period",
            )
            .query::<ReportQuery>();
        let route = route.answers::<Report>(200, "as JSON, CSV or an HTML page");
        let route = route.answers_text(200, "text/csv", "as JSON, CSV or an HTML page");
        route
            .answers_text(200, "text/html", "as JSON, CSV or an HTML page")
            .problems(&[503])
    })
}

fn process(api: Api<App>) -> Api<App> {
    api.get("/", page::page, |route| {
        route.is("dashboard", "The dashboard").open().answers_text(
            200,
            "text/html",
            "one page that loads nothing else",
        )
    })
    .get("/events", events::pool, |route| {
        let route = route.is("followPool", "Follow changes in the pool");
        let route = route.header(
            "Last-Event-ID",
            "The id of the last event received: the stream continues after it",
        );
        let events = [
            (
                "hello",
                schema_of::<Hello> as SchemaOf,
                "once, as the first event",
            ),
            (
                "state",
                schema_of::<Live>,
                "the pool: right after `hello` unless the stream continues, and whenever the pool changes",
            ),
            ("tasks", schema_of::<Changed>, "the tasks that have changed"),
        ];
        route
            .streams("Server-sent events, at most a few times a second.", &events)
            .problems(&[503])
    })
    .get("/health", health::health, |route| {
        route
            .is("health", "Whether this dispatcher is alive")
            .open()
            .answers::<Health>(200, "it is alive; `status` says its condition")
    })
    .get("/ready", health::ready, |route| {
        let route = route.is("ready", "Whether this dispatcher can do its work").open();
        route
            .answers::<Health>(200, "it can")
            .answers::<Health>(503, "it cannot; `detail` says why")
    })
    .get("/metrics", health::metrics, |route| {
        route.is("metrics", "Metrics for Prometheus").answers_text(
            200,
            "text/plain",
            "in its text format",
        )
    })
    .get("/openapi.json", description, |route| {
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
