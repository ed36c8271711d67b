//! What a dispatcher takes from a queue for as long as it lives.

use lapin::Channel;
use pool_broker::backoff::Backoff;
use pool_broker::link::gone;
use pool_broker::process::Process;
use pool_broker::{BrokerError, tell};
use tokio::time::Instant;

/// Consumes until shutdown: sets everything up again after whatever ends `consume`, with growing pauses. `words` say what does
/// not work meanwhile.
pub(crate) async fn keep<C>(process: &Process, words: &str, consume: impl Fn() -> C)
where
    C: Future<Output = Result<(), BrokerError>>,
{
    let mut backoff = Backoff::default();
    loop {
        tokio::select! {
            () = process.shutdown.cancelled() => return,
            _ = process.clock.right() => {}
        }
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

/// Resolves when what was taken over this channel cannot be brought to its end: the channel is gone, or this machine's clock
/// is off, so that nothing gets into the log. Another dispatcher can have it then.
pub(crate) async fn in_vain(process: &Process, channel: &Channel) {
    tokio::select! {
        () = gone(channel) => {}
        off = process.clock.wrong() => {
            tracing::warn!("{off}: what waits for the log is left to other dispatchers");
        }
    }
}
