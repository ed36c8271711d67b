//! Prints one event as a line of text or as a JSON object.

use pool_api::format::{clock, duration, millis};
use pool_api::tasks::TaskView;
use pool_core::time::Timestamp;
use serde_json::json;

use super::follow::{Connection, WatchEvent};
use crate::status::breaker_word;
use crate::table::plain;

/// `{"at": …, "event": "task", "task": {…}}`; the nested object is that of the HTTP API.
pub(super) fn json(at: Timestamp, news: &WatchEvent) -> anyhow::Result<String> {
    let mut line = serde_json::to_value(news)?;
    line["at"] = json!(at);
    Ok(format!("{line}\n"))
}

/// The id of a task that has ended; nothing for other events.
pub(super) fn ended(news: &WatchEvent) -> String {
    match news {
        WatchEvent::Task { task } if task.finished_at.is_some() => format!("{}\n", task.id),
        WatchEvent::Task { .. }
        | WatchEvent::Dispatcher { .. }
        | WatchEvent::Programmer { .. }
        | WatchEvent::Breaker { .. } => String::new(),
    }
}

pub(super) fn text(at: Timestamp, news: &WatchEvent) -> String {
    let words = match news {
        WatchEvent::Dispatcher { state, detail } => {
            let state = match state {
                Connection::Connected => "connected",
                Connection::Degraded => "degraded",
                Connection::Lost => "lost; trying again",
            };
            format!(
                "dispatcher {state}{}",
                detail
                    .as_ref()
                    .map(|detail| format!(": {detail}"))
                    .unwrap_or_default()
            )
        }
        WatchEvent::Programmer { programmer } => {
            let backup = if programmer.using_backup {
                format!(", with {}", programmer.current_llm)
            } else {
                String::new()
            };
            format!(
                "{} {}{backup} {}",
                programmer.agent,
                programmer.state.as_str(),
                programmer.reason
            )
        }
        WatchEvent::Breaker { breaker } => {
            let why = breaker
                .reason
                .map(|fault| format!(" after {} × {}", breaker.failures, fault.as_str()));
            let until = breaker
                .until
                .map(|until| format!(", next probe at {}", clock(until, at)));
            let state = breaker_word(breaker.state);
            format!(
                "breaker of {} {state}{}{}",
                breaker.llm,
                why.unwrap_or_default(),
                until.unwrap_or_default()
            )
        }
        WatchEvent::Task { task } => format!("{} {}{}", task.id, task.status, details(task)),
    };
    // Always one line, whatever the text contains.
    format!("{at} {}\n", plain(words.trim_end()).replace('\n', " "))
}

/// The programmer, the time since its submission (including waiting), the cost and the error.
pub(crate) fn details(task: &TaskView) -> String {
    let who = task
        .programmer
        .as_ref()
        .map(|id| format!("by {}", id.display_name()));
    let route = who
        .is_none()
        .then(|| format!("for {}", task.route))
        .filter(|_| !task.route.is_empty());
    let attempt = (task.attempts > 1).then(|| format!("attempt {}", task.attempts));
    let took = task
        .finished_at
        .zip(task.submitted_at)
        .map(|(end, begin)| duration(millis(begin, end)));
    let took = took.map(|took| format!("{took} after it was submitted"));
    let cost = task
        .cost_usd
        .filter(|cost| cost.0 > 0)
        .map(|cost| format!("${cost}"));
    let known: Vec<String> = [who.or(route), attempt, took, cost, task.error.clone()]
        .into_iter()
        .flatten()
        .collect();
    if known.is_empty() {
        String::new()
    } else {
        format!(" {}", known.join(", "))
    }
}
