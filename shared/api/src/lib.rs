//! The types of the HTTP API: bodies of requests and of answers. The dispatcher and the command line share them, and
//! `openapi.json` describes them.

pub mod budget;
pub mod control;
pub mod dead;
pub mod events;
pub mod format;
pub mod pool;
pub mod problem;
pub mod report;
pub mod status;
pub mod tasks;
pub mod why;

/// The environment variable with the API's token.
pub const TOKEN_VARIABLE: &str = "POOL_API_TOKEN";
/// The largest request body. One request may contain many tasks of at most 1 MiB each.
pub const MAX_REQUEST_BYTES: usize = 64 * 1024 * 1024;
