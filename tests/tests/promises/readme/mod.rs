//! Runs every command and every request of the README, the guide and the references of the book as it stands there. The order
//! is that of a newcomer: first the quick start, then the rest against the pool that it has started. `plan` names the examples
//! that are not run, with the reasons.

mod by_hand;
mod page;
mod plan;
mod requests;

use std::path::Path;
use std::process::Output;
use std::time::Duration;

use lapin::BasicProperties;
use lapin::options::BasicPublishOptions;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::support::amqp::channel;
use crate::support::checkout::Checkout;
use crate::support::process::Running;
use crate::support::{Api, Repository, SOON, eventually};
use crate::third_party::python;
use page::Page;
use plan::{How, IN_BLOCKS, IN_LINES, OTHER_BLOCKS};

/// The id of the task in the README.
const SHOWN_ID: &str = "t-01a2090547ec74cf9ee3dc543c64f42b";
/// The limit for twelve tasks with the real aider, in a debug build, on two busy cores.
const TASKS_WITHIN: Duration = Duration::from_secs(400);

#[test]
fn every_example_of_the_readme_is_run_or_named_with_the_reason_why_not() {
    let page = Page::read();
    let calls: Vec<String> = page.calls().into_iter().map(|call| call.command).collect();
    let planned: Vec<&str> = IN_BLOCKS.iter().map(|(command, _)| *command).collect();
    assert_eq!(
        calls, planned,
        "commands of blocks, in their order, and their places in readme/plan.rs"
    );
    let in_lines = page.commands_in_lines();
    for command in &in_lines {
        assert!(
            IN_LINES.iter().any(|(known, _)| known == command),
            "`{command}` has no place in readme/plan.rs"
        );
    }
    for (known, _) in IN_LINES {
        assert!(
            in_lines.iter().any(|command| command == known),
            "`{known}` is in readme/plan.rs and on no page"
        );
    }
    for (command, how) in IN_BLOCKS.iter().chain(IN_LINES) {
        if let How::NotHere(reason) = how {
            assert!(
                !reason.is_empty(),
                "`{command}` is not run, so it needs a reason"
            );
        }
    }
    let others = page
        .blocks
        .iter()
        .filter(|block| !["console", "sh"].contains(&block.language.as_str()));
    for block in others {
        let known = |(language, words, _): &&(&str, &str, &str)| {
            block.language == *language && block.text.contains(words)
        };
        assert_eq!(
            OTHER_BLOCKS.iter().filter(known).count(),
            1,
            "this block has no place in readme/plan.rs: {block:?}"
        );
    }
    for (language, words, _) in OTHER_BLOCKS {
        page.block(language, words);
    }
}

/// The newcomer's shell.
struct Shell<'a> {
    checkout: &'a Checkout,
    page: &'a Page,
    variables: Vec<(&'static str, String)>,
}

impl Shell<'_> {
    /// Runs a line in bash, after the lines that every example assumes.
    fn run_in(&self, directory: &Path, line: &str) -> Output {
        let assumed = &self
            .page
            .block("sh", "export $(scripts/local-pool env)")
            .text;
        let script = format!(
            "set -eu; cd '{}'\n{assumed}\nset -o pipefail; cd '{}'\n{line}",
            self.checkout.path().display(),
            directory.display()
        );
        let mut command = self.checkout.command(Path::new("bash"));
        command
            .args(["-c", &script])
            .envs(self.variables.iter().map(|(name, value)| (name, value)));
        // A program of this test that answers instead of a provider.
        let llm = std::fs::read_to_string(self.checkout.path().join(".pool/run/llm.port"))
            .unwrap_or_default();
        for provider in ["OLLAMA", "ANTHROPIC", "OPENAI", "DEEPSEEK"] {
            command.env(
                format!("POOL_{provider}_URL"),
                format!("http://127.0.0.1:{}/v1", llm.trim()),
            );
        }
        command.output().expect("bash runs")
    }

    fn run(&self, line: &str) -> Output {
        self.run_in(self.checkout.path(), line)
    }

    /// The output of a line, which must end with status 0.
    fn prints(&self, line: &str) -> String {
        let done = self.run(line);
        let said = String::from_utf8_lossy(&done.stdout).into_owned();
        assert!(
            done.status.success(),
            "{line}\n{said}{}",
            String::from_utf8_lossy(&done.stderr)
        );
        said
    }

    fn api(&self) -> Api {
        Api::at(self.checkout.value("POOL_URL").expect("the pool runs"))
    }

    /// The command of a block as it stands there, and the output that the page shows.
    fn shown(&self, command: &str) -> (String, String) {
        let call = self
            .page
            .calls()
            .into_iter()
            .find(|call| call.command.starts_with(command));
        let call = call.unwrap_or_else(|| panic!("a page has a command {command:?}"));
        (call.command, call.printed)
    }
}

