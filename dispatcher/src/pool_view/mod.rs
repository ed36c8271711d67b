//! What the pool looks like: the fold, and what programmers say of themselves in heartbeats.

pub mod llms;

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use lapin::options::QueueDeclareOptions;
use lapin::types::FieldTable;
use pool_shared::broker::process::Process;
use pool_shared::broker::within;
use pool_shared::config::{Pool, Programmer};
use pool_shared::heartbeat::{Gate, Heartbeat, ProgrammerBeat};
use pool_shared::id::ProgrammerId;
use pool_shared::llm::Fault;
use pool_shared::standing::Standing;
use pool_shared::time::{Timestamp, wall_clock};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use llms::{BreakerStatus, BudgetStatus};

/// Who merely waits for an id does not hide a holder that was heard within so long.
const HOLDER_IS_FRESH: Duration = Duration::from_secs(30);

/// What was heard last of a programmer.
struct Heard {
    beat: ProgrammerBeat,
    at: Instant,
    /// The name of the process.
    by: String,
}

/// The latest heartbeats. Cheap to clone.
#[derive(Clone, Default)]
pub struct Beats(Arc<RwLock<HashMap<ProgrammerId, Heard>>>);

impl Beats {
    pub fn hear(&self, heartbeat: Heartbeat) {
        let mut beats = self.0.write().unwrap_or_else(PoisonError::into_inner);
        for beat in heartbeat.programmers {
            let held_by_another = beats.get(&beat.id).is_some_and(|heard| {
                heard.by != heartbeat.name && !is_held(&heard.beat.gate) && heard.at.elapsed() < HOLDER_IS_FRESH
            });
            if is_held(&beat.gate) && held_by_another {
                continue;
            }
            let heard = Heard { at: Instant::now(), by: heartbeat.name.clone(), beat };
            beats.insert(heard.beat.id.clone(), heard);
        }
    }

    fn of(&self, id: &ProgrammerId, fresh: Duration) -> Option<(ProgrammerBeat, String)> {
        let beats = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let heard = beats.get(id).filter(|heard| heard.at.elapsed() < fresh)?;
        Some((heard.beat.clone(), heard.by.clone()))
    }
}

fn is_held(gate: &Gate) -> bool {
    matches!(gate, Gate::Shut { reason: pool_shared::heartbeat::ShutReason::Held, .. })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ProgrammerState {
    Idle,
    Busy,
    Shut,
    Down,
}

/// One programmer in the status.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct ProgrammerStatus {
    pub id: ProgrammerId,
    /// The old clients' name: `Prog-001`.
    pub agent: String,
    pub port: u16,
    pub state: ProgrammerState,
    /// Why it is shut or down; which task it works on.
    pub reason: String,
    pub task: Option<pool_shared::id::TaskId>,
    pub since: Option<Timestamp>,
    /// The process that holds it.
    pub worker: Option<String>,
    pub primary_llm: String,
    pub backup_llm: Option<String>,
    pub current_llm: String,
    pub using_backup: bool,
    /// The breaker of its primary LLM lets none of its calls pass; `circuit` says why.
    pub circuit_open: bool,
    pub circuit: Option<CircuitStatus>,
    /// Failures of its primary LLM that it has seen lately.
    pub failures: u32,
    pub capabilities: Vec<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct RouteStatus {
    pub queue: String,
    /// Messages that wait in the queue; None when the broker did not say.
    pub waiting: Option<u32>,
    pub running: usize,
    pub programmers: Vec<ProgrammerId>,
}

/// Why the primary LLM of a programmer is not called.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct CircuitStatus {
    pub since: Timestamp,
    /// When the next probe is due.
    pub until: Timestamp,
    pub reason: Fault,
    pub failures: u32,
    /// In one sentence.
    pub detail: String,
}

/// `GET /programmer_pool/status`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct PoolStatus {
    pub pool_size: usize,
    /// Idle or busy.
    pub available: usize,
    /// Shut or down.
    pub unavailable: usize,
    pub using_backup: usize,
    pub total_queue_depth: u64,
    /// Tasks without an outcome.
    pub open_tasks: usize,
    pub budget: BudgetStatus,
    pub breakers: Vec<BreakerStatus>,
    pub routes: Vec<RouteStatus>,
    pub programmers: Vec<ProgrammerStatus>,
}

