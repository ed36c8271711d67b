//! Routes lead a task to its queue: the queue that exactly the eligible programmers consume. Pure.
//!
//! Two sets of required capabilities with the same eligible programmers share one queue, so queues stay
//! few. Every set that some programmer offers has one binding from `pool.tasks` to a queue. The bindings
//! are the routing table.
//!
//! ```
//! use std::collections::BTreeMap;
//! use pool_core::id::{Capability, ProgrammerId};
//! use pool_core::routing::{CapabilitySet, Routes};
//!
//! let set = |words: &[&str]| -> CapabilitySet {
//!     words.iter().map(|word| Capability::new(*word).unwrap()).collect()
//! };
//! let routes = Routes::new(&BTreeMap::from([
//!     (ProgrammerId::new("001")?, set(&["fast", "local"])),
//!     (ProgrammerId::new("002")?, set(&["local", "premium"])),
//! ]));
//! let names: Vec<&str> = routes.all().iter().map(|route| route.name.as_str()).collect();
//! assert_eq!(names, ["any", "fast", "premium"], "`local` shares the queue of `any`: both may do it");
//! assert_eq!(routes.route(&set(&["fast", "local"]))?.queue(), "tasks.fast");
//!
//! let error = routes.route(&set(&["fast", "premium"])).unwrap_err();
//! assert_eq!(error.to_string(), "no programmer offers all of `fast`, `premium` together");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::collections::{BTreeMap, BTreeSet};

use crate::id::{Capability, ProgrammerId};

/// The capabilities that a task requires or a programmer offers.
pub type CapabilitySet = BTreeSet<Capability>;

/// The routing key of a required set: its words, sorted and joined with `.`; `any` for the empty set.
pub fn routing_key(required: &CapabilitySet) -> String {
    if required.is_empty() {
        return "any".to_owned();
    }
    required
        .iter()
        .map(Capability::as_str)
        .collect::<Vec<_>>()
        .join(".")
}

/// The required set that a routing key names, in any order; None when a word of the key cannot be a
/// capability.
///
/// ```
/// use pool_core::routing::{parse_routing_key, routing_key};
///
/// let required = parse_routing_key("local.fast").unwrap();
/// assert_eq!(routing_key(&required), "fast.local", "sorted");
/// assert_eq!(parse_routing_key("any").unwrap().len(), 0, "any programmer");
/// assert!(parse_routing_key("Fast!").is_none());
/// ```
pub fn parse_routing_key(key: &str) -> Option<CapabilitySet> {
    if key == "any" {
        return Some(CapabilitySet::new());
    }
    key.split('.')
        .map(|word| Capability::new(word).ok())
        .collect()
}

/// One queue of tasks and the programmers that consume it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The routing key of the smallest set that leads here; of several, the first in alphabetical order.
    pub name: String,
    /// Exactly the programmers that may do the tasks of this queue. Never empty.
    pub eligible: BTreeSet<ProgrammerId>,
    /// The routing keys bound to the queue.
    pub keys: BTreeSet<String>,
}

impl Route {
    /// Sorts routes: the fewer programmers can do its tasks, the more specific a route is. A free programmer takes tasks of
    /// its most specific route first, because more programmers can do the tasks that it leaves. Ties go by name.
    pub fn specificity(&self) -> (usize, &str) {
        (self.eligible.len(), &self.name)
    }

    /// The queue: `tasks.<name>`.
    pub fn queue(&self) -> String {
        queue_name(&self.name)
    }
}

/// The queue of the route with this name.
pub fn queue_name(route: &str) -> String {
    format!("tasks.{route}")
}

/// A binding of the exchange `pool.tasks`: the queue gets the messages with this routing key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Binding {
    /// `tasks.<route>`.
    pub queue: String,
    /// A routing key, as [`routing_key`] writes it.
    pub key: String,
}

/// All routes of a pool.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Routes {
    /// Sorted by name.
    routes: Vec<Route>,
    by_key: BTreeMap<String, usize>,
    offered: CapabilitySet,
}

