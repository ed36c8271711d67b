//! A queue has no limit unless the pool file sets one. With a limit, every request that meets a
//! full queue gets the same answer. `pool submit` says how many tasks were accepted, why the
//! rest waits, and how to go on.

use std::process::{Command, Output, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use pool_core::result::Status;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::support::amqp::channel;
use crate::support::api::http;
use crate::support::bench::Bench;
use crate::support::machine::program;
use crate::support::pool::{task, tasks};
use crate::support::{Pool, PoolFile, SOON, eventually};

/// Two programmers, and a limit of one waiting task for each.
fn narrow() -> PoolFile {
    PoolFile::sample()
        .only(&["001", "002"])
        .set("load_balancing.max_queue_per_programmer", json!(1))
}

fn without_ids(mut tasks: Vec<Value>) -> Vec<Value> {
    for task in &mut tasks {
        task.as_object_mut().expect("an object").remove("id");
    }
    tasks
}

fn file_of(pool: &Pool, name: &str, tasks: &[Value]) -> String {
    let file = pool.path().join(name);
    std::fs::write(&file, json!(tasks).to_string()).expect("a file of tasks");
    file.into_os_string()
        .into_string()
        .expect("a path in UTF-8")
}

fn said(done: &Output) -> (String, String) {
    (
        String::from_utf8_lossy(&done.stdout).into_owned(),
        String::from_utf8_lossy(&done.stderr).into_owned(),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_tasks_are_taken_at_once_though_those_who_could_do_some_of_them_are_down() {
    let mut file = PoolFile::sample().only(&["001", "009"]);
    file = file.with("load_balancing", json!({"health_check_interval_s": 3}));
    let mut pool = Pool::set_up_shared(&file).await;
    pool.start_dispatcher().await;
    let mut batch = tasks("list", 200);
    batch[..13]
        .iter_mut()
        .for_each(|task| task["capabilities"] = json!(["deepseek"]));
    // The limit for a debug build on a busy machine.
    let soon = Duration::from_secs(2);
    let began = Instant::now();
    let (status, answer) = pool.api().try_submit(&json!(batch)).await;
    assert_eq!(status, StatusCode::CREATED, "{answer}");
    assert!(
        began.elapsed() < soon,
        "a list over HTTP is accepted in time: {:?}",
        began.elapsed()
    );
    let file = file_of(&pool, "tasks.json", &without_ids(batch));
    let began = Instant::now();
    let done = pool.try_command_line(&["submit", &file]).await;
    let (listed, shown) = said(&done);
    assert!(
        done.status.success() && listed.contains("200 tasks submitted"),
        "{listed}{shown}"
    );
    assert!(
        began.elapsed() < soon,
        "the command line does not wait for programmers: {:?}",
        began.elapsed()
    );
    assert_eq!(
        pool.api().get("/tasks?status=queued&limit=1").await["total"],
        400,
        "all tasks wait"
    );
}

/// Checks the answer to a request that meets a full queue.
async fn meets_full_queue(pool: &Pool, what: &str, path: &str, body: &Value) {
    let answer = http()
        .post(format!("{}{path}", pool.url()))
        .json(body)
        .send()
        .await
        .expect("an answer");
    let (status, after) = (
        answer.status(),
        answer.headers().get("retry-after").cloned(),
    );
    let problem: Value = answer.json().await.expect("a problem");
    assert_eq!(status, StatusCode::TOO_MANY_REQUESTS, "{what}: {problem}");
    let after = after.and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    assert!(
        after.is_some_and(|seconds| seconds >= 1),
        "{what}: the answer says when to come again: {after:?}"
    );
    let detail = problem["detail"].as_str().unwrap_or_default();
    assert!(
        detail.contains("`any`") && detail.contains("at most 2"),
        "{what}: the answer names the queue and its limit: {detail}"
    );
    assert_eq!(
        problem["no_room"]["full"][0]["limit"], 2,
        "{what}: the answer says the same for programs: {problem}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_is_429_with_retry_after_whichever_way_a_task_comes() {
    let mut bench = Bench::with_file(narrow()).await;
    let none = json!({});
    // Two finished tasks, two that run, and two that wait.
    bench.pool.start_worker(&["--all"]);
    bench.pool.all_consume().await;
    bench.pool.api().submit(&json!(tasks("cancelled", 2))).await;
    bench.agents_started(2).await;
    for id in ["cancelled-1", "cancelled-2"] {
        bench.pool.command_line(&["cancel", id]).await;
    }
    bench.pool.all_consume().await;
    bench.pool.api().submit(&json!(tasks("runs", 2))).await;
    bench.agents_started(4).await;
    bench.pool.api().submit(&json!(tasks("waits", 2))).await;
    let pool = &bench.pool;
    meets_full_queue(pool, "one task", "/tasks", &task("one")).await;
    meets_full_queue(pool, "a list", "/tasks", &json!(tasks("list", 2))).await;
    meets_full_queue(
        pool,
        "a list that never fits",
        "/tasks",
        &json!({"tasks": tasks("list", 3)}),
    )
    .await;
    meets_full_queue(pool, "a retry", "/tasks/cancelled-1/retry", &none).await;
    meets_full_queue(
        pool,
        "one that runs, once more",
        "/tasks/runs-1/requeue",
        &json!({"force": true}),
    )
    .await;
    let api = pool.api();
    let (status, answer) = api
        .send(Method::POST, "/tasks/waits-1/requeue", &none)
        .await;
    assert_eq!(
        status,
        StatusCode::OK,
        "a waiting task has its place already: {answer}"
    );

    let (_connection, channel) = channel(&pool.amqp_url()).await;
    for id in ["unheard", "cancelled-2"] {
        let (options, properties) = (
            lapin::options::BasicPublishOptions::default(),
            lapin::BasicProperties::default(),
        );
        let instruction = if id == "unheard" {
            "new".to_owned()
        } else {
            format!("{id}: change something")
        };
        let body = json!({"id": id, "instruction": instruction, "repository": "app"}).to_string();
        let publish = channel.basic_publish(
            "pool.dlx".into(),
            "".into(),
            options,
            body.as_bytes(),
            properties,
        );
        publish.await.expect("a publish").await.expect("a confirm");
    }
    let letters = eventually("two dead letters", SOON, async || {
        let list = api.get("/dead").await["letters"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        (list.len() == 2).then_some(list)
    });
    for letter in letters.await {
        let path = format!("/dead/{}/retry", letter["id"].as_str().expect("an id"));
        meets_full_queue(pool, &format!("the dead letter {letter}"), &path, &none).await;
    }
    meets_full_queue(pool, "all dead letters", "/dead/retry", &none).await;
    assert_eq!(
        api.get("/dead").await["total"],
        2,
        "the letters are still there"
    );

    bench.go();
    for id in ["runs-1", "waits-2"] {
        assert_eq!(
            api.result(id, SOON).await.status,
            Status::Succeeded,
            "{id} is done"
        );
    }
    let (status, answer) = api
        .send(Method::POST, "/tasks/cancelled-1/retry", &none)
        .await;
    assert_eq!(status, StatusCode::OK, "the queue has room again: {answer}");
    let said = pool.command_line(&["dead", "retry", "--all"]).await;
    assert!(said.contains("2 messages retried"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_never_fits_is_told_to_come_in_parts() {
    let mut pool = Pool::set_up_shared(&narrow()).await;
    pool.start_dispatcher().await;
    let (status, problem) = pool.api().try_submit(&json!(tasks("list", 5))).await;
    assert_eq!(status, StatusCode::TOO_MANY_REQUESTS, "{problem}");
    assert_eq!(
        problem["no_room"]["fits"],
        json!([0, 1]),
        "the answer says how many fit now: {problem}"
    );
    let detail = problem["detail"].as_str().unwrap_or_default();
    assert!(
        detail.contains("at most 2 for `any`") && detail.contains("max_queue_per_programmer"),
        "{detail}"
    );
    assert!(detail.contains("Nothing was taken"), "{detail}");
    assert_eq!(pool.api().get("/tasks").await["total"], 0, "nothing was");
}

/// The command that the message gives, split as a shell does; `dispatcher` is the program of this
/// build.
fn command_in(words: &str) -> Vec<String> {
    let line = words.lines().find_map(|line| {
        line.trim()
            .strip_prefix("pool submit ")
            .map(|_| line.trim())
    });
    let line = line.unwrap_or_else(|| panic!("a line with the command: {words}"));
    shlex::split(line)
        .expect("words")
        .into_iter()
        .skip(1)
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_whose_programmers_are_down_comes_back_with_what_is_taken_and_how_to_go_on() {
    let mut pool = Pool::set_up_shared(&narrow()).await;
    pool.start_dispatcher().await;
    let file = file_of(&pool, "my tasks.json", &without_ids(tasks("batch", 6)));
    let done = pool
        .try_command_line(&[
            "submit",
            &file,
            "--give-up-after",
            "1",
            "--label",
            "run_id=it's",
        ])
        .await;
    let (ids, shown) = said(&done);
    assert_eq!(done.status.code(), Some(1), "{ids}{shown}");
    assert_eq!(
        ids.lines().filter(|line| line.starts_with("t-")).count(),
        2,
        "the ids of accepted tasks are printed: {ids}"
    );
    for words in [
        "2 of 6 tasks were submitted",
        "Prog-001",
        "down",
        "still to submit",
    ] {
        assert!(shown.contains(words), "it says {words:?}: {shown}");
    }
    pool.start_worker(&["--all"]);
    let again = command_in(&shown);
    let again: Vec<&str> = again.iter().map(String::as_str).chain(["--wait"]).collect();
    let done = pool.try_command_line(&again).await;
    let (results, shown) = said(&done);
    assert!(
        done.status.success() && results.contains("6 of 6 tasks succeeded"),
        "{again:?}: {results}{shown}"
    );
    assert_eq!(
        pool.api().get("/tasks?label=run_id=it%27s").await["total"],
        6,
        "each once"
    );
    let done = pool.try_command_line(&again).await;
    assert!(
        done.status.success(),
        "a third call changes nothing: {:?}",
        said(&done)
    );
    assert_eq!(pool.api().get("/tasks").await["total"], 6, "each once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_submitter_that_interrupts_a_batch_learns_what_is_taken_and_how_to_go_on() {
    let mut pool = Pool::set_up_shared(&narrow()).await;
    pool.start_dispatcher().await;
    let file = file_of(&pool, "tasks.json", &tasks("mine", 6));
    let shown = pool.path().join("shown");
    let mut command = Command::new(program("pool"));
    command
        .args(["submit", &file, "--wait"])
        .env("POOL_URL", pool.url().trim_end());
    command
        .stdout(Stdio::piped())
        .stderr(std::fs::File::create(&shown).expect("a file"));
    let submitting = command.spawn().expect("the command line runs");
    let words = async || std::fs::read_to_string(&shown).unwrap_or_default();
    eventually("the command says what it waits for", SOON, async || {
        words().await.contains("4 still to submit").then_some(())
    })
    .await;
    let pid = Pid::from_raw(submitting.id().cast_signed());
    nix::sys::signal::kill(pid, Signal::SIGINT).expect("a signal to a child of ours");
    let done = tokio::task::spawn_blocking(move || submitting.wait_with_output())
        .await
        .expect("a thread");
    let (done, shown) = (done.expect("it ends"), words().await);
    assert_eq!(
        done.status.code(),
        Some(130),
        "the exit status is that of an interrupted command: {shown}"
    );
    assert!(shown.contains("2 of 6 tasks were submitted"), "{shown}");
    pool.start_worker(&["--all"]);
    let again = command_in(&shown);
    assert_eq!(
        again,
        ["submit", &file, "--wait"],
        "its tasks have ids, so the same command continues"
    );
    let again: Vec<&str> = again.iter().map(String::as_str).collect();
    let done = pool.try_command_line(&again).await;
    assert!(done.status.success(), "{:?}", said(&done));
    assert_eq!(pool.api().get("/tasks").await["total"], 6, "each once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_of_more_than_the_queue_holds_waits_for_room() {
    let mut bench = Bench::with_file(narrow()).await;
    let batch = tasks("again", 8);
    for pair in batch.chunks(2) {
        bench.pool.api().submit(&json!(pair)).await;
        for task in pair {
            bench
                .pool
                .command_line(&["cancel", task["id"].as_str().expect("an id")])
                .await;
        }
    }
    bench.go();
    bench.pool.start_worker(&["--all"]);
    let ids: Vec<&str> = batch
        .iter()
        .filter_map(|task| task["id"].as_str())
        .collect();
    let done = bench
        .pool
        .try_command_line(&[&["retry"], &ids[..]].concat())
        .await;
    let (listed, shown) = said(&done);
    assert!(
        done.status.success() && listed.contains("8 tasks submitted again"),
        "{listed}{shown}"
    );
    assert!(
        shown.contains("the queue is full"),
        "the command says what it waits for: {shown}"
    );
}
