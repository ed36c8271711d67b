//! The types of a question about a waiting task, and of its answer.

use pool_api::why::{Position, ProgrammerWhy, Reason};
use pool_core::eligibility::Eligibility;
use pool_core::routing::Routes;
use pool_core::time::Timestamp;

use crate::views::presence::Snapshot;

/// The pool at one moment, as far as this dispatcher knows it.
#[derive(Clone, Copy)]
pub struct WhyContext<'a> {
    pub standing: &'a Eligibility<'a>,
    pub routes: &'a Routes,
    pub heard: &'a Snapshot,
    /// Whether the event log has been read to its end.
    pub fresh: bool,
}

/// The parts of the answer that differ from case to case; [`Why`] adds the rest.
pub(super) struct Explanation {
    pub(super) reason: Reason,
    pub(super) sentence: String,
    pub(super) since: Option<Timestamp>,
    pub(super) until: Option<Timestamp>,
    pub(super) position: Option<Position>,
    pub(super) programmers: Vec<ProgrammerWhy>,
}

impl Explanation {
    pub(super) fn new(reason: Reason, sentence: String, since: Option<Timestamp>) -> Self {
        Self {
            reason,
            sentence,
            since,
            until: None,
            position: None,
            programmers: Vec::new(),
        }
    }

    pub(super) fn until(self, until: Option<Timestamp>) -> Self {
        Self { until, ..self }
    }
}

/// A programmer, with its words in a sentence about several. Programmers with the same words are
/// counted together.
pub(super) struct Able {
    pub(super) view: ProgrammerWhy,
    pub(super) words: String,
}
