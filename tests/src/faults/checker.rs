//! Judges a run in the manner of Jepsen: what was submitted and confirmed, against what came of it. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// A result for a task, as it came: its bytes, and which attempt it says it is of.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Answer {
    pub task: String,
    pub attempt: Option<String>,
    pub body: Vec<u8>,
}

/// An outcome that the log accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    pub task: String,
    pub attempt: Option<String>,
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
    /// As they came to the reply queues, doubles and all.
    pub replies: Vec<Answer>,
    /// Results in the history.
    pub history: Vec<Answer>,
    /// Tasks that were claimed, once for each claim that was accepted.
    pub starts: Vec<String>,
    /// Accepted ones, in the order of the log.
    pub outcomes: Vec<Outcome>,
    pub left: Vec<Left>,
}

/// What a run has cost. Clean when nothing is in the first five.
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
    pub tasks: usize,
    /// Claims beyond the first of a task.
    pub repeated_starts: usize,
    /// Replies beyond the first of a task, byte for byte the same.
    pub repeated_replies: usize,
}

impl Report {
    pub fn is_clean(&self) -> bool {
        [&self.lost, &self.different, &self.invented, &self.unfinished, &self.stray].iter().all(|set| set.is_empty())
    }
}

/// Compares what was promised with what there is.
pub fn judge(evidence: &Evidence) -> Report {
    let in_history = tasks_of(&evidence.history);
    let replied = tasks_of(&evidence.replies);
    let ended: BTreeSet<&str> = evidence.outcomes.iter().map(|outcome| outcome.task.as_str()).collect();
    let is_lost = |id: &&String| {
        !in_history.contains(id.as_str()) || (evidence.wants_reply.contains(*id) && !replied.contains(id.as_str()))
    };
    let all_answers = || evidence.history.iter().chain(&evidence.replies);
    Report {
        lost: evidence.confirmed.iter().filter(is_lost).cloned().collect(),
        different: different(evidence),
        invented: all_answers()
            .filter(|answer| !evidence.submitted.contains(&answer.task))
            .map(|answer| answer.task.clone())
            .collect(),
        unfinished: evidence.confirmed.iter().filter(|id| !ended.contains(id.as_str())).cloned().collect(),
        stray: stray(evidence),
        tasks: evidence.confirmed.len(),
        repeated_starts: evidence.starts.len() - evidence.starts.iter().collect::<BTreeSet<_>>().len(),
        repeated_replies: evidence.replies.len() - replied.len(),
    }
}

fn tasks_of(answers: &[Answer]) -> BTreeSet<&str> {
    answers.iter().map(|answer| answer.task.as_str()).collect()
}

fn different(evidence: &Evidence) -> BTreeSet<String> {
    let mut first: BTreeMap<&str, &[u8]> = BTreeMap::new();
    let winners: BTreeMap<&str, &Option<String>> =
        evidence.outcomes.iter().map(|outcome| (outcome.task.as_str(), &outcome.attempt)).collect();
    let mut different = BTreeSet::new();
    // Answers to what has no id at all are answers to different things.
    let with_id = |answer: &&Answer| !answer.task.is_empty();
    for answer in evidence.history.iter().chain(&evidence.replies).filter(with_id) {
        let same = *first.entry(&answer.task).or_insert(&answer.body) == answer.body.as_slice();
        let winners_own = winners.get(answer.task.as_str()).is_none_or(|winner| **winner == answer.attempt);
        if !same || !winners_own {
            different.insert(answer.task.clone());
        }
    }
    different
}

/// A dead letter is accounted for when its task has an outcome or its submitter an answer; a result that was not acked
/// yet when its dispatcher ended, when it is the one that was delivered.
fn stray(evidence: &Evidence) -> BTreeSet<String> {
    let answers: Vec<&Answer> = evidence.history.iter().chain(&evidence.replies).collect();
    let known = |left: &Left| {
        let of_task = |answer: &&&Answer| left.task.as_deref() == Some(answer.task.as_str());
        match left.queue.as_str() {
            "pool.dead" => answers.iter().any(|answer| of_task(&answer)),
            "results" => answers.iter().filter(of_task).any(|answer| answer.body == left.body),
            _ => false,
        }
    };
    let name = |left: &Left| format!("{} in {}", left.task.as_deref().unwrap_or("something without an id"), left.queue);
    evidence.left.iter().filter(|left| !known(left)).map(name).collect()
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = [
            ("lost", &self.lost),
            ("different", &self.different),
            ("invented", &self.invented),
            ("unfinished", &self.unfinished),
            ("stray", &self.stray),
        ];
        writeln!(f, "tasks: {}", self.tasks)?;
        for (name, set) in rows {
            writeln!(f, "{name}: {}{}", set.len(), some_of(set))?;
        }
        write!(f, "repeated: {} starts, {} replies", self.repeated_starts, self.repeated_replies)
    }
}

fn some_of(set: &BTreeSet<String>) -> String {
    const SHOWN: usize = 10;
    let shown: Vec<&str> = set.iter().take(SHOWN).map(String::as_str).collect();
    let more = if set.len() > SHOWN { ", …" } else { "" };
    if shown.is_empty() { String::new() } else { format!(" ({}{more})", shown.join(", ")) }
}

#[cfg(test)]
#[path = "checker_tests.rs"]
mod tests;
