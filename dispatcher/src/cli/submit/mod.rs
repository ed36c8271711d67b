//! `dispatcher submit`: tasks from files or flags. All are right, or none is taken; more than the queues hold are handed
//! in as room comes.

mod batch;
mod hand_in;
mod plan;

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use serde_json::{Map, Value, json};

use super::{Client, Format, PoolFile, PoolUrl, complain, print};
use crate::api::tasks::TaskView;
use crate::figures::counted;
use crate::tables::{lines, table};
use hand_in::HandedIn;

/// As a shell counts what SIGINT has ended.
const INTERRUPTED: u8 = 130;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    dispatcher submit tasks.yaml --wait\n  \
    dispatcher submit --repository app --capability fast --instruction 'Add a test for parse()' --check 'python3 -m unittest'\n\n\
    Exit status: 0 all tasks were taken (with --wait: and succeeded), 1 not so, 2 a file cannot be read.")]
pub(super) struct SubmitArgs {
    /// YAML or JSON files: one task, a list, or `tasks: [...]`
    files: Vec<PathBuf>,
    /// Wait for the results; show progress and a table of them
    #[arg(long)]
    wait: bool,
    /// Submit nothing; show where each task would go, who could do it and what it could cost
    #[arg(long, conflicts_with = "wait")]
    dry_run: bool,
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// Add a label to every task: key=value
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
    labels: Vec<(String, String)>,
    #[command(flatten)]
    one: OneTask,
    #[command(flatten)]
    url: PoolUrl,
    #[command(flatten)]
    pool_file: PoolFile,
}

/// One task from flags.
#[derive(Debug, Default, clap::Args)]
struct OneTask {
    /// What the agent is to do (instead of files)
    #[arg(long, conflicts_with = "files", requires = "repository")]
    instruction: Option<String>,
    /// A path below a configured root, or an https:// or ssh:// URL
    #[arg(long, requires = "instruction")]
    repository: Option<String>,
    /// The id of the task; submitted twice with the same id, it is done once (default: a new one)
    #[arg(long, requires = "instruction")]
    id: Option<String>,
    /// Branch, tag or commit to start from
    #[arg(long, requires = "instruction")]
    base: Option<String>,
    /// A file for the agent, relative to the repository (repeatable)
    #[arg(long = "file", requires = "instruction")]
    file: Vec<String>,
    /// A required capability (repeatable)
    #[arg(long = "capability", requires = "instruction")]
    capability: Vec<String>,
    /// An acceptance check: program and arguments, split at blanks (repeatable)
    #[arg(long = "check", requires = "instruction")]
    check: Vec<String>,
}

fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or_else(|| format!("{text:?} is no KEY=VALUE"))?;
    Ok((key.to_owned(), value.to_owned()))
}

pub(super) async fn run(args: SubmitArgs) -> anyhow::Result<ExitCode> {
    let mut tasks = match collect(&args) {
        Ok(tasks) => tasks,
        Err(error) => {
            complain(&error);
            return Ok(ExitCode::from(2));
        }
    };
    let labels: BTreeMap<&str, &str> = args.labels.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    for task in &mut tasks {
        add_labels(task, &labels);
    }
    if args.dry_run {
        return plan::run(&args.pool_file.pool, &tasks, args.format);
    }
    let client = Client::new(&args.url)?;
    let print_ids = !args.wait && args.format == Format::Table;
    let HandedIn { taken, printed } = hand_in::hand_in(&client, tasks, print_ids).await?;
    for warning in taken.iter().flat_map(|task| &task.warnings).collect::<BTreeSet<_>>() {
        eprintln!("warning: {warning}");
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
        let rows = if printed { String::new() } else { taken_table(taken) };
        let count = counted(taken.len(), "task", "tasks");
        format!("{rows}{count} taken. Follow with `dispatcher watch` or at {}\n", client.url())
    })
}

/// Who stops waiting has not cancelled anything.
fn not_waited_for(taken: &[TaskView]) -> String {
    let ids: Vec<&str> = taken.iter().map(|task| task.id.as_str()).collect();
    match ids.as_slice() {
        [one] => {
            format!("the task goes on: `dispatcher watch --task {one}` follows it, `dispatcher cancel {one}` stops it")
        }
        several => format!(
            "the {} tasks go on: `dispatcher watch` follows them, `dispatcher show {}` shows the first, `dispatcher cancel ID…` stops them",
            several.len(),
            several.first().copied().unwrap_or("ID"),
        ),
    }
}

fn taken_table(taken: &[TaskView]) -> String {
    let mut rows = table(&["task", "status", "queue"]);
    for task in taken {
        rows.add_row([task.id.to_string(), task.status.clone(), format!("tasks.{}", task.route)]);
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
    let value: Value = serde_yaml::from_str(&text).with_context(|| format!("{name} is neither YAML nor JSON"))?;
    match value {
        Value::Array(tasks) => Ok(tasks),
        Value::Object(mut one) => match one.remove("tasks") {
            Some(Value::Array(tasks)) if one.is_empty() => Ok(tasks),
            Some(_) => bail!("{name}: `tasks` must be a list and stand alone"),
            None => Ok(vec![Value::Object(one)]),
        },
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            bail!("{name} holds no task: write one task, a list of tasks, or `tasks: [...]`")
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
    let check = |run: &String| json!({"name": run, "run": run.split_whitespace().collect::<Vec<_>>()});
    task.insert("acceptance".to_owned(), one.check.iter().map(check).collect());
    Value::Object(task)
}

fn add_labels(task: &mut Value, labels: &BTreeMap<&str, &str>) {
    if labels.is_empty() {
        return;
    }
    if let Value::Object(task) = task
        && let Value::Object(have) = task.entry("labels").or_insert_with(|| json!({}))
    {
        have.extend(labels.iter().map(|(key, value)| ((*key).to_owned(), json!(value))));
    }
}
