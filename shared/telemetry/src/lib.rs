//! Logs and metrics of a process. One struct per observable fact emits both together.

pub mod broker;
pub mod catalog;
pub mod clock;
mod page;
pub mod pool;
pub mod tasks;

use std::time::Duration;

use metrics_exporter_prometheus::{BuildError, PrometheusBuilder, PrometheusHandle};
pub use page::page;
use tracing_subscriber::EnvFilter;

/// How often recorded durations are summed up into histograms. Without that they would fill the memory when nobody scrapes.
const UPKEEP_EVERY: Duration = Duration::from_secs(5);

/// The format of log lines (`POOL_LOG`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// Starts logging to standard error. `filter` has the syntax of `RUST_LOG`; None means `info`.
pub fn init_logs(filter: Option<&str>, format: LogFormat) {
    let filter = EnvFilter::new(filter.unwrap_or("info,lapin=off"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    match format {
        LogFormat::Text => builder.with_ansi(false).with_target(false).init(),
        LogFormat::Json => builder.json().init(),
    }
}

/// Starts the metrics of this program. Returns the handle that renders them for `GET /metrics`, and their upkeep, which the
/// caller runs as long as the process.
///
/// # Errors
/// When a recorder is already installed.
pub fn install_metrics(
    program: &str,
    version: &str,
) -> Result<(PrometheusHandle, impl Future<Output = ()> + Send + use<>), BuildError> {
    let handle = PrometheusBuilder::new()
        .set_buckets(&catalog::BUCKETS)?
        .install_recorder()?;
    catalog::ALL.iter().for_each(catalog::Row::describe);
    catalog::PROCESS_INFO.set_flag([program, version], true);
    let kept = handle.clone();
    let upkeep = async move {
        loop {
            tokio::time::sleep(UPKEEP_EVERY).await;
            kept.run_upkeep();
        }
    };
    Ok((handle, upkeep))
}
