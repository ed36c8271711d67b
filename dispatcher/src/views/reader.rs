//! Reads the pool and its tasks for the API, the metrics and the dashboard.

use std::sync::Arc;

use pool_api::budget::BudgetStatus;
use pool_api::control::PauseView;
use pool_api::pool::{BreakerStatus, PoolStatus, RouteStatus};
use pool_api::status::{ProgrammerStatus, programmer_status};
use pool_api::tasks::{TaskList, TaskView};
use pool_broker::process::Process;
use pool_broker::status::BrokerStatus;
use pool_core::config_hash::config_hash;
use pool_core::eligibility::Eligibility;
use pool_core::id::TaskId;
use pool_core::pause::Target;
use pool_core::pool::{Pool, Programmer};
use pool_core::state::PoolState;
use pool_core::state::pauses::Paused;
use pool_telemetry::clock::wall_clock;

use super::filter::{Filter, FoundTask, newest, runs};
use super::journal::Journal;
use super::llms;
use super::presence::{Presence, Snapshot};
use super::route_load::RouteLoad;
use super::tasks::task_view;
use crate::history::History;
use crate::queue_depths::queue_depths;

/// Tasks that are searched before the history is released for others.
const AT_ONCE: usize = 1_000;

/// The sources of all views. Cheap to clone.
#[derive(Clone)]
pub struct Reader {
    pub process: Process,
    pub pool: Arc<Pool>,
    /// The hash of `pool`.
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

    /// The programmers and processes that sent a heartbeat lately.
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

    /// Like [`Self::task`], with a snapshot that many tasks share.
    fn task_as_heard(&self, id: &TaskId, heard: &Snapshot) -> Option<TaskView> {
        let entry = self.history.entry(id).unwrap_or_default();
        let view = |fold: &PoolState| {
            fold.tasks
                .get(id)
                .map(|state| task_view(id, &state, runs(fold, &state, heard), entry))
        };
        self.process.log.read(view)
    }

    /// Searches all tasks. The fold stands still while the log is read, so only log fields are matched
    /// there. Words are matched in portions afterwards, and the matches sorted last.
    pub fn tasks(&self, filter: Filter) -> TaskList {
        let filter = filter.in_lower_case();
        let heard = self.heard();
        let (mut total, mut found) = self
            .process
            .log
            .read(|fold| filter.of_log(&self.pool, fold, &heard));
        if filter.asks_for_words() {
            let matching = |some: &[FoundTask]| {
                self.history.look(|entries| {
                    let matches = |(_, id): &&FoundTask| filter.of_words(id, entries.get(id));
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

    /// All active pauses.
    pub fn pauses(&self) -> Vec<PauseView> {
        let view = |(target, paused): (&Target, &Paused)| PauseView {
            target: target.clone(),
            pause: paused.pause,
            since: paused.since,
        };
        self.process
            .log
            .read(|fold| fold.pauses.iter().map(view).collect())
    }

    /// All breakers that have ever opened.
    pub fn breakers(&self) -> Vec<BreakerStatus> {
        self.process.log.read(|fold| {
            llms::breakers(&Eligibility {
                pool: &self.pool,
                fold,
                now: fold.now().max(wall_clock()),
            })
        })
    }

    /// Today's budget.
    pub fn budget(&self) -> BudgetStatus {
        self.process.log.read(|fold| llms::budget(&self.pool, fold))
    }

    /// Why this dispatcher cannot do its work, or cannot see the pool.
    pub fn trouble(&self) -> Option<String> {
        self.trouble_with(&self.process.broker())
    }

    /// The same, for a state of the broker that the rest of an answer shows too.
    fn trouble_with(&self, broker: &BrokerStatus) -> Option<String> {
        if let Some(trouble) = broker.trouble() {
            return Some(trouble);
        }
        if !self.process.log.is_fresh() {
            return Some(
                "the event log cannot be read to its end; check that the broker is reachable"
                    .to_owned(),
            );
        }
        if let Err(off) = self.process.clock.now() {
            return Some(off.to_string());
        }
        let hash = |fold: &PoolState| Some(fold.configuration()?.hash.clone());
        let in_force = self.process.log.read(hash);
        let file = self.pool.file.display();
        match in_force {
            None => Some(format!(
                "no configuration is in force yet; this dispatcher is putting {file} into force"
            )),
            Some(hash) if *hash != *self.config_hash => Some(format!(
                "{file} is not the configuration in force: another dispatcher was started later with a different file. The last \
                 start counts: restart the dispatcher that has the right file"
            )),
            Some(_) => None,
        }
    }

    /// Builds the status.
    pub async fn pool_status(&self) -> PoolStatus {
        self.pool_status_with(&queue_depths(&self.process).await)
    }

    /// Builds the status with queue lengths that were counted before; None for a queue that was not
    /// counted.
    pub fn pool_status_with(&self, waiting: &[Option<u32>]) -> PoolStatus {
        let Self {
            process,
            pool,
            presence,
            ..
        } = self;
        let (fresh, broker) = (pool.load_balancing.health_check_interval, process.broker());
        let (programmers, breakers): (Vec<ProgrammerStatus>, _) = process.log.read(|fold| {
            let standing = Eligibility {
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
        // After the broker went away, earlier counts are outdated.
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
        let available = programmers
            .iter()
            .filter(|p| p.state.is_available())
            .count();
        PoolStatus {
            detail: self.trouble_with(&broker),
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
            budget: self.budget(),
            breakers,
            routes,
            programmers,
        }
    }
}
