//! Output options: the same options and the same JSON for every command that asks a dispatcher.

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::bail;
use serde::Serialize;
use serde_json::Value;

use crate::client::{Client, PoolUrl};

/// The output format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub(crate) enum Format {
    /// For people
    #[default]
    Table,
    /// The JSON of the HTTP API
    Json,
    /// One line of JSON for each object of a list
    Jsonl,
    /// Only ids, one per line
    Name,
}

/// The option that every command with an answer has.
#[derive(Debug, Clone, Copy, Default, clap::Args)]
pub(crate) struct FormatArgs {
    /// How the answer is printed
    #[arg(
        short = 'o',
        long,
        visible_alias = "output",
        value_enum,
        default_value_t
    )]
    pub(crate) format: Format,
}

/// The options of every command that prints an answer.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct OutputArgs {
    #[command(flatten)]
    format: FormatArgs,
    #[command(flatten)]
    pub(super) url: PoolUrl,
}

impl OutputArgs {
    pub(super) fn client(&self) -> anyhow::Result<Client> {
        Client::new(&self.url)
    }

    pub(super) fn format(&self) -> Format {
        self.format.format
    }

    pub(super) fn print<T: Serialize>(
        &self,
        answer: &T,
        text: impl FnOnce(&T) -> String,
    ) -> anyhow::Result<ExitCode> {
        self.format().print(answer, text)
    }
}

impl Format {
    /// Prints the answer in this format; as a table by this function.
    ///
    /// # Errors
    /// When the answer has no ids to print.
    pub(super) fn print<T: Serialize>(
        self,
        answer: &T,
        text: impl FnOnce(&T) -> String,
    ) -> anyhow::Result<ExitCode> {
        Ok(print(&self.rendered(answer, text)?))
    }

    /// # Errors
    /// When the answer has no ids to print.
    pub(crate) fn rendered<T: Serialize>(
        self,
        answer: &T,
        text: impl FnOnce(&T) -> String,
    ) -> anyhow::Result<String> {
        let value = || serde_json::to_value(answer);
        Ok(match self {
            Self::Table => text(answer),
            Self::Json => format!("{:#}\n", value()?),
            Self::Jsonl => items(&value()?)
                .into_iter()
                .map(|item| format!("{item}\n"))
                .collect(),
            Self::Name => names(&value()?)?,
        })
    }
}

/// The fields of the HTTP API that hold the list of an answer.
const LISTS: [&str; 7] = [
    "tasks",
    "letters",
    "programmers",
    "pauses",
    "retried",
    "breakers",
    "prices",
];

/// The objects of a list. An answer that has a name of its own is one object.
fn items(answer: &Value) -> Vec<&Value> {
    let list = LISTS.iter().find_map(|field| answer[field].as_array());
    match (answer, list) {
        (Value::Array(all), _) => all.iter().collect(),
        (_, Some(all)) if name(answer).is_none() => all.iter().collect(),
        (one, _) => vec![one],
    }
}

fn names(answer: &Value) -> anyhow::Result<String> {
    let names: Option<Vec<&str>> = items(answer).into_iter().map(name).collect();
    let Some(names) = names else {
        bail!("this answer has no ids to print; use the format table, json or jsonl");
    };
    Ok(names.iter().map(|name| format!("{name}\n")).collect())
}

/// The id of an object; for a pause, that of its target.
fn name(item: &Value) -> Option<&str> {
    let target = &item["target"];
    [
        &item["id"],
        &item["task_id"],
        &item["task"],
        &item["letter"]["id"],
        &target["id"],
        &target["name"],
        &target["what"],
        &item["llm"],
    ]
    .into_iter()
    .find_map(Value::as_str)
}

/// Writes to stdout. A reader that closed the pipe is not an error.
pub(crate) fn print(text: &str) -> ExitCode {
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// The exit status of a command that has printed its answer.
pub(crate) fn exit_code(printed: ExitCode, good: bool) -> ExitCode {
    if good { printed } else { ExitCode::FAILURE }
}

/// Prints an error on standard error.
pub(crate) fn complain(error: &anyhow::Error) {
    let red = anstyle::AnsiColor::Red.on_default().bold();
    let words = crate::table::plain(&format!("{error:#}"));
    // If standard error is closed, nobody reads the message.
    let _ = writeln!(anstream::stderr(), "{red}error:{red:#} {words}");
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn names_and_lines_are_those_of_the_objects_of_an_answer() {
        let (one, two) = (json!({"id": "t-1"}), json!({"id": "t-2"}));
        let programmer = json!({"target": {"what": "programmer", "id": "003"}, "since": 1});
        let route = json!({"target": {"what": "route", "name": "fast.local"}, "since": 1});
        let all = json!({"target": {"what": "all"}, "since": 1});
        let cases = [
            (json!({"total": 2, "tasks": [one, two]}), "t-1\nt-2\n", 2),
            (json!([one, two]), "t-1\nt-2\n", 2),
            (json!([]), "", 0),
            (json!({"total": 0, "tasks": []}), "", 0),
            // A task shows its message too.
            (json!({"id": "t-1", "task": {"id": "t-9"}}), "t-1\n", 1),
            (json!({"task_id": "t-2", "retry_of": "t-1"}), "t-2\n", 1),
            // `why` names its task, and lists programmers as a detail.
            (
                json!({"task": "t-1", "programmers": [{"id": "003"}]}),
                "t-1\n",
                1,
            ),
            (
                json!({"pool_size": 1, "pauses": [], "programmers": [{"id": "003"}]}),
                "003\n",
                1,
            ),
            (
                json!({"pauses": [programmer, route, all]}),
                "003\nfast.local\nall\n",
                3,
            ),
        ];
        for (answer, expected, lines) in cases {
            let text = |format: Format| format.rendered(&answer, |_| String::new());
            assert_eq!(
                text(Format::Name).ok().as_deref(),
                Some(expected),
                "{answer}"
            );
            let jsonl = text(Format::Jsonl).expect("lines of JSON");
            assert_eq!(jsonl.lines().count(), lines, "one line an object: {jsonl}");
            for line in jsonl.lines() {
                serde_json::from_str::<Value>(line).expect("each line is JSON");
            }
        }
    }

    #[test]
    fn an_answer_without_ids_says_which_formats_it_has() {
        let error = Format::Name.rendered(&json!({"left_usd": "3"}), |_| String::new());
        let words = error
            .err()
            .map(|error| error.to_string())
            .unwrap_or_default();
        assert!(
            words.contains("no ids") && words.contains("jsonl"),
            "{words}"
        );
    }
}
