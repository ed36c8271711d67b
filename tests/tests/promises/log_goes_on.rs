//! A process that has lost its connection reads the event log on from its last message. If the log is not the one that it
//! has read, it reads the whole log.

use std::path::{Path, PathBuf};

use crate::support::field::REPAIRED_WITHIN;
use crate::support::{Api, Field, SOON, eventually};

/// How often a process has read the log, from `first` or `last`.
async fn readings(process: &Api, from: &str) -> u32 {
    let begins = format!("pool_log_reads_total{{from=\"{from}\"}} ");
    let text = process.text("/metrics").await;
    let value = text.lines().find_map(|line| line.strip_prefix(&begins));
    value.map_or(0, |value| value.parse().expect("a count"))
}

/// The HTTP API of the dispatcher, and of one programmer of each worker.
async fn processes(field: &Field) -> Vec<Api> {
    let status = field.pool.status().await;
    let of = |id: &str| format!("http://127.0.0.1:{}", status.programmer(id)["port"]);
    let programmers = ["001", "003"].map(|id| Api::at(of(id)));
    std::iter::once(field.pool.api())
        .chain(programmers)
        .collect()
}

async fn all_have_read(processes: &[Api], from: &str, times: u32) {
    for process in processes {
        let what = format!("{} has read the log from {from}", process.url());
        eventually(&what, SOON * 2, async || {
            (readings(process, from).await >= times).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_lost_connection_the_log_is_read_on_from_the_last_message() {
    let mut field = Field::quick().await;
    Field::submit(&mut field.books, "before", 10).await;
    field.books.settled(REPAIRED_WITHIN).await;
    let processes = processes(&field).await;
    all_have_read(&processes, "first", 1).await;
    let close = ["close_all_connections", "--global", "for a test"];
    field
        .broker
        .node
        .control(&close)
        .await
        .expect("it closes them");
    all_have_read(&processes, "last", 1).await;
    field.broker.crash().await;
    all_have_read(&processes, "last", 2).await;
    field.pool.all_consume().await;
    Field::submit(&mut field.books, "after", 10).await;
    field.books.settled(REPAIRED_WITHIN).await;
    for process in &processes {
        let first = readings(process, "first").await;
        assert_eq!(
            first,
            1,
            "{} has not read the whole log again",
            process.url()
        );
    }
    field.books.close(&mut field.pool, REPAIRED_WITHIN).await;
}

/// The directories in which the node keeps its streams.
fn streams(inside: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(inside).into_iter().flatten().flatten();
    let directories = entries
        .map(|entry| entry.path())
        .filter(|path| path.is_dir());
    let streams = directories.flat_map(|path| match path.file_name() {
        Some(name) if name == "stream" => vec![path],
        Some(_) | None => streams(&path),
    });
    streams.collect()
}

fn copy(from: &Path, to: &Path) {
    let copied = std::process::Command::new("cp")
        .arg("-a")
        .arg(from)
        .arg(to)
        .status();
    assert!(
        copied.is_ok_and(|status| status.success()),
        "a copy of {}",
        from.display()
    );
}

/// A host that crashes loses what the kernel had not written yet: streams are not synced before a confirm.
#[tokio::test(flavor = "multi_thread")]
async fn after_the_broker_has_lost_the_end_of_the_log_the_whole_log_is_read() {
    let mut field = Field::quick().await;
    Field::submit(&mut field.books, "kept", 10).await;
    field.books.settled(REPAIRED_WITHIN).await;
    let processes = processes(&field).await;
    let node = &field.broker.node;
    node.stop().await.expect("the broker stops");
    let streams = streams(node.data());
    let saved = tempfile::tempdir().expect("a directory");
    let of = |number: usize| saved.path().join(number.to_string());
    for (number, stream) in streams.iter().enumerate() {
        copy(stream, &of(number));
    }
    assert!(!streams.is_empty(), "the node has streams");
    node.start().await.expect("the broker is up again");
    all_have_read(&processes, "last", 1).await;
    field.pool.all_consume().await;
    let api = field.pool.api();
    for number in 0..10 {
        api.submit(&crate::support::pool::task(&format!("lost-{number}")))
            .await;
        api.result(&format!("lost-{number}"), REPAIRED_WITHIN).await;
    }

    node.stop().await.expect("the broker stops");
    for (number, stream) in streams.iter().enumerate() {
        std::fs::remove_dir_all(stream).expect("the streams as they are");
        copy(&of(number), stream);
    }
    node.start().await.expect("the broker is up again");
    all_have_read(&processes, "first", 2).await;
    for process in &processes {
        let last = readings(process, "last").await;
        assert_eq!(last, 1, "{} does not go on in another log", process.url());
    }
    field.pool.all_consume().await;
    let (status, answer) = api.try_get("/tasks/lost-1").await;
    assert_eq!(
        status,
        reqwest::StatusCode::NOT_FOUND,
        "its events are gone: {answer}"
    );
    Field::submit(&mut field.books, "after", 10).await;
    field.books.close(&mut field.pool, REPAIRED_WITHIN).await;
}
