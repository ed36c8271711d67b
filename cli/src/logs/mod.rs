//! `pool logs`: prints what the agent and the acceptance checks of a task have printed. With
//! `--follow` it waits for more until the task has ended, over all attempts.

mod printer;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{anyhow, bail};
use futures_util::StreamExt as _;
use pool_api::events::Printed;
use pool_api::tasks::{Stage, TaskView};
use pool_api::why::Why;
use pool_core::id::{AttemptId, TaskId};
use pool_core::result::ResultMessage;
use sse_stream::{Sse, SseStream};

use crate::client::{Client, innermost};
use crate::output::{Format, OutputArgs, exit_code, print};
use crate::table::plain;
use crate::watch::details;
use printer::{NewOutput, Printer};

/// The dispatcher sends the output that it has at once; there may be none.
const SENT_WITHIN: Duration = Duration::from_secs(1);
/// Output may arrive a moment after the end of the task.
const LATE: Duration = Duration::from_millis(700);
const PAUSE: Duration = Duration::from_secs(1);

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Output goes to standard output, news of the task to standard error. With -o jsonl, each line is one JSON object.\n\n\
    Exit status: with --follow, 0 if the task succeeded, 1 if it did not.\n\nExamples:\n  \
    pool logs t-019b2c6de0c97d3a8f0c2b7f5e3a1d44\n  \
    pool logs t-019b2c6de0c97d3a8f0c2b7f5e3a1d44 --follow"
)]
pub(super) struct LogsArgs {
    /// The id of a task
    #[arg(add = crate::completions::tasks())]
    id: TaskId,
    /// Wait for more output until the task has ended; a waiting task may start later
    #[arg(short, long)]
    follow: bool,
    #[command(flatten)]
    output: OutputArgs,
}

pub(super) async fn run(args: LogsArgs) -> anyhow::Result<ExitCode> {
    let client = args.output.client()?;
    let format = args.output.format();
    if format == Format::Name {
        bail!("the output of a task has no ids to print; use the format table or jsonl");
    }
    let mut logs = Logs {
        path: format!("/tasks/{}", args.id),
        client,
        format,
        printer: Printer::default(),
        told: None,
        at_line_start: true,
        has_printed: false,
    };
    let view = logs.view().await?;
    if args.follow && view.finished_at.is_none() {
        return logs.follow(view).await;
    }
    logs.now(&view).await?;
    let good = !args.follow || view.status == Stage::Succeeded;
    Ok(exit_code(ExitCode::SUCCESS, good))
}

/// The reader of standard output is gone.
struct ReaderGone;

/// How a stream ended.
enum StreamEnd {
    /// With the task.
    Task(Box<TaskView>),
    Broken(anyhow::Error),
    ReaderGone,
}

struct Logs {
    path: String,
    client: Client,
    format: Format,
    printer: Printer,
    /// The last state that was told.
    told: Option<(Stage, Option<AttemptId>)>,
    at_line_start: bool,
    has_printed: bool,
}

impl Logs {
    async fn view(&self) -> anyhow::Result<TaskView> {
        self.client.get(&self.path).await
    }

    async fn events(
        &self,
    ) -> anyhow::Result<impl futures_util::Stream<Item = anyhow::Result<Sse>> + Unpin + use<>> {
        let path = format!("{}/events", self.path);
        let answer = self.client.events(&path, None).await?;
        let events = SseStream::from_bytes_stream(answer.bytes_stream());
        Ok(events.map(|event| {
            event.map_err(|error| anyhow!("the connection broke off ({})", innermost(&error)))
        }))
    }

    /// Prints the output that there is; after the end of the task, at least the end of it.
    async fn now(&mut self, view: &TaskView) -> anyhow::Result<()> {
        let mut events = self.events().await?;
        while let Ok(Some(event)) = tokio::time::timeout(SENT_WITHIN, events.next()).await {
            let event = event?;
            if event.event.as_deref() == Some("output") {
                // Nobody reads more if the reader is gone.
                let _ = self.print(&event)?;
                break;
            }
        }
        self.finish(view).await
    }

