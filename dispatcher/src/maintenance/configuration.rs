//! Puts this dispatcher's pool file into force: binds its routes and appends `configured` to the
//! event log.
//!
//! Only one process may change bindings at a time: it holds the exclusive queue `pool.topology`
//! meanwhile.

use std::sync::Arc;
use std::time::Duration;

use lapin::Channel;
use lapin::options::QueueDeleteOptions;
use pool_broker::backoff::Backoff;
use pool_broker::fault::{Point, point};
use pool_broker::process::Process;
use pool_broker::topology::Topology;
use pool_broker::{BrokerError, log_broker_error, queue, with_timeout};
use pool_core::config_hash::config_hash;
use pool_core::event::{Configuration, Event};
use pool_core::pool::Pool;
use pool_core::rules::Rules;
use pool_core::state::PoolState;

const LOCK: &str = "pool.topology";
/// Check often, because all gates are shut while the log has no configuration.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Puts the configuration into force; retries until it succeeds.
pub async fn put_in_force(process: &Process, pool: &Pool) {
    let mut backoff = Backoff::default();
    while let Err(error) = try_put_in_force(process, pool).await {
        log_broker_error(&error, "failed to bind the routes; trying again");
        backoff.wait().await;
    }
}

/// Puts the configuration into force again if the log, read from its beginning, has none: then the
/// log is a new one.
pub async fn keep_in_force(process: Process, pool: Arc<Pool>) {
    while process.pause(LOOK_EVERY).await {
        if process.log.is_fresh() && process.log.read(|fold| fold.configuration().is_none()) {
            declare_again(&process, &pool).await;
        }
    }
}

/// This configuration, if it is in force, to append again before the log drops it.
pub(crate) fn in_force(fold: &PoolState, pool: &Pool) -> Option<Event> {
    is_in_force(fold, pool).then(|| configured(pool, config_hash(pool), true))
}

pub(crate) fn is_in_force(fold: &PoolState, pool: &Pool) -> bool {
    fold.configuration()
        .is_some_and(|in_force| in_force.hash == config_hash(pool))
}

fn configured(pool: &Pool, hash: String, again: bool) -> Event {
    Event::from(Configuration {
        hash,
        capabilities: pool.capabilities(),
        rules: Rules::of(pool),
        again,
    })
}

/// Declares missing queues again and binds the routes in force, if this pool file has them. Tried
/// once: the caller that found something missing checks again.
pub async fn declare_again(process: &Process, pool: &Pool) {
    let others = |fold: &PoolState| fold.configuration().is_some() && !is_in_force(fold, pool);
    if process.log.read(others) {
        return;
    }
    let link = &process.consume;
    let declared = async {
        let declaring = link.on_channel(|channel| async move {
            Topology::new(&channel, link.endpoint())
                .declare(&process.routes, &pool.events)
                .await
        });
        declaring.await?;
        try_put_in_force(process, pool).await
    };
    if let Err(error) = declared.await {
        tracing::warn!(%error, "failed to declare the queues again; trying later");
    }
}

async fn try_put_in_force(process: &Process, pool: &Pool) -> Result<(), BrokerError> {
    let link = &process.consume;
    link.on_channel(|channel| async move { lock_and_bind(process, pool, &channel).await })
        .await
}

async fn lock_and_bind(
    process: &Process,
    pool: &Pool,
    channel: &Channel,
) -> Result<(), BrokerError> {
    let limit: Duration = process.consume.endpoint().timeout();
    let what = "lock the routes (another dispatcher may be binding them)";
    queue::lock(channel, limit, LOCK, what).await?;
    let bound = bind(process, pool, channel).await;
    // The lock belongs to the connection, so it must be released whatever happened; after an error
    // only another channel works.
    let unlocked = process.consume.on_channel(|channel| async move {
        let unlock = channel.queue_delete(LOCK.into(), QueueDeleteOptions::default());
        with_timeout(limit, "unlock the routes", unlock).await
    });
    bound.and(unlocked.await.map(drop))
}

/// Appends the event first. If this process dies half-way, the next dispatcher with another file
/// then knows of every binding that may exist.
async fn bind(process: &Process, pool: &Pool, channel: &Channel) -> Result<(), BrokerError> {
    if !process.log.read(|fold| is_in_force(fold, pool)) {
        let hash = config_hash(pool);
        let replaced = process
            .log
            .read(|fold| fold.configuration().map(|before| before.hash.clone()));
        let replaced = replaced.as_deref().unwrap_or("none");
        tracing::info!(%hash, replaced, file = %pool.file.display(), "this configuration is now in force");
        let appended = process.log.append(configured(pool, hash, false)).await;
        appended.map_err(|error| BrokerError::Log {
            what: "put the configuration in force".to_owned(),
            error,
        })?;
        point(Point::Configured);
    }
    let before = process.log.read(|fold| fold.bindings().clone());
    Topology::new(channel, process.consume.endpoint())
        .bind_routes(&process.routes, &before)
        .await?;
    point(Point::RoutesBound);
    Ok(())
}
