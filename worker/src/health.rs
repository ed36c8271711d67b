//! The health endpoints of each programmer, on a port of its own. `GET /health`: the process is
//! alive, and the state of the programmer. `GET /ready`: whether it can take tasks, as far as its
//! process is concerned. `GET /metrics`: the metrics of the process.
//!
//! The process as a whole serves the same on the address of `--listen`, for containers, where the
//! address must be known before the programmers are.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, OnceLock};

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use metrics_exporter_prometheus::PrometheusHandle;
use pool_api::status::{LastBeat, ProgrammerStatus, programmer_status};
use pool_broker::process::Process;
use pool_broker::status::BrokerStatus;
use pool_core::eligibility::Eligibility;
use pool_core::heartbeat::Gate;
use pool_core::id::ProgrammerId;
use pool_core::pool::{self, Pool};
use pool_core::sandbox::SandboxStatus;
use pool_telemetry::clock::wall_clock;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// The data for a programmer's health.
#[derive(Clone)]
pub struct ProgrammerHealth {
    pub programmer: pool::Programmer,
    pub port: u16,
    pub process: Process,
    pub pool: Arc<Pool>,
    pub status: watch::Receiver<Gate>,
    pub metrics: PrometheusHandle,
    pub sandbox: SandboxStatus,
}

/// The data for the health of the process.
#[derive(Clone)]
pub struct ProcessHealth {
    pub process: Process,
    pub hosted: Hosted,
    pub sandbox: SandboxStatus,
}

/// Programmers and their gates.
type Gates = Vec<(ProgrammerId, watch::Receiver<Gate>)>;

/// The programmers of the process and their gates; empty until they are chosen. Cheap to clone.
#[derive(Clone, Default)]
pub struct Hosted(Arc<OnceLock<Gates>>);

impl Hosted {
    /// Sets the programmers; called once, when all are set up.
    pub fn are(&self, programmers: Gates) {
        let _ = self.0.set(programmers);
    }

    /// The trouble of the first programmer that could not take a task.
    fn trouble(&self) -> Option<String> {
        let Some(programmers) = self.0.get() else {
            return Some(
                "its programmers are not set up yet; with --any it may wait for free ids"
                    .to_owned(),
            );
        };
        let unfit = |(id, gate): &(ProgrammerId, watch::Receiver<Gate>)| {
            Some(format!("{id}: {}", unfit(&gate.borrow())?))
        };
        programmers.iter().find_map(unfit)
    }
}

/// Takes the programmer's port; 0 = any free one.
///
/// # Errors
/// If the port is taken. The message names it.
pub async fn bind(port: u16) -> std::io::Result<TcpListener> {
    TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await
}

/// Serves the health of a programmer until shutdown.
pub async fn serve(listener: TcpListener, health: ProgrammerHealth) {
    let (process, metrics) = (health.process.clone(), health.metrics.clone());
    let app = Router::new()
        .route("/health", get(alive))
        .route("/ready", get(ready))
        .with_state(health);
    serve_app(listener, app, metrics, process.shutdown).await;
}

/// Serves the health of a worker's process, whichever programmers it has.
pub async fn serve_process(
    listener: TcpListener,
    health: ProcessHealth,
    metrics: PrometheusHandle,
) {
    let shutdown = health.process.shutdown.clone();
    let app = Router::new()
        .route("/health", get(process_alive))
        .route("/ready", get(process_ready))
        .with_state(health);
    serve_app(listener, app, metrics, shutdown).await;
}

async fn serve_app(
    listener: TcpListener,
    app: Router,
    metrics: PrometheusHandle,
    shutdown: CancellationToken,
) {
    let app = app
        .route("/metrics", get(async move || metrics.render()))
        .fallback(not_found);
    if let Err(error) = axum::serve(listener, app)
        .with_graceful_shutdown(shutdown.cancelled_owned())
        .await
    {
        tracing::error!(%error, "the health server ended");
    }
}

/// The same answer as the dispatcher's (RFC 9457).
async fn not_found() -> Response {
    let status = StatusCode::NOT_FOUND;
    let detail = "this path does not exist; available: /health, /ready and /metrics";
    let problem =
        serde_json::json!({"title": "Not Found", "status": status.as_u16(), "detail": detail});
    (
        status,
        [(header::CONTENT_TYPE, "application/problem+json")],
        problem.to_string(),
    )
        .into_response()
}

/// Answers while the process lives, whatever the state of its broker, because a restart would not
/// help.
async fn alive(State(health): State<ProgrammerHealth>) -> Response {
    answer(&health, None)
}

/// 503 with the reason if something is wrong. The state of the task, the budget and an operator's
/// pause do not count.
async fn ready(State(health): State<ProgrammerHealth>) -> Response {
    let trouble = trouble_of(&health.process).or_else(|| unfit(&health.status.borrow()));
    answer(&health, trouble)
}

