//! Every route of the API, with what is to be known of it.

use axum::Json;
use pool_core::id::TaskId;
use pool_core::task::TaskMessage;
use schemars::JsonSchema;
use serde_json::Value;

use super::app::App;
use super::budget::NewLimit;
use super::control::{EndOfPause, NewPause, PauseList};
use super::dead::{AllRetried, DeadList, DeadMessage, Dropped, Nothing};
use super::events::{Hello, Printed, Timeline};
use super::health::Health;
use super::openapi::{Api, SchemaOf, schema_of};
use super::report::Asked;
use super::resubmit::{Force, Requeued};
use super::{budget, control, dead, events, health, report, resubmit, submit, tasks};
use crate::dashboard::hub::{Changed, Live};
use crate::dashboard::page;
use crate::dead::retry::Retried;
use crate::report::Report;
use crate::views::filter::Filter;
use crate::views::llms::BudgetStatus;
use crate::views::pool_status::PoolStatus;
use crate::views::tasks::{TaskList, TaskView};
use crate::why::Why;

const ABOUT_A_TASK: [&str; 6] = [
    "showTask",
    "showPatch",
    "whyTaskWaits",
    "retryTask",
    "requeueTask",
    "cancelTask",
];

/// `POST /tasks` takes one task, a list, or a list in an object.
#[derive(JsonSchema)]
#[serde(untagged)]
#[expect(
    dead_code,
    reason = "for the description; what reads it is `submission.rs`"
)]
enum Submission {
    One(Box<TaskMessage>),
    List(Vec<TaskMessage>),
    Wrapped(Wrapped),
}

#[derive(JsonSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "likewise")]
struct Wrapped {
    tasks: Vec<TaskMessage>,
}

/// One for one task, a list for a list.
#[derive(JsonSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "likewise")]
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
            .is("listTasks", "Tasks, the newest first")
            .query::<Filter>();
        route.answers::<TaskList>(200, "some of them")
    })
    .post("/tasks", submit::submit, |route| {
        let route = route.is("submitTasks", "Take one task or many; all or none");
        let route = route
            .body::<Submission>()
            .answers::<Taken>(201, "taken, and it will be done");
        let route = route
            .answers::<Taken>(200, "all were taken before")
            .problems(&[400, 409, 429, 503]);
        route.leads_to(201, "/id", &ABOUT_A_TASK)
    })
}

