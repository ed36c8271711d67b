//! The books of a run: which tasks were submitted, and how each ended. [`Audit::settled`] waits
//! until everything has come to rest. [`Audit::report`] drains every queue and lets the
//! [checker](super::checker) judge.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, bail};
use lapin::Connection;
use pool_broker::topology::DEAD_QUEUE;
use pool_core::result::Status;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::checker::{Answer, Evidence, Report, judge};
use super::client::{Submitter, drain, http, ready, submit_over_http};
use super::evidence::{answer, read_history, read_log};
use crate::bench::connect;

const LOOK_EVERY: Duration = Duration::from_millis(250);
/// The limit for a node to serve its copy of a stream.
const READ_WITHIN: Duration = Duration::from_secs(60);

/// All submissions, and the replies that were fetched so far.
#[derive(Debug)]
pub struct Audit {
    url: String,
    submitter: Submitter,
    http: reqwest::Client,
    submitted: BTreeSet<String>,
    confirmed: BTreeSet<String>,
    wants_reply: BTreeSet<String>,
    /// Tasks that may end other than by success.
    may_end: BTreeMap<String, Vec<Status>>,
    no_tasks: BTreeSet<String>,
    replies: Vec<Answer>,
}

impl Audit {
    /// `url` is the broker's own address, also if the pool uses a proxy. A process of the pool must
    /// have declared the topology.
    ///
    /// # Errors
    /// When the broker refuses.
    pub async fn open(url: &str) -> anyhow::Result<Self> {
        Ok(Self {
            url: url.to_owned(),
            submitter: Submitter::join(url, "audit").await?,
            http: http()?,
            submitted: BTreeSet::new(),
            confirmed: BTreeSet::new(),
            wants_reply: BTreeSet::new(),
            may_end: BTreeMap::new(),
            no_tasks: BTreeSet::new(),
            replies: Vec::new(),
        })
    }

    /// The queue where this audit expects replies.
    pub fn reply_to(&self) -> &str {
        self.submitter.queue()
    }

    /// Submits over HTTP until a dispatcher confirms; `urls` gives the address of the next try, if
    /// there is one.
    ///
    /// # Errors
    /// When it is refused, or not confirmed within `limit`.
    pub async fn over_http(
        &mut self,
        urls: impl Fn(usize) -> Option<String>,
        task: &Value,
        limit: Duration,
    ) -> anyhow::Result<()> {
        self.submitted.insert(id_of(task));
        submit_over_http(&self.http, urls, task, limit).await?;
        self.confirmed.insert(id_of(task));
        Ok(())
    }

    /// Publishes with the audit's reply queue until it is confirmed.
    ///
    /// # Errors
    /// When it is not confirmed within `limit`.
    pub async fn over_amqp(
        &mut self,
        key: &str,
        task: &Value,
        limit: Duration,
    ) -> anyhow::Result<()> {
        self.expect(task);
        self.confirmed.remove(&id_of(task));
        self.submitter.submit(key, task, limit).await?;
        self.expect(task);
        Ok(())
    }

    /// Records a confirmed task that was submitted elsewhere with the audit's reply address.
    pub fn expect(&mut self, task: &Value) {
        self.wants_reply.insert(id_of(task));
        self.took(&id_of(task));
    }

    /// Records a confirmed task that was submitted elsewhere without a reply address.
    pub fn took(&mut self, id: &str) {
        self.tried(id);
        self.confirmed.insert(id.to_owned());
    }

    /// Records a task that was submitted elsewhere and perhaps not confirmed.
    pub fn tried(&mut self, id: &str) {
        self.submitted.insert(id.to_owned());
    }

    /// How a task may end. Without this a confirmed task must succeed.
    pub fn may_end(&mut self, id: &str, statuses: &[Status]) {
        self.may_end.insert(id.to_owned(), statuses.to_vec());
    }

