//! Logs and metrics: how a process says what it does. One struct per observable fact emits both together.

pub mod broker;
pub mod pool;

use tracing_subscriber::EnvFilter;

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

/// Starts logging to standard error. `filter` is `RUST_LOG`'s syntax; None means `info`.
pub fn init_logs(filter: Option<&str>, format: LogFormat) {
    let filter = EnvFilter::new(filter.unwrap_or("info,lapin=off"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => builder.with_ansi(false).with_target(false).init(),
        LogFormat::Json => builder.json().init(),
    }
}

/// Starts metrics; the handle renders them for `GET /metrics`.
///
/// # Errors
/// When a recorder is installed already.
pub fn init_metrics() -> Result<metrics_exporter_prometheus::PrometheusHandle, metrics_exporter_prometheus::BuildError>
{
    metrics_exporter_prometheus::PrometheusBuilder::new().install_recorder()
}
