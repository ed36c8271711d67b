//! Metrics and log lines about the whole pool, from what this process has read of the event log.

use std::sync::Arc;
use std::time::Duration;

use pool_core::eligibility::Eligibility;
use pool_core::pool::Pool;
use pool_telemetry::clock::wall_clock;
use pool_telemetry::pool::{PoolWatch, report_currency};

use crate::process::Process;

const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Looks at the state twice a second, until the process ends.
pub async fn watch(process: Process, pool: Arc<Pool>) {
    let mut watch = PoolWatch::default();
    let log = &process.log;
    loop {
        let fresh = log.is_fresh();
        report_currency(fresh, log.silence(), process.clock.offset_ms());
        if fresh {
            log.read(|fold| {
                watch.look(&Eligibility {
                    pool: &pool,
                    fold,
                    now: fold.now().max(wall_clock()),
                })
            });
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
