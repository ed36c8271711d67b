//! Subscriptions to tasks: after an event about a task, only the callers that wait for this task are woken.
//!
//! A dispatcher handles hundreds of results at once. If every change of the state woke all of them, the work would grow with
//! the square of their number.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use pool_core::id::TaskId;

#[derive(Debug, Default)]
pub(super) struct News(Mutex<HashMap<TaskId, Topic>>);

#[derive(Debug, Default)]
struct Topic {
    told: Arc<Notify>,
    waiters: usize,
}

impl News {
    fn with<T>(&self, act: impl FnOnce(&mut HashMap<TaskId, Topic>) -> T) -> T {
        // The map is valid at every instant, so a panic in another thread does not spoil it.
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Collects events about this task as long as the subscription lives.
    pub(super) fn subscribe<'a>(&'a self, task: &'a TaskId) -> Subscription<'a> {
        let told = self.with(|topics| {
            let topic = topics.entry(task.clone()).or_default();
            topic.waiters += 1;
            Arc::clone(&topic.told)
        });
        Subscription {
            news: self,
            task,
            told,
        }
    }

    /// Wakes the subscribers of these tasks, each of which had an event.
    pub(super) fn wake<'a>(&self, tasks: impl Iterator<Item = &'a TaskId>) {
        self.with(|topics| {
            if !topics.is_empty() {
                tasks
                    .filter_map(|task| topics.get(task))
                    .for_each(|topic| topic.told.notify_waiters());
            }
        });
    }

    /// Wakes all subscribers, because the whole state was replaced.
    pub(super) fn wake_all(&self) {
        self.with(|topics| {
            topics
                .values()
                .for_each(|topic| topic.told.notify_waiters())
        });
    }
}

pub(super) struct Subscription<'a> {
    news: &'a News,
    task: &'a TaskId,
    told: Arc<Notify>,
}

impl Subscription<'_> {
    /// Calls `look` immediately and after every event, until it gives Some.
    pub(super) async fn until<T>(&self, mut look: impl FnMut() -> Option<T>) -> T {
        loop {
            let told = self.told.notified();
            tokio::pin!(told);
            // From here on no event is missed, even while `look` runs.
            told.as_mut().enable();
            if let Some(found) = look() {
                return found;
            }
            told.await;
        }
    }
}

impl Drop for Subscription<'_> {
    fn drop(&mut self) {
        self.news.with(|topics| {
            if let Some(topic) = topics.get_mut(self.task) {
                topic.waiters -= 1;
                if topic.waiters == 0 {
                    topics.remove(self.task);
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;
    use std::cell::Cell;

    #[test]
    fn only_who_waits_for_a_task_looks_again_and_nobody_stays_behind() {
        let (news, mine, other) = (
            News::default(),
            TaskId::new("t").expect("an id"),
            TaskId::new("u").expect("an id"),
        );
        let (looks, ready) = (Cell::new(0), Cell::new(false));
        {
            let subscription = news.subscribe(&mine);
            let mut waiting = Box::pin(subscription.until(|| {
                looks.set(looks.get() + 1);
                ready.get().then_some("here")
            }));
            assert_eq!(waiting.as_mut().now_or_never(), None, "nothing yet");
            news.wake([&other].into_iter());
            assert_eq!(
                (waiting.as_mut().now_or_never(), looks.get()),
                (None, 1),
                "no news of this task"
            );
            ready.set(true);
            news.wake([&mine].into_iter());
            assert_eq!(
                waiting.as_mut().now_or_never(),
                Some("here"),
                "it looked again"
            );
        }
        assert!(
            news.with(|topics| topics.is_empty()),
            "the last subscription has removed the topic"
        );
    }

    #[test]
    fn another_state_is_news_for_everybody() {
        let (news, mine) = (News::default(), TaskId::new("t").expect("an id"));
        let subscription = news.subscribe(&mine);
        let ready = Cell::new(false);
        let mut waiting = Box::pin(subscription.until(|| ready.get().then_some(())));
        assert_eq!(waiting.as_mut().now_or_never(), None, "nothing yet");
        ready.set(true);
        news.wake_all();
        assert_eq!(waiting.as_mut().now_or_never(), Some(()), "it looked again");
    }
}
