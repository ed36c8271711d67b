//! How checks ended on base commits. Many tasks start from one commit, and pay for its checks once.
//!
//! A result is kept by the commit and by everything that the checks are. The environment of checks
//! belongs to the worker process, and so do these results.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use pool_core::result::TaskFailure;
use pool_core::task::{AcceptanceCheck, Before};
use sha2::{Digest, Sha256};
use tokio::sync::OnceCell;

use crate::acceptance::Checked;

/// The most results that a worker keeps.
const MOST: usize = 256;

/// A base commit and checks on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BaselineKey {
    commit: String,
    checks: [u8; 32],
}

impl BaselineKey {
    pub(crate) fn new(commit: &str, checks: &[AcceptanceCheck]) -> Self {
        let plain = |check: &AcceptanceCheck| AcceptanceCheck {
            name: String::new(),
            before: Before::Any,
            ..check.clone()
        };
        let plain: Vec<AcceptanceCheck> = checks.iter().map(plain).collect();
        // Structs of strings, numbers and maps with string keys always serialise.
        let json = serde_json::to_vec(&plain).unwrap_or_default();
        Self {
            commit: commit.to_owned(),
            checks: Sha256::digest(json).into(),
        }
    }
}

/// A result, or the place of one that somebody is waiting for.
type Place = Arc<OnceCell<Checked>>;

/// The results of a worker process, the oldest first.
#[derive(Debug, Default)]
pub(crate) struct Baselines {
    known: Mutex<VecDeque<(BaselineKey, Place)>>,
}

impl Baselines {
    /// The result for this key. Only one of several callers runs the checks. A result counts for the
    /// others if every check exited by itself. After a failure, or a check that ran out of time, the
    /// next caller runs them.
    ///
    /// # Errors
    /// Those of `check`.
    pub(crate) async fn get(
        &self,
        key: BaselineKey,
        check: impl Future<Output = Result<Checked, TaskFailure>>,
    ) -> Result<Checked, TaskFailure> {
        let place = self.place(&key);
        let known = place.get_or_try_init(async || match check.await {
            Ok(checked) if is_certain(&checked) => Ok(checked),
            of_this_caller => Err(of_this_caller),
        });
        match known.await {
            Ok(checked) => Ok(checked.clone()),
            Err(of_this_caller) => of_this_caller,
        }
    }

    fn place(&self, key: &BaselineKey) -> Place {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, place)) = known.iter().find(|(of, _)| of == key) {
            return Arc::clone(place);
        }
        if known.len() == MOST {
            known.pop_front();
        }
        let place = Place::default();
        known.push_back((key.clone(), Arc::clone(&place)));
        place
    }
}

/// Whether the result says something about the commit, and not about the machine or this attempt.
fn is_certain(checked: &Checked) -> bool {
    let mut reports = checked.reports.iter();
    !checked.cancelled && reports.all(|report| report.exit_status.is_some())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::future::join_all;
    use pool_core::result::{CheckReport, ErrorKind};
    use serde_json::json;

    use super::*;

    fn check(more: serde_json::Value) -> AcceptanceCheck {
        let mut check = json!({"name": "a", "run": ["true"]});
        for (field, value) in more.as_object().expect("an object") {
            check[field] = value.clone();
        }
        serde_json::from_value(check).expect("a check")
    }

    fn ended(exit_status: Option<i32>) -> Checked {
        Checked {
            reports: vec![CheckReport {
                name: "a".to_owned(),
                exit_status,
                tries: 1,
                duration_ms: 1,
                output_tail: String::new(),
            }],
            ..Checked::default()
        }
    }

    #[tokio::test]
    async fn fifty_tasks_on_one_commit_pay_once() {
        let (baselines, runs) = (Baselines::default(), AtomicUsize::new(0));
        let key = BaselineKey::new("c1", &[check(json!({}))]);
        let tasks = (0..50).map(|_| {
            baselines.get(key.clone(), async {
                tokio::task::yield_now().await;
                runs.fetch_add(1, Ordering::Relaxed);
                Ok(ended(Some(1)))
            })
        });
        let results = join_all(tasks).await;
        assert_eq!(runs.load(Ordering::Relaxed), 1, "one run for all");
        let failed = |result: &Result<Checked, TaskFailure>| {
            result.as_ref().is_ok_and(|checked| !checked.passed())
        };
        assert!(results.iter().all(failed), "each has the result");
    }

    #[tokio::test]
    async fn what_is_uncertain_is_found_out_again() {
        let baselines = Baselines::default();
        let key = || BaselineKey::new("c1", &[check(json!({}))]);
        let failure = || TaskFailure::new(ErrorKind::Workspace, "no space");
        let first = baselines.get(key(), async { Err(failure()) }).await;
        assert_eq!(first.err(), Some(failure()), "an error is not kept");
        let timed_out = baselines.get(key(), async { Ok(ended(None)) }).await;
        assert!(
            timed_out.is_ok_and(|checked| !checked.passed()),
            "it did not pass"
        );
        let passed = baselines.get(key(), async { Ok(ended(Some(0))) }).await;
        assert!(
            passed.is_ok_and(|checked| checked.passed()),
            "it was run again"
        );
    }

    #[tokio::test]
    async fn what_is_uncertain_decides_for_none_of_those_who_wait() {
        let (baselines, runs) = (Baselines::default(), AtomicUsize::new(0));
        let key = BaselineKey::new("c1", &[check(json!({}))]);
        let tasks = (0..5).map(|_| {
            baselines.get(key.clone(), async {
                tokio::task::yield_now().await;
                match runs.fetch_add(1, Ordering::Relaxed) {
                    0 => Ok(ended(None)),
                    1 => Err(TaskFailure::new(
                        ErrorKind::Workspace,
                        "the helper was killed",
                    )),
                    _ => Ok(ended(Some(0))),
                }
            })
        });
        let results = join_all(tasks).await;
        assert_eq!(runs.load(Ordering::Relaxed), 3, "the third result is kept");
        let passed = |result: &Result<Checked, TaskFailure>| {
            result.as_ref().is_ok_and(|checked| checked.passed())
        };
        assert_eq!(
            results.iter().map(passed).collect::<Vec<_>>(),
            [false, false, true, true, true],
            "each caller has its own result or a certain one"
        );
    }

    #[tokio::test]
    async fn results_are_bounded() {
        let baselines = Baselines::default();
        for number in 0..=MOST {
            let key = BaselineKey::new(&number.to_string(), &[]);
            let _ = baselines.get(key, async { Ok(ended(Some(0))) }).await;
        }
        let known = baselines.known.lock().expect("no panic").len();
        assert_eq!(known, MOST, "the oldest is forgotten");
    }

    #[test]
    fn a_key_holds_everything_that_decides() {
        let key = |more| BaselineKey::new("c1", &[check(more)]);
        let plain = key(json!({}));
        for same in [json!({"name": "b"}), json!({"before": "fails"})] {
            assert_eq!(key(same.clone()), plain, "{same} makes no difference");
        }
        for other in [
            json!({"run": ["false"]}),
            json!({"tries": 2}),
            json!({"timeout_s": 5}),
            json!({"overlay": {"a": "x"}}),
        ] {
            assert_ne!(key(other.clone()), plain, "{other} is another check");
        }
        assert_ne!(
            BaselineKey::new("c2", &[check(json!({}))]),
            plain,
            "another commit"
        );
    }
}
