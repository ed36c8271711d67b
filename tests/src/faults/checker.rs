//! Judges a run in the manner of Jepsen: compares what was submitted and confirmed with what became
//! of it. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use pool_core::result::Status;

/// A result of a task as it came: its bytes, the attempt that it names, and the status that it
/// names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Answer {
    pub task: String,
    pub attempt: Option<String>,
    /// None: the result cannot be parsed.
    pub status: Option<Status>,
    pub body: Vec<u8>,
}

/// An outcome that the log accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    pub task: String,
    pub attempt: Option<String>,
    pub status: Status,
}

/// A message that was still in a queue when everything had come to rest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Left {
    pub queue: String,
    pub task: Option<String>,
    pub body: Vec<u8>,
}

/// All evidence of a run.
#[derive(Debug, Clone, Default)]
pub struct Evidence {
    /// The tasks that a submitter tried to submit.
    pub submitted: BTreeSet<String>,
    /// The tasks that the pool confirmed.
    pub confirmed: BTreeSet<String>,
    /// The confirmed tasks with a reply queue.
    pub wants_reply: BTreeSet<String>,
    /// How a task may end, if that is restricted.
    pub may_end: BTreeMap<String, Vec<Status>>,
    /// Messages with a reply queue that are not tasks, by the id that they came under. Each must be
    /// answered and kept in `pool.dead`; the log does not contain them.
    pub no_tasks: BTreeSet<String>,
    /// The replies as they came, with duplicates.
    pub replies: Vec<Answer>,
    /// Results in the history.
    pub history: Vec<Answer>,
    /// One entry for each accepted claim of a task.
    pub starts: Vec<String>,
    /// The accepted outcomes, in the order of the log.
    pub outcomes: Vec<Outcome>,
    /// Attempts that broke and were retried.
    pub made_again: usize,
    pub left: Vec<Left>,
}

/// The losses of a run. The run is clean if the first seven are empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Confirmed tasks without a result in the history or at their reply queue.
    pub lost: BTreeSet<String>,
    /// Tasks whose results differ, or come from another attempt than the log names.
    pub different: BTreeSet<String>,
    /// Results of tasks that were never submitted.
    pub invented: BTreeSet<String>,
    /// Confirmed tasks without an outcome in the log.
    pub unfinished: BTreeSet<String>,
    /// Messages left over without a reason, by queue and task.
    pub stray: BTreeSet<String>,
    /// Tasks that ended in a way they may not, or whose results contradict the log.
    pub wrong_status: BTreeSet<String>,
    /// Messages that are not tasks and are not in `pool.dead`.
    pub unkept: BTreeSet<String>,
    pub tasks: usize,
    /// Claims of a task after its first.
    pub repeated_starts: usize,
    /// Replies of a task after its first, each with the same bytes.
    pub repeated_replies: usize,
    /// Attempts that broke and were retried.
    pub made_again: usize,
}

impl Report {
    pub fn is_clean(&self) -> bool {
        self.sets().iter().all(|(_, set)| set.is_empty())
    }

