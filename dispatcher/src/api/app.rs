//! What the handlers share: the parts of the dispatcher, and how a request changes something.

use std::sync::Arc;
use std::time::Duration;

use metrics_exporter_prometheus::PrometheusHandle;
use pool_core::event::Decision;
use pool_core::state::Verdict;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::problem::Problem;
use super::token;
use crate::dashboard::Hub;
use crate::dead::DeadLetters;
use crate::history::Outputs;
use crate::intake::Intake;
use crate::views::Reader;

/// How long a request waits for the log.
const CONFIRMED_WITHIN: Duration = Duration::from_secs(10);

/// What the handlers need. Cheap to clone.
#[derive(Clone)]
pub struct App {
    pub reader: Reader,
    pub intake: Intake,
    pub dead: DeadLetters,
    pub metrics: PrometheusHandle,
    pub access: token::Access,
    pub outputs: Outputs,
    pub hub: Hub,
    /// Places for open event streams.
    pub streams: Arc<Semaphore>,
    /// No more requests are taken, and event streams end.
    pub ending: CancellationToken,
}

/// How a decision of an operator gets into the event log. What waits here for the broker would take effect long after its
/// sender was told that it was not taken, so while the broker is known to be lost nothing begins to wait.
impl App {
    /// Whether what is appended now gets into the log now, as far as this dispatcher knows.
    pub(super) fn can_append(&self) -> Result<(), Problem> {
        let process = &self.reader.process;
        let trouble = process.broker().trouble();
        let trouble = trouble.or_else(|| process.clock.now().err().map(|off| off.to_string()));
        trouble.map_or(Ok(()), |trouble| {
            Err(Problem::unavailable(format!(
                "nothing was changed: {trouble}; repeat it"
            )))
        })
    }

    /// What the decision meant at its place.
    pub(super) async fn append_event(&self, decision: Decision) -> Result<Verdict, Problem> {
        self.can_append()?;
        let appended = self.reader.process.log.append(decision);
        let in_time = tokio::time::timeout(CONFIRMED_WITHIN, appended).await;
        in_time.ok().and_then(Result::ok).ok_or_else(|| {
            let trouble = self.reader.trouble();
            let why = trouble.unwrap_or_else(|| "the event log does not answer".to_owned());
            Problem::unavailable(format!(
                "not confirmed: {why}. It may still take effect; when all is well again look, and repeat it"
            ))
        })
    }
}

/// Runs work to its end, whoever waits: a request that is dropped half-way, because its client goes away, would leave it half
/// done.
pub(super) async fn detached<T: Send + 'static>(
    work: impl Future<Output = Result<T, Problem>> + Send + 'static,
) -> Result<T, Problem> {
    let broke_off = |error| {
        Err(Problem::unavailable(format!(
            "the work broke off ({error}); look what is there and try again"
        )))
    };
    tokio::spawn(work).await.unwrap_or_else(broke_off)
}
