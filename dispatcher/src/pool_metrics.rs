//! Metrics of the pool for `/metrics`: the numbers of the status, updated every few seconds. Every
//! dispatcher reports the same.

use std::time::Duration;

use pool_api::status::ProgrammerState;
use pool_broker::process::Process;
use pool_broker::topology::{DEAD_QUEUE, RESULTS_QUEUE, UNROUTABLE};
use pool_core::id::ProgrammerId;
use pool_core::time::Timestamp;
use pool_telemetry::catalog::{
    HEARTBEAT_AGE, OLDEST_WAITING, PROGRAMMERS, PROGRAMMERS_ON_BACKUP, QUEUE_MESSAGES, TASKS_OPEN,
    TASKS_RUNNING, TASKS_WAITING,
};
use pool_telemetry::clock::wall_clock;

use crate::queue_depths::{Depth, Depths, depth, queue_depths};
use crate::views::Reader;
use pool_api::pool::PoolStatus;

const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Queues besides those of the routes in which no message should stay.
const QUEUES: [&str; 3] = [DEAD_QUEUE, UNROUTABLE, RESULTS_QUEUE];

/// Updates the metrics until the process ends.
pub(crate) async fn run(reader: Reader) {
    loop {
        // A broker that does not answer must not delay the other metrics.
        let counted = tokio::time::timeout(LOOK_EVERY, count(&reader.process)).await;
        let (waiting, others) = counted.unwrap_or((Vec::new(), [Depth::Unknown; QUEUES.len()]));
        let status = reader.pool_status_with(&waiting);
        let ages = reader.presence.ages(
            reader
                .pool
                .programmers
                .iter()
                .map(|programmer| &programmer.id),
        );
        PoolMetrics {
            status: &status,
            others,
            ages: &ages,
            now: wall_clock(),
        }
        .emit();
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn count(process: &Process) -> (Depths, [Depth; QUEUES.len()]) {
    let waiting = queue_depths(process).await;
    let mut others = [Depth::Unknown; QUEUES.len()];
    for (count, queue) in others.iter_mut().zip(QUEUES) {
        *count = depth(process, queue).await;
    }
    (waiting, others)
}

/// The pool at one moment.
struct PoolMetrics<'a> {
    status: &'a PoolStatus,
    /// In the order of [`QUEUES`].
    others: [Depth; QUEUES.len()],
    ages: &'a [(&'a ProgrammerId, Duration)],
    now: Timestamp,
}

impl PoolMetrics<'_> {
    fn emit(&self) {
        let Self {
            status,
            others,
            ages,
            now,
        } = self;
        // Before all heartbeats could have arrived, "down" programmers would be a false alarm.
        let all_known = status
            .programmers
            .iter()
            .all(|programmer| !programmer.unknown);
        for state in ProgrammerState::ALL {
            let count = status
                .programmers
                .iter()
                .filter(|programmer| programmer.state == state)
                .count();
            if all_known {
                PROGRAMMERS.set_count([state.as_str()], count);
            } else {
                PROGRAMMERS.set([state.as_str()], f64::NAN);
            }
        }
        PROGRAMMERS_ON_BACKUP.set_count([], status.using_backup);
        for (programmer, age) in *ages {
            HEARTBEAT_AGE.set([programmer.as_str()], age.as_secs_f64());
        }
        TASKS_OPEN.set_count([], status.open_tasks);
        for route in &status.routes {
            let name = [route.name.as_str()];
            TASKS_WAITING.set_count(name, route.waiting_tasks);
            QUEUE_MESSAGES.set(
                [route.queue.as_str()],
                route.waiting.map_or(f64::NAN, f64::from),
            );
            TASKS_RUNNING.set_count(name, route.running);
            OLDEST_WAITING.set(
                name,
                route
                    .oldest_waiting
                    .map_or(0.0, |since| now.since(since).as_secs_f64()),
            );
        }
        for (queue, depth) in QUEUES.into_iter().zip(others) {
            QUEUE_MESSAGES.set([queue], messages(*depth));
        }
    }
}

fn messages(depth: Depth) -> f64 {
    match depth {
        Depth::Ready(count) => f64::from(count),
        Depth::Missing => 0.0,
        Depth::Unknown => f64::NAN,
    }
}
