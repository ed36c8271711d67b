//! `pool submit`: tasks from files or flags. All must be valid, or none is accepted. If they
//! do not fit into the queues, the rest is submitted as queues empty.

mod batch;
mod input;
mod plan;
mod preflight;
mod upload;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use pool_api::format::counted;
use pool_api::tasks::TaskView;
use pool_core::id::TaskId;
use pool_telemetry::clock::new_id;

use crate::check::PoolFileArgs;
use crate::output::{Format, OutputArgs, complain};
use crate::queue_full::same_command;
use crate::table::{lines, table};
use input::{EveryTask, OneTask, collect};
use upload::{UploadOptions, UploadStop, give_ids, upload};

/// The exit status that shells give to a process ended by SIGINT.
const INTERRUPTED: u8 = 130;
/// Leaves room for a task's index in an id of at most 64 characters.
const MOST_OF_BATCH: usize = 56;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    pool submit tasks.yaml --wait\n  \
    jq -c '.[]' tasks.json | pool submit - -o name\n  \
    pool submit tasks.yaml --priority high --timeout-s 600 --max-cost-usd 0.50\n  \
    pool submit --repository app --capability fast --instruction 'Add a test for parse()' --check 'python3 -m unittest'\n\n\
    The command ends when all tasks are accepted; with --wait, when all have a result. If the pool file limits queues and they are\n\
    full, it submits the rest as tasks finish. After Ctrl-C it says what is submitted and how to submit the rest.\n\n\
    Exit status: 0 all tasks were accepted (with --wait: and succeeded); 1 some were not; 2 a file cannot be read; 130 Ctrl-C.")]
pub(super) struct SubmitArgs {
    /// Files in YAML, JSON or JSON Lines: one task, a list, or `tasks: [...]`; `-` is standard input
    files: Vec<PathBuf>,
    /// Wait for the results, with a progress bar, and print a table of them
    #[arg(long)]
    wait: bool,
    /// Submit nothing; show each task's queue, the programmers that could do it, its cost limit, and
    /// mistakes in repository, base, files and checks
    #[arg(long, conflicts_with = "wait")]
    dry_run: bool,
    /// Prefix for the ids of tasks without one: the same files with the same batch are submitted
    /// only once, however often you run this (default: a new prefix each time)
    #[arg(long, value_name = "NAME", value_parser = batch)]
    batch: Option<TaskId>,
    /// Exit with status 1 if no task could be submitted for this many seconds because queues are
    /// full (default: if no programmer takes tasks from them for 60 seconds)
    #[arg(long, value_name = "SECONDS")]
    give_up_after: Option<u64>,
    #[command(flatten)]
    every: EveryTask,
    #[command(flatten)]
    one: OneTask,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    pool_file: PoolFileArgs,
}

/// Leaves room for the index of a task.
fn batch(text: &str) -> Result<TaskId, String> {
    let name = TaskId::new(text).map_err(|error| error.to_string())?;
    if text.len() > MOST_OF_BATCH {
        Err(format!("at most {MOST_OF_BATCH} characters"))
    } else {
        Ok(name)
    }
}

pub(super) async fn run(args: SubmitArgs) -> anyhow::Result<ExitCode> {
    let mut tasks = match collect(&args) {
        Ok(tasks) => tasks,
        Err(error) => {
            complain(&error);
            return Ok(ExitCode::from(2));
        }
    };
    for task in &mut tasks {
        args.every.add_to(task);
    }
    let format = args.output.format();
    if args.dry_run {
        return plan::run(&args.pool_file.pool, &tasks, format);
    }
    let batch = args.batch.clone().unwrap_or_else(new_id);
    let own_ids = give_ids(&mut tasks, &batch);
    let client = args.output.client()?;
    let options = UploadOptions {
        print_ids: !args.wait && format == Format::Table,
        go_on: go_on(&args, own_ids, &batch),
        give_up_after: args.give_up_after.map(Duration::from_secs),
    };
    let outcome = upload(&client, &tasks, &options).await?;
    let taken = outcome.taken;
    let warnings: BTreeSet<&String> = taken.iter().flat_map(|task| &task.warnings).collect();
    for warning in warnings {
        eprintln!("warning: {warning}");
    }
    let rows = |taken: &Vec<TaskView>| match outcome.printed {
        true => String::new(),
        false => taken_table(taken),
    };
    if let Some(stop) = outcome.stop {
        format.print(&taken, rows)?;
        return Ok(not_all(&stop, taken.len(), tasks.len(), &options.go_on));
    }
    if args.wait {
        return tokio::select! {
            waited = batch::wait(&client, &taken, format) => waited,
            interrupted = tokio::signal::ctrl_c() => {
                interrupted?;
                eprintln!("{}", not_waited_for(&taken));
                Ok(ExitCode::from(INTERRUPTED))
            }
        };
    }
    format.print(&taken, |taken| {
        format!(
            "{}{} submitted. Follow with `pool watch` or at {}\n",
            rows(taken),
            counted(taken.len(), "task", "tasks"),
            client.url()
        )
    })
}

/// The command that submits the rest.
fn go_on(args: &SubmitArgs, own_ids: bool, batch: &TaskId) -> String {
    let command = if own_ids || args.batch.is_some() {
        same_command(&[])
    } else {
        same_command(&["--batch", batch.as_str()])
    };
    if args.files.iter().any(|file| input::is_stdin(file)) {
        return format!("{command}    # with the same standard input");
    }
    command
}

/// Reports a batch of which only a part was accepted.
fn not_all(stop: &UploadStop, taken: usize, all: usize, go_on: &str) -> ExitCode {
    let (code, why) = match stop {
        UploadStop::Interrupted => (ExitCode::from(INTERRUPTED), String::new()),
        UploadStop::GivenUp(why) => (ExitCode::FAILURE, format!("gave up: {why}\n")),
    };
    eprintln!(
        "{why}{taken} of {all} tasks were submitted and continue; the others were not. To submit the others (no task is \
         submitted twice), run:\n  {go_on}"
    );
    code
}

/// Ctrl-C ends only the wait; it cancels no task.
fn not_waited_for(taken: &[TaskView]) -> String {
    let ids: Vec<&str> = taken.iter().map(|task| task.id.as_str()).collect();
    match ids.as_slice() {
        [one] => {
            format!(
                "the task continues: `pool watch --task {one}` follows it, `pool cancel {one}` stops it"
            )
        }
        several => format!(
            "the {} tasks continue: `pool watch` follows them, `pool show {}` shows the first, `pool cancel ID…` stops them",
            several.len(),
            several.first().copied().unwrap_or("ID"),
        ),
    }
}

fn taken_table(taken: &[TaskView]) -> String {
    let mut rows = table(&["task", "status", "queue"]);
    for task in taken {
        rows.add_row([
            task.id.to_string(),
            task.status.to_string(),
            format!("tasks.{}", task.route),
        ]);
    }
    lines(rows)
}
