//! Tasks from files, standard input or flags, as JSON. The dispatcher checks them.

use std::io::{IsTerminal as _, Read as _};
use std::path::Path;

use anyhow::{Context, anyhow, bail};
use pool_core::money::MicroUsd;
use pool_core::time::Timestamp;
use serde_json::{Map, Value, json};

use super::SubmitArgs;

/// One task from flags.
#[derive(Debug, Default, clap::Args)]
pub(super) struct OneTask {
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

/// Fields that are set in every task, also in those from files.
#[derive(Debug, Default, clap::Args)]
pub(super) struct EveryTask {
    /// Add a label to every task: key=value
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
    labels: Vec<(String, String)>,
    /// The priority of every task: normal or high. High overtakes others in its queue
    #[arg(long, value_name = "PRIORITY", value_parser = ["normal", "high"])]
    priority: Option<String>,
    /// The most seconds for one attempt at each task (`limits.timeout_s`)
    #[arg(long, value_name = "SECONDS")]
    timeout_s: Option<u64>,
    /// The most US dollars for each task, all attempts together (`limits.max_cost_usd`)
    #[arg(long, value_name = "USD")]
    max_cost_usd: Option<MicroUsd>,
    /// Each task expires if it is not started by this time (`limits.deadline`):
    /// 2026-01-31T12:00:00Z
    #[arg(long, value_name = "TIME")]
    deadline: Option<Timestamp>,
}

fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text
        .split_once('=')
        .ok_or_else(|| format!("{text:?} is not KEY=VALUE"))?;
    Ok((key.to_owned(), value.to_owned()))
}

/// Whether the name stands for standard input.
pub(super) fn is_stdin(file: &Path) -> bool {
    file == Path::new("-")
}

pub(super) fn collect(args: &SubmitArgs) -> anyhow::Result<Vec<Value>> {
    if let (Some(instruction), Some(repository)) = (&args.one.instruction, &args.one.repository) {
        return Ok(vec![from_flags(&args.one, instruction, repository)]);
    }
    if args.files.is_empty() {
        bail!(
            "nothing to submit: name a file of tasks (- for standard input), or give --instruction and --repository"
        );
    }
    let mut tasks = Vec::new();
    for file in &args.files {
        tasks.extend(from_file(file)?);
    }
    Ok(tasks)
}

fn from_file(file: &Path) -> anyhow::Result<Vec<Value>> {
    if !is_stdin(file) {
        let name = file.display().to_string();
        let text =
            std::fs::read_to_string(file).with_context(|| format!("failed to read {name}"))?;
        return from_text(&name, &text);
    }
    let mut stdin = std::io::stdin().lock();
    if stdin.is_terminal() {
        eprintln!("reading tasks from standard input; end them with Ctrl-D");
    }
    let mut text = String::new();
    stdin
        .read_to_string(&mut text)
        .context("failed to read standard input")?;
    from_text("standard input", &text)
}

/// One task, a list, or `tasks: [...]` in YAML or JSON (which is YAML); or several JSON values one
/// after the other, for example one per line.
fn from_text(name: &str, text: &str) -> anyhow::Result<Vec<Value>> {
    let whole = match serde_yaml::from_str::<Value>(text) {
        Ok(value) => return tasks_of(name, value),
        Err(error) => error,
    };
    let values: Result<Vec<Value>, serde_json::Error> = serde_json::Deserializer::from_str(text)
        .into_iter()
        .collect();
    let values = match values {
        Ok(values) => values,
        Err(error) if text.trim_start().starts_with(['{', '[']) => {
            return Err(anyhow!(error).context(format!("{name} is neither JSON nor YAML")));
        }
        Err(_) => {
            return Err(anyhow!(whole).context(format!("{name} is neither YAML nor JSON")));
        }
    };
    let mut tasks = Vec::new();
    for (index, value) in values.into_iter().enumerate() {
        tasks.extend(tasks_of(
            &format!("{name}, JSON value {}", index + 1),
            value,
        )?);
    }
    Ok(tasks)
}

