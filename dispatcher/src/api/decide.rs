//! Appends an operator's decision to the event log. A decision that waited for a lost broker would
//! take effect long after its sender saw an error. So it is refused at once while the broker is
//! known to be away.

use std::time::Duration;

use pool_core::event::Decision;
use pool_core::state::Verdict;

use super::problem::Problem;
use super::{App, health};

/// How long a request waits for the event log to confirm its event.
const CONFIRMED_WITHIN: Duration = Duration::from_secs(10);

/// Refuses the request if this dispatcher knows that it cannot append events now.
pub(super) fn can_append(app: &App) -> Result<(), Problem> {
    let trouble = app.process.broker().trouble();
    let trouble = trouble.or_else(|| app.process.clock.now().err().map(|off| off.to_string()));
    trouble.map_or(Ok(()), |trouble| {
        Err(Problem::unavailable(format!(
            "nothing was changed: {trouble}; try again"
        )))
    })
}

/// Appends the decision and returns the fold's verdict on it.
pub(super) async fn decide(app: &App, decision: Decision) -> Result<Verdict, Problem> {
    can_append(app)?;
    let in_time = tokio::time::timeout(CONFIRMED_WITHIN, app.process.log.append(decision)).await;
    in_time.ok().and_then(Result::ok).ok_or_else(|| {
        let why = health::trouble(app).unwrap_or_else(|| "the event log does not answer".to_owned());
        Problem::unavailable(format!(
            "not confirmed: {why}. It may still take effect: once the pool is healthy, check whether it did, and repeat it if not"
        ))
    })
}
