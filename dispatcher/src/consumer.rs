//! What a dispatcher takes from a queue for as long as it lives.

use pool_shared::broker::backoff::Backoff;
use pool_shared::broker::process::Process;
use pool_shared::broker::{BrokerError, tell};
use tokio::time::Instant;

/// Consumes until shutdown: sets everything up again after whatever ends `consume`, with growing pauses. `words` say what does
/// not work meanwhile.
pub(crate) async fn keep<C>(process: &Process, words: &str, consume: impl Fn() -> C)
where
    C: Future<Output = Result<(), BrokerError>>,
{
    let mut backoff = Backoff::default();
    loop {
        let began = Instant::now();
        tokio::select! {
            () = process.shutdown.cancelled() => return,
            end = consume() => if let Err(error) = end {
                tell(&error, words);
            },
        }
        backoff.worked_for(began.elapsed());
        tokio::select! {
            () = process.shutdown.cancelled() => return,
            () = backoff.wait() => {}
        }
    }
}
