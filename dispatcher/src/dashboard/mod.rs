//! The dashboard: one page, and the data that keeps it live.
//!
//! It uses the same API as everybody else, and decides nothing. `page` is the page itself, `hub`
//! the events for all open pages; `journal` and `output` serve the page of one task.

pub mod hub;
pub mod journal;
pub mod older;
pub mod output;
pub mod page;
pub mod timeline;

pub use hub::Hub;
pub use journal::Journal;
pub use output::Outputs;