    async fn follow(&mut self, view: TaskView) -> anyhow::Result<ExitCode> {
        self.report_state(&view).await?;
        let mut lost = false;
        loop {
            match self.stream().await {
                StreamEnd::Task(view) => {
                    self.finish(&view).await?;
                    let good = view.status == Stage::Succeeded;
                    return Ok(exit_code(ExitCode::SUCCESS, good));
                }
                StreamEnd::ReaderGone => return Ok(ExitCode::FAILURE),
                StreamEnd::Broken(error) => {
                    if !std::mem::replace(&mut lost, true) {
                        eprintln!("{}; trying again", plain(&format!("{error:#}")));
                    }
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Prints the output of one connection, until it breaks or the task has ended.
    async fn stream(&mut self) -> StreamEnd {
        let mut events = match self.events().await {
            Ok(events) => events,
            Err(error) => return StreamEnd::Broken(error),
        };
        let mut ended = None;
        loop {
            let next = match &ended {
                None => events.next().await,
                Some(_) => tokio::time::timeout(LATE, events.next())
                    .await
                    .unwrap_or_default(),
            };
            let event = match (next, ended.take()) {
                (Some(Ok(event)), view) => {
                    ended = view;
                    event
                }
                (_, Some(view)) => return StreamEnd::Task(view),
                (Some(Err(error)), None) => return StreamEnd::Broken(error),
                (None, None) => {
                    let words = format!("the dispatcher at {} has ended", self.client.url());
                    return StreamEnd::Broken(anyhow!(words));
                }
            };
            match self.hear(&event).await {
                Ok(Ok(view)) => ended = ended.or(view),
                Ok(Err(ReaderGone)) => return StreamEnd::ReaderGone,
                Err(error) => return StreamEnd::Broken(error),
            }
        }
    }

    /// The task, if it has ended.
    async fn hear(
        &mut self,
        event: &Sse,
    ) -> anyhow::Result<Result<Option<Box<TaskView>>, ReaderGone>> {
        match event.event.as_deref() {
            Some("output") => Ok(self.print(event)?.map(|()| None)),
            // The log has something new about the task.
            Some("timeline") => {
                let view = self.view().await?;
                if view.finished_at.is_some() {
                    return Ok(Ok(Some(Box::new(view))));
                }
                self.report_state(&view).await?;
                Ok(Ok(None))
            }
            _ => Ok(Ok(None)),
        }
    }

    /// Says what the task does, if that is new.
    async fn report_state(&mut self, view: &TaskView) -> anyhow::Result<()> {
        let now = (view.status, view.attempt);
        if self.told.replace(now) == Some(now) {
            return Ok(());
        }
        let words = if view.status == Stage::Queued {
            let why: Why = self.client.get(&format!("{}/why", self.path)).await?;
            format!("{}: {}", view.id, why.sentence)
        } else {
            format!("{} is {}{}", view.id, view.status, details(view))
        };
        eprintln!("{}", plain(&words));
        Ok(())
    }

    fn print(&mut self, event: &Sse) -> anyhow::Result<Result<(), ReaderGone>> {
        let data = event.data.as_deref().unwrap_or_default();
        let printed: Printed = serde_json::from_str(data)?;
        let pieces = self.printer.take(printed);
        self.print_pieces(&pieces)
    }

    fn print_pieces(&mut self, pieces: &[NewOutput]) -> anyhow::Result<Result<(), ReaderGone>> {
        for piece in pieces {
            self.has_printed = true;
            let text = match self.format {
                Format::Table => text(piece, self.at_line_start),
                Format::Json | Format::Jsonl | Format::Name => {
                    format!("{}\n", serde_json::to_string(piece)?)
                }
            };
            self.at_line_start = text.ends_with('\n');
            if print(&text) != ExitCode::SUCCESS {
                return Ok(Err(ReaderGone));
            }
        }
        Ok(Ok(()))
    }

    /// Says how the task stands. If no live output is kept, prints the end of it from the result.
    async fn finish(&mut self, view: &TaskView) -> anyhow::Result<()> {
        if let Some(result) = &view.result
            && !self.has_printed
        {
            let ends = ends(result);
            if !ends.is_empty() {
                eprintln!("the whole output is no longer kept; this is the end of it");
            }
            // Nobody reads more if the reader is gone.
            let _ = self.print_pieces(&ends)?;
        }
        if !self.at_line_start {
            print("\n");
        }
        match (view.finished_at, self.has_printed) {
            (None, true) => {}
            (None, false) => {
                self.report_state(view).await?;
                eprintln!("it has printed nothing yet; --follow waits for its output");
            }
            (Some(_), _) => {
                let words = format!("{} {}{}", view.id, view.status, details(view));
                eprintln!("{}", plain(&words));
            }
        }
        Ok(())
    }
}

/// The text of a piece, with a heading where the output of another part begins.
fn text(piece: &NewOutput, at_line_start: bool) -> String {
    let text = plain(&piece.text.replace("\r\n", "\n"));
    if !piece.begins {
        return text;
    }
    let part = match (&piece.check, &piece.programmer) {
        (Some(check), _) => format!("check {check}"),
        (None, Some(programmer)) => format!("agent of {}", programmer.display_name()),
        (None, None) => "agent".to_owned(),
    };
    let line = if at_line_start { "" } else { "\n" };
    format!("{line}==> {}\n{text}", plain(&part))
}

/// The ends of the outputs that a result keeps.
fn ends(result: &ResultMessage) -> Vec<NewOutput> {
    let piece = |check: Option<String>, text: &str| NewOutput {
        attempt: result.attempt,
        programmer: result.programmer.clone(),
        check,
        text: format!("{}\n", text.trim_end()),
        begins: true,
    };
    let agent = piece(None, &result.log_tail);
    let checks = result
        .acceptance
        .iter()
        .map(|check| piece(Some(check.name.clone()), &check.output_tail));
    std::iter::once(agent)
        .chain(checks)
        .filter(|piece| !piece.text.trim().is_empty())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_begins_with_a_heading_on_its_own_line_and_terminals_obey_nothing() {
        let piece = |check: Option<&str>, text: &str, begins| NewOutput {
            attempt: None,
            programmer: pool_core::id::ProgrammerId::new("003").ok(),
            check: check.map(ToOwned::to_owned),
            text: text.to_owned(),
            begins,
        };
        let cases = [
            (
                piece(None, "hi\r\n", true),
                true,
                "==> agent of Prog-003\nhi\n",
            ),
            (piece(None, "more", false), false, "more"),
            (
                piece(Some("unit tests"), "ok\n", true),
                false,
                "\n==> check unit tests\nok\n",
            ),
            (piece(None, "\u{1b}[2J", false), true, "\u{fffd}[2J"),
        ];
        for (piece, at_line_start, expected) in cases {
            assert_eq!(text(&piece, at_line_start), expected, "{piece:?}");
        }
    }
}
