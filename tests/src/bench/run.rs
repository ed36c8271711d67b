//! Runs a benchmark round by round and writes its record.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use pool_telemetry::clock::wall_clock;

use super::machine::{Commit, Machine};
use super::process::load_average;
use super::record::{Load, Record, Settings, collect};
use super::row::{Case, Row};

/// The options of every benchmark.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Rounds; the medians of their values are compared.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    pub rounds: u16,
    /// The file of the result. The default name has the benchmark and the commit.
    #[arg(long)]
    pub out: Option<PathBuf>,
    /// A directory for files and logs.
    #[arg(long, default_value = ".pool/bench/run")]
    pub dir: PathBuf,
    /// The broker with its version, for the record.
    #[arg(long)]
    pub broker: Option<String>,
}

/// Something that can be measured again and again.
pub trait Benchmark {
    /// The name of the subcommand and of the files.
    const NAME: &'static str;
    /// The case that all others are compared with.
    const BASE: Option<Case>;

    /// The choice on the command line, for the record.
    fn settings(&self) -> Settings;

    /// Measures every case once, so that each round sees the machine in the same state. Gives the
    /// values in the order of the table.
    fn round(&mut self) -> impl Future<Output = anyhow::Result<Vec<Row>>>;
}

/// Measures, writes the file, and gives the record with the path of the file.
///
/// # Errors
/// When a round fails. A benchmark without all of its values has no result.
pub async fn run<B: Benchmark>(
    mut benchmark: B,
    options: &Options,
) -> anyhow::Result<(Record, PathBuf)> {
    std::fs::create_dir_all(&options.dir)
        .with_context(|| format!("failed to make {}", options.dir.display()))?;
    let commit = Commit::of_checkout()?;
    let (measured, before) = (wall_clock(), load_average()?);
    let mut rows = Vec::new();
    for round in 1..=options.rounds {
        eprintln!("{}: round {round} of {} …", B::NAME, options.rounds);
        let measured = benchmark.round().await;
        rows.extend(measured.with_context(|| format!("round {round} of {}", B::NAME))?);
    }
    let record = Record {
        benchmark: B::NAME.to_owned(),
        measured,
        machine: Machine::of_this_process(&options.dir)?,
        broker: options.broker.clone(),
        load_average: Load {
            before,
            after: load_average()?,
        },
        settings: with_rounds(benchmark.settings(), options.rounds),
        base: B::BASE,
        series: collect(rows)?,
        commit,
    };
    let file = match &options.out {
        Some(file) => file.clone(),
        None => default_file(&record),
    };
    record.write(&file)?;
    Ok((record, file))
}

fn with_rounds(mut settings: Settings, rounds: u16) -> Settings {
    settings.insert("rounds".to_owned(), rounds.to_string());
    settings
}

fn default_file(record: &Record) -> PathBuf {
    let name = format!("{}-{}.json", record.benchmark, record.commit.short());
    Path::new(".pool/measured").join(name)
}
