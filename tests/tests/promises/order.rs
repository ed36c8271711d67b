//! The order in which waiting tasks start: first those that few programmers can do, and of one
//! submission the longest expected first.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use pool_core::event::{Event, TaskEvent, TaskFinished, TaskStarted};
use pool_core::id::{AttemptId, ProgrammerId, TaskId};
use pool_core::time::Timestamp;
use serde_json::{Value, json};

use crate::support::event_log::Entry;
use crate::support::pool::task;
use crate::support::pool_file::PROGRAMMERS;
use crate::support::{Pool, PoolFile, SOON, eventually};

const LONG: Duration = Duration::from_secs(120);
/// The programmers of the sample pool that offer `fast`.
const FAST: [&str; 5] = ["001", "002", "003", "004", "005"];
/// Works as many seconds as the last word of the instruction says.
const AGENT: &str = r#"
sleep "$(sed -n 's/.*works \([0-9.]*\).*/\1/p' "$1" | head -n 1)"
echo done >>readme.txt
"#;

fn workers() -> PoolFile {
    PoolFile::sample().command(&["/bin/sh", "-c", AGENT, "agent", "{prompt_file}"])
}

fn works(id: &str, seconds: &str, capabilities: &[&str]) -> Value {
    let mut task = task(id);
    task["instruction"] = json!(format!("works {seconds}"));
    task["capabilities"] = json!(capabilities);
    task
}

/// One attempt, in milliseconds of the log's time.
#[derive(Debug, Clone)]
struct Run {
    task: TaskId,
    programmer: ProgrammerId,
    started: u64,
    finished: u64,
}

impl Run {
    fn takes(&self) -> u64 {
        self.finished - self.started
    }
}