/// Puts the status together.
pub async fn status(process: &Process, pool: &Pool, beats: &Beats) -> PoolStatus {
    let programmers: Vec<ProgrammerStatus> = process.log.read(|fold| {
        let standing = Standing { pool, fold, now: fold.now().max(wall_clock()) };
        pool.programmers.iter().map(|programmer| programmer_status(&standing, programmer, beats)).collect()
    });
    let waiting = queue_depths(process).await;
    let running = running(process);
    let routes: Vec<RouteStatus> = process
        .routes
        .all()
        .iter()
        .zip(waiting)
        .map(|(route, waiting)| RouteStatus {
            queue: route.queue(),
            waiting,
            running: running.get(&route.name).copied().unwrap_or_default(),
            programmers: route.eligible.iter().cloned().collect(),
        })
        .collect();
    let available = programmers.iter().filter(|p| is_available(p.state)).count();
    PoolStatus {
        pool_size: programmers.len(),
        available,
        unavailable: programmers.len() - available,
        using_backup: programmers.iter().filter(|p| p.using_backup).count(),
        total_queue_depth: routes.iter().filter_map(|route| route.waiting).map(u64::from).sum(),
        open_tasks: process.log.read(|fold| fold.tasks.open()),
        budget: process.log.read(llms::budget),
        breakers: process.log.read(llms::breakers),
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

/// Why this programmer's calls do not go to its primary LLM.
fn circuit(standing: &Standing<'_>, programmer: &Programmer) -> Option<CircuitStatus> {
    let caller = standing.caller(&programmer.id);
    let primary = programmer.primary();
    let shut = standing.shut(&standing.pool.llm_key(primary, &caller.host), &caller)?;
    let detail = pool_shared::standing::explain(primary, &shut);
    let outage = shut.outage?;
    let (since, reason, failures) = (outage.since, outage.fault, outage.failures);
    Some(CircuitStatus { since, until: shut.until, reason, failures, detail })
}

fn programmer_status(standing: &Standing<'_>, programmer: &Programmer, beats: &Beats) -> ProgrammerStatus {
    let pool = standing.pool;
    let beat = beats.of(&programmer.id, pool.load_balancing.health_check_interval);
    let (state, reason, task, since) = match beat.as_ref().map(|(beat, _)| &beat.gate) {
        None => {
            let reason = format!(
                "not heard of for {} s; is a worker running with it?",
                pool.load_balancing.health_check_interval.as_secs()
            );
            (ProgrammerState::Down, reason, None, None)
        }
        Some(Gate::Consuming) => (ProgrammerState::Idle, String::new(), None, None),
        Some(Gate::Busy { task, since }) => {
            (ProgrammerState::Busy, format!("working on {task}"), Some(task.clone()), Some(*since))
        }
        Some(Gate::Shut { reason, detail }) => {
            // Breakers and money change from moment to moment: the log knows it better than a heartbeat.
            let known = standing.obstacle(programmer, |_| true).filter(|obstacle| obstacle.reason == *reason);
            let detail = known.map_or(detail.clone(), |obstacle| obstacle.detail);
            (ProgrammerState::Shut, format!("{}: {detail}", reason.as_str()), None, None)
        }
    };
    let current = standing.current_llm(programmer).unwrap_or_else(|| programmer.primary().clone());
    let circuit = circuit(standing, programmer);
    let host = standing.caller(&programmer.id).host;
    let key = pool.llm_key(programmer.primary(), &host);
    ProgrammerStatus {
        agent: programmer.id.display_name(),
        port: beat.as_ref().map_or(programmer.port, |(beat, _)| beat.port),
        state,
        reason,
        task,
        since,
        worker: beat.as_ref().map(|(_, name)| name.clone()),
        primary_llm: programmer.primary().to_string(),
        backup_llm: programmer.llms.get(1).map(ToString::to_string),
        current_llm: current.to_string(),
        using_backup: current != *programmer.primary(),
        circuit_open: circuit.is_some(),
        failures: standing.fold.breakers.failures(&key, &programmer.id),
        circuit,
        capabilities: programmer.capabilities.iter().map(ToString::to_string).collect(),
        id: programmer.id.clone(),
    }
}

/// Tasks that somebody works on, by route.
fn running(process: &Process) -> HashMap<String, usize> {
    process.log.read(|fold| {
        let mut routes = HashMap::new();
        for state in fold.tasks.running().filter_map(|(id, _)| fold.tasks.get(id)) {
            *routes.entry(state.route.clone()).or_default() += 1;
        }
        routes
    })
}

/// Messages that wait in each route's queue, in the order of the routes.
async fn queue_depths(process: &Process) -> Vec<Option<u32>> {
    let routes = process.routes.all();
    let Ok(channel) = process.consume.channel().await else { return vec![None; routes.len()] };
    let limit = process.consume.endpoint().timeout();
    let mut depths = Vec::with_capacity(routes.len());
    for route in routes {
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let declare = channel.queue_declare(route.queue().as_str().into(), options, FieldTable::default());
        depths.push(within(limit, "count a queue", declare).await.ok().map(|queue| queue.message_count()));
    }
    pool_shared::broker::link::discard(&channel, process.consume.endpoint()).await;
    depths
}
