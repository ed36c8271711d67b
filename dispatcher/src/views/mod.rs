//! Views of the pool and its tasks: from the fold, the heartbeats, the history and the journal.
//!
//! [`Reader`] reads them together. Nothing is decided here.

pub mod filter;
pub mod journal;
pub mod llms;
pub mod older;
pub mod pauses;
pub mod pool_status;
pub mod presence;
pub mod reader;
mod route_load;
pub mod tasks;
pub mod timeline;

pub use reader::Reader;
