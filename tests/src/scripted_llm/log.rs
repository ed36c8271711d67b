//! The server's state between requests: its script, and the log of received requests.
//!
//! The log is bounded: it keeps the newest requests, and of each only the parts that identify it.
//! Numbers are consecutive, so a reader notices that requests were dropped before it looked.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pool_core::time::Timestamp;
use pool_telemetry::clock::wall_clock;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;

use super::answer::Rule;
use super::script::{ChatRequest, Script};

const MAX_LOGGED: usize = 10_000;
/// Larger fields (tools, schemas) are counted, not kept.
const MAX_FIELDS_BYTES: usize = 4096;
const PROMPT_CHARS: usize = 200;

/// One received request and its outcome.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LoggedRequest {
    pub number: u64,
    pub at: Timestamp,
    /// Time until the answer was written or the client went away; None while the request is open.
    pub took_ms: Option<u64>,
    pub model: String,
    /// The first 16 hex digits of the SHA-256 of the API key; never the key.
    pub token_hash: String,
    /// The beginning of the newest message of the user.
    pub prompt: String,
    /// Everything in the request but its messages.
    pub fields: Value,
    /// None while the request is open, and if the connection was dropped.
    pub status: Option<u16>,
    /// `open`, `ok`, `failed`, `dropped`, `reset`, `cut`, `client went away`, …
    pub outcome: String,
}

impl LoggedRequest {
    /// When the request ended; None while it is open.
    pub fn ended(&self) -> Option<Timestamp> {
        self.took_ms
            .map(|ms| self.at.plus(Duration::from_millis(ms)))
    }

    /// A whole answer was given.
    pub fn is_ok(&self) -> bool {
        self.outcome == "ok"
    }
}

#[derive(Default)]
pub(super) struct Inner {
    pub(super) script: Script,
    received: u64,
    log: VecDeque<LoggedRequest>,
}

#[derive(Clone, Default)]
pub(super) struct Shared {
    inner: Arc<Mutex<Inner>>,
    /// How often the rules were replaced; held requests wait for it to change.
    rules_set: watch::Sender<u64>,
}

impl Shared {
    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_rules(&self, rules: Vec<Rule>) {
        self.lock().script.set_rules(rules);
        self.rules_set.send_modify(|times| *times += 1);
    }

    /// Waits for as long as a rule demands.
    pub(super) async fn held(&self, request: &ChatRequest) {
        let mut rules_set = self.rules_set.subscribe();
        loop {
            rules_set.borrow_and_update();
            if !self.lock().script.holds(request) {
                return;
            }
            // The sender lives as long as `self`, so this cannot fail.
            let _ = rules_set.changed().await;
        }
    }

    /// The requests after the one with this number.
    pub(super) fn requests(&self, after: u64) -> Vec<LoggedRequest> {
        self.lock()
            .log
            .iter()
            .filter(|request| request.number > after)
            .cloned()
            .collect()
    }

    pub(super) fn begin(&self, token_hash: &str, request: &ChatRequest, body: &Value) -> OpenEntry {
        let mut inner = self.lock();
        inner.received += 1;
        let number = inner.received;
        if inner.log.len() == MAX_LOGGED {
            inner.log.pop_front();
        }
        inner.log.push_back(LoggedRequest {
            number,
            at: wall_clock(),
            took_ms: None,
            model: request.model.clone(),
            token_hash: token_hash.to_owned(),
            prompt: request
                .user_messages
                .last()
                .map(|text| text.chars().take(PROMPT_CHARS).collect())
                .unwrap_or_default(),
            fields: fields(body),
            status: None,
            outcome: "open".to_owned(),
        });
        OpenEntry {
            shared: self.clone(),
            number,
            began: Instant::now(),
            ended: false,
        }
    }
}

fn fields(body: &Value) -> Value {
    let mut fields = body.clone();
    if let Some(fields) = fields.as_object_mut() {
        fields.remove("messages");
    }
    let bytes = fields.to_string().len();
    if bytes > MAX_FIELDS_BYTES {
        json!({"left_out_bytes": bytes})
    } else {
        fields
    }
}

/// A log entry that is written in any case: a client that goes away drops the handler.
pub(super) struct OpenEntry {
    shared: Shared,
    number: u64,
    began: Instant,
    ended: bool,
}

impl OpenEntry {
    fn write(&mut self, status: Option<u16>, outcome: &str) {
        self.ended = true;
        let took_ms = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let mut inner = self.shared.lock();
        // Numbers are consecutive, so the first entry's number gives the place of every other.
        let Some(first) = inner.log.front().map(|entry| entry.number) else {
            return;
        };
        let place = self
            .number
            .checked_sub(first)
            .and_then(|place| usize::try_from(place).ok());
        if let Some(entry) = place.and_then(|place| inner.log.get_mut(place)) {
            entry.took_ms = Some(took_ms);
            entry.status = status;
            outcome.clone_into(&mut entry.outcome);
        }
    }

    pub(super) fn end(mut self, status: Option<u16>, outcome: &str) {
        self.write(status, outcome);
    }
}

impl Drop for OpenEntry {
    fn drop(&mut self) {
        if !self.ended {
            self.write(None, "client went away");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begin(shared: &Shared, body: &Value) -> OpenEntry {
        shared.begin("hash", &ChatRequest::read(body), body)
    }

    #[test]
    fn the_log_keeps_the_newest_requests_and_of_each_no_more_than_it_needs() {
        let shared = Shared::default();
        let first = begin(&shared, &json!({"model": "m"}));
        let long = "x".repeat(10_000);
        let body =
            json!({"model": "m", "tools": [long], "messages": [{"role": "user", "content": long}]});
        for _ in 0..MAX_LOGGED {
            begin(&shared, &body).end(Some(200), "ok");
        }
        first.end(Some(200), "ok");
        let kept = shared.requests(0);
        assert_eq!(kept.len(), MAX_LOGGED, "the log keeps the newest only");
        assert_eq!(
            kept[0].number, 2,
            "the oldest is dropped, also while it is open"
        );
        assert!(
            kept[0].is_ok() && kept[0].took_ms.is_some(),
            "the others are complete: {:?}",
            kept[0].outcome
        );
        assert_eq!(
            kept[0].prompt.len(),
            PROMPT_CHARS,
            "the beginning of the prompt"
        );
        assert!(
            kept[0].fields.to_string().len() < 100,
            "large fields are not kept"
        );
        assert_eq!(
            shared.requests(10_000).len(),
            1,
            "after a number only the later ones"
        );
    }
}
