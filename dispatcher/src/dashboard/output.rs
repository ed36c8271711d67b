//! What agents have printed lately, as their workers publish it to the history while they run.
//!
//! For looking at only, so it is bounded everywhere and may have gaps: results have the end of the output.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, PoisonError, RwLock};

use pool_shared::id::{AttemptId, TaskId};
use pool_shared::progress::Progress;
use serde::Serialize;

/// Tasks whose output is kept.
const TASKS: usize = 256;
/// Of each so much, the newest.
const BYTES: usize = 64 * 1024;

/// The output of a task's latest attempt that has printed something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Output {
    pub attempt: AttemptId,
    pub programmer: pool_shared::id::ProgrammerId,
    /// Bytes of this attempt before `text` that are not shown.
    pub left_out: u64,
    pub text: String,
}

#[derive(Debug, Default)]
struct Kept {
    outputs: HashMap<TaskId, (u64, Output)>,
    order: VecDeque<TaskId>,
    version: u64,
}

/// The outputs. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Outputs(Arc<RwLock<Kept>>);

impl Outputs {
    pub fn hear(&self, task: &TaskId, progress: Progress) {
        let mut kept = self.0.write().unwrap_or_else(PoisonError::into_inner);
        kept.hear(task, progress);
    }

    /// Another number whenever there is more; 0 when nothing is known.
    pub fn version_of(&self, task: &TaskId) -> u64 {
        let kept = self.0.read().unwrap_or_else(PoisonError::into_inner);
        kept.outputs.get(task).map_or(0, |(version, _)| *version)
    }

    pub fn of(&self, task: &TaskId) -> Option<Output> {
        let kept = self.0.read().unwrap_or_else(PoisonError::into_inner);
        kept.outputs.get(task).map(|(_, output)| output.clone())
    }
}

impl Kept {
    fn hear(&mut self, task: &TaskId, progress: Progress) {
        self.version += 1;
        let version = self.version;
        let Progress { attempt, programmer, skipped, text } = progress;
        let known = self.outputs.get_mut(task).filter(|(_, output)| output.attempt == attempt);
        if let Some((at, output)) = known {
            *at = version;
            if skipped > 0 {
                output.text.push_str(&format!("\n[… {skipped} bytes left out …]\n"));
            }
            output.text.push_str(&text);
            shorten(output);
            return;
        }
        let mut output = Output { attempt, programmer, left_out: skipped, text };
        shorten(&mut output);
        if self.outputs.insert(task.clone(), (version, output)).is_none() {
            self.order.push_back(task.clone());
        }
        if self.order.len() > TASKS
            && let Some(oldest) = self.order.pop_front()
        {
            self.outputs.remove(&oldest);
        }
    }
}

/// Keeps the newest bytes.
fn shorten(output: &mut Output) {
    let surplus = output.text.len().saturating_sub(BYTES);
    if surplus > 0 {
        let cut = (surplus..output.text.len()).find(|at| output.text.is_char_boundary(*at)).unwrap_or_default();
        output.text.drain(..cut);
        output.left_out += cut as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(attempt: AttemptId, text: &str) -> Progress {
        let programmer = pool_shared::id::ProgrammerId::new("001").expect("an id");
        Progress { attempt, programmer, skipped: 0, text: text.to_owned() }
    }

    #[test]
    fn the_newest_output_of_the_newest_attempt_is_kept_within_bounds() {
        let (outputs, task, first) = (Outputs::default(), TaskId::new("t").expect("an id"), AttemptId::new());
        outputs.hear(&task, progress(first, "one\n"));
        let version = outputs.version_of(&task);
        outputs.hear(&task, progress(first, &"ä".repeat(BYTES / 2)));
        assert!(outputs.version_of(&task) > version, "there is more");
        let output = outputs.of(&task).expect("an output");
        assert_eq!((output.text.len(), output.left_out), (BYTES, 4), "the oldest bytes are gone, and counted");
        let second = AttemptId::new();
        outputs.hear(&task, progress(second, "two\n"));
        assert_eq!(
            outputs.of(&task).map(|o| (o.attempt, o.text)),
            Some((second, "two\n".to_owned())),
            "another attempt"
        );
        for n in 0..TASKS {
            outputs.hear(&TaskId::new(format!("t{n}")).expect("an id"), progress(first, "x"));
        }
        assert_eq!(outputs.of(&task), None, "of so many tasks only");
    }
}
