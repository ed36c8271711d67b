//! The state that handlers share, and how a request changes the pool.

use std::sync::Arc;
use std::time::Duration;

use metrics_exporter_prometheus::PrometheusHandle;
use pool_core::event::Event;
use pool_core::state::Verdict;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::error::ApiError;
use super::token;
use crate::dashboard::Hub;
use crate::dead::DeadLetters;
use crate::history::Outputs;
use crate::intake::Intake;
use crate::views::Reader;

/// How long a request waits for the event log to confirm its event.
const CONFIRMED_WITHIN: Duration = Duration::from_secs(10);

/// The state that handlers share. Cheap to clone.
#[derive(Clone)]
pub struct App {
    pub reader: Reader,
    pub intake: Intake,
    pub dead: DeadLetters,
    pub metrics: PrometheusHandle,
    pub access: token::Access,
    pub outputs: Outputs,
    pub hub: Hub,
    /// Permits for open event streams.
    pub streams: Arc<Semaphore>,
    /// Cancelled when the process ends: no more requests are accepted, and event streams end.
    pub ending: CancellationToken,
}

/// Appends an operator's decision to the event log. A decision that waited for a lost broker would
/// take effect long after its sender saw an error. So it is refused at once while the broker is
/// known to be away.
impl App {
    /// Refuses the request if this dispatcher knows that it cannot append events now.
    pub(super) fn can_append(&self) -> Result<(), ApiError> {
        let process = &self.reader.process;
        let trouble = process.broker().trouble();
        let trouble = trouble.or_else(|| process.clock.now().err().map(|off| off.to_string()));
        trouble.map_or(Ok(()), |trouble| {
            Err(ApiError::unavailable(format!(
                "nothing was changed: {trouble}; try again"
            )))
        })
    }

    /// Appends the decision and returns the fold's verdict on it.
    pub(super) async fn append_event(&self, decision: Event) -> Result<Verdict, ApiError> {
        self.can_append()?;
        let appended = self.reader.process.log.append(decision);
        let in_time = tokio::time::timeout(CONFIRMED_WITHIN, appended).await;
        in_time.ok().and_then(Result::ok).ok_or_else(|| {
            let trouble = self.reader.trouble();
            let why = trouble.unwrap_or_else(|| "the event log does not answer".to_owned());
            ApiError::unavailable(format!(
                "not confirmed: {why}. It may still take effect: once the pool is healthy, check whether it did, and repeat it if not"
            ))
        })
    }
}

/// Runs `work` to its end in a separate tokio task, even if the client disconnects: dropping a
/// request half-way would leave its work half done.
pub(super) async fn detached<T: Send + 'static>(
    work: impl Future<Output = Result<T, ApiError>> + Send + 'static,
) -> Result<T, ApiError> {
    let broke_off = |error| {
        Err(ApiError::unavailable(format!(
            "the request failed half-way ({error}); check the task's state and try again"
        )))
    };
    tokio::spawn(work).await.unwrap_or_else(broke_off)
}
