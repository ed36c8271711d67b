//! The pauses in force, and since when.

use std::collections::BTreeMap;

use crate::event::TargetPaused;
use crate::id::ProgrammerId;
use crate::pause::{Pause, Target};
use crate::time::Timestamp;

/// One pause that is in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Paused {
    /// The effect on running tasks.
    pub pause: Pause,
    /// When it began, by the log's time.
    pub since: Timestamp,
}

/// All pauses of the log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pauses {
    paused: BTreeMap<Target, Paused>,
    /// When each target was resumed last.
    resumed: BTreeMap<Target, Timestamp>,
}

impl Pauses {
    /// Repeating a pause of the same kind keeps its beginning; another kind replaces it and begins now.
    ///
    /// A repetition with `since_ms` has no effect if the target was resumed after that, or if a pause of it is known.
    pub(super) fn pause(&mut self, event: &TargetPaused, now: Timestamp) {
        let (target, pause) = (&event.target, event.pause);
        let known = self.paused.get(target);
        let since = match event.since_ms.map(Timestamp) {
            None => known
                .filter(|paused| paused.pause == pause)
                .map_or(now, |paused| paused.since),
            Some(since) => {
                let resumed = self.resumed.get(target);
                if known.is_some() || resumed.is_some_and(|resumed| *resumed >= since) {
                    return;
                }
                since
            }
        };
        self.paused.insert(target.clone(), Paused { pause, since });
    }

    pub(super) fn resume(&mut self, target: &Target, now: Timestamp) {
        self.paused.remove(target);
        self.resumed.insert(target.clone(), now);
    }

    /// The pause that keeps this programmer from all tasks. When there are several, a drain is given before a pause.
    pub fn of_programmer(&self, id: &ProgrammerId) -> Option<(&Target, Paused)> {
        let held = self.paused.iter().filter(|(target, _)| match target {
            Target::All => true,
            Target::Programmer { id: paused } => paused == id,
            Target::Route { .. } => false,
        });
        held.map(|(target, paused)| (target, *paused))
            .max_by_key(|(_, paused)| paused.pause == Pause::Drain)
    }

    /// The pause of this route.
    pub fn of_route(&self, route: &str) -> Option<Paused> {
        self.paused
            .iter()
            .find_map(|(target, paused)| match target {
                Target::Route { name } if name == route => Some(*paused),
                Target::All | Target::Programmer { .. } | Target::Route { .. } => None,
            })
    }

    /// All pauses in force.
    pub fn iter(&self) -> impl Iterator<Item = (&Target, &Paused)> {
        self.paused.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Pauses {
        fn begin(&mut self, target: &Target, pause: Pause, now: Timestamp) {
            self.repeat(target, pause, None, now);
        }

        fn repeat(&mut self, target: &Target, pause: Pause, since_ms: Option<u64>, now: Timestamp) {
            let target = target.clone();
            let event = TargetPaused {
                target,
                pause,
                since_ms,
            };
            self.pause(&event, now);
        }
    }

    fn programmer(id: &str) -> Target {
        Target::Programmer {
            id: ProgrammerId::new(id).expect("an id"),
        }
    }

    #[test]
    fn who_is_paused_twice_is_resumed_twice() {
        let id = ProgrammerId::new("001").expect("an id");
        let mut pauses = Pauses::default();
        pauses.begin(&Target::All, Pause::Pause, Timestamp(1));
        pauses.begin(&programmer("001"), Pause::Drain, Timestamp(2));
        let drained = Paused {
            pause: Pause::Drain,
            since: Timestamp(2),
        };
        assert_eq!(
            pauses.of_programmer(&id),
            Some((&programmer("001"), drained)),
            "a drain comes before a pause"
        );
        pauses.resume(&programmer("001"), Timestamp(3));
        let paused = Paused {
            pause: Pause::Pause,
            since: Timestamp(1),
        };
        assert_eq!(
            pauses.of_programmer(&id),
            Some((&Target::All, paused)),
            "the pool is still paused"
        );
        pauses.resume(&Target::All, Timestamp(4));
        assert_eq!(pauses.of_programmer(&id), None, "nothing is left");
    }

    #[test]
    fn a_drain_that_is_said_again_does_not_begin_anew() {
        let mut pauses = Pauses::default();
        pauses.begin(&Target::All, Pause::Drain, Timestamp(1));
        pauses.begin(&Target::All, Pause::Drain, Timestamp(9));
        let since = pauses
            .iter()
            .map(|(_, paused)| paused.since)
            .collect::<Vec<_>>();
        assert_eq!(since, [Timestamp(1)], "its deadline must not move away");
    }

    #[test]
    fn a_pause_that_is_said_again_does_not_outlive_its_end() {
        let mut pauses = Pauses::default();
        pauses.repeat(&Target::All, Pause::Pause, Some(1), Timestamp(9));
        assert_eq!(
            pauses.iter().count(),
            1,
            "an unknown pause is learnt from a repetition"
        );
        pauses.resume(&Target::All, Timestamp(5));
        pauses.repeat(&Target::All, Pause::Pause, Some(1), Timestamp(9));
        assert_eq!(
            pauses.iter().count(),
            0,
            "the repetition was written before the end and appended after it"
        );
        pauses.begin(&Target::All, Pause::Pause, Timestamp(9));
        assert_eq!(pauses.iter().count(), 1, "a new one is another matter");
    }

    #[test]
    fn a_paused_route_holds_its_own_tasks_only() {
        let mut pauses = Pauses::default();
        pauses.begin(
            &Target::Route {
                name: "fast".to_owned(),
            },
            Pause::Pause,
            Timestamp(1),
        );
        assert!(pauses.of_route("fast").is_some(), "it is paused");
        assert_eq!(pauses.of_route("premium"), None, "another one is not");
        assert_eq!(
            pauses.of_programmer(&ProgrammerId::new("001").expect("an id")),
            None,
            "programmers go on elsewhere"
        );
    }
}
