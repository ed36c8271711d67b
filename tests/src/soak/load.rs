//! The submitters, which work while everything breaks: over HTTP to any dispatcher that answers,
//! and over AMQP with a reply queue. Each repeats the same id until it is accepted or refused for
//! good.

use std::time::Duration;

use anyhow::{Context, bail};
use pool_telemetry::clock::wall_clock;
use reqwest::{Client, StatusCode};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use super::kinds::{Job, Kind};
use crate::faults::audit::Audit;
use crate::faults::client::{Submitter, ask, offer_over_http};

/// The limit for submitting a single task, through any number of kills.
const CONFIRMED_WITHIN: Duration = Duration::from_secs(300);
/// The shortest pause between two tasks, with which a submitter makes up for lost time.
const CATCHING_UP: Duration = Duration::from_millis(5);

/// The settings of a submitter.
#[derive(Debug, Clone)]
pub struct Pace {
    /// The prefix of its ids.
    pub name: String,
    /// The average time between two submissions.
    pub every: Duration,
    /// It submits until this becomes true.
    pub enough: watch::Receiver<bool>,
}

/// The way of a submitter, except for jobs that are submitted both ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    Http,
    Amqp,
}

/// The answer that a submitter got for a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    /// The pool accepted it. A job that went over AMQP is also due a reply.
    Taken { reply: bool },
    /// A dispatcher refused it.
    Refused,
    /// Its deadline had passed when a dispatcher answered. It is not known whether it was accepted
    /// before.
    Unsure,
}

/// A job and the answer to its submission.
#[derive(Debug)]
pub struct Submitted {
    pub job: Job,
    told: Told,
}

impl Submitted {
    /// Records it in the books.
    pub fn enter(&self, audit: &mut Audit) {
        let Job { kind, id, .. } = &self.job;
        match self.told {
            Told::Refused => return,
            Told::Taken { .. } if *kind == Kind::Malformed => return audit.no_task(id),
            Told::Taken { reply: true } => audit.expect(&self.job.body),
            Told::Taken { reply: false } => audit.took(id),
            Told::Unsure => audit.tried(id),
        }
        audit.may_end(id, kind.may_end());
    }
}

/// The ways to the pool, over HTTP and over AMQP.
#[derive(Debug)]
pub struct Hand {
    pub door: Door,
    pub client: Client,
    /// The addresses of the dispatchers.
    pub urls: Vec<String>,
    pub submitter: Submitter,
}

/// Runs one submitter; gives what it submitted.
///
/// # Errors
/// When a good task is refused, a bad one accepted, or one is not confirmed.
pub async fn submit(pace: Pace, mut hand: Hand) -> anyhow::Result<Vec<Submitted>> {
    let (began, mut submitted, mut cancelling) = (Instant::now(), Vec::new(), JoinSet::new());
    while !*pace.enough.borrow() {
        let job = Job::of(&pace.name, submitted.len(), wall_clock());
        let told = hand
            .hand_in(&job, submitted.len())
            .await
            .with_context(|| format!("{:?} {}", job.kind, job.id))?;
        if job.kind == Kind::Cancelled {
            cancelling.spawn(cancel(hand.client.clone(), hand.urls.clone(), job.clone()));
        }
        submitted.push(Submitted { job, told });
        next_turn(&pace, began, submitted.len()).await;
    }
    while let Some(done) = cancelling.join_next().await {
        done.context("a cancelling task panicked")??;
    }
    Ok(submitted)
}

impl Hand {
    async fn hand_in(&mut self, job: &Job, number: usize) -> anyhow::Result<Told> {
        // Begins with each dispatcher in turn.
        let (urls, client) = (self.urls.clone(), self.client.clone());
        let url = move |attempt: usize| urls.get((number + attempt) % urls.len().max(1)).cloned();
        let body = job.body.to_string();
        let over_http = offer_over_http(&client, url, &body, CONFIRMED_WITHIN);
        match (job.kind, self.door) {
            (Kind::Twice, _) => {
                let (over_http, over_amqp) =
                    tokio::join!(over_http, publish(&mut self.submitter, job, &body));
                over_amqp?;
                told_by(job, &over_http?)?;
                Ok(Told::Taken { reply: true })
            }
            (_, Door::Http) => told_by(job, &over_http.await?),
            (_, Door::Amqp) => {
                publish(&mut self.submitter, job, &body).await?;
                Ok(Told::Taken { reply: true })
            }
        }
    }
}

/// The id is in the properties, too, so that the answer names it however wrong the body is.
async fn publish(submitter: &mut Submitter, job: &Job, body: &str) -> anyhow::Result<()> {
    let properties = submitter
        .properties()
        .with_message_id(job.id.as_str().into());
    submitter
        .publish(job.key, body, properties, CONFIRMED_WITHIN)
        .await
}

fn told_by(job: &Job, (status, said): &(StatusCode, String)) -> anyhow::Result<Told> {
    let is_refused = *status == StatusCode::UNPROCESSABLE_ENTITY;
    match job.kind {
        Kind::Impossible | Kind::Malformed if is_refused => Ok(Told::Refused),
        Kind::Late if is_refused => Ok(Told::Unsure),
        Kind::Ordinary | Kind::Crashing | Kind::Cancelled | Kind::Late | Kind::Twice
            if status.is_success() =>
        {
            Ok(Told::Taken { reply: false })
        }
        Kind::Ordinary
        | Kind::Crashing
        | Kind::Cancelled
        | Kind::Late
        | Kind::Twice
        | Kind::Impossible
        | Kind::Malformed => bail!("a dispatcher answered {status} {said}"),
    }
}

/// Asks one dispatcher after the other until one has cancelled the task or says that it has ended.
/// The log knows a task that was published directly only once a programmer claims it.
async fn cancel(client: Client, urls: Vec<String>, job: Job) -> anyhow::Result<()> {
    sleep(job.cancelled_after).await;
    let delete = |url: &str| client.delete(format!("{url}/tasks/{}", job.id));
    let is_final = |status: StatusCode| status.is_success() || status == StatusCode::CONFLICT;
    let url = |attempt: usize| urls.get(attempt % urls.len().max(1)).cloned();
    let cancelled = ask(url, delete, is_final, CONFIRMED_WITHIN).await;
    cancelled
        .map(drop)
        .with_context(|| format!("failed to cancel {}", job.id))
}

async fn next_turn(pace: &Pace, began: Instant, done: usize) {
    let due = began
        + pace
            .every
            .mul_f64(f64::from(u32::try_from(done).unwrap_or(u32::MAX)));
    if due < Instant::now() {
        sleep(CATCHING_UP).await;
    } else {
        sleep_until(due).await;
    }
}
