//! The types of the HTTP API: the server writes them, the command line reads them, `openapi.json` describes them.

pub mod status;
