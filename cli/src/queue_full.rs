//! Waiting for room in a full queue. The command says which queue it waits for and why, and asks
//! again. Ctrl-C ends the wait, and the command says how to continue later.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::io::IsTerminal as _;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use pool_api::pool::PoolStatus;
use pool_api::problem::{Problem, QueueFull};
use pool_api::status::ProgrammerStatus;
use pool_core::id::ProgrammerId;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::client::{Client, in_words};

pub(super) const DEFAULT_WAIT_S: u32 = 2;
/// The interval between two lines about waiting, where they do not replace each other.
const SAY_EVERY: Duration = Duration::from_secs(30);
/// After Ctrl-C, the time to wait for the answer to a request that is already sent.
const ANSWERED_WITHIN: Duration = Duration::from_secs(5);
const MOST_NAMES: usize = 5;

/// Set by Ctrl-C. Cheap to clone.
#[derive(Clone)]
pub(super) struct Interrupt(CancellationToken);

/// The command was interrupted.
#[derive(Debug)]
pub(super) struct Interrupted;

impl Interrupt {
    pub(super) fn listen() -> Self {
        let token = CancellationToken::new();
        let interrupted = token.clone();
        tokio::spawn(async move {
            if tokio::signal::ctrl_c().await.is_ok() {
                interrupted.cancel();
            }
        });
        Self(token)
    }

    pub(super) async fn sleep(&self, seconds: u32) -> Result<(), Interrupted> {
        tokio::select! {
            () = tokio::time::sleep(Duration::from_secs(seconds.into())) => Ok(()),
            () = self.0.cancelled() => Err(Interrupted),
        }
    }

    /// Waits for the answer; after Ctrl-C only a little longer.
    pub(super) async fn answer<T>(
        &self,
        request: impl Future<Output = T>,
    ) -> Result<T, Interrupted> {
        let too_late = async {
            self.0.cancelled().await;
            tokio::time::sleep(ANSWERED_WITHIN).await;
        };
        tokio::select! {
            answer = request => Ok(answer),
            () = too_late => Err(Interrupted),
        }
    }
}

/// A status line: on a terminal one line that changes, elsewhere a line now and then.
pub(super) struct StatusLine {
    bar: ProgressBar,
    said: Cell<Option<Instant>>,
}

impl StatusLine {
    pub(super) fn new() -> Self {
        let target = if std::io::stderr().is_terminal() {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        let bar = ProgressBar::with_draw_target(None, target);
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} ({elapsed})") {
            bar.set_style(style);
        }
        Self {
            bar,
            said: Cell::new(None),
        }
    }

    pub(super) fn say(&self, words: String) {
        if !self.bar.is_hidden() {
            self.bar.set_message(words);
            self.bar.tick();
        } else if self
            .said
            .get()
            .is_none_or(|said| said.elapsed() >= SAY_EVERY)
            && self.bar.message() != words
        {
            eprintln!("{words}");
            self.said.set(Some(Instant::now()));
            self.bar.set_message(words);
        }
    }

    /// Prints something above the status line.
    pub(super) fn beside(&self, print: impl FnOnce()) {
        self.bar.suspend(print);
    }
}

impl Drop for StatusLine {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

pub(super) fn full(no_room: &QueueFull) -> String {
    let routes = no_room
        .full
        .iter()
        .map(|route| format!("{} waiting for `{}`", route.waiting, route.route));
    format!(
        "the queue is full: {}",
        routes.collect::<Vec<_>>().join(", ")
    )
}

/// Why no full queue gets shorter: no programmer takes tasks from it. None if one does, or if the
/// dispatcher cannot tell.
pub(super) async fn stuck(client: &Client, no_room: &QueueFull) -> Option<String> {
    let status: PoolStatus = client.get("/programmer_pool/status").await.ok()?;
    let names: BTreeSet<&str> = no_room
        .full
        .iter()
        .map(|full| full.route.as_str())
        .collect();
    let routes = status
        .routes
        .iter()
        .filter(|route| names.contains(route.name.as_str()));
    let able: BTreeSet<&ProgrammerId> = routes.flat_map(|route| &route.programmers).collect();
    let able: Vec<&ProgrammerStatus> = status
        .programmers
        .iter()
        .filter(|one| able.contains(&one.id))
        .collect();
    nobody_takes(&able)
}

fn nobody_takes(able: &[&ProgrammerStatus]) -> Option<String> {
    if able.is_empty() || able.iter().any(|one| one.state.is_available()) {
        return None;
    }
    let named = able
        .iter()
        .take(MOST_NAMES)
        .map(|one| format!("{} is {}", one.agent, one.state.as_str()));
    let more = match able.len().saturating_sub(MOST_NAMES) {
        0 => String::new(),
        more => format!(", and {more} more"),
    };
    Some(format!(
        "no programmer takes tasks from it: {}{more}",
        named.collect::<Vec<_>>().join(", ")
    ))
}

/// Sends requests that wait until there is room in the queue.
pub(super) struct QueueWaiter {
    status: StatusLine,
    pub(super) interrupt: Interrupt,
}

impl Default for QueueWaiter {
    fn default() -> Self {
        Self {
            status: StatusLine::new(),
            interrupt: Interrupt::listen(),
        }
    }
}

impl QueueWaiter {
    /// `POST`, repeated while a queue is full.
    ///
    /// # Errors
    /// When the request fails for any reason but a full queue.
    pub(super) async fn ask<T: DeserializeOwned>(
        &self,
        client: &Client,
        path: &str,
        body: &impl Serialize,
    ) -> anyhow::Result<Result<T, Interrupted>> {
        loop {
            let request = client.try_post::<T>(path, body);
            let problem: Problem = match self.interrupt.answer(request).await {
                Err(interrupted) => return Ok(Err(interrupted)),
                Ok(answer) => match answer? {
                    Ok(answer) => return Ok(Ok(answer)),
                    Err(problem) => problem,
                },
            };
            let Some(no_room) = &problem.no_room else {
                return Err(in_words(&problem));
            };
            let why = stuck(client, no_room)
                .await
                .map_or(String::new(), |why| format!("; {why}"));
            self.status
                .say(format!("{}; waiting for room{why}", full(no_room)));
            if let Err(interrupted) = self
                .interrupt
                .sleep(problem.retry_after_s.unwrap_or(DEFAULT_WAIT_S))
                .await
            {
                return Ok(Err(interrupted));
            }
        }
    }
}

/// The command line of this process, quoted for a shell, with more words appended.
pub(super) fn same_command(more: &[&str]) -> String {
    let words = std::env::args()
        .skip(1)
        .chain(more.iter().map(|word| (*word).to_owned()));
    std::iter::once("pool".to_owned())
        .chain(words.map(|word| quoted(&word)))
        .collect::<Vec<_>>()
        .join(" ")
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@%+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_reads_every_word_as_it_was() {
        for word in [
            "tasks.yaml",
            "",
            "my tasks.json",
            "run_id=it's",
            "$HOME",
            "a\"b",
            "-",
            "é",
            "a\\b",
            "*",
        ] {
            assert_eq!(
                shlex::split(&quoted(word)),
                Some(vec![word.to_owned()]),
                "{word:?}"
            );
        }
        assert_eq!(quoted("--label"), "--label", "a plain word is not quoted");
    }
}