/// The trouble of all programmers of the process.
fn trouble_of(process: &Process) -> Option<String> {
    let stale = || {
        (!process.log.is_fresh()).then(|| "the event log cannot be read up to its end".to_owned())
    };
    process.broker().trouble().or_else(stale)
}

/// The trouble of the process that this gate reports.
fn unfit(gate: &Gate) -> Option<String> {
    match gate {
        Gate::Consuming | Gate::Busy { .. } => None,
        Gate::Shut { reason, detail } => reason
            .is_trouble()
            .then(|| format!("{}: {detail}", reason.as_str())),
    }
}

/// 200 without trouble, or else 503.
fn status_of(trouble: Option<&String>) -> StatusCode {
    match trouble {
        None => StatusCode::OK,
        Some(_) => StatusCode::SERVICE_UNAVAILABLE,
    }
}

fn answer(health: &ProgrammerHealth, trouble: Option<String>) -> Response {
    let gate = health.status.borrow().clone();
    let process = &health.process;
    let seen = LastBeat {
        gate,
        port: health.port,
        worker: process.name.clone(),
        sandbox: Some(health.sandbox.clone()),
    };
    let programmer = process.log.read(|fold| {
        let standing = Eligibility {
            pool: &health.pool,
            fold,
            now: fold.now().max(wall_clock()),
        };
        programmer_status(&standing, &health.programmer, Ok(seen))
    });
    let status = status_of(trouble.as_ref());
    let answer = ProgrammerAnswer {
        programmer,
        version: env!("CARGO_PKG_VERSION"),
        broker: process.broker(),
        trouble,
    };
    (status, Json(answer)).into_response()
}

/// 200 while the process follows the event log.
async fn process_alive(State(health): State<ProcessHealth>) -> Response {
    let process = &health.process;
    let detail = if process.log.is_fresh() {
        process.clock.now().err().map(|off| off.to_string())
    } else {
        Some("the event log cannot be read up to its end; is the broker reachable?".to_owned())
    };
    process_answer(&health, detail)
}

/// 200 while every programmer of the process can take tasks, as far as the process is concerned.
async fn process_ready(State(health): State<ProcessHealth>) -> Response {
    let detail = trouble_of(&health.process).or_else(|| health.hosted.trouble());
    process_answer(&health, detail)
}

fn process_answer(health: &ProcessHealth, detail: Option<String>) -> Response {
    let status = status_of(detail.as_ref());
    let answer = ProcessAnswer {
        worker: health.process.name.clone(),
        version: env!("CARGO_PKG_VERSION"),
        broker: health.process.consume.endpoint().address(),
        sandbox: health.sandbox.clone(),
        detail,
    };
    (status, Json(answer)).into_response()
}

#[derive(Serialize)]
struct ProcessAnswer {
    worker: String,
    version: &'static str,
    broker: String,
    sandbox: SandboxStatus,
    /// The trouble, in words.
    detail: Option<String>,
}

/// The programmer as in the pool's status, and the facts that only its process knows.
#[derive(Serialize)]
struct ProgrammerAnswer {
    #[serde(flatten)]
    programmer: ProgrammerStatus,
    version: &'static str,
    broker: BrokerStatus,
    /// Why it is not ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    trouble: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use pool_core::heartbeat::ShutReason;

    #[test]
    fn a_programmer_is_ready_unless_something_is_wrong_with_its_process() {
        let shut = |reason| {
            unfit(&Gate::Shut {
                reason,
                detail: "why".to_owned(),
            })
        };
        assert_eq!(
            shut(ShutReason::Held),
            Some("held: why".to_owned()),
            "another process has it"
        );
        assert_eq!(
            shut(ShutReason::Config),
            Some("config: why".to_owned()),
            "it has the wrong pool file"
        );
        assert_eq!(shut(ShutReason::Budget), None, "it works again tomorrow");
        assert_eq!(shut(ShutReason::Paused), None, "an operator paused it");
        assert_eq!(unfit(&Gate::Consuming), None, "it waits for a task");
    }

    #[test]
    fn a_process_is_ready_when_all_its_programmers_are() {
        let hosted = Hosted::default();
        assert!(
            hosted
                .trouble()
                .is_some_and(|text| text.contains("not set up yet")),
            "it has none yet"
        );
        let (first, second) = (
            watch::channel(Gate::Consuming).0,
            watch::channel(Gate::Consuming).0,
        );
        let id = |id| ProgrammerId::new(id).expect("an id");
        hosted.are(vec![
            (id("001"), first.subscribe()),
            (id("002"), second.subscribe()),
        ]);
        assert_eq!(hosted.trouble(), None, "both wait for tasks");
        second.send_replace(Gate::Shut {
            reason: ShutReason::Held,
            detail: "by another".to_owned(),
        });
        assert_eq!(
            hosted.trouble(),
            Some("002: held: by another".to_owned()),
            "one of them does not hold its id"
        );
    }
}
