//! The command line as people and scripts use it: what `watch` follows, exit codes, and the
//! messages when something is wrong.

use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use crate::support::bench::Bench;
use crate::support::machine::program;
use crate::support::pool::{task, tasks};
use crate::support::process::Running;
use crate::support::{Pool, PoolFile, SOON, eventually};

const SECRET: &str = "a-token-of-this-test";

/// `pool watch`, running beside a test.
struct Watch(Running);

impl Watch {
    fn start(pool: &Pool, name: &str, arguments: &[&str]) -> Self {
        let mut command = Command::new(program("pool"));
        command
            .arg("watch")
            .args(arguments)
            .env("POOL_URL", pool.url().trim_end());
        Self(Running::start(name, &pool.path().join("logs"), &command))
    }

    /// Runs it in its own terminal, which `script` makes.
    fn in_a_terminal(pool: &Pool, arguments: &str) -> Self {
        let mut command = Command::new("script");
        let words = format!("{} watch {arguments}", program("pool").display());
        command.args(["--quiet", "--return", "--command", &words, "/dev/null"]);
        command
            .env("POOL_URL", pool.url().trim_end())
            .env("TERM", "xterm-256color");
        Self(Running::start(
            "watch-terminal",
            &pool.path().join("logs"),
            &command,
        ))
    }

    fn printed(&self) -> String {
        self.0.log()
    }

    /// Its lines of JSON.
    fn events(&self) -> Vec<Value> {
        let printed = self.printed();
        let whole = printed
            .split_inclusive('\n')
            .filter(|line| line.ends_with('\n'));
        whole
            .map(|line| serde_json::from_str(line).expect("one object per line"))
            .collect()
    }

    /// Waits until it has printed these words; gives all that it has printed.
    async fn says(&self, words: &str) -> String {
        let what = format!("it prints {words:?}");
        eventually(&what, SOON, async || {
            Some(self.printed()).filter(|printed| printed.contains(words))
        })
        .await
    }

    async fn tells(&self, what: &str, fits: impl Fn(&Value) -> bool) {
        eventually(what, SOON, async || {
            self.events().iter().any(&fits).then_some(())
        })
        .await;
    }
}

fn of_task<'a>(id: &'a str, status: &'a str) -> impl Fn(&Value) -> bool + 'a {
    move |event| {
        event["event"] == "task" && event["task"]["id"] == id && event["task"]["status"] == status
    }
}

fn of_dispatcher(state: &str) -> impl Fn(&Value) -> bool + '_ {
    move |event| event["event"] == "dispatcher" && event["state"] == state
}

