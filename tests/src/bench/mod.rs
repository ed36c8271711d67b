//! The benchmarks: what is measured, and what becomes of the values.
//!
//! A benchmark implements [`run::Benchmark`] and returns [`row::Row`]s, one for each measured value of
//! a round. [`run::run`] repeats the round, puts the values together and writes a
//! [`record::Record`]: a JSON file with the machine, its load, the broker, the commit, and the
//! median and the values of every measure. [`table`], [`compare`], [`plot`] and [`page`] read it.
//!
//! To add a benchmark:
//!
//! 1. Write a module with a `Choice` (its options, `clap::Args`) and a type that implements
//!    [`run::Benchmark`]. `queue.rs` is an example. `BASE` is the case that the others are compared
//!    with. In a round, measure every case once: a disturbance of the machine then meets all.
//! 2. Add a variant to `Command` in `src/bin/bench.rs`, and the name to `BENCHMARKS` in
//!    `scripts/bench` (to `WITH_BROKER` too, if it needs one).
//! 3. Measures of one [`row::Measure::group`] share a column and a plot, so they have one unit.
//!    [`row::Case::cold`] and [`row::Case::warm`] label what was prepared.
//! 4. Copy a result of an idle machine to `docs/operate/measured/NAME.json`, put the two marks of
//!    [`page`] into `docs/operate/performance.md`, and run `scripts/docs`.
//!
//! ```no_run
//! use pool_tests::bench::record::Settings;
//! use pool_tests::bench::row::{Case, Measure, Row};
//! use pool_tests::bench::run::Benchmark;
//!
//! const COLD: Case = Case::cold("ten runs of aider");
//! const WARM: Case = Case::warm("ten runs of aider");
//! const WALL: Measure = Measure::lower("wall time", "", "s");
//!
//! struct Agents;
//!
//! impl Benchmark for Agents {
//!     const NAME: &'static str = "agents";
//!     const BASE: Option<Case> = Some(COLD);
//!
//!     fn settings(&self) -> Settings {
//!         Settings::from([("runs at once".to_owned(), "10".to_owned())])
//!     }
//!
//!     async fn round(&mut self) -> anyhow::Result<Vec<Row>> {
//!         Ok(vec![Row::new(COLD, WALL, 23.0), Row::new(WARM, WALL, 1.5)])
//!     }
//! }
//! ```
//!
//! The parts of `queue`: `raw` is the bare loop, `pool` runs the real programs as users do,
//! `submitter` is the client of both, `process` reads the kernel's figures about processes, `history`
//! writes finished tasks.

pub mod agents;
pub mod compare;
pub mod format;
pub mod history;
pub mod machine;
pub mod page;
pub mod plot;
pub mod pool;
pub mod process;
pub mod queue;
pub mod raw;
pub mod record;
pub mod row;
pub mod run;
pub mod statistics;
pub mod submitter;
pub mod table;
pub mod workspace;

use std::time::Duration;

use anyhow::Context;
use lapin::options::{ConfirmSelectOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Connection, ConnectionProperties};

/// The limit of every step. No step takes that long unless something is broken.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// Waits for a step of the benchmark, for [`PATIENCE`] at most.
///
/// # Errors
/// When the step fails or takes longer than [`PATIENCE`].
pub async fn patiently<T>(
    what: &str,
    step: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    tokio::time::timeout(PATIENCE, step)
        .await
        .with_context(|| format!("{what} took longer than {PATIENCE:?}"))?
}

/// A new connection. The benchmark never publishes and consumes on the same one.
///
/// # Errors
/// When the broker cannot be reached.
pub async fn connect(url: &str) -> anyhow::Result<Connection> {
    Connection::connect(url, ConnectionProperties::default())
        .await
        .context("failed to connect to the broker")
}

/// A channel with publisher confirms.
///
/// # Errors
/// When the broker does not open it.
pub async fn confirmed_channel(connection: &Connection) -> anyhow::Result<Channel> {
    let channel = connection.create_channel().await?;
    channel
        .confirm_select(ConfirmSelectOptions::default())
        .await?;
    Ok(channel)
}

/// Declares an empty quorum queue.
///
/// # Errors
/// When the broker refuses.
pub async fn fresh_queue(channel: &Channel, name: &str) -> anyhow::Result<()> {
    channel
        .queue_delete(name.into(), lapin::options::QueueDeleteOptions::default())
        .await?;
    let mut arguments = FieldTable::default();
    arguments.insert(
        "x-queue-type".into(),
        AMQPValue::LongString("quorum".into()),
    );
    let options = QueueDeclareOptions {
        durable: true,
        ..QueueDeclareOptions::default()
    };
    channel
        .queue_declare(name.into(), options, arguments)
        .await?;
    Ok(())
}
