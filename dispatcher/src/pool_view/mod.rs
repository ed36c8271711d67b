//! What the pool looks like: the fold, and what programmers say of themselves in heartbeats.

mod beats;
mod held;
pub mod llms;

use lapin::options::QueueDeclareOptions;
use lapin::protocol::AMQPSoftError;
use lapin::types::FieldTable;
use pool_api::status::{ProgrammerState, ProgrammerStatus, programmer_status};
use pool_broker::link::discard;
use pool_broker::process::Process;
use pool_broker::within;
use pool_core::eligibility::Standing;
use pool_core::id::ProgrammerId;
use pool_core::pool::Programmer;
use pool_core::time::Timestamp;
use pool_telemetry::clock::wall_clock;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api::control::{PauseView, paused};
use crate::api::{App, health};
pub use beats::{Beats, Snapshot};
use held::Held;
use llms::{BreakerStatus, BudgetStatus};

#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct RouteStatus {
    pub queue: String,
    /// As tasks and pauses name it.
    pub name: String,
    /// Messages that wait in the queue; None when the broker did not say. Among them are copies that are dropped when
    /// their turn comes: of tasks that were cancelled, for example.
    pub waiting: Option<u32>,
    /// Tasks that wait for a programmer, of those that the log knows: it hears of one that came straight over AMQP when that
    /// is started.
    #[serde(default)]
    pub waiting_tasks: usize,
    /// Tasks whose programmer is heard of.
    pub running: usize,
    /// Since when the oldest task that waits has waited, of those that the log knows.
    pub oldest_waiting: Option<Timestamp>,
    pub programmers: Vec<ProgrammerId>,
}

impl RouteStatus {
    /// For tables: tasks, and messages where those are others.
    pub fn waiting_in_words(&self) -> String {
        let tasks = self.waiting_tasks;
        match self.waiting.map(|messages| messages as usize) {
            Some(messages) if messages != tasks => {
                format!(
                    "{tasks} ({})",
                    crate::figures::counted(messages, "message", "messages")
                )
            }
            Some(_) | None => tasks.to_string(),
        }
    }
}

/// `GET /programmer_pool/status`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct PoolStatus {
    /// Why this dispatcher cannot see or do its work, as in `/ready`; absent when all is well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    pub pauses: Vec<PauseView>,
    pub pool_size: usize,
    /// Idle or busy.
    pub available: usize,
    /// Shut or down.
    pub unavailable: usize,
    pub using_backup: usize,
    /// Messages in the queues that were counted.
    pub total_queue_depth: u64,
    /// Queues of which the broker did not say how much is in them.
    #[serde(default)]
    pub uncounted_queues: usize,
    /// Tasks without an outcome.
    pub open_tasks: usize,
    pub budget: BudgetStatus,
    pub breakers: Vec<BreakerStatus>,
    pub routes: Vec<RouteStatus>,
    pub programmers: Vec<ProgrammerStatus>,
}

/// Messages that wait in each route's queue, in the order of the routes; None when the broker did not say.
pub type Depths = Vec<Option<u32>>;

/// Puts the status together.
pub async fn status(app: &App) -> PoolStatus {
    status_with(app, &queue_depths(&app.process).await)
}

/// The same, with queues that were counted before; one that is missing was not.
pub fn status_with(app: &App, waiting: &[Option<u32>]) -> PoolStatus {
    let App {
        process,
        pool,
        beats,
        ..
    } = app;
    let (fresh, broker) = (pool.load_balancing.health_check_interval, process.broker());
    let (programmers, breakers): (Vec<ProgrammerStatus>, _) = process.log.read(|fold| {
        let standing = Standing {
            pool,
            fold,
            now: fold.now().max(wall_clock()),
        };
        let seen = |programmer: &Programmer| beats.of(&programmer.id, fresh, &broker);
        let each = pool.programmers.iter();
        let programmers = each
            .map(|programmer| programmer_status(&standing, programmer, seen(programmer)))
            .collect();
        (programmers, llms::breakers(&standing))
    });
    let heard = app.heard();
    let held = process.log.read(|fold| Held::of(fold, &heard));
    // What was counted before the broker went away is not so any more.
    let waiting = if broker.trouble().is_some() {
        &[]
    } else {
        waiting
    };
    let waiting = waiting.iter().copied().chain(std::iter::repeat(None));
    let routes = process.routes.all().iter().zip(waiting);
    let routes: Vec<RouteStatus> = process.log.read(|fold| {
        routes
            .map(|(route, waiting)| held.route(fold, route, waiting))
            .collect()
    });
    let available = programmers.iter().filter(|p| is_available(p.state)).count();
    PoolStatus {
        detail: health::trouble(app),
        pauses: process.log.read(paused),
        pool_size: programmers.len(),
        available,
        unavailable: programmers.len() - available,
        using_backup: programmers.iter().filter(|p| p.using_backup).count(),
        total_queue_depth: routes
            .iter()
            .filter_map(|route| route.waiting)
            .map(u64::from)
            .sum(),
        uncounted_queues: routes
            .iter()
            .filter(|route| route.waiting.is_none())
            .count(),
        open_tasks: process.log.read(|fold| fold.tasks.open()),
        budget: process.log.read(|fold| llms::budget(pool, fold)),
        breakers,
        routes,
        programmers,
    }
}

fn is_available(state: ProgrammerState) -> bool {
    match state {
        ProgrammerState::Idle | ProgrammerState::Busy => true,
        ProgrammerState::Shut | ProgrammerState::Down => false,
    }
}

/// Asks the broker, unless it is known to be away: a link waits for its connection for seconds.
pub async fn queue_depths(process: &Process) -> Depths {
    let (routes, endpoint) = (process.routes.all(), process.consume.endpoint());
    if process.consume.is_there().is_err() {
        return vec![None; routes.len()];
    }
    let mut depths = Vec::with_capacity(routes.len());
    let mut open = None;
    for route in routes {
        let channel = match open.take() {
            Some(channel) => channel,
            None => match process.consume.channel().await {
                Ok(channel) => channel,
                Err(_) => break,
            },
        };
        let options = QueueDeclareOptions {
            passive: true,
            ..QueueDeclareOptions::default()
        };
        let declare = channel.queue_declare(
            route.queue().as_str().into(),
            options,
            FieldTable::default(),
        );
        match within(endpoint.timeout(), "count a queue", declare).await {
            Ok(queue) => {
                depths.push(Some(queue.message_count()));
                open = Some(channel);
                continue;
            }
            // Asking for a queue that is missing closes the channel, and says nothing of the others.
            Err(error) if error.is(AMQPSoftError::NOTFOUND) => depths.push(None),
            Err(_) => break,
        }
        discard(&channel, endpoint).await;
    }
    if let Some(channel) = open {
        discard(&channel, endpoint).await;
    }
    depths.resize(routes.len(), None);
    depths
}