impl Routes {
    /// Computes the routes from the capabilities that each programmer offers. The work grows with 2ⁿ for
    /// n capabilities of a programmer; the pool file allows at most 8.
    pub fn new(offers: &BTreeMap<ProgrammerId, CapabilitySet>) -> Self {
        let mut classes: BTreeMap<BTreeSet<ProgrammerId>, BTreeSet<CapabilitySet>> =
            BTreeMap::new();
        let required_sets: BTreeSet<CapabilitySet> = offers.values().flat_map(subsets).collect();
        for required in required_sets {
            classes
                .entry(eligible(offers, &required))
                .or_default()
                .insert(required);
        }
        let mut routes: Vec<Route> = classes
            .into_iter()
            .map(|(eligible, sets)| route(eligible, &sets))
            .collect();
        routes.sort_by(|a, b| a.name.cmp(&b.name));
        let by_key = routes
            .iter()
            .enumerate()
            .flat_map(|(index, route)| route.keys.iter().map(move |key| (key.clone(), index)))
            .collect();
        Self {
            routes,
            by_key,
            offered: offers.values().flatten().cloned().collect(),
        }
    }

    /// All routes, sorted by name.
    pub fn all(&self) -> &[Route] {
        &self.routes
    }

    /// All bindings: one for each set that a programmer offers.
    pub fn bindings(&self) -> impl Iterator<Item = Binding> {
        let of_one = |route: &Route| {
            let queue = route.queue();
            route
                .keys
                .iter()
                .map(move |key| Binding {
                    queue: queue.clone(),
                    key: key.clone(),
                })
                .collect::<Vec<_>>()
        };
        self.routes.iter().flat_map(of_one)
    }

    /// The route of a task with these requirements.
    ///
    /// # Errors
    /// [`Unroutable`] when no programmer offers all of them.
    pub fn route(&self, required: &CapabilitySet) -> Result<&Route, Unroutable> {
        match self.by_key.get(&routing_key(required)) {
            Some(&index) => Ok(&self.routes[index]),
            None => Err(Unroutable {
                missing: required.difference(&self.offered).cloned().collect(),
                required: required.clone(),
            }),
        }
    }

    /// The routes that this programmer consumes from, the most specific first: see [`Route::specificity`].
    pub fn of(&self, programmer: &ProgrammerId) -> Vec<&Route> {
        let mut routes: Vec<&Route> = self
            .routes
            .iter()
            .filter(|route| route.eligible.contains(programmer))
            .collect();
        routes.sort_by_key(|route| route.specificity());
        routes
    }
}

/// No programmer offers the required set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unroutable {
    /// Required capabilities that no programmer offers. Empty when each one is offered, but no
    /// programmer offers all of them.
    pub missing: CapabilitySet,
    /// All capabilities that the task requires.
    pub required: CapabilitySet,
}

impl std::error::Error for Unroutable {}

impl std::fmt::Display for Unroutable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let list = |set: &CapabilitySet| {
            set.iter()
                .map(|c| format!("`{c}`"))
                .collect::<Vec<_>>()
                .join(", ")
        };
        if self.missing.is_empty() {
            write!(
                f,
                "no programmer offers all of {} together",
                list(&self.required)
            )
        } else {
            write!(f, "no programmer offers {}", list(&self.missing))
        }
    }
}

fn eligible(
    offers: &BTreeMap<ProgrammerId, CapabilitySet>,
    required: &CapabilitySet,
) -> BTreeSet<ProgrammerId> {
    offers
        .iter()
        .filter(|(_, offered)| required.is_subset(offered))
        .map(|(id, _)| id.clone())
        .collect()
}

fn route(eligible: BTreeSet<ProgrammerId>, sets: &BTreeSet<CapabilitySet>) -> Route {
    let keys: BTreeSet<String> = sets.iter().map(routing_key).collect();
    let name = sets
        .iter()
        .map(|set| (set.len(), routing_key(set)))
        .min()
        .map(|(_, key)| key)
        .unwrap_or_default();
    Route {
        name,
        eligible,
        keys,
    }
}

