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
    /// Why it could not be set up.
    trouble: Arc<watch::Sender<Option<String>>>,
}

impl SandboxHealth {
    /// Why the sandbox could not be set up; None: it works, as far as anybody knows.
    pub fn trouble(&self) -> Option<String> {
        self.trouble.borrow().clone()
    }

    pub(super) fn broke(&self, why: String) {
        self.trouble.send_replace(Some(why));
    }

    /// Runs the self-test after a failure, until it passes. This future does not end.
    pub async fn keep_testing<T>(self, first_wait: Duration, test: impl Fn() -> T)
    where
        T: Future<Output = Result<(), String>>,
    {
        let mut trouble = self.trouble.subscribe();
        // It cannot fail: this process holds the sender.
        while trouble.wait_for(Option::is_some).await.is_ok() {
            let mut wait = first_wait;
            loop {
                tokio::time::sleep(wait).await;
                let Err(why) = test().await else { break };
                self.broke(why);
                wait = longer(wait);
            }
            tracing::info!("the sandbox can be set up again");
            self.trouble.send_replace(None);
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
        let mut trouble = health.trouble.subscribe();
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
        trouble.mark_unchanged();
        for expected in [Some("test 1"), Some("test 2"), None] {
            trouble.changed().await.expect("the test goes on");
            assert_eq!(
                trouble.borrow_and_update().as_deref(),
                expected,
                "what the last test said"
            );
        }
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
