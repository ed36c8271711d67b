//! Measures the pool, and keeps, compares and draws what it has measured. `scripts/bench` builds what it needs and runs it.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};
use pool_tests::bench::agents::{self, Agents};
use pool_tests::bench::compare::compare;
use pool_tests::bench::format::slug;
use pool_tests::bench::queue::{self, Queue};
use pool_tests::bench::record::Record;
use pool_tests::bench::run::{Benchmark, Options, run};
use pool_tests::bench::workspace::{self, Workspace};
use pool_tests::bench::{page, plot, table};

/// Measures the pool, and keeps, compares and draws what it has measured.
#[derive(Parser)]
#[command(name = "bench")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Queue(Measuring<queue::Choice>),
    Agents(Measuring<agents::Choice>),
    Workspace(Measuring<workspace::Choice>),
    /// Print the table of a result.
    Table {
        file: PathBuf,
    },
    /// Print what has changed between two results of one benchmark.
    Compare {
        before: PathBuf,
        after: PathBuf,
    },
    /// Draw every group of measures of a result as SVG.
    Plot {
        file: PathBuf,
        /// The directory for the pictures.
        #[arg(long)]
        out: PathBuf,
    },
    /// Write the measured parts of docs/operate/performance.md and its pictures.
    Page,
}

#[derive(Args)]
struct Measuring<C: Args> {
    #[command(flatten)]
    options: Options,
    #[command(flatten)]
    choice: C,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    match Arguments::parse().command {
        Command::Queue(Measuring { options, choice }) => {
            measure(Queue::new(choice, &options.dir)?, &options).await
        }
        Command::Agents(Measuring { options, choice }) => {
            measure(Agents::new(choice, &options.dir)?, &options).await
        }
        Command::Workspace(Measuring { options, choice }) => {
            measure(Workspace::new(choice, &options.dir)?, &options).await
        }
        Command::Table { file } => print(&table::markdown(&Record::read(&file)?)),
        Command::Compare { before, after } => {
            let comparison = compare(&Record::read(&before)?, &Record::read(&after)?);
            print(&comparison.markdown())
        }
        Command::Plot { file, out } => draw(&Record::read(&file)?, &out),
        Command::Page => write_page(),
    }
}

async fn measure(benchmark: impl Benchmark, options: &Options) -> anyhow::Result<()> {
    let (record, file) = run(benchmark, options).await?;
    eprintln!("written to {}", file.display());
    print(&table::markdown(&record))
}

fn draw(record: &Record, directory: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(directory)
        .with_context(|| format!("failed to make {}", directory.display()))?;
    for group in record.groups() {
        let name = format!("{}-{}.svg", record.benchmark, slug(group));
        let file = directory.join(name);
        std::fs::write(&file, plot::draw(record, group)?)
            .with_context(|| format!("failed to write {}", file.display()))?;
        print(&file.display().to_string())?;
    }
    Ok(())
}

fn write_page() -> anyhow::Result<()> {
    for file in page::generate(Path::new("."))? {
        std::fs::write(&file.path, file.text)
            .with_context(|| format!("failed to write {}", file.path.display()))?;
    }
    Ok(())
}

fn print(text: &str) -> anyhow::Result<()> {
    writeln!(std::io::stdout(), "{text}").context("failed to write to stdout")
}