#[tokio::test(flavor = "multi_thread")]
async fn watch_tells_what_happens_and_what_has_happened_while_its_dispatcher_was_gone() {
    let mut pool = Pool::start(&PoolFile::sample().only(&["001"])).await;
    let address = pool
        .url()
        .trim_end()
        .trim_start_matches("http://")
        .to_owned();
    let watch = Watch::start(&pool, "watch-json", &["--format", "json"]);
    let words = Watch::start(&pool, "watch-words", &[]);
    watch
        .tells("the programmer is there", |event| {
            event["programmer"]["agent"] == "Prog-001"
        })
        .await;
    pool.api().submit(&task("first")).await;
    watch
        .tells("a task has succeeded", of_task("first", "succeeded"))
        .await;
    // Only a watch that is connected by now has something to miss.
    words.says("first succeeded by Prog-001").await;

    pool.kill_dispatcher();
    watch
        .tells("its dispatcher is gone", of_dispatcher("lost"))
        .await;
    pool.start_dispatcher().await;
    pool.api().submit(&task("missed")).await;
    pool.api().result("missed", SOON).await;
    pool.start_dispatcher_at(&address, &[]).await;
    watch
        .tells(
            "the event that it has missed",
            of_task("missed", "succeeded"),
        )
        .await;
    let events = watch.events();
    let count = |fits: &dyn Fn(&Value) -> bool| events.iter().filter(|event| fits(event)).count();
    // A busy machine may make a dispatcher's view of the log old for a moment: `degraded`, and then
    // `connected` again.
    let mut states: Vec<&Value> = events
        .iter()
        .filter(|event| event["event"] == "dispatcher" && event["state"] != "degraded")
        .map(|event| &event["state"])
        .collect();
    states.dedup_by(|next, last| next == last && **next == "connected");
    assert_eq!(
        states,
        ["connected", "lost", "connected"],
        "a lost connection is reported once, and so is its end: {events:#?}"
    );
    assert_eq!(
        count(&of_task("first", "succeeded")),
        1,
        "no event is repeated"
    );
    let told = events
        .iter()
        .rfind(|event| of_task("missed", "succeeded")(event))
        .expect("an event");
    // The words come from the history, which a dispatcher that has just started may still be
    // reading.
    let without_words = |mut task: Value| {
        task.as_object_mut().expect("a task").remove("summary");
        task
    };
    let listed = pool.api().get("/tasks").await["tasks"][0].clone();
    assert_eq!(
        without_words(told["task"].clone()),
        without_words(listed),
        "the event has the task as the API shows it"
    );
    let said = words.says("missed succeeded by Prog-001").await;
    assert!(
        !said.contains('\u{1b}'),
        "without a terminal there are no colors"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn watch_ends_with_its_tasks_and_says_by_its_status_how() {
    let mut bench = Bench::with(&["001"]).await;
    bench.pool.start_worker(&["--all"]);
    bench.pool.all_consume().await;
    let mut these = tasks("run", 2);
    these
        .iter_mut()
        .for_each(|task| task["labels"] = json!({"run_id": "7"}));
    // The first task runs before the second one comes: of two at once either could run first.
    bench.pool.api().submit(&these[0]).await;
    bench.agents_started(1).await;
    bench.pool.api().submit(&these[1]).await;
    let mut run = Watch::start(
        &bench.pool,
        "watch-run",
        &["--label", "run_id=7", "--format", "json"],
    );
    run.tells("one waits", of_task("run-2", "queued")).await;
    let mut cancelled = Watch::start(&bench.pool, "watch-task", &["--task", "run-2"]);
    let mut terminal = Watch::in_a_terminal(&bench.pool, "--task run-1");
    bench.pool.api().delete("/tasks/run-2").await;
    assert_eq!(
        cancelled.0.ended().await.code(),
        Some(1),
        "the status is 1 for a task that did not succeed: {:?}",
        cancelled.printed()
    );
    bench.go();
    assert_eq!(
        terminal.0.ended().await.code(),
        Some(0),
        "the status is 0 for a task that succeeded: {:?}",
        terminal.printed()
    );
    assert_eq!(
        run.0.ended().await.code(),
        Some(1),
        "the status is 1 if one of two tasks did not succeed: {:?}",
        run.printed()
    );
    run.tells(
        "the other task has succeeded",
        of_task("run-1", "succeeded"),
    )
    .await;

    let drawn = terminal.printed();
    let (begin, end) = ("\u{1b}[?1049h", "\u{1b}[?1049l");
    assert!(
        drawn.contains(begin) && drawn.contains("Prog-001"),
        "on a terminal it draws a full screen: {drawn:?}"
    );
    let left = drawn.rsplit(end).next().unwrap_or_default();
    assert!(
        drawn.contains(end) && left.contains("run-1 succeeded"),
        "it leaves the outcome on the terminal: {left:?}"
    );
}

async fn run(arguments: &[&str], env: &[(&str, &str)]) -> Output {
    run_program("pool", arguments, env).await
}

async fn run_program(name: &str, arguments: &[&str], env: &[(&str, &str)]) -> Output {
    let mut command = Command::new(program(name));
    command
        .args(arguments)
        .env_remove("POOL_URL")
        .env_remove("POOL_API_TOKEN")
        .envs(env.iter().copied());
    command.stdin(Stdio::null());
    tokio::task::spawn_blocking(move || command.output())
        .await
        .expect("a thread")
        .expect("the command runs")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The arguments, the dispatcher's URL, the environment; the exit status, and parts of the message.
type Case<'a> = (
    &'a [&'a str],
    &'a str,
    &'a [(&'a str, &'a str)],
    i32,
    &'a [&'a str],
);