/// A line with one blank between its words.
fn words(line: &str) -> String {
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The lines of the page that are not shortened, without rules.
fn whole_lines(text: &str) -> impl Iterator<Item = String> {
    text.lines()
        .map(words)
        .filter(|line| !line.is_empty() && !line.contains('…') && !line.starts_with('─'))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_and_request_of_the_readme_works_as_it_stands_there() {
    let page = Page::read();
    let checkout = Checkout::with_programs().await;
    let mut quickstart = the_quick_start(&checkout, &page).await;
    let done = Repository::at(&checkout.path().join(".pool/sample"));
    let mut shell = Shell {
        checkout: &checkout,
        page: &page,
        variables: Vec::new(),
    };
    the_task_of_the_readme(&shell, &done);
    let task = a_task_and_its_result(&shell, &done).await;
    submitting(&shell);
    from_any_amqp_client(&shell);
    configuration(&shell);
    acceptance_checks(&shell);
    let dead = bury(&checkout.value("AMQP_URL").expect("a broker"), &shell.api()).await;
    shell.variables = vec![
        ("DONE", task),
        ("WAITS", "waits".to_owned()),
        ("DEAD", dead),
    ];
    for (command, how) in IN_BLOCKS.iter().chain(IN_LINES) {
        match how {
            How::AsItStands => {
                drop(shell.prints(&command.replace(SHOWN_ID, &shell.variables[0].1)))
            }
            How::Lines(lines) => lines.iter().for_each(|line| drop(shell.prints(line))),
            How::Closely | How::NotHere(_) => {}
        }
    }
    shell.prints("pool pause --all");
    requests::all(&shell).await;
    shell.prints("pool resume --all");

    kill(
        Pid::from_raw(quickstart.pid().cast_signed()),
        Signal::SIGINT,
    )
    .expect("Ctrl-C");
    quickstart.ended().await;
    let (status, said) = checkout.pool(&["status"]);
    assert_eq!(
        (status, said.contains("running")),
        (Some(3), false),
        "Ctrl-C stops everything: {said}"
    );
    in_the_background_with_another_file(&shell);
}

/// Runs the first page until it says that it runs.
async fn the_quick_start(checkout: &Checkout, page: &Page) -> Running {
    // These tests inherit an ignored SIGINT when a shell starts them in the background, and so
    // would the quick start.
    let mut command = checkout.command(Path::new("/usr/bin/env"));
    command
        .arg("--default-signal=INT")
        .arg(checkout.path().join("scripts/quickstart"));
    command.env("PYTHONDONTWRITEBYTECODE", "1");
    let mut quickstart = Running::start("quickstart", checkout.path(), &command);
    let runs = async || {
        let said = quickstart.log();
        assert!(
            quickstart.is_running(),
            "the quick start still runs: {said}"
        );
        said.contains("Running. Ctrl-C stops everything.")
            .then_some(said)
    };
    let said = eventually("the quick start runs", TASKS_WITHIN, runs).await;
    let printed = &page.calls()[0].printed;
    // Other lines differ here, because the build is a debug build and aider is installed already.
    let fixed = [
        "==> Installing",
        "==> Starting",
        "==> Twelve",
        "==> One",
        "==> Where",
        "task ",
        "12 of 12",
        "Running.",
    ];
    for line in printed
        .lines()
        .filter(|line| fixed.iter().any(|begins| line.starts_with(begins)))
    {
        let line = words(line);
        // The costs depend on how often a programmer has to try.
        let line = line.split(", $").next().unwrap_or_default();
        assert!(
            said.lines().any(|other| words(other).starts_with(line)),
            "the output has {line:?}: {said}"
        );
    }
    quickstart
}

/// `task.json` from the command line: its table, and its patch in a clone.
fn the_task_of_the_readme(shell: &Shell<'_>, sample: &Repository) {
    let path = shell.checkout.path();
    let words = "\"instruction\": \"Write the function median";
    let task = &shell.page.block("json", words).text;
    for other in shell.page.blocks_with("json", words) {
        assert_eq!(&other.text, task, "the guide shows the task of the README");
    }
    std::fs::write(path.join("task.json"), task).expect("task.json");
    let (submit, printed) = shell.shown("pool submit task.json --wait");
    let said = shell.prints(&submit);
    assert_eq!(
        ends(&said),
        ends(&printed),
        "the head of the table, and the sum"
    );
    let row = said.lines().find(|line| line.contains("succeeded"));
    let id = row
        .and_then(|row| row.split_whitespace().next())
        .expect("the id of the task");
    let (show, _) = shell.shown("pool show");
    assert!(
        shell
            .prints(&show.replace(SHOWN_ID, id))
            .contains("succeeded"),
        "it shows {id}"
    );
    let (patch, _) = shell.shown("pool patch");
    applies(shell, sample, &patch.replace(SHOWN_ID, id));
}

/// The words of the first and the last line of a table.
fn ends(text: &str) -> [String; 2] {
    let text = text.trim_end();
    [text.lines().next(), text.lines().last()].map(|line| words(line.unwrap_or_default()))
}

/// The command changes a fresh clone.
fn applies(shell: &Shell<'_>, sample: &Repository, patch: &str) {
    let place = tempfile::TempDir::new().expect("a directory");
    let clone = sample.fresh_clone(&place.path().join("clone"));
    let applied = shell.run_in(clone.path(), patch);
    assert!(
        applied.status.success(),
        "the patch applies: {}",
        String::from_utf8_lossy(&applied.stderr)
    );
    assert!(
        !clone.git(&["diff", "--stat"]).is_empty(),
        "and changes something"
    );
}

/// Runs the examples with `task.json` over HTTP: its answer, its result, its patch.
async fn a_task_and_its_result(shell: &Shell<'_>, sample: &Repository) -> String {
    let (submit, printed) = shell
        .shown("curl -s \"$POOL_URL/tasks\" -H 'content-type: application/json' -d @task.json");
    let answer: Value = serde_json::from_str(&shell.prints(&submit)).expect("JSON");
    assert!(
        printed.contains(r#""status":"queued","route":"fast""#),
        "the answer is that of the page: {printed}"
    );
    // A free programmer may have claimed it already.
    assert!(
        ["queued", "running"]
            .iter()
            .any(|status| answer["status"] == *status),
        "{answer}"
    );
    assert_eq!(answer["route"], "fast", "{answer}");
    let id = answer["id"].as_str().expect("an id").to_owned();
    shell.api().result(&id, TASKS_WITHIN).await;
    let task: Value =
        serde_json::from_str(&shell.prints(&format!("curl -s \"$POOL_URL/tasks/{id}\"")))
            .expect("JSON");
    // The page shortens lists and texts, and adds the patch.
    let shown = shell
        .page
        .block("json", "\"task_id\"")
        .text
        .replace("[…]", "[]");
    let shown: Value = serde_json::from_str(&shown).expect("the result on the page is JSON");
    for (key, value) in shown
        .as_object()
        .expect("an object")
        .iter()
        .filter(|(key, _)| *key != "patch")
    {
        let real = &task["result"][key];
        assert!(!real.is_null(), "a result must have `{key}`: {task}");
        for inner in value
            .as_object()
            .into_iter()
            .flatten()
            .map(|(inner, _)| inner)
        {
            assert!(
                !real[inner].is_null(),
                "a result must have `{key}.{inner}`: {task}"
            );
        }
    }
    assert_eq!(task["result"]["status"], shown["status"], "{task}");
    let (patch, _) = shell.shown(&format!("curl -s \"$POOL_URL/tasks/{SHOWN_ID}/patch\""));
    applies(shell, sample, &patch.replace(SHOWN_ID, &id));

    let (refused, printed) =
        shell.shown("curl -s \"$POOL_URL/tasks\" -H 'content-type: application/json' -d '[");
    let answer: Value = serde_json::from_str(&shell.prints(&refused)).expect("JSON");
    let printed: Value = serde_json::from_str(&printed).expect("the answer on the page is JSON");
    assert_eq!(
        answer, printed,
        "the answer to mistakes is that of the page"
    );
    id
}

fn submitting(shell: &Shell<'_>) {
    let (one, printed) = shell.shown("pool submit --repository sample");
    let said = shell.prints(&one);
    assert_eq!(
        ends(&said),
        ends(&printed),
        "the head of the table and the sum are those of the page"
    );
    let (dry, printed) = shell.shown("pool submit config/trial/tasks.yaml --dry-run");
    let said: Vec<String> = shell.prints(&dry).lines().map(words).collect();
    for line in whole_lines(&printed) {
        assert!(said.contains(&line), "the output has {line:?}: {said:?}");
    }
    let (_, printed) = shell.shown("pool budget");
    let head = shell.prints("pool budget");
    assert_eq!(
        ends(&head)[0],
        ends(&printed)[0],
        "the head of the table is that of the page"
    );
}

fn from_any_amqp_client(shell: &Shell<'_>) {
    let file = shell.checkout.path().join("example.py");
    std::fs::write(
        &file,
        &shell.page.block("python", "pika.BlockingConnection").text,
    )
    .expect("a file");
    let said = shell.prints(&format!("{} {}", python(), file.display()));
    assert!(
        said.starts_with("succeeded") && said.contains("+++"),
        "the output has status and patch: {said}"
    );
}

/// Checks the pool files of the pages, and the one with two mistakes.
fn configuration(shell: &Shell<'_>) {
    let path = shell.checkout.path();
    for shown in shell.page.blocks_with("yaml", "programmers:") {
        std::fs::write(path.join("shown.yaml"), &shown.text).expect("a file");
        shell.prints("pool check --pool shown.yaml");
    }
    let sample = std::fs::read_to_string(path.join("config/pool.yaml")).expect("config/pool.yaml");
    let wrong = sample.replacen("primary_llm: openai/gpt-4o", "primary_llm: opnai/gpt-4o", 1);
    let wrong = wrong.replacen("max_retries:", "max_retrys:", 1);
    std::fs::write(path.join("my-pool.yaml"), wrong).expect("a file");
    let (check, printed) = shell.shown("pool check --pool my-pool.yaml");
    let done = shell.run(&check);
    let said = [&done.stdout[..], &done.stderr]
        .map(String::from_utf8_lossy)
        .concat();
    assert_eq!(done.status.code(), Some(2), "{said}");
    assert_eq!(
        said.trim(),
        printed.trim(),
        "lines, keys and words are those of the page"
    );
}

/// The task of the page about acceptance checks passes them.
fn acceptance_checks(shell: &Shell<'_>) {
    let task = &shell.page.block("json", "month_total fails").text;
    std::fs::write(shell.checkout.path().join("checked.json"), task).expect("a file");
    let said = shell.prints("pool submit checked.json --wait");
    assert!(said.contains("1/1"), "its check passes: {said}");
}

/// Makes a dead letter; gives its id.
async fn bury(url: &str, api: &Api) -> String {
    let (_connection, channel) = channel(url).await;
    let (options, properties) = (
        BasicPublishOptions::default(),
        BasicProperties::default().with_delivery_mode(2),
    );
    let publish =
        channel.basic_publish("pool.dlx".into(), "".into(), options, b"hello", properties);
    publish.await.expect("a publish").await.expect("a confirm");
    let id = async || {
        api.get("/dead").await["letters"][0]["id"]
            .as_str()
            .map(ToOwned::to_owned)
    };
    eventually("it is a dead letter", SOON, id).await
}

/// Runs `scripts/local-pool` with the file for real LLMs. No task is submitted.
fn in_the_background_with_another_file(shell: &Shell<'_>) {
    let file = shell.checkout.path().join("config/pool.yaml");
    let text = std::fs::read_to_string(&file).expect("config/pool.yaml");
    // Another pool on this machine may have its health ports.
    let free = |line: &str| {
        if line.trim_start().starts_with("port: ") {
            "    port: 0".to_owned()
        } else {
            line.to_owned()
        }
    };
    std::fs::write(
        &file,
        text.lines()
            .map(|line| free(line) + "\n")
            .collect::<String>(),
    )
    .expect("a file");
    let (start, _) = shell.shown("scripts/local-pool start --pool");
    let done = shell.checkout.run(Path::new("bash"), &["-euc", &start]);
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(
        done.status.success() && said.contains("the pool is ready after"),
        "{said}"
    );
    assert_eq!(
        shell.checkout.pool(&["stop", "--now"]).0,
        Some(0),
        "and ends"
    );
}
