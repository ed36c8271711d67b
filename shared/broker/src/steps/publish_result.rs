use lapin::message::Delivery;
use pool_core::id::TaskId;
use pool_core::result::{MAX_RESULT_BYTES, ResultMessage, lower_limit};

use crate::BrokerError;
use crate::headers::{self, Reply, result_properties};
use crate::process::Process;
use crate::publisher::Message;
use crate::topology::{REPLIES, RESULTS_KEY};

/// Publishes a result to `results`, where a dispatcher decides whether it counts. A result that is too large for the broker is
/// cut to fit: it contains the task, so it can be too large for a broker that has accepted the task.
///
/// # Errors
/// When the broker does not confirm it.
pub async fn publish_result(
    process: &Process,
    result: &mut ResultMessage,
    reply: &Reply,
) -> Result<(), BrokerError> {
    let id = result.task_id.as_ref().map_or("", TaskId::as_str);
    let attempt = result.attempt.map(|attempt| attempt.to_string());
    let properties = reply.on(result_properties(id, attempt));
    let body = result.fit(MAX_RESULT_BYTES);
    let message = |body| Message::new(REPLIES, RESULTS_KEY, body, properties.clone());
    let published = process.publisher.publish(&message(&body)).await;
    let Some(takes) = published.as_ref().err().and_then(BrokerError::size_limit) else {
        return published;
    };
    let smaller = result.fit(lower_limit(body.len(), takes));
    process.publisher.publish(&message(&smaller)).await
}

/// Publishes a message of `results` once more as it came, without the headers that the broker has added.
///
/// # Errors
/// When the broker does not confirm it.
pub async fn publish_result_again(
    process: &Process,
    delivery: &Delivery,
) -> Result<(), BrokerError> {
    let came_with = &delivery.properties;
    let id = headers::text(came_with.message_id()).unwrap_or_default();
    let again = result_properties(id, headers::attempt(came_with));
    let again = match headers::text(came_with.kind()) {
        Some(kind) => again.with_type(kind.into()),
        None => again,
    };
    let properties = Reply::as_it_came(came_with).on(again);
    let message = Message::new(REPLIES, RESULTS_KEY, &delivery.data, properties);
    process.publisher.publish(&message).await
}
