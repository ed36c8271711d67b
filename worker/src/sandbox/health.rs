//! Whether the sandbox can be set up. If it could not, the process takes no tasks until its
//! self-test passes.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

/// The wait before the first self-test. It doubles after each one that fails.
pub const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(60);

/// The state of a process's sandbox. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct SandboxHealth {
    failures: Arc<watch::Sender<Failures>>,
}

/// The failures to set the sandbox up.
#[derive(Debug, Default)]
struct Failures {
    /// How many there were.
    count: u64,
    /// Why the last one happened; None: a self-test has passed that began after it.
    last: Option<String>,
}

impl SandboxHealth {
    /// Why the sandbox could not be set up; None: it works, as far as anybody knows.
    pub fn trouble(&self) -> Option<String> {
        self.failures.borrow().last.clone()
    }

    pub(super) fn broke(&self, why: String) {
        self.failures.send_modify(|failures| {
            failures.count += 1;
            failures.last = Some(why);
        });
    }

    /// Forgets the last failure, unless it came after the first `known` ones. Returns whether it did.
    fn works_since(&self, known: u64) -> bool {
        self.failures.send_if_modified(|failures| {
            let passed = failures.count == known;
            if passed {
                failures.last = None;
            }
            passed
        })
    }

    /// Runs the self-test after a failure, until it passes. A test says nothing about a failure that
    /// comes while it runs, so another one follows. This future does not end.
    pub async fn keep_testing<T>(self, first_wait: Duration, test: impl Fn() -> T)
    where
        T: Future<Output = Result<(), String>>,
    {
        let mut failures = self.failures.subscribe();
        // It cannot fail: this process holds the sender.
        while failures.wait_for(|seen| seen.last.is_some()).await.is_ok() {
            let mut wait = first_wait;
            loop {
                tokio::time::sleep(wait).await;
                let known = self.failures.borrow().count;
                match test().await {
                    Ok(()) if self.works_since(known) => break,
                    Ok(()) => {}
                    Err(why) => self.broke(why),
                }
                wait = longer(wait);
            }
            tracing::info!("the sandbox can be set up again");
        }
    }
}

fn longer(wait: Duration) -> Duration {
    (wait * 2).min(LONGEST)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test]
    async fn a_sandbox_that_broke_works_again_when_its_self_test_passes() {
        let health = SandboxHealth::default();
        assert_eq!(health.trouble(), None, "it works at first");
        let tests = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&tests);
        let testing = health
            .clone()
            .keep_testing(Duration::from_millis(5), move || {
                let number = count.fetch_add(1, Ordering::Relaxed) + 1;
                std::future::ready(match number {
                    3 => Ok(()),
                    _ => Err(format!("test {number}")),
                })
            });
        tokio::spawn(testing);
        let mut failures = health.failures.subscribe();
        tokio::task::yield_now().await;
        assert_eq!(
            tests.load(Ordering::Relaxed),
            0,
            "no test without a failure"
        );
        health.broke("no namespaces".to_owned());
        assert_eq!(
            health.trouble().as_deref(),
            Some("no namespaces"),
            "the first failure"
        );
        failures.mark_unchanged();
        for expected in [Some("test 1"), Some("test 2"), None] {
            failures.changed().await.expect("the test goes on");
            assert_eq!(
                failures.borrow_and_update().last.as_deref(),
                expected,
                "what the last test said"
            );
        }
    }

    #[tokio::test]
    async fn a_failure_during_a_test_needs_a_test_of_its_own() {
        let health = SandboxHealth::default();
        let (tests, mut begun) = tokio::sync::mpsc::unbounded_channel();
        let testing = health
            .clone()
            .keep_testing(Duration::from_millis(1), move || {
                let (finish, finished) = tokio::sync::oneshot::channel();
                tests.send(finish).expect("somebody looks");
                async { finished.await.expect("an end of the test") }
            });
        tokio::spawn(testing);
        health.broke("first".to_owned());
        let first = begun.recv().await.expect("a test");
        health.broke("second".to_owned());
        first.send(Ok(())).expect("the test is awaited");
        let second = begun.recv().await.expect("another test");
        assert_eq!(
            health.trouble().as_deref(),
            Some("second"),
            "the first test began before this failure"
        );
        second.send(Ok(())).expect("the test is awaited");
        let mut failures = health.failures.subscribe();
        let works = failures.wait_for(|seen| seen.last.is_none());
        works.await.expect("the second test began after it");
    }

    #[test]
    fn waits_double_up_to_a_minute() {
        assert_eq!(longer(FIRST_WAIT), Duration::from_secs(2), "the second");
        assert_eq!(
            longer(Duration::from_secs(50)),
            LONGEST,
            "the wait has a limit"
        );
    }
}
