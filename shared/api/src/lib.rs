//! The types of the HTTP API: the server writes them, the command line reads them, `openapi.json` describes them.

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

/// The variable of the API's token.
pub const TOKEN_VARIABLE: &str = "POOL_API_TOKEN";
/// The largest request body. One request may contain many tasks of at most 1 MiB each.
pub const MAX_REQUEST_BYTES: usize = 64 * 1024 * 1024;
