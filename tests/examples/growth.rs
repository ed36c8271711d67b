//! Measures what finished tasks cost the state of a process: its memory, and the speed of the fold.
//!
//! `cargo run --release -p pool-tests --example growth -- worker 1000000`. A `dispatcher` also keeps the list of all finished
//! tasks.
#![expect(clippy::print_stdout, reason = "it prints what it measures")]

use anyhow::Context as _;
use pool_core::state::PoolState;
use pool_core::state::tasks::DETAILED_OUTCOMES;
use pool_tests::bench::history::batches;
use pool_tests::bench::process::total_pss_mb;
use tokio::time::Instant;

const LINES: usize = 10;

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut state = match arguments.next().as_deref() {
        Some("worker") => PoolState::new(),
        Some("dispatcher") => PoolState::with_list(),
        Some(_) | None => anyhow::bail!("the first argument is `worker` or `dispatcher`"),
    };
    let count = arguments.next().unwrap_or_else(|| "1000000".to_owned());
    let count: usize = count.parse().context("the second argument is a number")?;
    let memory = || total_pss_mb(&[std::process::id()]);
    let mut with_details = None;
    let (mut tasks, mut since, mut began) = (0, 0, Instant::now());
    for batch in batches(count) {
        let batch = batch?;
        state.apply(&batch, |_, _, _| ());
        tasks += batch.events.len() / 4;
        if tasks >= DETAILED_OUTCOMES && with_details.is_none() {
            // From here on one task is forgotten for each one that finishes.
            with_details = Some((tasks, memory()?));
        }
        if tasks - since >= count / LINES || tasks == count {
            let (now, took) = (memory()?, began.elapsed().as_secs_f64());
            let each = with_details.map_or(0.0, |(from, before)| {
                (now - before) * 1e6 / (tasks - from).max(1) as f64
            });
            let speed = (tasks - since) as f64 / took;
            println!(
                "{tasks} tasks: {now:.1} MB, {each:.1} bytes for each old one, {speed:.0} tasks/s"
            );
            (since, began) = (tasks, Instant::now());
        }
    }
    Ok(())
}
