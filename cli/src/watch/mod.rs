//! `pool watch`: programmers and tasks live. On a terminal it redraws a view; elsewhere it
//! prints a line per event.
//!
//! [`feed`] receives the dispatcher's events, [`follow`] derives news from them (pure), [`lines`]
//! and [`screen`] show it.

mod feed;
mod follow;
mod lines;
mod render;
mod screen;

use std::io::IsTerminal as _;
use std::process::ExitCode;

use pool_api::tasks::Label;
use pool_core::id::{ProgrammerId, TaskId};
use pool_telemetry::clock::wall_clock;
use tokio::sync::mpsc::Receiver;

use crate::output::{Format, OutputArgs, print};
use feed::FeedMessage;
use follow::Follow;
pub(crate) use lines::details;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "On a terminal, q or Ctrl-C quits and the arrow keys scroll. Elsewhere, and with -o jsonl, prints one line per event; with -o name, the id of each task that has ended.\n\n\
    Exit status: with --task or --label, 0 if all these tasks succeeded, 1 if one did not.\n\nExamples:\n  \
    pool watch\n  \
    pool watch --task t-019b2c6de0c97d3a8f0c2b7f5e3a1d44\n  \
    pool watch --label run_id=7 -o jsonl"
)]
pub(super) struct WatchArgs {
    #[command(flatten)]
    filter: WatchFilter,
    #[command(flatten)]
    output: OutputArgs,
}

/// Which tasks to follow.
#[derive(Debug, Clone, Default, clap::Args)]
#[group(multiple = false)]
pub(super) struct WatchFilter {
    /// Only this task, until it has ended (repeatable)
    #[arg(long = "task", value_name = "ID", add = crate::completions::tasks())]
    tasks: Vec<TaskId>,
    /// Only tasks with this label (key=value), until all have ended
    #[arg(long, value_name = "KEY=VALUE")]
    label: Option<Label>,
    /// Only this programmer and its tasks
    #[arg(long, value_name = "ID", add = crate::completions::programmers())]
    programmer: Option<ProgrammerId>,
}

impl WatchFilter {
    /// Whether the command ends by itself.
    fn ends(&self) -> bool {
        !self.tasks.is_empty() || self.label.is_some()
    }
}

pub(super) async fn run(args: WatchArgs) -> anyhow::Result<ExitCode> {
    let client = args.output.client()?;
    let url = client.url().to_owned();
    let mut heard = feed::start(client, args.filter.clone());
    let mut follow = Follow::new(args.filter);
    if args.output.format() == Format::Table && std::io::stdout().is_terminal() {
        screen::run(&mut heard, &mut follow, &url).await?;
        // Leave the outcomes on the terminal when the view is gone.
        follow
            .outcomes()
            .for_each(|news| _ = print(&lines::text(wall_clock(), &news)));
    } else {
        line_by_line(&mut heard, &mut follow, args.output.format()).await?;
    }
    Ok(match follow.all_succeeded() {
        Some(false) => ExitCode::FAILURE,
        Some(true) | None => ExitCode::SUCCESS,
    })
}

/// Prints lines until the followed tasks have ended, or the reader is gone.
async fn line_by_line(
    heard: &mut Receiver<FeedMessage>,
    follow: &mut Follow,
    format: Format,
) -> anyhow::Result<()> {
    while let Some(heard) = heard.recv().await {
        for news in follow.hear(heard)? {
            let line = match format {
                Format::Table => lines::text(wall_clock(), &news),
                Format::Json | Format::Jsonl => lines::json(wall_clock(), &news)?,
                Format::Name => lines::ended(&news),
            };
            if print(&line) != ExitCode::SUCCESS {
                return Ok(());
            }
        }
        if follow.is_over() {
            return Ok(());
        }
    }
    Ok(())
}