    /// Records a confirmed message that is not a task, published elsewhere under this id with the
    /// audit's reply address.
    pub fn no_task(&mut self, id: &str) {
        self.tried(id);
        self.no_tasks.insert(id.to_owned());
        self.may_end(id, &[Status::Rejected]);
    }

    pub fn confirmed(&self) -> usize {
        self.confirmed.len()
    }

    /// Waits until every confirmed task has its outcome, its result in the history and its reply,
    /// and no queue has a ready message.
    ///
    /// # Errors
    /// When that takes longer than `limit`; the text says what is missing.
    pub async fn settled(&mut self, limit: Duration) -> anyhow::Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            let missing = match self.missing().await {
                Ok(None) => return Ok(()),
                Ok(Some(missing)) => missing,
                Err(error) => format!("{error:#}"),
            };
            if Instant::now() > deadline {
                bail!("not at rest within {limit:?}: {missing}");
            }
            sleep(LOOK_EVERY).await;
        }
    }

    async fn missing(&mut self) -> anyhow::Result<Option<String>> {
        let connection = connect(&self.url).await?;
        let (evidence, queues) = self.evidence(&connection).await?;
        let report = judge(&evidence);
        if !report.lost.is_empty() || !report.unfinished.is_empty() {
            return Ok(Some(report.to_string()));
        }
        for queue in queues.iter().filter(|queue| *queue != DEAD_QUEUE) {
            if let Some(count @ 1..) = ready(&connection, queue).await? {
                return Ok(Some(format!("{count} messages in {queue}")));
            }
        }
        let dead = ready(&connection, DEAD_QUEUE).await?.unwrap_or(0);
        if usize::try_from(dead)? < self.no_tasks.len() {
            return Ok(Some(format!(
                "{dead} messages in {DEAD_QUEUE} and not {}",
                self.no_tasks.len()
            )));
        }
        Ok(None)
    }

    async fn evidence(
        &mut self,
        connection: &Connection,
    ) -> anyhow::Result<(Evidence, BTreeSet<String>)> {
        let replies = drain(connection, self.submitter.queue()).await?;
        self.replies
            .extend(replies.into_iter().map(|left| answer(left.body)));
        let record = read_log(connection).await?;
        let evidence = Evidence {
            submitted: self.submitted.clone(),
            confirmed: self.confirmed.clone(),
            wants_reply: self.wants_reply.clone(),
            may_end: self.all_may_end(),
            no_tasks: self.no_tasks.clone(),
            replies: self.replies.clone(),
            history: read_history(connection).await?,
            starts: record.starts,
            outcomes: record.outcomes,
            made_again: record.made_again,
            left: Vec::new(),
        };
        Ok((evidence, record.queues))
    }

    fn all_may_end(&self) -> BTreeMap<String, Vec<Status>> {
        let by_success = self
            .confirmed
            .iter()
            .map(|id| (id.clone(), vec![Status::Succeeded]));
        by_success.chain(self.may_end.clone()).collect()
    }

    /// Drains every queue and judges. All processes of the pool must have ended: the messages that
    /// they hold would be missing.
    ///
    /// # Errors
    /// When the broker does not answer.
    pub async fn report(mut self) -> anyhow::Result<Report> {
        let deadline = Instant::now() + READ_WITHIN;
        let (connection, (mut evidence, queues)) = loop {
            let connection = connect(&self.url)
                .await
                .context("the audit cannot reach its broker")?;
            match self.evidence(&connection).await {
                Ok(evidence) => break (connection, evidence),
                // A node of a cluster may have just come back; the next connection may lead to
                // another one.
                Err(error) if Instant::now() > deadline => return Err(error),
                Err(_) => sleep(LOOK_EVERY).await,
            }
        };
        for queue in &queues {
            evidence.left.extend(drain(&connection, queue).await?);
        }
        Ok(judge(&evidence))
    }
}

fn id_of(task: &Value) -> String {
    task["id"].as_str().unwrap_or_default().to_owned()
}
