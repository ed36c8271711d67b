//! Appends snapshots of open tasks and pauses before their first events fall out of the log's
//! retention (`events.max_age`).
//!
//! It runs every quarter of that time, so no open item is ever described only by events older than
//! half of it. Several dispatchers may append the same snapshots.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt, stream};
use pool_broker::event_log::{Log, LogError};
use pool_broker::fault::{Point, point};
use pool_broker::process::Process;
use pool_core::event::{Event, TargetPaused, TaskSnapshot};
use pool_core::pool::Pool;
use pool_core::state::PoolState;
use pool_core::time::Timestamp;

use super::configuration;

/// How many snapshots are appended at the same time.
const AT_ONCE: usize = 128;

const AFTER_FAILURE: Duration = Duration::from_secs(60);

/// Runs until shutdown.
pub async fn run(process: Process, pool: Arc<Pool>) {
    let every = pool.events.restate_every();
    // Start at once: a dispatcher may be restarted more often than every quarter.
    let mut wait = Duration::ZERO;
    while process.pause(wait).await {
        wait = every;
        let since = |fold: &PoolState| {
            Timestamp(
                fold.now()
                    .0
                    .saturating_sub(Timestamp::default().plus(every).0),
            )
        };
        let due = process.log.read(|fold| {
            let configured = configuration::in_force(fold, &pool);
            configured
                .into_iter()
                .chain(due(fold, since(fold)))
                .collect::<Vec<_>>()
        });
        if let Err(error) = say(&process.log, due).await {
            wait = every.min(AFTER_FAILURE);
            tracing::warn!(%error, "failed to append snapshots of open tasks to the event log; trying again later");
        }
    }
}

/// Pauses and open tasks without a snapshot since `then`.
fn due(fold: &PoolState, then: Timestamp) -> impl Iterator<Item = Event> {
    let pause = |(target, paused): (&_, &pool_core::state::pauses::Paused)| {
        Event::from(TargetPaused {
            target: Clone::clone(target),
            pause: paused.pause,
            since_ms: Some(paused.since.0),
        })
    };
    let tasks = fold.tasks.stated_before(then);
    let state = tasks.map(|(id, state)| {
        Event::from(TaskSnapshot {
            task: id.clone(),
            state: Box::new(state.clone()),
        })
    });
    fold.pauses.iter().map(pause).chain(state)
}

async fn say(log: &Log, decisions: Vec<Event>) -> Result<(), LogError> {
    point(Point::Restating);
    let said = stream::iter(decisions).map(|decision| async {
        log.append(decision).await?;
        point(Point::Restated);
        Ok(())
    });
    said.buffer_unordered(AT_ONCE).try_collect().await
}
