//! Derives news from the messages of the feed. Pure.

use std::collections::{BTreeMap, VecDeque};

use anyhow::bail;
use pool_api::events::Live;
use pool_api::pool::{BreakerState, BreakerStatus};
use pool_api::status::{ProgrammerState, ProgrammerStatus};
use pool_api::tasks::{Stage, TaskView};
use pool_core::id::{AttemptId, TaskId};
use serde::Serialize;

use super::WatchFilter;
use super::feed::FeedMessage;

/// How many of the newest finished tasks are shown.
const ENDED: usize = 100;

/// One event to report.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(super) enum WatchEvent {
    Dispatcher {
        state: Connection,
        detail: Option<String>,
    },
    Programmer {
        programmer: Box<ProgrammerStatus>,
    },
    Breaker {
        breaker: Box<BreakerStatus>,
    },
    Task {
        task: Box<TaskView>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Connection {
    Connected,
    /// The dispatcher answers, and says that its view may be out of date.
    Degraded,
    Lost,
}

/// Tells whether a task has changed.
type TaskVersion = (Stage, Option<AttemptId>);

/// The known state.
pub(super) struct Follow {
    filter: WatchFilter,
    pub(super) connection: Result<(), String>,
    pub(super) live: Option<Live>,
    listed: bool,
    tasks: BTreeMap<TaskId, TaskVersion>,
    /// Newest first.
    pub(super) ended: VecDeque<TaskView>,
}

impl Follow {
    pub(super) fn new(filter: WatchFilter) -> Self {
        let connection = Err("connecting".to_owned());
        Self {
            filter,
            connection,
            live: None,
            listed: false,
            tasks: BTreeMap::new(),
            ended: VecDeque::new(),
        }
    }

    /// # Errors
    /// When there is nothing to follow.
    pub(super) fn hear(&mut self, heard: FeedMessage) -> anyhow::Result<Vec<WatchEvent>> {
        Ok(match heard {
            FeedMessage::Connected => self.connected(),
            FeedMessage::Lost(why) => self.lost(why),
            FeedMessage::State(live) => self.state(*live)?,
            // The latest change comes first.
            FeedMessage::Tasks(tasks) => tasks
                .into_iter()
                .rev()
                .filter_map(|task| self.task(task, true))
                .collect(),
            FeedMessage::Listed(tasks) => self.list(tasks)?,
            FeedMessage::Failed(error) => return Err(error),
        })
    }

    fn connected(&mut self) -> Vec<WatchEvent> {
        self.connection = Ok(());
        vec![WatchEvent::Dispatcher {
            state: Connection::Connected,
            detail: None,
        }]
    }

    /// Reports each break once.
    fn lost(&mut self, why: String) -> Vec<WatchEvent> {
        let news = WatchEvent::Dispatcher {
            state: Connection::Lost,
            detail: Some(why.clone()),
        };
        let was_there = std::mem::replace(&mut self.connection, Err(why)).is_ok();
        if was_there { vec![news] } else { Vec::new() }
    }

    fn state(&mut self, live: Live) -> anyhow::Result<Vec<WatchEvent>> {
        let programmers = &live.status.programmers;
        if let Some(wanted) = &self.filter.programmer
            && !programmers.iter().any(|one| one.id == *wanted)
        {
            let known: Vec<&str> = programmers.iter().map(|one| one.id.as_str()).collect();
            bail!(
                "no programmer {wanted} in the pool; it has {}",
                known.join(", ")
            );
        }
        let mut news = Vec::new();
        let before = self.live.as_ref();
        let trouble = &live.status.detail;
        if *trouble != before.and_then(|before| before.status.detail.clone()) {
            let state = if trouble.is_some() {
                Connection::Degraded
            } else {
                Connection::Connected
            };
            news.push(WatchEvent::Dispatcher {
                state,
                detail: trouble.clone(),
            });
        }
        if !self.filter.ends() {
            let known = |programmer: &&ProgrammerStatus| {
                let earlier = before.map(|before| &before.status.programmers);
                let mut earlier = earlier.into_iter().flatten();
                earlier.any(|one| one.id == programmer.id && stage(one) == stage(programmer))
            };
            let wanted = self.filter.programmer.as_ref();
            let of_interest =
                |programmer: &&ProgrammerStatus| wanted.is_none_or(|id| *id == programmer.id);
            let changed = programmers
                .iter()
                .filter(of_interest)
                .filter(|one| !known(one));
            news.extend(changed.map(|one| WatchEvent::Programmer {
                programmer: Box::new(one.clone()),
            }));
        }
        if !self.filter.ends() && self.filter.programmer.is_none() {
            let breakers = live.status.breakers.iter();
            let changed = breakers.filter(|breaker| !is_known(breaker, before));
            news.extend(changed.map(|breaker| WatchEvent::Breaker {
                breaker: Box::new(breaker.clone()),
            }));
        }
        self.live = Some(live);
        Ok(news)
    }

    fn list(&mut self, mut tasks: Vec<TaskView>) -> anyhow::Result<Vec<WatchEvent>> {
        if let (Some(label), true) = (
            &self.filter.label,
            tasks.is_empty() && self.tasks.is_empty(),
        ) {
            bail!("no task has the label {label}; submit one with `pool submit --label {label}`");
        }
        // A task that had ended before the first list is news only if it was asked for.
        let all = self.listed || self.filter.ends();
        self.listed = true;
        tasks.sort_by_key(|task| task.finished_at.or(task.started_at).or(task.submitted_at));
        Ok(tasks
            .into_iter()
            .filter_map(|task| self.task(task, all))
            .collect())
    }

    fn task(&mut self, task: TaskView, tell_ended: bool) -> Option<WatchEvent> {
        if !self.is_followed(&task) {
            return None;
        }
        let stage = (task.status, task.attempt);
        // An event older than the list may arrive after it.
        if self
            .tasks
            .get(&task.id)
            .is_some_and(|known| !is_open(known))
            && is_open(&stage)
        {
            return None;
        }
        if self.tasks.insert(task.id.clone(), stage).as_ref() == Some(&stage) {
            return None;
        }
        let has_ended = task.finished_at.is_some();
        if has_ended {
            self.ended.push_front(task.clone());
            self.ended.truncate(ENDED);
        }
        (tell_ended || !has_ended).then(|| WatchEvent::Task {
            task: Box::new(task),
        })
    }

    fn is_followed(&self, task: &TaskView) -> bool {
        let WatchFilter {
            tasks,
            label,
            programmer,
        } = &self.filter;
        (tasks.is_empty() || tasks.contains(&task.id))
            && label
                .as_ref()
                .is_none_or(|label| label.is_among(&task.labels))
            && programmer
                .as_ref()
                .is_none_or(|wanted| task.programmer.as_ref() == Some(wanted))
    }

    /// How many programmers are shown.
    pub(super) fn programmers(&self) -> usize {
        self.live
            .as_ref()
            .map_or(0, |live| live.status.programmers.len())
    }

    /// Whether all awaited tasks have ended.
    pub(super) fn is_over(&self) -> bool {
        self.filter.ends() && self.listed && !self.tasks.values().any(is_open)
    }

    /// Whether all awaited tasks have succeeded; an open task has not.
    pub(super) fn all_succeeded(&self) -> Option<bool> {
        let succeeded = |(status, _): &TaskVersion| *status == Stage::Succeeded;
        self.filter
            .ends()
            .then(|| self.listed && self.tasks.values().all(succeeded))
    }

    /// The outcomes of the awaited tasks, oldest first.
    pub(super) fn outcomes(&self) -> impl Iterator<Item = WatchEvent> {
        let ended = self.ended.iter().rev().filter(|_| self.filter.ends());
        ended.map(|task| WatchEvent::Task {
            task: Box::new(task.clone()),
        })
    }
}

fn is_open((status, _): &TaskVersion) -> bool {
    matches!(status, Stage::Queued | Stage::Running)
}

fn stage(
    programmer: &ProgrammerStatus,
) -> (ProgrammerState, Option<&'static str>, Option<&TaskId>, bool) {
    let shut = programmer
        .shut
        .map(pool_core::heartbeat::ShutReason::as_str);
    (
        programmer.state,
        shut,
        programmer.task.as_ref(),
        programmer.using_backup,
    )
}

fn is_known(breaker: &BreakerStatus, before: Option<&Live>) -> bool {
    let same = |other: &&BreakerStatus| {
        (&other.llm, &other.base_url, &other.host, &other.scope)
            == (
                &breaker.llm,
                &breaker.base_url,
                &breaker.host,
                &breaker.scope,
            )
    };
    match before.and_then(|before| before.status.breakers.iter().find(same)) {
        Some(earlier) => earlier.state == breaker.state,
        // A breaker that was closed all the time is not news.
        None => breaker.state == BreakerState::Closed,
    }
}

#[cfg(test)]
#[path = "follow_tests.rs"]
pub(in crate::watch) mod tests;
