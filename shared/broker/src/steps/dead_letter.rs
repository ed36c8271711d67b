use lapin::BasicProperties;

use crate::BrokerError;
use crate::headers::DeadLetterInfo;
use crate::process::Process;
use crate::publisher::Message;
use crate::topology::DEAD_EXCHANGE;

/// Publishes a message that cannot be handled to `pool.dead`, with the reason, its origin and its own properties. It is
/// published and not rejected, because a rejected message carries no reason. The caller acknowledges the message afterwards;
/// a crash in between leaves it in `pool.dead` twice.
///
/// # Errors
/// When the broker does not confirm it.
pub async fn dead_letter(
    process: &Process,
    body: &[u8],
    came_with: &BasicProperties,
    info: &DeadLetterInfo,
) -> Result<(), BrokerError> {
    let message = Message::new(DEAD_EXCHANGE, "", body, info.properties(came_with));
    process.publisher.publish(&message).await
}