fn one_task(api: Api<App>) -> Api<App> {
    api.get("/tasks/{id}", tasks::show, |route| {
        let route = route
            .is("showTask", "A task, its message and its result")
            .id::<TaskId>();
        route.answers::<TaskView>(200, "the task").problems(&[503])
    })
    .delete("/tasks/{id}", control::cancel, |route| {
        let route = route
            .is("cancelTask", "Cancel it: it never starts, or is stopped")
            .id::<TaskId>();
        route
            .answers::<TaskView>(200, "it is cancelled")
            .problems(&[409, 503])
    })
    .get("/tasks/{id}/patch", tasks::patch, |route| {
        let route = route
            .is("showPatch", "Its patch, as `git apply` takes it")
            .id::<TaskId>();
        route
            .answers_text(200, "text/x-patch", "the patch")
            .problems(&[503])
    })
    .get("/tasks/{id}/why", tasks::why, |route| {
        let route = route
            .is("whyTaskWaits", "Why it waits, or what it does")
            .id::<TaskId>();
        route.answers::<Why>(200, "in one sentence, and by programmer")
    })
    .get("/tasks/{id}/events", events::task, |route| {
        let route = route
            .is(
                "followTask",
                "Its timeline, and what its agent prints, as they come",
            )
            .id::<TaskId>();
        let events = [
            (
                "timeline",
                schema_of::<Timeline> as SchemaOf,
                "all lines, at first and whenever there is a new one",
            ),
            (
                "output",
                schema_of::<Printed>,
                "what the agent and the checks have printed since the last one",
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
            .is("retryTask", "Submit a finished task again, as a new one")
            .id::<TaskId>()
            .body::<Force>();
        route
            .answers::<Retried>(200, "the new task")
            .problems(&[409, 429, 503])
    })
    .post("/tasks/{id}/requeue", resubmit::requeue, |route| {
        let route = route
            .is("requeueTask", "Put an unfinished task into its queue again")
            .id::<TaskId>();
        route
            .body::<Force>()
            .answers::<Requeued>(200, "it is in its queue")
            .problems(&[409, 429, 503])
    })
}

fn dead_letters(api: Api<App>) -> Api<App> {
    api.get("/dead", dead::list, |route| {
        let route = route.is(
            "listDeadLetters",
            "What could not be handled, the oldest first",
        );
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
        let route = route.is("dropDeadLetters", "Throw all of it away");
        route.answers::<Dropped>(200, "how many").problems(&[503])
    })
    .post("/dead/retry", dead::retry_all, |route| {
        let route = route
            .is("retryDeadLetters", "Take all of it up again")
            .body::<Nothing>();
        route
            .answers::<AllRetried>(200, "what was, and what stays")
            .problems(&[429, 503])
    })
    .get("/dead/{id}", dead::show, |route| {
        let route = route
            .is("showDeadLetter", "One message as it came")
            .id::<String>();
        route
            .answers::<DeadMessage>(200, "the message")
            .problems(&[503])
    })
    .delete("/dead/{id}", dead::drop_one, |route| {
        let route = route.is("dropDeadLetter", "Throw it away").id::<String>();
        route.answers::<Dropped>(200, "it is gone").problems(&[503])
    })
    .post("/dead/{id}/retry", dead::retry, |route| {
        let route = route
            .is("retryDeadLetter", "Take a task up again")
            .id::<String>()
            .body::<Nothing>();
        route
            .answers::<Retried>(200, "the task that is done now")
            .problems(&[409, 429, 503])
    })
}

fn pool(api: Api<App>) -> Api<App> {
    api.get("/programmer_pool/status", health::status, |route| {
        let route = route.is("showPool", "Programmers, queues, breakers and money");
        route.answers::<PoolStatus>(200, "the pool as this dispatcher sees it")
    })
    .get("/programmer_pool/pauses", control::pauses, |route| {
        route
            .is("listPauses", "What is paused")
            .answers::<PauseList>(200, "all of it")
    })
    .post("/programmer_pool/pause", control::pause, |route| {
        let route = route
            .is(
                "pause",
                "Let a programmer, a route or all take no more tasks",
            )
            .body::<NewPause>();
        route
            .answers::<PauseList>(200, "what is paused now")
            .problems(&[404, 503])
    })
    .post("/programmer_pool/resume", control::resume, |route| {
        let route = route.is("resume", "End a pause").body::<EndOfPause>();
        route
            .answers::<PauseList>(200, "what is still paused")
            .problems(&[409, 503])
    })
    .get("/budget", budget::show, |route| {
        route
            .is("showBudget", "The money of the day")
            .answers::<BudgetStatus>(200, "spent, reserved and left")
    })
    .post("/budget", budget::set, |route| {
        let route = route
            .is("setBudget", "Another limit for today")
            .body::<NewLimit>();
        route
            .answers::<BudgetStatus>(200, "as it is now")
            .problems(&[409, 503])
    })
    .get("/report", report::show, |route| {
        let route = route
            .is("report", "What the tasks of some days came to")
            .query::<Asked>();
        let route = route.answers::<Report>(200, "as JSON, a table or a page");
        let route = route.answers_text(200, "text/csv", "as JSON, a table or a page");
        route
            .answers_text(200, "text/html", "as JSON, a table or a page")
            .problems(&[503])
    })
}

fn process(api: Api<App>) -> Api<App> {
    api.get("/", page::page, |route| {
        route.is("dashboard", "The dashboard").open().answers_text(
            200,
            "text/html",
            "a page that needs nothing else",
        )
    })
    .get("/events", events::pool, |route| {
        let route = route.is("followPool", "What changes in the pool, as it changes");
        let route = route.header(
            "Last-Event-ID",
            "The id of the last event that was received: the stream goes on behind it",
        );
        let events = [
            (
                "hello",
                schema_of::<Hello> as SchemaOf,
                "once, as the first",
            ),
            (
                "state",
                schema_of::<Live>,
                "the pool, next unless the stream goes on, and whenever it is another",
            ),
            ("tasks", schema_of::<Changed>, "tasks that have changed"),
        ];
        route
            .streams("Server-sent events, a few times a second at most.", &events)
            .problems(&[503])
    })
    .get("/health", health::health, |route| {
        route
            .is("health", "Whether this dispatcher lives")
            .open()
            .answers::<Health>(200, "it does, and how it is")
    })
    .get("/ready", health::ready, |route| {
        let route = route.is("ready", "Whether it can do its work").open();
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
