//! `pool submit`: tasks from files or flags. All must be valid, or none is accepted. If they
//! do not fit into the queues, the rest is submitted as queues empty.

mod batch;
mod plan;
mod preflight;
mod upload;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use pool_api::format::counted;
use pool_api::tasks::TaskView;
use pool_core::id::TaskId;
use pool_telemetry::clock::new_id;
use serde_json::{Map, Value, json};

use crate::check::PoolFileArgs;
use crate::client::{Client, PoolUrl};
use crate::output::{Format, complain};
use crate::queue_full::same_command;
use crate::table::{lines, table};
use upload::{UploadOptions, UploadStop, give_ids, upload};

/// The exit status that shells give to a process ended by SIGINT.
const INTERRUPTED: u8 = 130;
/// Leaves room for a task's index in an id of at most 64 characters.
const MOST_OF_BATCH: usize = 56;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    pool submit tasks.yaml --wait\n  \
    pool submit --repository app --capability fast --instruction 'Add a test for parse()' --check 'python3 -m unittest'\n\n\
    The command ends when all tasks are accepted; with --wait, when all have a result. If the pool file limits queues and they are\n\
    full, it submits the rest as tasks finish. After Ctrl-C it says what is submitted and how to submit the rest.\n\n\
    Exit status: 0 all tasks were accepted (with --wait: and succeeded); 1 some were not; 2 a file cannot be read; 130 Ctrl-C.")]
pub(super) struct SubmitArgs {
    /// YAML or JSON files: one task, a list, or `tasks: [...]`
    files: Vec<PathBuf>,
    /// Wait for the results, with a progress bar, and print a table of them
    #[arg(long)]
    wait: bool,
    /// Submit nothing; show each task's queue, the programmers that could do it, its cost limit, and
    /// mistakes in repository, base, files and checks
    #[arg(long, conflicts_with = "wait")]
    dry_run: bool,
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// Prefix for the ids of tasks without one: the same files with the same batch are submitted
    /// only once, however often you run this (default: a new prefix each time)
    #[arg(long, value_name = "NAME", value_parser = batch)]
    batch: Option<TaskId>,
    /// Exit with status 1 if no task could be submitted for this many seconds because queues are
    /// full (default: if no programmer takes tasks from them for 60 seconds)
    #[arg(long, value_name = "SECONDS")]
    give_up_after: Option<u64>,
    /// Add a label to every task: key=value
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
    labels: Vec<(String, String)>,
    #[command(flatten)]
    one: OneTask,
    #[command(flatten)]
    url: PoolUrl,
    #[command(flatten)]
    pool_file: PoolFileArgs,
}

/// One task from flags.
#[derive(Debug, Default, clap::Args)]
struct OneTask {
    /// The instruction for the agent (instead of files)
    #[arg(long, conflicts_with = "files", requires = "repository")]
    instruction: Option<String>,
    /// A path below a configured root, or an https:// or ssh:// URL
    #[arg(long, requires = "instruction")]
    repository: Option<String>,
    /// The id of the task; submitting the same id twice does it once (default: a new id)
    #[arg(long, requires = "instruction")]
    id: Option<String>,
    /// Branch, tag or commit to start from
    #[arg(long, requires = "instruction")]
    base: Option<String>,
    /// A file to give to the agent, relative to the repository (repeatable)
    #[arg(long = "file", requires = "instruction")]
    file: Vec<String>,
    /// A required capability (repeatable)
    #[arg(long = "capability", requires = "instruction")]
    capability: Vec<String>,
    /// An acceptance check: program and arguments, split at spaces (repeatable)
    #[arg(long = "check", requires = "instruction")]
    check: Vec<String>,
}

fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text
        .split_once('=')
        .ok_or_else(|| format!("{text:?} is not KEY=VALUE"))?;
    Ok((key.to_owned(), value.to_owned()))
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
        add_labels(task, &args.labels);
    }
    if args.dry_run {
        return plan::run(&args.pool_file.pool, &tasks, args.format);
    }
    let batch = args.batch.clone().unwrap_or_else(new_id);
    let own_ids = give_ids(&mut tasks, &batch);
    let client = Client::new(&args.url)?;
    let options = UploadOptions {
        print_ids: !args.wait && args.format == Format::Table,
        go_on: if own_ids || args.batch.is_some() {
            same_command(&[])
        } else {
            same_command(&["--batch", batch.as_str()])
        },
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
        args.format.print(&taken, rows)?;
        return Ok(not_all(&stop, taken.len(), tasks.len(), &options.go_on));
    }
    if args.wait {
        return tokio::select! {
            waited = batch::wait(&client, &taken, args.format) => waited,
            interrupted = tokio::signal::ctrl_c() => {
                interrupted?;
                eprintln!("{}", not_waited_for(&taken));
                Ok(ExitCode::from(INTERRUPTED))
            }
        };
    }
    args.format.print(&taken, |taken| {
        format!(
            "{}{} submitted. Follow with `pool watch` or at {}\n",
            rows(taken),
            counted(taken.len(), "task", "tasks"),
            client.url()
        )
    })
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

fn collect(args: &SubmitArgs) -> anyhow::Result<Vec<Value>> {
    if let (Some(instruction), Some(repository)) = (&args.one.instruction, &args.one.repository) {
        return Ok(vec![from_flags(&args.one, instruction, repository)]);
    }
    if args.files.is_empty() {
        bail!("nothing to submit: name a file of tasks, or give --instruction and --repository");
    }
    let mut tasks = Vec::new();
    for file in &args.files {
        tasks.extend(from_file(file)?);
    }
    Ok(tasks)
}

/// One task, a list, or `tasks: [...]`. JSON is YAML.
fn from_file(file: &Path) -> anyhow::Result<Vec<Value>> {
    let name = file.display();
    let text = std::fs::read_to_string(file).with_context(|| format!("failed to read {name}"))?;
    let value: Value =
        serde_yaml::from_str(&text).with_context(|| format!("{name} is neither YAML nor JSON"))?;
    match value {
        Value::Array(tasks) => Ok(tasks),
        Value::Object(mut one) => match one.remove("tasks") {
            Some(Value::Array(tasks)) if one.is_empty() => Ok(tasks),
            Some(_) => bail!("{name}: `tasks` must be a list, and the only key of its object"),
            None => Ok(vec![Value::Object(one)]),
        },
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            bail!("{name} contains no task: write one task, a list of tasks, or `tasks: [...]`")
        }
    }
}

fn from_flags(one: &OneTask, instruction: &str, repository: &str) -> Value {
    let mut task = Map::new();
    task.insert("instruction".to_owned(), json!(instruction));
    task.insert("repository".to_owned(), json!(repository));
    if let Some(id) = &one.id {
        task.insert("id".to_owned(), json!(id));
    }
    if let Some(base) = &one.base {
        task.insert("base".to_owned(), json!(base));
    }
    task.insert("files".to_owned(), json!(one.file));
    task.insert("capabilities".to_owned(), json!(one.capability));
    let check =
        |run: &String| json!({"name": run, "run": run.split_whitespace().collect::<Vec<_>>()});
    task.insert(
        "acceptance".to_owned(),
        one.check.iter().map(check).collect(),
    );
    Value::Object(task)
}

fn add_labels(task: &mut Value, labels: &[(String, String)]) {
    if labels.is_empty() {
        return;
    }
    if let Value::Object(task) = task
        && let Value::Object(have) = task.entry("labels").or_insert_with(|| json!({}))
    {
        have.extend(
            labels
                .iter()
                .map(|(key, value)| (key.clone(), json!(value))),
        );
    }
}
