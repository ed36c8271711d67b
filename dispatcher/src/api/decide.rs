//! How a decision of an operator gets into the event log. What waits here for the broker would take effect long after its
//! sender was told that it was not taken, so while the broker is known to be lost nothing begins to wait.

use std::time::Duration;

use pool_core::event::Decision;
use pool_core::state::Verdict;

use super::problem::Problem;
use super::{App, health};

/// How long a request waits for the log.
const CONFIRMED_WITHIN: Duration = Duration::from_secs(10);

/// Whether what is appended now gets into the log now, as far as this dispatcher knows.
pub(super) fn can_append(app: &App) -> Result<(), Problem> {
    let trouble = app.process.broker().trouble();
    let trouble = trouble.or_else(|| app.process.clock.now().err().map(|off| off.to_string()));
    trouble.map_or(Ok(()), |trouble| {
        Err(Problem::unavailable(format!(
            "nothing was changed: {trouble}; repeat it"
        )))
    })
}

/// What the decision meant at its place.
pub(super) async fn decide(app: &App, decision: Decision) -> Result<Verdict, Problem> {
    can_append(app)?;
    let in_time = tokio::time::timeout(CONFIRMED_WITHIN, app.process.log.append(decision)).await;
    in_time.ok().and_then(Result::ok).ok_or_else(|| {
        let why = health::trouble(app).unwrap_or_else(|| "the event log does not answer".to_owned());
        Problem::unavailable(format!(
            "not confirmed: {why}. It may still take effect; when all is well again look, and repeat it"
        ))
    })
}
