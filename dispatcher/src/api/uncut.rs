//! Work that finishes even if the client disconnects: dropping a request half-way would leave its
//! work half done.

use super::problem::Problem;

/// Runs `work` to its end in a separate tokio task.
pub(super) async fn uncut<T: Send + 'static>(
    work: impl Future<Output = Result<T, Problem>> + Send + 'static,
) -> Result<T, Problem> {
    let broke_off = |error| {
        Err(Problem::unavailable(format!(
            "the request failed half-way ({error}); check the task's state and try again"
        )))
    };
    tokio::spawn(work).await.unwrap_or_else(broke_off)
}
