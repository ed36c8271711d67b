//! The data that answers why a task waits.

use pool_api::why::ProgrammerWhy;
use pool_core::eligibility::Eligibility;
use pool_core::routing::Routes;

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

/// A programmer, with its words in a sentence about several. Programmers with the same words are
/// counted together.
pub(super) struct Able {
    pub(super) view: ProgrammerWhy,
    pub(super) words: String,
}
