//! Describes a task's events in words, for its page. Pure.

use pool_api::events::{Line, Tone};
use pool_core::event::{
    BreakerEvent, BudgetEvent, Event, ReleaseCause, Spent, TaskEvent, TaskFinished,
};
use pool_core::id::{AttemptId, ProgrammerId};
use pool_core::money::MicroUsd;
use pool_core::result::Status;
use pool_core::state::{Refusal, Verdict};
use pool_core::time::Timestamp;

use super::journal::JournalEntry;

/// The timeline of a task.
pub fn lines(entries: &[JournalEntry]) -> Vec<Line> {
    let mut number = 0;
    entries
        .iter()
        .map(|entry| {
            number = number_of(entry, number);
            line(entry, number)
        })
        .collect()
}

/// The number of the next attempt after this event, as the fold counts: an attempt that was handed
/// back does not count.
fn number_of(entry: &JournalEntry, before: u32) -> u32 {
    match (&entry.decision, entry.verdict) {
        (_, Verdict::Refused(_)) => before,
        (Event::Task(TaskEvent::Started(_)), Verdict::Accepted) => before + 1,
        (Event::Task(TaskEvent::Released(_)), Verdict::Accepted) => before.saturating_sub(1),
        (_, Verdict::Accepted) => before,
    }
}

fn line(entry: &JournalEntry, number: u32) -> Line {
    let accepted = entry.verdict == Verdict::Accepted;
    // A refused event begins no attempt.
    let said = words(&entry.decision, accepted.then_some(number));
    let (text, tone) = match entry.verdict {
        Verdict::Accepted => (said.text, said.tone),
        Verdict::Refused(refusal) => {
            let text = format!("{} – refused: {}", said.text, why(refusal));
            (text, Tone::Warning)
        }
    };
    Line {
        at: entry.at,
        text,
        tone,
        accepted,
        programmer: said.programmer,
        attempt: said.attempt,
    }
}

fn why(refusal: Refusal) -> &'static str {
    match refusal {
        Refusal::Finished => "the task has already finished",
        Refusal::Superseded => "another attempt owns the task",
        Refusal::Taken { same_body: true } => "the same task was submitted before",
        Refusal::Taken { same_body: false } => "the id belongs to another task",
        Refusal::OldGeneration => "the task was published again in the meantime",
        Refusal::UnknownTask => "the log has no such task",
        Refusal::OverBudget => "not enough of today's budget is left",
        Refusal::NotReserved => "nothing had been reserved",
        Refusal::OldEpoch => "the breaker has changed in the meantime",
        Refusal::NotDue => "no probe is due",
    }
}

struct Words {
    text: String,
    tone: Tone,
    programmer: Option<ProgrammerId>,
    attempt: Option<AttemptId>,
}

impl Words {
    fn new(tone: Tone, text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            tone,
            programmer: None,
            attempt: None,
        }
    }

    fn of(self, programmer: Option<&ProgrammerId>, attempt: Option<AttemptId>) -> Self {
        Self {
            programmer: programmer.cloned(),
            attempt,
            ..self
        }
    }
}

fn words(event: &Event, number: Option<u32>) -> Words {
    match event {
        Event::Task(event) => words_of_task(event, number),
        Event::Budget(BudgetEvent::Reserved(reserved)) => {
            let amount = reserved.amount_usd;
            let text = format!("reserved ${amount} of today's budget for paid calls");
            Words::new(Tone::Neutral, text).of(Some(&reserved.programmer), Some(reserved.attempt))
        }
        Event::Budget(BudgetEvent::Settled(settled)) => {
            let cost = settled.cost_usd;
            let text = format!("paid calls cost ${cost}; the rest of the reservation is released");
            Words::new(Tone::Neutral, text).of(None, Some(settled.attempt))
        }
        Event::Breaker(BreakerEvent::LlmFailed(failed)) => {
            let (llm, fault) = (&failed.key.llm, failed.fault.as_str());
            let text = format!("a call to {llm} failed for good: {fault}");
            Words::new(Tone::Warning, text).of(Some(&failed.programmer), None)
        }
        Event::Budget(_) | Event::Breaker(_) | Event::Pool(_) => {
            Words::new(Tone::Neutral, "an event of the pool")
        }
    }
}

