//! Which parts of a task's output are new. A stream sends output again after a reconnect, and when
//! the dispatcher has dropped its beginning. Pure.

use pool_api::events::{Printed, Section};
use pool_core::id::{AttemptId, ProgrammerId};
use serde::Serialize;

/// New output of the agent, or of one acceptance check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct NewOutput {
    pub(super) attempt: Option<AttemptId>,
    pub(super) programmer: Option<ProgrammerId>,
    /// `null` for the agent.
    pub(super) check: Option<String>,
    pub(super) text: String,
    /// The output before this piece was of another attempt or another check.
    #[serde(skip)]
    pub(super) begins: bool,
}

/// The part of the output that is printed already.
#[derive(Debug, Default)]
pub(super) struct Printer {
    attempt: Option<AttemptId>,
    programmer: Option<ProgrammerId>,
    /// Bytes of this attempt that were printed or are lost.
    position: u64,
    /// The check of the last piece; the outer `None` before the first piece of an attempt.
    last: Option<Option<String>>,
}

impl Printer {
    /// The pieces that were not printed yet.
    pub(super) fn take(&mut self, printed: Printed) -> Vec<NewOutput> {
        let mut known = 0;
        if printed.reset {
            let Some(attempt) = printed.attempt else {
                return Vec::new();
            };
            let from = printed.left_out.unwrap_or_default();
            if self.attempt == Some(attempt) {
                known = self.position.saturating_sub(from);
            } else {
                *self = Self {
                    attempt: Some(attempt),
                    programmer: printed.programmer,
                    ..Self::default()
                };
            }
            let lost = from.saturating_sub(self.position);
            self.position = self.position.max(from);
            if lost > 0 {
                let check = printed.sections.first().and_then(|one| one.check.clone());
                let text = format!("[… {lost} bytes are no longer kept …]\n");
                let gap = self.piece(check, text);
                return std::iter::once(gap)
                    .chain(self.new_parts(printed.sections, 0))
                    .collect();
            }
        }
        self.new_parts(printed.sections, known)
    }

    /// The sections without their first `known` bytes.
    fn new_parts(&mut self, sections: Vec<Section>, mut known: u64) -> Vec<NewOutput> {
        let mut pieces = Vec::new();
        for Section { check, text } in sections {
            let bytes = text.len() as u64;
            let skip = known.min(bytes);
            known -= skip;
            let new = after(&text, skip);
            if !new.is_empty() {
                self.position += bytes - skip;
                pieces.push(self.piece(check, new.to_owned()));
            }
        }
        pieces
    }

    fn piece(&mut self, check: Option<String>, text: String) -> NewOutput {
        let begins = self.last.as_ref() != Some(&check);
        self.last = Some(check.clone());
        NewOutput {
            attempt: self.attempt,
            programmer: self.programmer.clone(),
            check,
            text,
            begins,
        }
    }
}

/// The text after this many bytes, from the next whole character.
fn after(text: &str, bytes: u64) -> &str {
    let start = usize::try_from(bytes).unwrap_or(usize::MAX);
    (start..text.len())
        .find_map(|at| text.get(at..))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use pool_telemetry::clock::new_id;

    use super::*;

    fn section(check: Option<&str>, text: &str) -> Section {
        Section {
            check: check.map(ToOwned::to_owned),
            text: text.to_owned(),
        }
    }

    fn whole(attempt: AttemptId, left_out: u64, sections: &[Section]) -> Printed {
        Printed {
            reset: true,
            attempt: Some(attempt),
            programmer: ProgrammerId::new("003").ok(),
            left_out: Some(left_out),
            sections: sections.to_vec(),
        }
    }

    fn more(sections: &[Section]) -> Printed {
        Printed {
            sections: sections.to_vec(),
            ..Printed::default()
        }
    }

    /// Each piece as `check>text`, with `*` where another part begins.
    fn words(pieces: &[NewOutput]) -> String {
        let word = |piece: &NewOutput| {
            let begins = if piece.begins { "*" } else { "" };
            format!(
                "{begins}{}>{}",
                piece.check.as_deref().unwrap_or_default(),
                piece.text
            )
        };
        pieces.iter().map(word).collect::<Vec<_>>().join("|")
    }

    #[test]
    fn output_is_printed_once_although_it_is_sent_again() {
        let mut printer = Printer::default();
        let one: AttemptId = new_id();
        let mut take = |printed| words(&printer.take(printed));
        let (agent, tests) = (section(None, "abc"), section(Some("tests"), "ok\n"));
        assert_eq!(
            take(whole(one, 0, std::slice::from_ref(&agent))),
            "*>abc",
            "the first event"
        );
        assert_eq!(
            take(more(&[section(None, "de"), tests.clone()])),
            ">de|*tests>ok\n",
            "the next event"
        );
        let all = [section(None, "abcde"), tests.clone()];
        assert_eq!(
            take(whole(one, 0, &all)),
            "",
            "a new connection sends everything again"
        );
        let longer = [section(None, "cde"), section(Some("tests"), "ok\nü")];
        assert_eq!(
            take(whole(one, 2, &longer)),
            "tests>ü",
            "the beginning was dropped"
        );
        assert_eq!(
            take(whole(one, 15, &[section(Some("tests"), "end")])),
            "tests>[… 5 bytes are no longer kept …]\n|tests>end",
            "output that was missed is named"
        );
        let two: AttemptId = new_id();
        assert_eq!(
            take(whole(two, 0, &[agent])),
            "*>abc",
            "another attempt begins anew"
        );
        assert_eq!(
            take(Printed {
                reset: true,
                ..Printed::default()
            }),
            "",
            "no output is kept"
        );
    }
}
