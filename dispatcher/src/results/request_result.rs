//! Publishes a request for the result of a task.

use lapin::BasicProperties;
use pool_broker::BrokerError;
use pool_broker::headers::{self, Reply};
use pool_broker::process::Process;
use pool_broker::publisher::Message;
use pool_broker::topology::{REPLIES, RESULTS_KEY, RETRIES_KEY};
use pool_core::time::Timestamp;

/// Requests the result of this message's task for its reply queue: in `results` now, or at `later`,
/// until when the request waits here.
pub(crate) async fn ask_for_result(
    process: &Process,
    came_with: &BasicProperties,
    at: Option<Timestamp>,
) -> Result<(), BrokerError> {
    let id = headers::text(came_with.message_id()).unwrap_or_default();
    let reply = Reply::of(came_with).unwrap_or_else(|_| Reply::without_address(came_with));
    let properties = reply.on(headers::repeat_properties(id, at));
    let key = if at.is_some() {
        RETRIES_KEY
    } else {
        RESULTS_KEY
    };
    process
        .publisher
        .publish(Message {
            exchange: REPLIES,
            key,
            body: b"",
            properties,
            mandatory: true,
        })
        .await
}
