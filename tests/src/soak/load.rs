//! Those who submit while everything breaks: over HTTP, to whichever dispatcher answers, and over AMQP with a reply
//! queue. Each keeps repeating the same id until somebody has said yes.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use crate::faults::client::{Submitter, http, submit_over_http};

/// Of a single task, however often everything is killed meanwhile.
const CONFIRMED_WITHIN: Duration = Duration::from_secs(120);
/// Who lost time while nobody was there catches up at this pace.
const CATCHING_UP: Duration = Duration::from_millis(5);

/// How a submitter goes to work.
#[derive(Debug, Clone)]
pub struct Pace {
    /// Of its ids.
    pub name: String,
    /// From one submission to the next, on the average.
    pub every: Duration,
    /// Until this becomes true.
    pub enough: watch::Receiver<bool>,
}

/// One submitter over HTTP; gives the ids that were confirmed.
///
/// # Errors
/// When a task is refused, or nobody confirms it.
pub async fn over_http(pace: Pace, urls: Vec<String>) -> anyhow::Result<Vec<Value>> {
    let client = http()?;
    let url = |attempt: usize| urls.get(attempt % urls.len().max(1)).cloned();
    let (began, mut confirmed) = (Instant::now(), Vec::new());
    while !*pace.enough.borrow() {
        let task = task(&pace.name, confirmed.len());
        // Not always the first: each has its turn.
        let first = confirmed.len();
        submit_over_http(&client, |attempt| url(first + attempt), &task, CONFIRMED_WITHIN).await?;
        confirmed.push(task);
        next_turn(&pace, began, confirmed.len()).await;
    }
    Ok(confirmed)
}

/// One submitter over AMQP; gives the ids that were confirmed.
///
/// # Errors
/// When the broker does not confirm a task.
pub async fn over_amqp(pace: Pace, mut submitter: Submitter) -> anyhow::Result<Vec<Value>> {
    let (began, mut confirmed) = (Instant::now(), Vec::new());
    while !*pace.enough.borrow() {
        let task = task(&pace.name, confirmed.len());
        submitter.submit("any", &task, CONFIRMED_WITHIN).await?;
        confirmed.push(task);
        next_turn(&pace, began, confirmed.len()).await;
    }
    Ok(confirmed)
}

async fn next_turn(pace: &Pace, began: Instant, done: usize) {
    let due = began + pace.every.mul_f64(f64::from(u32::try_from(done).unwrap_or(u32::MAX)));
    if due < Instant::now() {
        sleep(CATCHING_UP).await;
    } else {
        sleep_until(due).await;
    }
}

fn task(name: &str, number: usize) -> Value {
    json!({"id": format!("{name}-{number}"), "instruction": format!("soak {name} {number}"), "repository": "app"})
}