    fn sets(&self) -> [(&'static str, &BTreeSet<String>); 7] {
        [
            ("lost", &self.lost),
            ("different", &self.different),
            ("invented", &self.invented),
            ("unfinished", &self.unfinished),
            ("stray", &self.stray),
            ("wrong status", &self.wrong_status),
            ("unkept", &self.unkept),
        ]
    }
}

/// Compares the promises with the evidence.
pub fn judge(evidence: &Evidence) -> Report {
    let in_history = tasks_of(&evidence.history);
    let replied = tasks_of(&evidence.replies);
    let ended = ends(evidence);
    // The history has no result of a cancelled task, so the log is enough.
    let is_kept = |id: &str| in_history.contains(id) || ended.get(id) == Some(&Status::Cancelled);
    let is_lost = |id: &&String| {
        !is_kept(id.as_str())
            || (evidence.wants_reply.contains(*id) && !replied.contains(id.as_str()))
    };
    let untold = evidence
        .no_tasks
        .iter()
        .filter(|id| !replied.contains(id.as_str()));
    let all_answers = || evidence.history.iter().chain(&evidence.replies);
    Report {
        lost: evidence
            .confirmed
            .iter()
            .filter(is_lost)
            .chain(untold)
            .cloned()
            .collect(),
        different: different(evidence),
        invented: all_answers()
            .filter(|answer| !evidence.submitted.contains(&answer.task))
            .map(|answer| answer.task.clone())
            .collect(),
        unfinished: evidence
            .confirmed
            .iter()
            .filter(|id| !ended.contains_key(id.as_str()))
            .cloned()
            .collect(),
        stray: stray(evidence),
        wrong_status: wrong_status(evidence, &ended),
        unkept: unkept(evidence),
        tasks: evidence.confirmed.len(),
        repeated_starts: evidence.starts.len()
            - evidence.starts.iter().collect::<BTreeSet<_>>().len(),
        repeated_replies: evidence.replies.len() - replied.len(),
        made_again: evidence.made_again,
    }
}

fn tasks_of(answers: &[Answer]) -> BTreeSet<&str> {
    answers.iter().map(|answer| answer.task.as_str()).collect()
}

/// The first outcome of each task in the log.
fn ends(evidence: &Evidence) -> BTreeMap<&str, Status> {
    let mut ends = BTreeMap::new();
    for outcome in &evidence.outcomes {
        ends.entry(outcome.task.as_str()).or_insert(outcome.status);
    }
    ends
}

/// Tasks whose status in the log or in a result is not allowed, or is not the same in both.
fn wrong_status(evidence: &Evidence, ended: &BTreeMap<&str, Status>) -> BTreeSet<String> {
    let mut wrong = BTreeSet::new();
    let mut may_be = |task: &str, status: Status| {
        let allowed = evidence.may_end.get(task);
        if allowed.is_some_and(|allowed| !allowed.contains(&status)) {
            wrong.insert(format!("{task} is {}", status.as_str()));
        }
    };
    ended
        .iter()
        .for_each(|(task, status)| may_be(task, *status));
    let answers = || {
        evidence
            .history
            .iter()
            .chain(&evidence.replies)
            .filter(|answer| !answer.task.is_empty())
    };
    for answer in answers() {
        if let Some(status) = answer.status {
            may_be(&answer.task, status);
        }
    }
    let name = |status: Option<Status>| status.map_or("unreadable", Status::as_str);
    for answer in answers() {
        match ended.get(answer.task.as_str()) {
            Some(logged) if answer.status != Some(*logged) => {
                let (task, said) = (&answer.task, name(answer.status));
                wrong.insert(format!(
                    "{task} is {} in the log and {said} in a result",
                    logged.as_str()
                ));
            }
            Some(_) | None => {}
        }
    }
    wrong
}

fn unkept(evidence: &Evidence) -> BTreeSet<String> {
    let dead = evidence
        .left
        .iter()
        .filter(|left| left.queue == "pool.dead");
    let kept: BTreeSet<&str> = dead.filter_map(|left| left.task.as_deref()).collect();
    evidence
        .no_tasks
        .iter()
        .filter(|id| !kept.contains(id.as_str()))
        .cloned()
        .collect()
}

fn different(evidence: &Evidence) -> BTreeSet<String> {
    let mut first: BTreeMap<&str, &[u8]> = BTreeMap::new();
    let winners: BTreeMap<&str, &Option<String>> = evidence
        .outcomes
        .iter()
        .map(|outcome| (outcome.task.as_str(), &outcome.attempt))
        .collect();
    let mut different = BTreeSet::new();
    // Messages without an id share this entry, so their answers may differ.
    let with_id = |answer: &&Answer| !answer.task.is_empty();
    for answer in evidence
        .history
        .iter()
        .chain(&evidence.replies)
        .filter(with_id)
    {
        let same = *first.entry(&answer.task).or_insert(&answer.body) == answer.body.as_slice();
        let winners_own = winners
            .get(answer.task.as_str())
            .is_none_or(|winner| **winner == answer.attempt);
        if !same || !winners_own {
            different.insert(answer.task.clone());
        }
    }
    different
}

/// The left-over messages without a reason. A dead letter has a reason if its task has an outcome or
/// its submitter an answer. A result has one if it is the delivered one: its dispatcher ended
/// before the ack. A copy of a task in `pool.retries`, which waits to have the result repeated, has
/// one if its submitter has the result.
fn stray(evidence: &Evidence) -> BTreeSet<String> {
    let answers: Vec<&Answer> = evidence.history.iter().chain(&evidence.replies).collect();
    let known = |left: &Left| {
        let of_task = |answer: &&&Answer| left.task.as_deref() == Some(answer.task.as_str());
        match left.queue.as_str() {
            "pool.dead" => answers.iter().any(|answer| of_task(&answer)),
            "pool.retries" => evidence
                .replies
                .iter()
                .any(|reply| left.task.as_ref() == Some(&reply.task)),
            "results" => answers
                .iter()
                .filter(of_task)
                .any(|answer| answer.body == left.body),
            _ => false,
        }
    };
    let name = |left: &Left| {
        format!(
            "{} in {}",
            left.task.as_deref().unwrap_or("a message without an id"),
            left.queue
        )
    };
    evidence
        .left
        .iter()
        .filter(|left| !known(left))
        .map(name)
        .collect()
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "tasks: {}", self.tasks)?;
        for (name, set) in self.sets() {
            writeln!(f, "{name}: {}{}", set.len(), some_of(set))?;
        }
        writeln!(
            f,
            "repeated: {} starts, {} replies",
            self.repeated_starts, self.repeated_replies
        )?;
        write!(f, "attempts retried: {}", self.made_again)
    }
}

fn some_of(set: &BTreeSet<String>) -> String {
    const SHOWN: usize = 10;
    let shown: Vec<&str> = set.iter().take(SHOWN).map(String::as_str).collect();
    let more = if set.len() > SHOWN { ", …" } else { "" };
    if shown.is_empty() {
        String::new()
    } else {
        format!(" ({}{more})", shown.join(", "))
    }
}

#[cfg(test)]
#[path = "checker_tests.rs"]
mod tests;