fn subsets(set: &CapabilitySet) -> Vec<CapabilitySet> {
    let mut all = vec![CapabilitySet::new()];
    for capability in set {
        let with: Vec<CapabilitySet> = all
            .iter()
            .map(|subset| {
                subset
                    .iter()
                    .cloned()
                    .chain(std::iter::once(capability.clone()))
                    .collect()
            })
            .collect();
        all.extend(with);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn set(words: &[&str]) -> CapabilitySet {
        words
            .iter()
            .map(|word| Capability::new(*word).expect("a capability"))
            .collect()
    }

    fn sample() -> Routes {
        let mut offers = BTreeMap::new();
        for (ids, words) in [
            (1..=5, ["fast", "local", "free"]),
            (6..=7, ["premium", "reasoning", "paid"]),
            (8..=8, ["premium", "openai", "paid"]),
            (9..=10, ["deepseek", "local", "free"]),
        ] {
            for id in ids {
                offers.insert(
                    ProgrammerId::new(format!("{id:03}")).expect("an id"),
                    set(&words),
                );
            }
        }
        Routes::new(&offers)
    }

    #[test]
    fn the_sample_pool_has_seven_queues_and_three_for_each_programmer() {
        let routes = sample();
        let names: Vec<&str> = routes
            .all()
            .iter()
            .map(|route| route.name.as_str())
            .collect();
        assert_eq!(
            names,
            [
                "any",
                "deepseek",
                "fast",
                "free",
                "openai",
                "paid",
                "reasoning"
            ],
            "one per class"
        );
        for id in 1..=10 {
            let id = ProgrammerId::new(format!("{id:03}")).expect("an id");
            assert_eq!(routes.of(&id).len(), 3, "queues of {id}");
        }
    }

    #[test]
    fn a_programmer_has_its_most_specific_route_first() {
        let routes = sample();
        for (id, expected) in [
            ("001", ["fast", "free", "any"]),
            ("006", ["reasoning", "paid", "any"]),
            ("008", ["openai", "paid", "any"]),
            ("009", ["deepseek", "free", "any"]),
        ] {
            let id = ProgrammerId::new(id).expect("an id");
            let names: Vec<&str> = routes
                .of(&id)
                .iter()
                .map(|route| route.name.as_str())
                .collect();
            assert_eq!(
                names, expected,
                "the routes of {id}, by the programmers that can do them"
            );
        }
    }

    #[test]
    fn who_cannot_be_served_is_told_what_is_missing() {
        let error = sample()
            .route(&set(&["fast", "quantum"]))
            .expect_err("nobody offers it")
            .to_string();
        assert_eq!(error, "no programmer offers `quantum`", "one is missing");
        let error = sample()
            .route(&set(&["fast", "premium"]))
            .expect_err("nobody offers both")
            .to_string();
        assert_eq!(
            error, "no programmer offers all of `fast`, `premium` together",
            "each exists, but not together"
        );
    }

    fn any_set(max: usize) -> impl Strategy<Value = CapabilitySet> {
        proptest::collection::btree_set("[a-f]", 0..=max).prop_map(|words| {
            words
                .iter()
                .map(|word| Capability::new(word.as_str()).expect("a letter"))
                .collect()
        })
    }

    proptest! {
        #[test]
        fn exactly_the_eligible_consume_from_the_chosen_queue(
            pool in proptest::collection::vec(any_set(5), 1..12), required in any_set(4)
        ) {
            let offers: BTreeMap<_, _> = pool
                .into_iter()
                .enumerate()
                .map(|(n, offered)| (ProgrammerId::new(format!("{n:03}")).expect("an id"), offered))
                .collect();
            let routes = Routes::new(&offers);
            let able = eligible(&offers, &required);
            match routes.route(&required) {
                Ok(route) => {
                    let consuming: BTreeSet<_> =
                        offers.keys().filter(|id| routes.of(id).iter().any(|r| r.name == route.name)).cloned().collect();
                    prop_assert_eq!(&consuming, &able);
                    prop_assert!(!able.is_empty());
                }
                Err(_) => prop_assert!(able.is_empty(), "an able programmer exists, so there must be a route"),
            }
        }

        #[test]
        fn queue_names_are_unique_and_keys_lead_to_one_queue(pool in proptest::collection::vec(any_set(5), 1..12)) {
            let offers: BTreeMap<_, _> = pool
                .into_iter()
                .enumerate()
                .map(|(n, offered)| (ProgrammerId::new(format!("{n:03}")).expect("an id"), offered))
                .collect();
            let routes = Routes::new(&offers);
            let names: BTreeSet<_> = routes.all().iter().map(|route| &route.name).collect();
            prop_assert_eq!(names.len(), routes.all().len());
            let keys: usize = routes.all().iter().map(|route| route.keys.len()).sum();
            prop_assert_eq!(keys, routes.by_key.len());
        }

        #[test]
        fn a_routing_key_reads_back(required in any_set(5)) {
            prop_assert_eq!(parse_routing_key(&routing_key(&required)), Some(required));
        }
    }
}
