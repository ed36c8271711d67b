//! A service: a part of a process that runs as long as the process.

use futures_util::future::BoxFuture;

/// The name of the service and its future. The caller runs it and learns of its end.
pub type Service = (&'static str, BoxFuture<'static, ()>);
