//! The dashboard: one page, and the data that keeps it live.
//!
//! It uses the same API as everybody else, and decides nothing. `page` is the page itself, `hub`
//! the events for all open pages.

pub mod hub;
pub mod page;

pub use hub::Hub;