#[tokio::test(flavor = "multi_thread")]
async fn every_error_says_what_to_do() {
    let mut pool = Pool::set_up_shared(&PoolFile::sample().only(&["001"])).await;
    pool.start_dispatcher_at("127.0.0.1:0", &[("POOL_API_TOKEN", SECRET)])
        .await;
    let url = pool.url().trim_end().to_owned();
    let other = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let nobody = format!("http://{}", other.local_addr().expect("an address"));
    drop(other);
    let with: &[(&str, &str)] = &[("POOL_API_TOKEN", SECRET)];
    let wrong: &[(&str, &str)] = &[("POOL_API_TOKEN", "another-token-altogether")];
    let cases: [Case<'_>; 8] = [
        (
            &["status"],
            &nobody,
            &[],
            1,
            &["no dispatcher answers at", "dispatcher serve", "POOL_URL"],
        ),
        (&["status"], "ftp://x", &[], 2, &["--url", "http://"]),
        (
            &["status"],
            &format!("{url}/elsewhere"),
            &[],
            1,
            &["no such path"],
        ),
        (
            &["pause", "--all"],
            &url,
            &[],
            1,
            &["needs the token", "set POOL_API_TOKEN"],
        ),
        (
            &["pause", "--all"],
            &url,
            wrong,
            1,
            &["wrong token", "set POOL_API_TOKEN"],
        ),
        (
            &["show", "unknown"],
            &url,
            with,
            1,
            &["no task `unknown`", "pool tasks"],
        ),
        (
            &["watch", "--task", "unknown"],
            &url,
            with,
            1,
            &["no task `unknown`"],
        ),
        (
            &["pause", "--programmer", "009"],
            &url,
            with,
            1,
            &["no programmer 009", "001"],
        ),
    ];
    for (arguments, url, env, status, parts) in cases {
        let output = run(&[arguments, &["--url", url]].concat(), env).await;
        let error = said(&output);
        assert_eq!(output.status.code(), Some(status), "{arguments:?}: {error}");
        assert!(
            output.stdout.is_empty() || arguments[0] == "watch",
            "errors do not go to standard output"
        );
        for part in parts {
            assert!(error.contains(part), "{arguments:?} says {part:?}: {error}");
        }
        assert!(
            !error.contains('\u{1b}'),
            "without a terminal there are no colors: {error:?}"
        );
    }
    let colored = said(&run(&["status", "--url", &nobody, "--color", "always"], &[]).await);
    assert!(
        colored.starts_with('\u{1b}'),
        "--color always turns colors on: {colored:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn bash_completes_commands_options_and_values() {
    let complete = |words: &'static [&'static str]| async move {
        let script = r#"source <("$0" completions bash) && COMP_WORDS=(pool "$@") && COMP_CWORD=$#
            complete=$(complete -p pool) && [[ $complete =~ -F\ ([^ ]+) ]]
            "${BASH_REMATCH[1]}" pool "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}" && echo "${COMPREPLY[*]}""#;
        let mut command = Command::new("bash");
        command
            .args(["-c", script])
            .arg(program("pool"))
            .args(words);
        let done = tokio::task::spawn_blocking(move || command.output())
            .await
            .expect("a thread")
            .expect("bash runs");
        assert!(done.status.success(), "{}", said(&done));
        String::from_utf8_lossy(&done.stdout).trim().to_owned()
    };
    assert_eq!(complete(&["wa"]).await, "watch", "a command");
    assert_eq!(
        complete(&["dead", "re"]).await,
        "retry",
        "the commands of a command"
    );
    assert_eq!(complete(&["watch", "--la"]).await, "--label", "an option");
    assert_eq!(
        complete(&["watch", "--format", ""]).await,
        "table json jsonl name",
        "a value"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_dispatcher_names_the_command_that_has_a_subcommand_now() {
    for (words, named) in [
        (&["submit", "--wait"][..], "`pool submit`"),
        (&["why", "a-task"], "`pool why`"),
        (&["sumbit"], "`pool --help`"),
    ] {
        let done = run_program("dispatcher", words, &[]).await;
        assert_eq!(
            done.status.code(),
            Some(2),
            "{words:?}: a wrong command line"
        );
        assert!(said(&done).contains(named), "{words:?}: {}", said(&done));
    }
}