/// The attempts in the order in which they started.
fn runs(entries: &[Entry]) -> Vec<Run> {
    let mut running: BTreeMap<AttemptId, Run> = BTreeMap::new();
    let mut runs = Vec::new();
    for entry in entries.iter().filter(|entry| entry.accepted) {
        let Timestamp(at) = entry.at;
        match &entry.decision {
            Event::Task(TaskEvent::Started(TaskStarted {
                task,
                attempt,
                programmer,
                ..
            })) => {
                let run = Run {
                    task: task.clone(),
                    programmer: programmer.clone(),
                    started: at,
                    finished: at,
                };
                running.insert(*attempt, run);
            }
            Event::Task(TaskEvent::Finished(TaskFinished {
                attempt: Some(attempt),
                ..
            })) => {
                let run = running
                    .remove(attempt)
                    .expect("a finished attempt was started");
                runs.push(Run {
                    finished: at,
                    ..run
                });
            }
            _ => {}
        }
    }
    runs.sort_by_key(|run| run.started);
    runs
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_that_few_programmers_can_do_start_before_those_that_all_can_do() {
    let pool = Pool::start_alone(&workers()).await;
    // All programmers are busy with the first ones when the special ones come.
    let any = |number: usize| works(&format!("any-{number}"), "0.8", &[]);
    let fast = |number: usize| works(&format!("fast-{number}"), "0.8", &["fast"]);
    let tasks: Vec<Value> = (0..60)
        .map(any)
        .chain((0..30).map(fast))
        .chain((60..80).map(any))
        .collect();
    let mut log = pool.event_log().await;
    pool.api().submit(&json!(tasks)).await;
    log.finished(110, LONG).await;

    let runs = runs(log.read().await);
    let is_fast = |run: &&Run| run.task.as_str().starts_with("fast-");
    let published = log
        .entries
        .iter()
        .filter(|entry| entry.is("published") && entry.text("task").starts_with("fast-"));
    let Timestamp(since) = published
        .map(|entry| entry.at)
        .min()
        .expect("they were published");
    let mut free: Vec<u64> = FAST
        .iter()
        .map(|id| {
            let own = runs.iter().filter(|run| run.programmer.as_str() == *id);
            let busy = own
                .filter(|run| run.started <= since && !is_fast(run))
                .map(|run| run.finished);
            busy.max().unwrap_or(since).max(since)
        })
        .collect();
    let (mut possible, mut made) = (since, since);
    for run in runs.iter().filter(is_fast) {
        let next = free.iter_mut().min().expect("a programmer");
        possible = possible.max(*next);
        *next += run.takes();
        made = made.max(run.started);
    }
    let (possible, made) = (possible - since, made - since);
    eprintln!("the last special task starts after {made} ms; possible are {possible} ms");
    assert!(
        made * 10 <= possible * 11,
        "the last special task starts after {made} ms; possible are {possible} ms"
    );
    let others: BTreeSet<&str> = runs
        .iter()
        .filter(|run| !is_fast(run) && run.started < since + made)
        .map(|run| run.programmer.as_str())
        .collect();
    assert!(
        PROGRAMMERS
            .iter()
            .filter(|id| !FAST.contains(id))
            .all(|id| others.contains(id)),
        "meanwhile the other programmers do other tasks: {others:?}"
    );
}

/// Sixty durations in milliseconds, from a lognormal distribution (median 0.2 s, sigma 1, at most
/// 3 s). The longest come last.
fn heavy_tailed() -> Vec<u64> {
    let quantile = |number: u32| {
        // Tukey's approximation of the normal quantile.
        let p = (f64::from(number) + 0.5) / 60.0;
        let normal = (p.powf(0.135) - (1.0 - p).powf(0.135)) / 0.1975;
        let ms = (200.0 * normal.exp()).min(3000.0);
        u64::try_from(Duration::from_secs_f64(ms / 1000.0).as_millis()).expect("seconds")
    };
    (0..60).map(quantile).collect()
}

/// How long all took, over what is possible: the sum by ten, or the longest.
fn over_possible(runs: &[Run]) -> f64 {
    let began = runs.iter().map(|run| run.started).min().expect("a run");
    let ended = runs.iter().map(|run| run.finished).max().expect("a run");
    let longest = runs.iter().map(Run::takes).max().expect("a run");
    let sum: u64 = runs.iter().map(Run::takes).sum();
    let possible = longest.max(sum / 10);
    eprintln!(
        "{} ms; possible are {possible} ms (longest {longest} ms)",
        ended - began
    );
    Duration::from_millis(ended - began).as_secs_f64()
        / Duration::from_millis(possible).as_secs_f64()
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_that_were_done_before_start_with_the_longest_and_end_as_soon_as_possible() {
    let pool = Pool::start_alone(&workers()).await;
    let mut log = pool.event_log().await;
    let mut ratios = Vec::new();
    for round in ["first", "again"] {
        let tasks: Vec<Value> = heavy_tailed()
            .iter()
            .enumerate()
            .map(|(number, ms)| {
                works(
                    &format!("{round}-{number}"),
                    &format!("{}.{:03}", ms / 1000, ms % 1000),
                    &[],
                )
            })
            .collect();
        pool.api().submit(&json!(tasks)).await;
        let waiting = pool.api().get(&format!("/tasks/{round}-59/why")).await;
        let sentence = waiting["sentence"].as_str().unwrap_or_default().to_owned();
        log.finished(60 * (ratios.len() + 1), LONG).await;
        let runs: Vec<Run> = runs(log.read().await)
            .into_iter()
            .filter(|run| run.task.as_str().starts_with(round))
            .collect();
        ratios.push(over_possible(&runs));
        eprintln!(
            "{round}: {:.2} of what is possible; {sentence}",
            ratios[ratios.len() - 1]
        );
        eventually("the dispatcher has read all results", SOON, async || {
            let all = (0..60).map(|number| format!("/tasks/{round}-{number}"));
            for path in all {
                if pool.api().get(&path).await["result"].is_null() {
                    return None;
                }
            }
            Some(())
        })
        .await;
    }
    assert!(
        ratios[1] <= 1.15,
        "all are done after {:.2} of what is possible; before they were known it was {:.2}",
        ratios[1],
        ratios[0]
    );
}
