//! A part of a process that runs as long as the process does.

use futures_util::future::BoxFuture;

/// Its name, and what it does: whoever gets it runs it, and hears of its end.
pub type Service = (&'static str, BoxFuture<'static, ()>);
