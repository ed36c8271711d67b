//! The steps of a task over the broker, each written once: the exchange, the key, the properties and the confirm.
//!
//! Dispatchers and workers use the same steps, so that a message means the same whoever publishes it. A step publishes a
//! mandatory message and waits for its confirm. After an error the message may still arrive, so the caller repeats the step.

mod dead_letter;
mod publish_result;
mod publish_task;
mod reissue;
mod request_result;

pub use dead_letter::dead_letter;
pub use publish_result::{publish_result, publish_result_again};
pub use publish_task::{OutgoingTask, delay_task, publish_task};
pub use reissue::{ReissuePoints, Reissued, reissue, send_on};
pub use request_result::request_result;
