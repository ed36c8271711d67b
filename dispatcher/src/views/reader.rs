//! Everything that is shown of the pool and its tasks, read in one place.

use std::sync::Arc;

use pool_api::status::{ProgrammerState, ProgrammerStatus, programmer_status};
use pool_broker::process::Process;
use pool_core::config_hash::config_hash;
use pool_core::eligibility::Standing;
use pool_core::id::TaskId;
use pool_core::pool::{Pool, Programmer};
use pool_core::state::Fold;
use pool_telemetry::clock::wall_clock;

use super::filter::{Filter, Found, newest, runs};
use super::journal::Journal;
use super::llms;
use super::pauses::{PauseView, paused};
use super::pool_status::{PoolStatus, RouteStatus};
use super::presence::{Presence, Snapshot};
use super::route_load::RouteLoad;
use super::tasks::{TaskList, TaskView};
use crate::history::History;
use crate::queue_depths::queue_depths;

/// So many tasks are looked through before others get their turn at the history.
const AT_ONCE: usize = 1_000;

/// What views are made of. Cheap to clone.
#[derive(Clone)]
pub struct Reader {
    pub process: Process,
    pub pool: Arc<Pool>,
    /// Of `pool`.
    pub config_hash: Arc<str>,
    pub history: History,
    pub presence: Presence,
    pub journal: Journal,
}

impl Reader {
    pub fn new(
        process: Process,
        pool: Arc<Pool>,
        history: History,
        presence: Presence,
        journal: Journal,
    ) -> Self {
        Self {
            config_hash: config_hash(&pool).into(),
            process,
            pool,
            history,
            presence,
            journal,
        }
    }

    /// Who was heard of lately.
    pub fn heard(&self) -> Snapshot {
        self.presence.snapshot(
            self.pool.load_balancing.health_check_interval,
            &self.process.broker(),
        )
    }

    /// A task, if the log knows it.
    pub fn task(&self, id: &TaskId) -> Option<TaskView> {
        self.task_as_heard(id, &self.heard())
    }

    /// The same, of one of many.
    fn task_as_heard(&self, id: &TaskId, heard: &Snapshot) -> Option<TaskView> {
        let entry = self.history.entry(id).unwrap_or_default();
        let view = |fold: &Fold| {
            fold.tasks
                .get(id)
                .map(|state| TaskView::new(id, state, runs(fold, state, heard), entry))
        };
        self.process.log.read(view)
    }

    /// Looks through all tasks. While the log is looked at nothing is folded, so only what it alone can tell is asked there; words
    /// are looked through in portions, and what is shown is sorted afterwards.
    pub fn tasks(&self, filter: Filter) -> TaskList {
        let filter = filter.in_lower_case();
        let heard = self.heard();
        let (mut total, mut found) = self
            .process
            .log
            .read(|fold| filter.of_log(&self.pool, fold, &heard));
        if filter.asks_for_words() {
            let matching = |some: &[Found]| {
                self.history.look(|entries| {
                    let matches = |(_, id): &&Found| filter.of_words(id, entries.get(id));
                    some.iter().filter(matches).cloned().collect::<Vec<_>>()
                })
            };
            found = found.chunks(AT_ONCE).flat_map(matching).collect();
            total = found.len();
        }
        TaskList {
            total,
            tasks: newest(found, &filter)
                .iter()
                .filter_map(|id| self.task_as_heard(id, &heard))
                .collect(),
        }
    }

    /// What is paused.
    pub fn pauses(&self) -> Vec<PauseView> {
        self.process.log.read(paused)
    }

    /// Why this dispatcher cannot see or do its work.
    pub fn trouble(&self) -> Option<String> {
        if let Some(trouble) = self.process.broker().trouble() {
            return Some(trouble);
        }
        if !self.process.log.is_fresh() {
            return Some(
                "the event log cannot be read up to its end; is the broker reachable?".to_owned(),
            );
        }
        if let Err(off) = self.process.clock.now() {
            return Some(off.to_string());
        }
        let in_force = self.process.log.read(|fold| {
            fold.configuration()
                .map(|configuration| configuration.hash.clone())
        });
        let file = self.pool.file.display();
        match in_force {
            None => Some(format!(
                "no configuration is in force; this dispatcher is about to put {file} into force"
            )),
            Some(hash) if *hash != *self.config_hash => Some(format!(
                "{file} is not the configuration in force: a dispatcher with another file was started after this one. Start \
                     the one with the right file again; the last start counts"
            )),
            Some(_) => None,
        }
    }

    /// Puts the status together.
    pub async fn pool_status(&self) -> PoolStatus {
        self.pool_status_with(&queue_depths(&self.process).await)
    }

    /// The same, with queues that were counted before; one that is missing was not.
    pub fn pool_status_with(&self, waiting: &[Option<u32>]) -> PoolStatus {
        let Self {
            process,
            pool,
            presence,
            ..
        } = self;
        let (fresh, broker) = (pool.load_balancing.health_check_interval, process.broker());
        let (programmers, breakers): (Vec<ProgrammerStatus>, _) = process.log.read(|fold| {
            let standing = Standing {
                pool,
                fold,
                now: fold.now().max(wall_clock()),
            };
            let seen = |programmer: &Programmer| presence.of(&programmer.id, fresh, &broker);
            let each = pool.programmers.iter();
            let programmers = each
                .map(|programmer| programmer_status(&standing, programmer, seen(programmer)))
                .collect();
            (programmers, llms::breakers(&standing))
        });
        let heard = self.heard();
        let load = process.log.read(|fold| RouteLoad::of(fold, &heard));
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
                .map(|(route, waiting)| load.route(fold, route, waiting))
                .collect()
        });
        let available = programmers.iter().filter(|p| is_available(p.state)).count();
        PoolStatus {
            detail: self.trouble(),
            pauses: self.pauses(),
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
}

fn is_available(state: ProgrammerState) -> bool {
    match state {
        ProgrammerState::Idle | ProgrammerState::Busy => true,
        ProgrammerState::Shut | ProgrammerState::Down => false,
    }
}
