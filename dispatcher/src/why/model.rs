//! The data that answers why a task waits.

use pool_api::why::ProgrammerWhy;
use pool_core::eligibility::Eligibility;
use pool_core::routing::Routes;

use crate::history::ExpectedAtSubmission;
use crate::views::presence::Snapshot;

/// The pool at one moment, as far as this dispatcher knows it.
#[derive(Clone, Copy)]
pub struct WhyContext<'a> {
    pub standing: &'a Eligibility<'a>,
    pub routes: &'a Routes,
    pub heard: &'a Snapshot,
    /// Whether the event log has been read to its end.
    pub fresh: bool,
    /// How long the task was expected to take, if that decided its place in its submission.
    pub expected: Option<&'a ExpectedAtSubmission>,
}

/// A programmer, with its words in a sentence about several. Programmers with the same words are
/// counted together.
pub(super) struct Able {
    pub(super) view: ProgrammerWhy,
    pub(super) words: String,
}

/// A more specific route whose tasks some programmers take first.
pub(super) struct ServedBefore {
    pub(super) route: String,
    /// Its waiting tasks.
    pub(super) waiting: usize,
    /// How many of the programmers serve it.
    pub(super) programmers: usize,
}
