//! Judges a run in the manner of Jepsen: what was submitted and confirmed, against what came of it. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use pool_core::result::Status;

/// A result for a task, as it came: its bytes, which attempt it says it is of, and how it says that the task ended.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Answer {
    pub task: String,
    pub attempt: Option<String>,
    /// None: it cannot be read.
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

/// What is known of a run.
#[derive(Debug, Clone, Default)]
pub struct Evidence {
    /// All that anybody tried to submit.
    pub submitted: BTreeSet<String>,
    /// Those for which somebody was told yes.
    pub confirmed: BTreeSet<String>,
    /// Those for which a reply queue was named.
    pub wants_reply: BTreeSet<String>,
    /// How a task may end, where that is known.
    pub may_end: BTreeMap<String, Vec<Status>>,
    /// Messages that are no tasks, with a reply queue, by the id that they came under. Each is answered and kept in
    /// `pool.dead`; the log hears nothing of them.
    pub no_tasks: BTreeSet<String>,
    /// As they came to the reply queues, doubles and all.
    pub replies: Vec<Answer>,
    /// Results in the history.
    pub history: Vec<Answer>,
    /// Tasks that were claimed, once for each claim that was accepted.
    pub starts: Vec<String>,
    /// Accepted ones, in the order of the log.
    pub outcomes: Vec<Outcome>,
    /// Attempts that broke and were made again.
    pub made_again: usize,
    pub left: Vec<Left>,
}

/// What a run has cost. Clean when nothing is in the first seven.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Confirmed, and no result: not in the history, or not at its reply queue.
    pub lost: BTreeSet<String>,
    /// Results of one task that differ, or that are not of the attempt that the log names.
    pub different: BTreeSet<String>,
    /// Results of tasks that nobody submitted.
    pub invented: BTreeSet<String>,
    /// Confirmed, and no outcome in the log.
    pub unfinished: BTreeSet<String>,
    /// Messages that nobody accounts for, by queue and task.
    pub stray: BTreeSet<String>,
    /// Tasks that ended as they may not, or whose results say something else than the log.
    pub wrong_status: BTreeSet<String>,
    /// Messages that are no tasks and not in `pool.dead`.
    pub unkept: BTreeSet<String>,
    pub tasks: usize,
    /// Claims beyond the first of a task.
    pub repeated_starts: usize,
    /// Replies beyond the first of a task, byte for byte the same.
    pub repeated_replies: usize,
    /// Attempts that broke and were made again.
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

/// Compares what was promised with what there is.
pub fn judge(evidence: &Evidence) -> Report {
    let in_history = tasks_of(&evidence.history);
    let replied = tasks_of(&evidence.replies);
    let ended = ends(evidence);
    // Of a task that was cancelled the log holds all that there is.
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

/// How each task ended, by the first outcome in the log.
fn ends(evidence: &Evidence) -> BTreeMap<&str, Status> {
    let mut ends = BTreeMap::new();
    for outcome in &evidence.outcomes {
        ends.entry(outcome.task.as_str()).or_insert(outcome.status);
    }
    ends
}

/// What the log says, what results say, and what may be.
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
    // Answers to what has no id at all are answers to different things.
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

/// A dead letter is accounted for when its task has an outcome or its submitter an answer; a result that was not acked
/// yet when its dispatcher ended, when it is the one that was delivered; a copy of a task that waits in `pool.retries` to
/// have the result repeated, when its submitter has that already.
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
            left.task.as_deref().unwrap_or("something without an id"),
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
        write!(f, "attempts made again: {}", self.made_again)
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
