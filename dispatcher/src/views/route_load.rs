//! Which programmers have the open tasks of each route. Pure: from the fold and the heartbeats.

use std::collections::HashMap;

use pool_api::pool::RouteStatus;
use pool_core::routing::Route;
use pool_core::state::PoolState;
use pool_core::time::Timestamp;

use super::presence::Snapshot;

/// Open tasks, by their state.
#[derive(Debug, Default)]
pub(super) struct RouteLoad {
    /// The number of running tasks, by route.
    running: HashMap<String, usize>,
    /// For tasks whose programmer is lost: since when each has waited. The broker delivers their
    /// messages to other programmers.
    lost: HashMap<String, Vec<Timestamp>>,
}

impl RouteLoad {
    pub(super) fn of(fold: &PoolState, heard: &Snapshot) -> Self {
        let mut load = Self::default();
        for (task, owner) in fold.tasks.running() {
            let Some(state) = fold.tasks.get(task) else {
                continue;
            };
            if heard.has_lost(fold, owner) {
                load.lost
                    .entry(state.route.clone())
                    .or_default()
                    .push(state.submitted_at.unwrap_or(owner.since));
            } else {
                *load.running.entry(state.route.clone()).or_default() += 1;
            }
        }
        load
    }

    pub(super) fn route(
        &self,
        fold: &PoolState,
        route: &Route,
        waiting: Option<u32>,
    ) -> RouteStatus {
        let lost = self.lost.get(&route.name).map_or(&[][..], Vec::as_slice);
        let oldest = lost
            .iter()
            .copied()
            .chain(fold.tasks.oldest_waiting(&route.name))
            .min();
        RouteStatus {
            queue: route.queue(),
            name: route.name.clone(),
            waiting,
            waiting_tasks: fold.tasks.waiting(&route.name) + lost.len(),
            running: self.running.get(&route.name).copied().unwrap_or_default(),
            oldest_waiting: oldest,
            programmers: route.eligible.iter().cloned().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use pool_api::status::NoHeartbeat;
    use pool_core::event::{Event, TaskStarted, TaskSubmitted};
    use pool_core::id::{AttemptId, Capability, ProgrammerId, TaskId, Token};
    use pool_core::routing::Routes;

    use super::*;

    #[test]
    fn a_task_whose_programmer_is_not_heard_of_any_more_waits_with_its_age() {
        let (task, programmer) = (
            TaskId::new("t").expect("an id"),
            ProgrammerId::new("006").expect("an id"),
        );
        let (route, body_hash) = ("any".to_owned(), String::new());
        let submitted = Event::from(TaskSubmitted {
            task: task.clone(),
            body_hash: body_hash.clone(),
            route: route.clone(),
            deadline_ms: None,
        });
        let token = Token {
            generation: 0,
            count: 0,
        };
        let attempt = AttemptId::from_u128(1);
        let started = Event::from(TaskStarted {
            task,
            attempt,
            programmer: programmer.clone(),
            token,
            route: route.clone(),
            body_hash,
        });
        let fold = PoolState::of_events(Timestamp(5), [submitted, started]);
        let fast = [Capability::new("fast").expect("a capability")].into();
        let routes = Routes::new(&BTreeMap::from([(programmer, fast)]));
        let route = routes
            .all()
            .iter()
            .find(|one| one.name == route)
            .expect("a route");
        let seen = |unheard| {
            let heard = Snapshot::empty(unheard);
            let status = RouteLoad::of(&fold, &heard).route(&fold, route, Some(1));
            (status.running, status.waiting_tasks, status.oldest_waiting)
        };
        assert_eq!(
            seen(NoHeartbeat::NotYet(Duration::ZERO)),
            (1, 0, None),
            "the dispatcher has not listened long enough to know"
        );
        assert_eq!(
            seen(NoHeartbeat::Silent {
                since: Timestamp(1)
            }),
            (0, 1, Some(Timestamp(5))),
            "its programmer is down"
        );
    }
}
