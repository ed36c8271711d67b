//! The pool's queues are bounded: a submitter to a full queue has to wait, and no accepted task is
//! dropped.

use std::io::Write as _;
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use lapin::options::ExchangeDeleteOptions;
use pool_core::result::Status;
use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::support::amqp::channel;
use crate::support::machine::{program, share_cores};
use crate::support::own_broker::{OwnBroker, Pair};
use crate::support::pool::{task, tasks};
use crate::support::{Books, Pool, PoolFile, SOON, eventually};

/// Two programmers with five places each.
fn narrow() -> PoolFile {
    PoolFile::sample()
        .only(&["001", "002"])
        .set("load_balancing.max_queue_per_programmer", json!(5))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_submitter_to_a_full_queue_learns_when_to_come_again_and_how_much_room_there_is() {
    let mut pool = Pool::set_up_shared(&narrow()).await;
    pool.start_dispatcher().await;
    let api = pool.api();
    let (status, said) = api.try_submit(&json!(tasks("many", 11))).await;
    assert_eq!(
        status,
        StatusCode::TOO_MANY_REQUESTS,
        "eleven tasks at once never fit: {said}"
    );
    let detail = said["detail"].as_str().unwrap_or_default();
    assert!(
        detail.contains("at most 10 for `any`") && detail.contains("max_queue_per_programmer"),
        "{detail}"
    );
    assert_eq!(
        said["no_room"]["fits"].as_array().map(Vec::len),
        Some(10),
        "the answer says that ten would fit: {said}"
    );
    assert_eq!(api.get("/tasks").await["total"], 0, "nothing was taken");

    api.submit(&json!(tasks("many", 8))).await;
    let answer = api
        .post(
            json!(tasks("more", 3)).to_string(),
            &[("content-type", "application/json")],
        )
        .await;
    assert_eq!(
        answer.status(),
        StatusCode::TOO_MANY_REQUESTS,
        "eight and three tasks are more than ten"
    );
    let after = answer
        .headers()
        .get("retry-after")
        .and_then(|value| value.to_str().ok())
        .and_then(|text| text.parse().ok());
    assert!(
        after.is_some_and(|seconds: u64| (1..=60).contains(&seconds)),
        "the answer says when to come again: {after:?}"
    );
    let said: Value = answer.json().await.expect("JSON");
    let full = &said["no_room"]["full"][0];
    let numbers = ["waiting", "limit", "room", "wanted"].map(|name| full[name].as_u64());
    assert_eq!(
        (&full["route"], numbers),
        (&json!("any"), [Some(8), Some(10), Some(2), Some(3)]),
        "{said}"
    );
    assert!(
        said["detail"]
            .as_str()
            .is_some_and(|text| text.contains("8 of at most 10 tasks wait for `any`")),
        "the answer says the same in words: {said}"
    );
    assert_eq!(
        api.get("/tasks").await["total"],
        8,
        "none of the three was taken"
    );

    api.submit(&json!(tasks("more", 2))).await;
    let (status, said) = api.try_submit(&task("one")).await;
    assert_eq!(
        status,
        StatusCode::TOO_MANY_REQUESTS,
        "there is no room for one more task: {said}"
    );
    let (status, said) = api.try_submit(&json!(tasks("more", 2))).await;
    assert_eq!(
        status,
        StatusCode::OK,
        "an accepted task needs no more room: {said}"
    );
    let mut fast = task("fast");
    fast["capabilities"] = json!(["fast"]);
    let (status, _) = api.try_submit(&fast).await;
    assert_eq!(
        status,
        StatusCode::TOO_MANY_REQUESTS,
        "the task is for the same two programmers and their queue"
    );

    pool.start_worker(&["--all"]);
    for id in ["many-1", "many-8", "more-2"] {
        assert_eq!(
            api.result(id, SOON).await.status,
            Status::Succeeded,
            "{id} is done"
        );
    }
    api.submit(&task("one")).await;
    assert_eq!(
        api.result("one", SOON).await.status,
        Status::Succeeded,
        "there is room again"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_hands_in_more_than_the_queue_holds_and_says_that_it_waits() {
    let agent = ["/bin/sh", "-c", "sleep 0.2; echo four >>readme.txt"];
    let pool = Pool::start(&narrow().command(&agent)).await;
    let file = pool.path().join("tasks.json");
    let mut batch = tasks("batch", 60);
    for task in &mut batch[30..] {
        task.as_object_mut().expect("an object").remove("id");
    }
    std::fs::write(&file, json!(batch).to_string()).expect("a file of tasks");
    let done = pool
        .try_command_line(&["submit", file.to_str().expect("a path in UTF-8"), "--wait"])
        .await;
    let (said, shown) = (
        String::from_utf8_lossy(&done.stdout),
        String::from_utf8_lossy(&done.stderr),
    );
    assert!(done.status.success(), "{said}{shown}");
    assert!(said.contains("60 of 60 tasks succeeded"), "{said}");
    let waits = shown
        .lines()
        .find(|line| line.contains("still to submit"))
        .unwrap_or_default();
    assert!(
        waits.starts_with("the queue is full: ") && waits.contains("waiting for `any`; "),
        "{shown}"
    );
    assert_eq!(pool.api().get("/tasks").await["total"], 60, "each once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_submitter_that_does_not_wait_for_results_sees_the_ids_as_the_queue_takes_the_tasks() {
    let agent = ["/bin/sh", "-c", "sleep 0.2; echo four >>readme.txt"];
    let pool = Pool::start(&narrow().command(&agent)).await;
    let file = pool.path().join("tasks.json");
    std::fs::write(&file, json!(tasks("part", 40)).to_string()).expect("a file of tasks");
    let done = pool
        .try_command_line(&["submit", file.to_str().expect("a path in UTF-8")])
        .await;
    let (said, shown) = (
        String::from_utf8_lossy(&done.stdout),
        String::from_utf8_lossy(&done.stderr),
    );
    assert!(done.status.success(), "{said}{shown}");
    let mut ids: Vec<&str> = said
        .lines()
        .filter(|line| line.starts_with("part-"))
        .collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(
        (ids.len(), said.lines().count()),
        (40, 41),
        "each id is printed once, one per line, and then their number: {said}"
    );
    assert!(said.contains("40 tasks submitted"), "{said}");
    assert_eq!(
        shown
            .matches("the tasks printed so far are submitted")
            .count(),
        1,
        "the meaning of the ids is explained once: {shown}"
    );
    let waits = shown
        .lines()
        .filter(|line| line.contains("still to submit"))
        .count();
    assert!(
        (1..=3).contains(&waits),
        "not every change prints a line: {shown}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_while_its_list_is_taken_leaves_nothing_half_done() {
    const COUNT: usize = 500;
    let mut pool = Pool::set_up_shared(&PoolFile::sample().only(&["001"])).await;
    pool.start_dispatcher().await;
    let mut log = pool.event_log().await;
    let address = pool
        .api()
        .url()
        .strip_prefix("http://")
        .expect("a URL")
        .trim()
        .to_owned();
    let body = json!(tasks("list", COUNT)).to_string();
    let head = format!(
        "POST /tasks HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let mut client = TcpStream::connect(&address).expect("the API");
    client
        .write_all(head.as_bytes())
        .and_then(|()| client.write_all(body.as_bytes()))
        .expect("a request");
    log.follow("the first ones are taken", SOON, |entries| {
        entries
            .iter()
            .find(|entry| entry.is("submitted"))
            .map(|_| ())
    })
    .await;
    drop(client);
    log.follow("all are in their queue", SOON * 2, |entries| {
        (entries.iter().filter(|entry| entry.is("published")).count() == COUNT).then_some(())
    })
    .await;
    let submitter = pool.submitter("auditor").await;
    assert_eq!(
        submitter.depth_if_any("tasks.any").await,
        u32::try_from(COUNT).ok(),
        "each once"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_was_taken_in_part_comes_with_ids_and_can_be_sent_again_as_a_whole() {
    let mut pool = Pool::set_up_shared(&PoolFile::sample().only(&["001"])).await;
    pool.start_dispatcher().await;
    let api = pool.api();
    let mut list = tasks("part", 3);
    api.submit(&list[0]).await;
    list[2].as_object_mut().expect("an object").remove("id");
    let (_connection, channel) = channel(&pool.amqp_url()).await;
    channel
        .exchange_delete("pool.tasks".into(), ExchangeDeleteOptions::default())
        .await
        .expect("the exchange is there");
    let (status, said) = api.try_submit(&json!(list)).await;
    assert_eq!(
        status,
        StatusCode::SERVICE_UNAVAILABLE,
        "two of the three tasks cannot be published: {said}"
    );
    assert!(
        said["retry_after_s"].is_u64(),
        "the answer says when to come again: {said}"
    );
    let failed: Vec<u64> = said["errors"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|e| e["index"].as_u64())
        .collect();
    assert_eq!(failed, [1, 2], "the first task was accepted before: {said}");
    let ids: Vec<&str> = said["ids"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    assert_eq!(
        ids[..2],
        ["part-1", "part-2"],
        "each task of the list has an id: {said}"
    );
    assert_eq!(
        said["errors"][1]["id"], ids[2],
        "the id that the dispatcher made is among them: {said}"
    );
    assert!(
        said["detail"]
            .as_str()
            .is_some_and(|text| text.contains("2 of 3") && text.contains(ids[2])),
        "{said}"
    );

    // The next dispatcher declares and binds the missing parts.
    pool.start_dispatcher().await;
    for (task, id) in list.iter_mut().zip(&ids) {
        task["id"] = json!(id);
    }
    let again = api.submit(&json!(list)).await;
    assert_eq!(
        again.as_array().map(Vec::len),
        Some(3),
        "all are taken: {again}"
    );
    pool.start_worker(&["--all"]);
    for id in &ids {
        assert_eq!(
            api.result(id, SOON).await.status,
            Status::Succeeded,
            "{id} is done"
        );
    }
    let mut log = pool.event_log().await;
    log.read().await;
    for id in ids {
        assert_eq!(log.starts(id).len(), 1, "{id} once");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn results_wait_for_a_dispatcher_that_does_nothing_and_all_are_delivered_when_it_goes_on() {
    const TASKS: usize = 400;
    let mut pool = Pool::start(&PoolFile::sample().only(&["001", "002"])).await;
    let mut books = Books::open(&pool).await;
    let slow = pool.take_dispatcher();
    slow.freeze();
    for number in 1..=TASKS {
        books
            .over_amqp("any", &task(&format!("waits-{number}")))
            .await;
    }
    // The workers write the outcomes themselves, because no dispatcher does.
    pool.event_log().await.finished(TASKS, SOON * 4).await;
    slow.thaw();
    books.settled(SOON * 4).await;
    let memory = memory_mib(slow.pid());
    assert!(
        memory < 300,
        "it takes only as many results as it can handle: {memory} MiB"
    );
    slow.kill();
    let report = books.close(&mut pool, SOON).await;
    assert_eq!(
        (report.tasks, report.repeated_starts),
        (TASKS, 0),
        "{report}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_broker_has_an_alarm_submitters_are_told_to_come_again_and_the_command_line_waits()
 {
    let _cores = share_cores().await;
    let broker = OwnBroker::start("").await;
    let pair = Pair::at(broker.url(), json!({"timeout_s": 600}));
    let _processes = (pair.dispatcher(), pair.worker());
    let api = pair.api().await;
    eventually("the programmer is there", SOON, async || {
        (api.status().await["available"] == 1).then_some(())
    })
    .await;
    broker
        .control(&["set_disk_free_limit", "1000000000000000"])
        .await;
    let answer = api
        .post(
            task("now").to_string(),
            &[("content-type", "application/json")],
        )
        .await;
    assert_eq!(
        answer.status(),
        StatusCode::SERVICE_UNAVAILABLE,
        "it cannot be taken now"
    );
    assert!(
        answer.headers().contains_key("retry-after"),
        "the answer says when to come again: {:?}",
        answer.headers()
    );

    let directory = tempfile::tempdir().expect("a directory");
    let (tasks_file, shown) = (
        directory.path().join("tasks.json"),
        directory.path().join("shown"),
    );
    std::fs::write(&tasks_file, json!(tasks("patient", 3)).to_string()).expect("a file of tasks");
    let mut command = Command::new(program("pool"));
    command
        .arg("submit")
        .arg(&tasks_file)
        .arg("--wait")
        .env("POOL_URL", api.url());
    command
        .stdout(Stdio::piped())
        .stderr(std::fs::File::create(&shown).expect("a file"));
    let submitting = command.spawn().expect("the command line runs");
    eventually("the command says that it waits", SOON, async || {
        let said = std::fs::read_to_string(&shown).unwrap_or_default();
        (said.contains("low on disk") && said.contains("waiting, 3 still to submit")).then_some(())
    })
    .await;
    broker.control(&["set_disk_free_limit", "1000000"]).await;
    let done = tokio::task::spawn_blocking(move || submitting.wait_with_output())
        .await
        .expect("a thread");
    let done = done.expect("it ends");
    let said = String::from_utf8_lossy(&done.stdout);
    assert!(
        said.contains("3 of 3 tasks succeeded"),
        "{said}{}",
        std::fs::read_to_string(&shown).unwrap_or_default()
    );
}

/// Resident memory of a process in MiB.
fn memory_mib(pid: u32) -> u64 {
    let status =
        std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process is there");
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM:"))
        .expect("its peak");
    let kib: u64 = line
        .split_whitespace()
        .nth(1)
        .and_then(|number| number.parse().ok())
        .expect("a number");
    kib / 1024
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes and measures: scripts/test -p pool-tests --test promises -- --ignored a_hundred_thousand --nocapture"]
async fn a_hundred_thousand_waiting_tasks_are_held_in_bounded_memory() {
    const LISTS: usize = 20;
    const EACH: usize = 5_000;
    let mut pool = Pool::set_up_alone(&PoolFile::sample().only(&["001", "002"])).await;
    pool.start_dispatcher().await;
    let api = pool.api();
    let began = Instant::now();
    for list in 0..LISTS {
        api.submit(&json!(tasks(&format!("list{list}"), EACH)))
            .await;
    }
    eprintln!(
        "{} tasks taken in {:.1} s",
        LISTS * EACH,
        began.elapsed().as_secs_f64()
    );
    let worker = pool.start_worker(&["--all"]);
    let done = eventually(
        "two thousand are done",
        Duration::from_secs(180),
        async || {
            let done = api.get("/tasks?status=succeeded&limit=1").await["total"].as_u64();
            done.filter(|done| *done >= 2_000)
        },
    );
    let done = done.await;
    let (dispatcher, worker) = (
        memory_mib(pool.dispatcher_pid()),
        memory_mib(pool.worker(worker).pid()),
    );
    eprintln!("peaks after {done} of them: dispatcher {dispatcher} MiB, worker {worker} MiB");
    assert!(dispatcher < 400, "the dispatcher needs {dispatcher} MiB");
    assert!(worker < 400, "the worker needs {worker} MiB");
    pool.kill_dispatcher();
    let began = Instant::now();
    pool.start_dispatcher().await;
    eprintln!(
        "a dispatcher that reads all of it serves after {:.1} s",
        began.elapsed().as_secs_f64()
    );
    let open = pool.api().status().await["open_tasks"]
        .as_u64()
        .expect("a number");
    assert!(open > 90_000, "it knows all open tasks: {open}");
}