fn words_of_task(event: &TaskEvent, number: Option<u32>) -> Words {
    match event {
        TaskEvent::Submitted(submitted) => Words::new(
            Tone::Neutral,
            format!("submitted for the route {}", submitted.route),
        ),
        TaskEvent::Published(published) => match published.generation {
            0 => Words::new(Tone::Neutral, "queued"),
            generation => Words::new(
                Tone::Neutral,
                format!("queued again (generation {generation})"),
            ),
        },
        TaskEvent::Reissued(reissued) => match &reissued.retry {
            Some(retry) => {
                let (at, error) = (Timestamp(retry.at_ms), retry.error.as_str());
                let text = format!(
                    "the attempt failed: {error}; the next one starts no earlier than {at}"
                );
                Words::new(Tone::Warning, text).of(None, Some(retry.attempt))
            }
            None => Words::new(
                Tone::Neutral,
                format!(
                    "about to be published again (generation {})",
                    reissued.generation
                ),
            ),
        },
        TaskEvent::Started(started) => {
            let again = if started.token.count > 0 {
                " after a redelivery"
            } else {
                ""
            };
            let which = number.map_or("an attempt".to_owned(), |number| {
                format!("attempt {number}")
            });
            let text = format!("{} began {which}{again}", started.programmer.display_name());
            Words::new(Tone::Active, text).of(Some(&started.programmer), Some(started.attempt))
        }
        TaskEvent::Released(released) => {
            let text = match released.cause {
                ReleaseCause::NoLlm => "handed back: no LLM was available",
                ReleaseCause::NoSandbox => "handed back: the sandbox could not be set up",
                ReleaseCause::Stopped => {
                    "handed back: the worker was shut down or lost its connection; the attempt does not count"
                }
            };
            Words::new(Tone::Warning, text).of(None, Some(released.attempt))
        }
        TaskEvent::Used(used) => {
            let Spent {
                cost_usd,
                tokens,
                usage,
            } = &used.spent;
            let most = if used.so_far { "at most " } else { "" };
            let text = format!(
                "the attempt has used {most}${cost_usd} and {tokens} tokens in {} calls",
                usage.calls
            );
            Words::new(Tone::Neutral, text).of(None, Some(used.attempt))
        }
        TaskEvent::Finished(finished) => outcome(finished),
        TaskEvent::Cancelled(_) => Words::new(Tone::Bad, "cancelled by an operator"),
        TaskEvent::Stated(_) => Words::new(
            Tone::Neutral,
            "snapshot, because the log is about to drop the task's first events",
        ),
    }
}

fn outcome(finished: &TaskFinished) -> Words {
    let status = finished.status;
    let tone = if status == Status::Succeeded {
        Tone::Good
    } else {
        Tone::Bad
    };
    let mut text = status.as_str().to_owned();
    // The status says it already: no error for a cancelled task.
    if let Some(error) = finished.error
        && error.as_str() != status.as_str()
    {
        text.push_str(&format!(": {}", error.as_str()));
    }
    if let Some(llm) = &finished.llm {
        text.push_str(&format!(", with {llm}"));
    }
    if finished.cost_usd > MicroUsd::ZERO {
        text.push_str(&format!(", for ${}", finished.cost_usd));
    }
    Words::new(tone, text).of(None, finished.attempt)
}

#[cfg(test)]
mod tests {
    use super::*;
    use pool_core::event::{TaskCancelled, TaskReleased, TaskStarted};
    use pool_core::id::TaskId;
    use pool_core::result::ErrorKind;

    fn said(decision: Event, verdict: Verdict) -> (String, Tone, bool) {
        let line = line(
            &JournalEntry {
                at: Timestamp(1),
                decision,
                verdict,
            },
            0,
        );
        (line.text, line.tone, line.accepted)
    }

    #[test]
    fn attempts_are_counted_as_the_pool_counts_them() {
        let task = TaskId::new("t").expect("an id");
        let started = |n: u64| {
            Event::from(TaskStarted {
                task: task.clone(),
                attempt: AttemptId::from_u128(n.into()),
                programmer: ProgrammerId::new("006").expect("an id"),
                token: pool_core::id::Token {
                    generation: 0,
                    count: n,
                },
                route: "fast".to_owned(),
                body_hash: String::new(),
            })
        };
        let released = Event::from(TaskReleased {
            task: task.clone(),
            attempt: AttemptId::from_u128(1),
            cause: ReleaseCause::Stopped,
        });
        let events = [
            (started(0), Verdict::Accepted),
            (started(0), Verdict::Refused(Refusal::Superseded)),
            (started(1), Verdict::Accepted),
            (released, Verdict::Accepted),
            (started(2), Verdict::Accepted),
        ];
        let entries: Vec<JournalEntry> = events
            .into_iter()
            .map(|(decision, verdict)| JournalEntry {
                at: Timestamp(1),
                decision,
                verdict,
            })
            .collect();
        let said: Vec<String> = lines(&entries).into_iter().map(|line| line.text).collect();
        assert_eq!(said[0], "Prog-006 began attempt 1", "the first");
        assert!(
            said[1].starts_with("Prog-006 began an attempt – refused"),
            "it has no number: {}",
            said[1]
        );
        assert_eq!(
            said[2], "Prog-006 began attempt 2 after a redelivery",
            "the next"
        );
        assert_eq!(
            said[4], "Prog-006 began attempt 2 after a redelivery",
            "the attempt before does not count"
        );
    }

    #[test]
    fn an_outcome_names_error_llm_and_cost_and_a_refusal_says_why() {
        let task = TaskId::new("t").expect("an id");
        let finished = Event::from(TaskFinished {
            task: task.clone(),
            attempt: None,
            status: Status::Failed,
            llm: Some("a/b".parse().expect("an LLM")),
            cost_usd: MicroUsd(1_500_000),
            error: Some(ErrorKind::NoChange),
        });
        let text = "failed: no_change, with a/b, for $1.50".to_owned();
        assert_eq!(
            said(finished, Verdict::Accepted),
            (text, Tone::Bad, true),
            "all known facts"
        );
        let stopped = Event::from(TaskFinished {
            task: task.clone(),
            attempt: None,
            status: Status::Cancelled,
            llm: None,
            cost_usd: MicroUsd::ZERO,
            error: Some(ErrorKind::Cancelled),
        });
        assert_eq!(
            said(stopped, Verdict::Accepted).0,
            "cancelled",
            "the status is not repeated as the error"
        );
        let late = said(
            Event::from(TaskCancelled { task }),
            Verdict::Refused(Refusal::Finished),
        );
        let text = "cancelled by an operator – refused: the task has already finished".to_owned();
        assert_eq!(late, (text, Tone::Warning, false), "too late");
    }
}
