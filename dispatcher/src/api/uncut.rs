//! Work that goes on when the client goes away: a request that is dropped half-way would leave it half done.

use super::problem::Problem;

/// Runs it to its end, whoever waits.
pub(super) async fn uncut<T: Send + 'static>(
    work: impl Future<Output = Result<T, Problem>> + Send + 'static,
) -> Result<T, Problem> {
    let broke_off = |error| {
        Err(Problem::unavailable(format!(
            "the work broke off ({error}); look what is there and try again"
        )))
    };
    tokio::spawn(work).await.unwrap_or_else(broke_off)
}
