//! The recent output of agents and acceptance checks, which their workers publish to the history
//! while they run.
//!
//! For display only: it is bounded everywhere and may have gaps. Results contain the end of the
//! output.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, PoisonError, RwLock};

use pool_api::events::Section;
use pool_core::id::{AttemptId, ProgrammerId, TaskId};
use pool_core::progress::Progress;

/// The number of tasks whose output is kept.
const TASKS: usize = 256;
/// The bytes kept of each task, newest first.
const BYTES: usize = 64 * 1024;
const SECTIONS: usize = 200;
const LAST_WORD: &str =
    "\n[… output limit reached: the end is shown when the attempt has finished …]\n";

/// The output of a task's latest attempt that printed something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttemptOutput {
    pub attempt: AttemptId,
    pub programmer: ProgrammerId,
    /// The number of bytes omitted before the first section.
    pub left_out: u64,
    /// In the order in which they ran.
    pub sections: Vec<Section>,
}

impl AttemptOutput {
    /// The output after `earlier`. The first section continues the last one of `earlier` if both
    /// are of the same check. None when `earlier` is not a beginning of this output.
    pub fn since(&self, earlier: &Self) -> Option<Vec<Section>> {
        if earlier.attempt != self.attempt || earlier.left_out != self.left_out {
            return None;
        }
        let (last, known) = (earlier.sections.last()?, earlier.sections.len());
        let more = self.sections.get(known - 1)?.text.get(last.text.len()..)?;
        let more = Section {
            check: last.check.clone(),
            text: more.to_owned(),
        };
        let new = self.sections.get(known..)?.iter().cloned();
        Some(
            Some(more)
                .into_iter()
                .filter(|more| !more.text.is_empty())
                .chain(new)
                .collect(),
        )
    }

    fn add(&mut self, check: Option<String>, text: &str) {
        match self.sections.last_mut() {
            Some(last) if last.check == check => last.text.push_str(text),
            Some(_) | None => self.sections.push(Section {
                check,
                text: text.to_owned(),
            }),
        }
        self.shorten();
    }

    /// Keeps the newest bytes, and no more sections than a page shows.
    fn shorten(&mut self) {
        while let [first, rest @ ..] = &self.sections[..]
            && (rest.len() >= SECTIONS || bytes(rest) >= BYTES)
        {
            // An empty section that is dropped counts too, because the output begins elsewhere now.
            self.left_out += first.text.len().max(1) as u64;
            self.sections.remove(0);
        }
        let surplus = bytes(&self.sections).saturating_sub(BYTES);
        if let Some(Section { text, .. }) = self.sections.first_mut().filter(|_| surplus > 0) {
            let cut = (surplus..text.len())
                .find(|at| text.is_char_boundary(*at))
                .unwrap_or(text.len());
            text.drain(..cut);
            self.left_out += cut as u64;
        }
    }
}

fn bytes(sections: &[Section]) -> usize {
    sections.iter().map(|section| section.text.len()).sum()
}

#[derive(Debug, Default)]
struct KeptOutputs {
    outputs: HashMap<TaskId, (u64, AttemptOutput)>,
    order: VecDeque<TaskId>,
    version: u64,
}

/// The outputs. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Outputs(Arc<RwLock<KeptOutputs>>);

impl Outputs {
    pub fn hear(&self, task: &TaskId, progress: Progress) {
        let mut kept = self.0.write().unwrap_or_else(PoisonError::into_inner);
        kept.hear(task, progress);
    }

    /// A number that grows with the output; 0 when there is none.
    pub fn version_of(&self, task: &TaskId) -> u64 {
        let kept = self.0.read().unwrap_or_else(PoisonError::into_inner);
        kept.outputs.get(task).map_or(0, |(version, _)| *version)
    }

    pub fn of(&self, task: &TaskId) -> Option<AttemptOutput> {
        let kept = self.0.read().unwrap_or_else(PoisonError::into_inner);
        kept.outputs.get(task).map(|(_, output)| output.clone())
    }
}

