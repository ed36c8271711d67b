//! Background services that keep the pool whole.
//!
//! [`start`] lists them.

pub mod configuration;
mod dead_letters;
pub mod deadlines;
pub mod open_task_snapshots;
pub mod queue_cleaner;
pub mod rescuer;
pub mod retry_scheduler;
pub mod unroutable;

use std::sync::Arc;

use pool_broker::process::Process;
use pool_broker::service::Services;
use pool_core::pool::Pool;

use crate::dead::DeadLetters;
use crate::history::History;
use rescuer::PresenceTracker;

/// The parts that the services use.
pub(crate) struct Maintenance {
    pub(crate) process: Process,
    pub(crate) pool: Arc<Pool>,
    pub(crate) history: History,
    pub(crate) dead: DeadLetters,
    pub(crate) presence_tracker: Arc<PresenceTracker>,
}

/// Starts all of them.
pub(crate) fn start(services: &mut Services, maintenance: Maintenance) {
    let Maintenance {
        process,
        pool,
        history,
        dead,
        presence_tracker,
    } = maintenance;
    let (of_process, of_pool) = (|| process.clone(), || Arc::clone(&pool));
    services.start("retry_scheduler", retry_scheduler::run(of_process()));
    services.start("deadlines", deadlines::run(of_process()));
    services.start("dead_letters", dead_letters::run(of_process(), dead));
    services.start("unroutable", unroutable::run(of_process(), of_pool()));
    services.start("queue_cleaner", queue_cleaner::run(of_process(), of_pool()));
    services.start(
        "configuration",
        configuration::keep_in_force(of_process(), of_pool()),
    );
    services.start(
        "open_task_snapshots",
        open_task_snapshots::run(of_process(), of_pool()),
    );
    let rescuer = rescuer::run(of_process(), of_pool(), history, presence_tracker);
    services.start("rescuer", rescuer);
}