fn tasks_of(name: &str, value: Value) -> anyhow::Result<Vec<Value>> {
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

impl EveryTask {
    /// Sets the fields that were given. The dispatcher refuses a task that is not an object.
    pub(super) fn add_to(&self, task: &mut Value) {
        let labels = self.labels.iter();
        set_in(task, "labels", labels.map(|(k, v)| (k.as_str(), json!(v))));
        let limits = [
            ("timeout_s", self.timeout_s.map(|most| json!(most))),
            ("max_cost_usd", self.max_cost_usd.map(|most| json!(most))),
            ("deadline", self.deadline.map(|at| json!(at))),
        ];
        let given = limits
            .into_iter()
            .filter_map(|(name, value)| Some((name, value?)));
        set_in(task, "limits", given);
        if let (Some(priority), Value::Object(task)) = (&self.priority, task) {
            task.insert("priority".to_owned(), json!(priority));
        }
    }
}

/// Sets fields of an object within the task; adds the object if fields are given.
fn set_in<'a>(task: &mut Value, name: &str, fields: impl Iterator<Item = (&'a str, Value)>) {
    let mut fields = fields.peekable();
    if fields.peek().is_none() {
        return;
    }
    if let Value::Object(task) = task
        && let Value::Object(have) = task.entry(name).or_insert_with(|| json!({}))
    {
        have.extend(fields.map(|(name, value)| (name.to_owned(), value)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<Value>, String> {
        from_text("standard input", text).map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn tasks_come_as_one_object_a_list_lines_of_json_or_yaml() {
        let (a, b) = (json!({"instruction": "a"}), json!({"instruction": "b"}));
        let cases = [
            (r#"{"instruction": "a"}"#.to_owned(), vec![&a]),
            (format!("[{a}, {b}]"), vec![&a, &b]),
            (format!("{a}\n{b}\n"), vec![&a, &b]),
            (format!("{a}\n\n{b}"), vec![&a, &b]),
            (format!("{a:#}\n{b:#}\n"), vec![&a, &b]),
            (format!("{a}\n[{b}]\n"), vec![&a, &b]),
            (format!(r#"{{"tasks": [{a}, {b}]}}"#), vec![&a, &b]),
            ("instruction: a\n".to_owned(), vec![&a]),
            (
                "- instruction: a\n- instruction: b\n".to_owned(),
                vec![&a, &b],
            ),
            ("tasks:\n- instruction: a\n".to_owned(), vec![&a]),
        ];
        for (text, expected) in cases {
            let found = read(&text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(found.iter().collect::<Vec<_>>(), expected, "{text}");
        }
    }

    #[test]
    fn a_mistake_in_the_input_is_named_with_its_place() {
        for (text, parts) in [
            (
                "{\"instruction\": \"a\"}\n{\"instruction\": }\n",
                &["line 2", "standard input"][..],
            ),
            ("instruction: [\n", &["neither YAML nor JSON"]),
            ("", &["contains no task"]),
            ("{\"a\": 1}\n7\n", &["JSON value 2", "contains no task"]),
        ] {
            let error = read(text).expect_err("a mistake");
            for part in parts {
                assert!(error.contains(part), "{text:?} says {part:?}: {error}");
            }
        }
    }

    #[test]
    fn flags_set_the_fields_of_every_task_and_leave_the_others() {
        let every = EveryTask {
            labels: vec![("run".to_owned(), "7".to_owned())],
            priority: Some("high".to_owned()),
            timeout_s: Some(60),
            max_cost_usd: "0.50".parse().ok(),
            deadline: None,
        };
        let mut task = json!({"labels": {"team": "x"}, "limits": {"deadline": "2030-01-01T00:00:00Z", "timeout_s": 9}});
        every.add_to(&mut task);
        let expected = json!({
            "labels": {"team": "x", "run": "7"}, "priority": "high",
            "limits": {"deadline": "2030-01-01T00:00:00Z", "timeout_s": 60, "max_cost_usd": "0.50"}
        });
        assert_eq!(
            task, expected,
            "labels and limits are added to those of the file"
        );
        let mut bare = json!({"instruction": "a"});
        EveryTask::default().add_to(&mut bare);
        assert_eq!(
            bare,
            json!({"instruction": "a"}),
            "without flags nothing is added"
        );
    }
}
