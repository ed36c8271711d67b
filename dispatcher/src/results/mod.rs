//! Results on their way to their submitters.
//!
//! `handler` takes them from `results`, `disposition` lets the log decide what is due for each, `reply_sender` brings them to
//! reply queues, `acks` acknowledges them.

mod acks;
mod disposition;
mod handler;
mod reply_sender;

pub(crate) use handler::services;
pub(crate) use reply_sender::send_again;
