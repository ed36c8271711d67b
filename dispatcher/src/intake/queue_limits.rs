//! Limits the tasks that wait for a route to `max_queue_per_programmer` for each of its
//! programmers. Without that key in the pool file there is no limit. A request with more tasks is
//! refused before anything is written.
//!
//! Tasks in the log count, and tasks that this dispatcher is just submitting. Dispatchers do not
//! know of each other's submissions: together they may exceed the limit by the tasks of one moment.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use pool_api::problem::{FullRoute, QueueFull};

/// The route of a task that is not in the log yet.
#[derive(Debug, Clone)]
pub struct Wanted {
    pub route: String,
    /// The number of programmers of the route.
    pub programmers: usize,
}

/// The slots of all routes. Cheap to clone.
#[derive(Debug, Clone)]
pub struct QueueLimits {
    /// None for no limit.
    per_programmer: Option<usize>,
    /// Places taken by tasks that are not in the log yet.
    taken: Arc<Mutex<HashMap<String, usize>>>,
}

/// A slot for one task until the log counts it; released when dropped.
#[derive(Debug)]
pub struct Slot {
    route: String,
    limits: QueueLimits,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.limits.with(|taken| {
            if let Some(count) = taken.get_mut(&self.route) {
                *count -= 1;
            }
        });
    }
}

impl QueueLimits {
    pub fn new(per_programmer: Option<u32>) -> Self {
        let per_programmer = per_programmer.map(|most| usize::try_from(most).unwrap_or(usize::MAX));
        Self {
            per_programmer,
            taken: Arc::default(),
        }
    }

    /// Takes a slot for each task that wants one, or none at all. `waiting` gives the number of
    /// waiting tasks of a route by the log.
    ///
    /// # Errors
    /// [`QueueFull`].
    pub fn take(
        &self,
        tasks: &[Option<Wanted>],
        waiting: impl Fn(&str) -> usize,
    ) -> Result<Vec<Option<Slot>>, QueueFull> {
        let Some(per_programmer) = self.per_programmer else {
            return Ok(tasks.iter().map(|_| None).collect());
        };
        self.with(|taken| {
            let count =
                |route: &str| waiting(route) + taken.get(route).copied().unwrap_or_default();
            fit(tasks, per_programmer, count)?;
            let mut slot = |wanted: &Wanted| {
                *taken.entry(wanted.route.clone()).or_default() += 1;
                Slot {
                    route: wanted.route.clone(),
                    limits: self.clone(),
                }
            };
            Ok(tasks
                .iter()
                .map(|wanted| wanted.as_ref().map(&mut slot))
                .collect())
        })
    }

    fn with<T>(&self, act: impl FnOnce(&mut HashMap<String, usize>) -> T) -> T {
        // The counts are valid at every moment, so a panic elsewhere does not spoil them.
        act(&mut self.taken.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Whether all tasks fit. Pure.
fn fit(
    tasks: &[Option<Wanted>],
    per_programmer: usize,
    waiting: impl Fn(&str) -> usize,
) -> Result<(), QueueFull> {
    let mut routes: BTreeMap<&str, FullRoute> = BTreeMap::new();
    let mut fits = Vec::with_capacity(tasks.len());
    for (index, wanted) in tasks.iter().enumerate() {
        let Some(wanted) = wanted else {
            fits.push(index);
            continue;
        };
        let route = routes.entry(&wanted.route).or_insert_with(|| {
            let (limit, waiting) = (
                per_programmer.saturating_mul(wanted.programmers),
                waiting(&wanted.route),
            );
            FullRoute {
                route: wanted.route.clone(),
                waiting,
                limit,
                room: limit.saturating_sub(waiting),
                wanted: 0,
            }
        });
        route.wanted += 1;
        if route.wanted <= route.room {
            fits.push(index);
        }
    }
    let full: Vec<FullRoute> = routes
        .into_values()
        .filter(|route| route.wanted > route.room)
        .collect();
    if full.is_empty() {
        Ok(())
    } else {
        Err(QueueFull { full, fits })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limited(per_programmer: u32) -> QueueLimits {
        QueueLimits::new(Some(per_programmer))
    }

    fn wanted(route: &str) -> Option<Wanted> {
        Some(Wanted {
            route: route.to_owned(),
            programmers: 2,
        })
    }

    #[test]
    fn all_fit_or_it_is_said_which_would() {
        let limits = limited(5);
        let waiting = |route: &str| if route == "fast" { 8 } else { 0 };
        let request = [
            wanted("fast"),
            None,
            wanted("fast"),
            wanted("any"),
            wanted("fast"),
        ];
        let queue_full = limits
            .take(&request, waiting)
            .expect_err("three more than eight exceed ten");
        let fast = FullRoute {
            route: "fast".to_owned(),
            waiting: 8,
            limit: 10,
            room: 2,
            wanted: 3,
        };
        assert_eq!(
            queue_full,
            QueueFull {
                full: vec![fast],
                fits: vec![0, 1, 2, 3]
            },
            "the last task does not fit"
        );
        assert!(
            !queue_full.full[0].never_fits(),
            "three fit when some have finished"
        );
        assert_eq!(
            limits.take(&request[..3], waiting).map(|slots| slots.len()),
            Ok(3),
            "exactly full"
        );
    }

    #[test]
    fn places_count_until_they_are_given_back() {
        let limits = limited(1);
        let two = [wanted("fast"), wanted("fast")];
        let held = limits.take(&two, |_| 0).expect("two fit");
        assert_eq!(
            limits
                .take(&two[..1], |_| 0)
                .err()
                .map(|queue_full| queue_full.full[0].room),
            Some(0),
            "two are being submitted"
        );
        drop(held);
        assert!(limits.take(&two, |_| 0).is_ok(), "the places were released");
    }

    #[test]
    fn more_than_may_ever_wait_is_told_apart() {
        let three = [wanted("fast"), wanted("fast"), wanted("fast")];
        let queue_full = limited(1)
            .take(&three, |_| 0)
            .expect_err("two programmers, one each");
        assert!(queue_full.full[0].never_fits(), "waiting is of no use");
    }

    #[test]
    fn without_a_limit_there_is_always_room() {
        let many = vec![wanted("fast"); 1_000];
        assert!(
            QueueLimits::new(None).take(&many, |_| 1_000_000).is_ok(),
            "no matter how many wait"
        );
    }
}
