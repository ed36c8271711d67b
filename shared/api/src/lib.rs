//! Types of the HTTP API: what the server answers with, what the command line reads, what `openapi.json` describes.

pub mod status;