impl KeptOutputs {
    fn hear(&mut self, task: &TaskId, progress: Progress) {
        self.version += 1;
        let version = self.version;
        let Progress {
            attempt,
            programmer,
            check,
            skipped,
            mut text,
            silent,
        } = progress;
        if silent {
            text.push_str(LAST_WORD);
        }
        if let Some((at, output)) = self
            .outputs
            .get_mut(task)
            .filter(|(_, output)| output.attempt == attempt)
        {
            *at = version;
            let gap = if skipped > 0 {
                format!("\n[… {skipped} bytes left out …]\n")
            } else {
                String::new()
            };
            output.add(check, &format!("{gap}{text}"));
            return;
        }
        let mut output = AttemptOutput {
            attempt,
            programmer,
            left_out: skipped,
            sections: Vec::new(),
        };
        output.add(check, &text);
        if self
            .outputs
            .insert(task.clone(), (version, output))
            .is_none()
        {
            self.order.push_back(task.clone());
        }
        if self.order.len() > TASKS
            && let Some(oldest) = self.order.pop_front()
        {
            self.outputs.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(attempt: AttemptId, check: Option<&str>, text: &str) -> Progress {
        let programmer = ProgrammerId::new("001").expect("an id");
        let (check, text) = (check.map(ToOwned::to_owned), text.to_owned());
        Progress {
            attempt,
            programmer,
            check,
            skipped: 0,
            text,
            silent: false,
        }
    }

    fn section(check: Option<&str>, text: &str) -> Section {
        Section {
            check: check.map(ToOwned::to_owned),
            text: text.to_owned(),
        }
    }

    #[test]
    fn the_newest_output_of_the_newest_attempt_is_kept_within_bounds() {
        let (outputs, task, first) = (
            Outputs::default(),
            TaskId::new("t").expect("an id"),
            AttemptId::new(),
        );
        outputs.hear(&task, progress(first, None, "one\n"));
        let version = outputs.version_of(&task);
        outputs.hear(&task, progress(first, None, &"ä".repeat(BYTES / 2)));
        assert!(outputs.version_of(&task) > version, "the version grows");
        let output = outputs.of(&task).expect("an output");
        let kept = output.sections[0].text.len();
        assert_eq!(
            (kept, output.left_out),
            (BYTES, 4),
            "the oldest bytes are gone, and counted"
        );
        let second = AttemptId::new();
        outputs.hear(&task, progress(second, None, "two\n"));
        let output = outputs.of(&task).expect("an output");
        assert_eq!(
            (output.attempt, output.sections),
            (second, vec![section(None, "two\n")]),
            "another attempt starts over"
        );
        for n in 0..TASKS {
            outputs.hear(
                &TaskId::new(format!("t{n}")).expect("an id"),
                progress(first, None, "x"),
            );
        }
        assert_eq!(
            outputs.of(&task),
            None,
            "the oldest task's output is dropped"
        );
    }

    #[test]
    fn checks_have_sections_of_their_own_and_who_knows_some_gets_the_rest() {
        let (outputs, task, attempt) = (
            Outputs::default(),
            TaskId::new("t").expect("an id"),
            AttemptId::new(),
        );
        let mut seen: Vec<Section> = Vec::new();
        let mut known: Option<AttemptOutput> = None;
        let steps = [
            (None, "a"),
            (None, "b"),
            (Some("tests"), ""),
            (Some("tests"), "ok"),
            (Some("lint"), "no"),
            (None, "c"),
        ];
        for (check, text) in steps {
            outputs.hear(&task, progress(attempt, check, text));
            let now = outputs.of(&task).expect("an output");
            let news = known
                .as_ref()
                .map_or(Some(now.sections.clone()), |known| now.since(known))
                .expect("it continues");
            for section in news {
                match seen.last_mut() {
                    Some(last) if last.check == section.check => last.text.push_str(&section.text),
                    _ => seen.push(section),
                }
            }
            assert_eq!(
                seen, now.sections,
                "the parts sent so far equal the whole, after {text:?}"
            );
            known = Some(now);
        }
        let all = [
            section(None, "ab"),
            section(Some("tests"), "ok"),
            section(Some("lint"), "no"),
            section(None, "c"),
        ];
        assert_eq!(seen, all, "in order");
        outputs.hear(&task, progress(attempt, None, &"x".repeat(BYTES - 1)));
        let now = outputs.of(&task).expect("an output");
        assert_eq!(
            (now.sections.len(), now.left_out),
            (1, 6),
            "the oldest sections go first"
        );
        assert_eq!(
            now.since(&known.expect("an output")),
            None,
            "a client with another beginning gets the whole"
        );
    }

    #[test]
    fn gaps_and_the_last_word_stand_where_they_belong() {
        let (outputs, task, attempt) = (
            Outputs::default(),
            TaskId::new("t").expect("an id"),
            AttemptId::new(),
        );
        outputs.hear(
            &task,
            Progress {
                skipped: 7,
                ..progress(attempt, None, "one\n")
            },
        );
        outputs.hear(
            &task,
            Progress {
                silent: true,
                ..progress(attempt, None, "two\n")
            },
        );
        outputs.hear(
            &task,
            Progress {
                skipped: 9,
                ..progress(attempt, None, "the end\n")
            },
        );
        let output = outputs.of(&task).expect("an output");
        let text = format!("one\ntwo\n{LAST_WORD}\n[… 9 bytes left out …]\nthe end\n");
        assert_eq!(
            (output.left_out, output.sections),
            (7, vec![section(None, &text)]),
            "in order"
        );
    }

    #[test]
    fn sections_without_a_text_do_not_pile_up() {
        let (outputs, task, attempt) = (
            Outputs::default(),
            TaskId::new("t").expect("an id"),
            AttemptId::new(),
        );
        for n in 0..3 * SECTIONS {
            outputs.hear(&task, progress(attempt, Some(&n.to_string()), ""));
        }
        assert_eq!(
            outputs.of(&task).map(|output| output.sections.len()),
            Some(SECTIONS),
            "the newest sections"
        );
    }
}
