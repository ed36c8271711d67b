//! Describes a task's events in words, for its page. Pure.

use pool_api::events::{Line, Tone};
use pool_core::event::Event;
use pool_core::id::{AttemptId, ProgrammerId};
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
        (Event::Started { .. }, Verdict::Accepted) => before + 1,
        (Event::Released { .. }, Verdict::Accepted) => before.saturating_sub(1),
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

fn words(decision: &Event, number: Option<u32>) -> Words {
    match decision {
        Event::Submitted { route, .. } => {
            Words::new(Tone::Neutral, format!("submitted for the route {route}"))
        }
        Event::Published { generation: 0, .. } => Words::new(Tone::Neutral, "queued"),
        Event::Published { generation, .. } => Words::new(
            Tone::Neutral,
            format!("queued again (generation {generation})"),
        ),
        Event::Reissued {
            retry: Some(retry), ..
        } => {
            let at = Timestamp(retry.at_ms);
            let text = format!(
                "the attempt failed: {}; the next one starts no earlier than {at}",
                retry.error.as_str()
            );
            Words::new(Tone::Warning, text).of(None, Some(retry.attempt))
        }
        Event::Reissued { generation, .. } => Words::new(
            Tone::Neutral,
            format!("about to be published again (generation {generation})"),
        ),
        Event::Started {
            programmer,
            attempt,
            token,
            ..
        } => {
            let again = if token.count > 0 {
                " after a redelivery"
            } else {
                ""
            };
            let which = number.map_or("an attempt".to_owned(), |number| {
                format!("attempt {number}")
            });
            let text = format!("{} began {which}{again}", programmer.display_name());
            Words::new(Tone::Active, text).of(Some(programmer), Some(*attempt))
        }
        Event::Released {
            no_llm: true,
            attempt,
            ..
        } => {
            Words::new(Tone::Warning, "handed back: no LLM was available").of(None, Some(*attempt))
        }
        Event::Released { attempt, .. } => {
            let text = "handed back: the worker was shut down or lost its connection; the attempt does not count";
            Words::new(Tone::Warning, text).of(None, Some(*attempt))
        }
        Event::Used {
            attempt,
            spent,
            so_far,
            ..
        } => {
            let usage = &spent.usage;
            let most = if *so_far { "at most " } else { "" };
            let text = format!(
                "the attempt has used {most}${} and {} tokens in {} calls",
                spent.cost_usd, spent.tokens, usage.calls
            );
            Words::new(Tone::Neutral, text).of(None, Some(*attempt))
        }
        Event::Finished { .. } | Event::Cancelled { .. } => outcome(decision),
        Event::Reserved {
            programmer,
            attempt,
            amount_usd,
            ..
        } => {
            let text = format!("reserved ${amount_usd} of today's budget for paid calls");
            Words::new(Tone::Neutral, text).of(Some(programmer), Some(*attempt))
        }
        Event::Settled {
            attempt, cost_usd, ..
        } => Words::new(
            Tone::Neutral,
            format!("paid calls cost ${cost_usd}; the rest of the reservation is released"),
        )
        .of(None, Some(*attempt)),
        Event::LlmFailed {
            key,
            programmer,
            fault,
            ..
        } => {
            let text = format!("a call to {} failed for good: {}", key.llm, fault.as_str());
            Words::new(Tone::Warning, text).of(Some(programmer), None)
        }
        Event::Stated { .. } => Words::new(
            Tone::Neutral,
            "snapshot, because the log is about to drop the task's first events",
        ),
        Event::Tick
        | Event::Configured { .. }
        | Event::Paused { .. }
        | Event::Resumed { .. }
        | Event::BudgetSet { .. }
        | Event::LlmAnswered { .. }
        | Event::Probing { .. }
        | Event::Probed { .. }
        | Event::Up { .. }
        | Event::Unknown => Words::new(Tone::Neutral, "an event of the pool"),
    }
}

fn outcome(decision: &Event) -> Words {
    let Event::Finished {
        attempt,
        status,
        llm,
        cost_usd,
        error,
        ..
    } = decision
    else {
        return Words::new(Tone::Bad, "cancelled by an operator");
    };
    let tone = if *status == pool_core::result::Status::Succeeded {
        Tone::Good
    } else {
        Tone::Bad
    };
    let mut text = status.as_str().to_owned();
    // The status says it already: no error for a cancelled task.
    if let Some(error) = error.filter(|error| error.as_str() != status.as_str()) {
        text.push_str(&format!(": {}", error.as_str()));
    }
    if let Some(llm) = llm {
        text.push_str(&format!(", with {llm}"));
    }
    if *cost_usd > pool_core::money::MicroUsd::ZERO {
        text.push_str(&format!(", for ${cost_usd}"));
    }
    Words::new(tone, text).of(None, *attempt)
}

#[cfg(test)]
mod tests {
    use super::*;
    use pool_core::id::TaskId;
    use pool_core::money::MicroUsd;
    use pool_core::result::{ErrorKind, Status};

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
        let started = |n: u64| Event::Started {
            task: task.clone(),
            attempt: AttemptId::from_u128(n.into()),
            programmer: ProgrammerId::new("006").expect("an id"),
            token: pool_core::id::Token {
                generation: 0,
                count: n,
            },
            route: "fast".to_owned(),
            body_hash: String::new(),
        };
        let released = Event::Released {
            task: task.clone(),
            attempt: AttemptId::from_u128(1),
            no_llm: false,
        };
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
        let finished = Event::Finished {
            task: task.clone(),
            attempt: None,
            status: Status::Failed,
            llm: Some("a/b".parse().expect("an LLM")),
            cost_usd: MicroUsd(1_500_000),
            error: Some(ErrorKind::NoChange),
        };
        let text = "failed: no_change, with a/b, for $1.50".to_owned();
        assert_eq!(
            said(finished, Verdict::Accepted),
            (text, Tone::Bad, true),
            "all known facts"
        );
        let stopped = Event::Finished {
            task: task.clone(),
            attempt: None,
            status: Status::Cancelled,
            llm: None,
            cost_usd: MicroUsd::ZERO,
            error: Some(ErrorKind::Cancelled),
        };
        assert_eq!(
            said(stopped, Verdict::Accepted).0,
            "cancelled",
            "the status is not repeated as the error"
        );
        let late = said(
            Event::Cancelled { task },
            Verdict::Refused(Refusal::Finished),
        );
        let text = "cancelled by an operator – refused: the task has already finished".to_owned();
        assert_eq!(late, (text, Tone::Warning, false), "too late");
    }
}
