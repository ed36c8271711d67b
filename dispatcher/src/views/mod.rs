//! Views of the pool and its tasks: from the fold, the heartbeats, the history and the journal.
//!
//! [`Reader`] reads them together. Nothing is decided here.

pub mod filter;
pub mod journal;
mod llms;
pub mod older;
pub mod presence;
pub mod reader;
mod route_load;
mod tasks;
pub mod timeline;

pub use reader::Reader;
