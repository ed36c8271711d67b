use pool_core::time::Timestamp;

use crate::BrokerError;
use crate::headers::{Reply, repeat_properties};
use crate::process::Process;
use crate::publisher::Message;
use crate::topology::{REPLIES, RESULTS_KEY, RETRIES_KEY};

/// Requests that the result of a task is sent to a reply queue once more: now, or at `at`, until when the request waits in
/// `pool.retries`. Without a reply queue there is nothing to request.
///
/// # Errors
/// When the broker does not confirm the request.
pub async fn request_result(
    process: &Process,
    task_id: &str,
    reply: &Reply,
    at: Option<Timestamp>,
) -> Result<(), BrokerError> {
    if reply.to.is_none() {
        return Ok(());
    }
    let key = at.map_or(RESULTS_KEY, |_| RETRIES_KEY);
    let properties = reply.on(repeat_properties(task_id, at));
    let message = Message::new(REPLIES, key, b"", properties);
    process.publisher.publish(&message).await
}
