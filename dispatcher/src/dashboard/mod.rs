//! The dashboard: one page, and what it needs to be live.
//!
//! It shows and asks for what the API does anyway; nothing is decided here. `page` is the page itself, `hub` what all open
//! pages hear, `journal` and `output` what the page of one task tells.

pub mod hub;
pub mod journal;
pub mod older;
pub mod page;
pub mod timeline;

pub use hub::Hub;
pub use journal::Journal;
