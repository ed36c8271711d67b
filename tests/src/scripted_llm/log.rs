//! What the server knows between requests: its script, and the log of what it received.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pool_shared::time::{Timestamp, wall_clock};
use serde::Serialize;
use serde_json::Value;

use super::script::Script;

const MAX_LOGGED: usize = 10_000;

/// One request as it was received, and what became of it.
#[derive(Debug, Clone, Serialize)]
pub struct LoggedRequest {
    pub number: u64,
    pub at: Timestamp,
    pub model: String,
    /// The first 16 hex digits of the SHA-256 of the API key; never the key.
    pub token_hash: String,
    /// Everything in the request but its messages.
    pub fields: Value,
    /// None while it is open, and when the connection was dropped.
    pub status: Option<u16>,
    /// `open`, `ok`, `failed`, `hung`, `dropped`, `cut`, `client went away`, …
    pub outcome: String,
}

#[derive(Default)]
pub(super) struct Inner {
    pub(super) script: Script,
    received: u64,
    pub(super) log: VecDeque<LoggedRequest>,
}

#[derive(Clone, Default)]
pub(super) struct Shared(Arc<Mutex<Inner>>);

impl Shared {
    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn begin(&self, token_hash: &str, body: &Value) -> OpenEntry {
        let mut fields = body.clone();
        if let Some(fields) = fields.as_object_mut() {
            fields.remove("messages");
        }
        let mut inner = self.lock();
        inner.received += 1;
        let number = inner.received;
        if inner.log.len() == MAX_LOGGED {
            inner.log.pop_front();
        }
        inner.log.push_back(LoggedRequest {
            number,
            at: wall_clock(),
            model: body["model"].as_str().unwrap_or_default().to_owned(),
            token_hash: token_hash.to_owned(),
            fields,
            status: None,
            outcome: "open".to_owned(),
        });
        OpenEntry { shared: self.clone(), number, ended: false }
    }
}

/// A log entry that is written whatever happens: a client that goes away drops the handler.
pub(super) struct OpenEntry {
    shared: Shared,
    number: u64,
    ended: bool,
}

impl OpenEntry {
    fn write(&mut self, status: Option<u16>, outcome: &str) {
        self.ended = true;
        if let Some(entry) = self.shared.lock().log.iter_mut().rev().find(|entry| entry.number == self.number) {
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
