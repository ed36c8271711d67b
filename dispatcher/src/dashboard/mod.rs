//! The dashboard: one page, and what it needs to be live.
//!
//! It shows and asks for what the API does anyway; nothing is decided here. `page` is the page itself, `hub` what all open
//! pages hear.

pub mod hub;
pub mod page;

pub use hub::Hub;
