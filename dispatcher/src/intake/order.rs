//! The order in which the tasks of one submission are published: within each route the longest
//! expected first. [`longest_first`] decides; this module asks the history how long tasks take.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use pool_core::expected::{Expected, ToOrder, longest_first};
use pool_core::id::LlmName;
use pool_core::pool::Pool;
use pool_core::routing::{Route, Routes};
use pool_core::task::{Priority, Task, TaskMessage};

/// No task starts later than first come, first served by more than this and the longest task of its
/// submission, if tasks take as long as expected.
const MOST_DELAY: Duration = Duration::from_secs(10 * 60);

/// The next task to publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PublishPlace {
    /// Its index in the submission.
    pub(super) index: usize,
    pub(super) expected: Option<Expected>,
}

/// The LLM that all programmers of a route ask first, by route. Other routes have none.
pub(super) type RouteLlms = HashMap<String, LlmName>;

pub(super) fn route_llms(pool: &Pool, routes: &Routes) -> RouteLlms {
    let of_one = |route: &Route| {
        let eligible = route.eligible.iter().filter_map(|id| pool.programmer(id));
        let mut llms = eligible.map(|programmer| programmer.primary());
        let first = llms.next()?;
        llms.all(|llm| llm == first)
            .then(|| (route.name.clone(), first.clone()))
    };
    routes.all().iter().filter_map(of_one).collect()
}

/// The order of these tasks. Routes keep their places among each other. `expect` says how long a
/// task takes.
pub(super) fn places(
    tasks: &[&Task],
    routes: &Routes,
    expect: impl Fn(&TaskMessage, &Route) -> Option<Expected>,
) -> Vec<PublishPlace> {
    let mut of_routes: BTreeMap<&str, (&Route, Vec<PublishPlace>)> = BTreeMap::new();
    let mut places = Vec::with_capacity(tasks.len());
    for (index, task) in tasks.iter().enumerate() {
        let route = routes.route(&task.message.capabilities).ok();
        let expected = route.and_then(|route| expect(&task.message, route));
        let place = PublishPlace { index, expected };
        if let Some(route) = route {
            let same = of_routes.entry(&route.name).or_insert((route, Vec::new()));
            same.1.push(place.clone());
        }
        places.push(place);
    }
    for (route, same) in of_routes.values() {
        let to_order: Vec<ToOrder> = same.iter().map(|one| to_order(tasks, one)).collect();
        let order = longest_first(&to_order, route.eligible.len(), MOST_DELAY);
        for (place, from) in same.iter().zip(order) {
            places[place.index] = same[from].clone();
        }
    }
    places
}

fn to_order(tasks: &[&Task], place: &PublishPlace) -> ToOrder {
    let message = &tasks[place.index].message;
    let high = message.priority == Priority::High;
    ToOrder {
        high,
        keeps_place: !high && message.limits.deadline.is_some(),
        expected: place
            .expected
            .as_ref()
            .map_or(Duration::ZERO, |expected| expected.duration),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pool_core::expected::Basis;
    use pool_core::id::{Capability, ProgrammerId, TaskId};
    use serde_json::json;

    #[test]
    fn each_route_has_its_longest_first_at_the_places_of_its_tasks() {
        let fast = Capability::new("fast").expect("a capability");
        let routes = Routes::new(&BTreeMap::from([
            (ProgrammerId::new("001").expect("an id"), [fast].into()),
            (ProgrammerId::new("002").expect("an id"), [].into()),
        ]));
        let task = |(number, (capabilities, minutes)): (usize, (&[&str], u64))| {
            let message = json!({"instruction": minutes.to_string(), "repository": "app", "capabilities": capabilities});
            let id = TaskId::new(format!("t{number}")).expect("an id");
            Task::new(id, serde_json::from_value(message).expect("a task"))
        };
        let tasks: [(&[&str], u64); 5] =
            [(&[], 1), (&["fast"], 2), (&[], 3), (&["fast"], 4), (&[], 2)];
        let tasks: Vec<Task> = tasks.into_iter().enumerate().map(task).collect();
        let expect = |message: &TaskMessage, _: &Route| {
            let minutes: u64 = message.instruction.parse().expect("minutes");
            let (duration, by) = (Duration::from_secs(60 * minutes), Basis::SameTask);
            Some(Expected { duration, by })
        };
        let order = |expect: &dyn Fn(&TaskMessage, &Route) -> Option<Expected>| {
            let tasks: Vec<&Task> = tasks.iter().collect();
            let places = places(&tasks, &routes, expect);
            places.iter().map(|place| place.index).collect::<Vec<_>>()
        };
        assert_eq!(
            order(&expect),
            [2, 3, 4, 1, 0],
            "places 0, 2, 4 and places 1, 3"
        );
        assert_eq!(
            order(&|_, _| None),
            [0, 1, 2, 3, 4],
            "as they came while nothing is known"
        );
    }
}
