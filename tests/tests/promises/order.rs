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
use crate::support::{EventLog, Pool, PoolFile, SOON, eventually};

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

/// How long ten programmers take for tasks of these durations in this order, over what is possible:
/// a tenth of the sum, or the longest.
fn over_possible(durations: &[u64]) -> f64 {
    let mut free = [0u64; 10];
    for takes in durations {
        *free.iter_mut().min().expect("a programmer") += takes;
    }
    let made = *free.iter().max().expect("a programmer");
    let longest = *durations.iter().max().expect("a task");
    let possible = longest.max(durations.iter().sum::<u64>() / 10);
    Duration::from_millis(made).as_secs_f64() / Duration::from_millis(possible).as_secs_f64()
}

/// The number of the task in its round: `again-7`.
fn number(run: &Run) -> usize {
    let (_, number) = run.task.as_str().split_once('-').expect("round-number");
    number.parse().expect("a number")
}

/// Judges the order in which tasks start, as if they took as long as they did the first time: a busy
/// machine changes durations, not the order.
#[tokio::test(flavor = "multi_thread")]
async fn tasks_that_were_done_before_start_with_the_longest_and_end_as_soon_as_possible() {
    let pool = Pool::start_alone(&workers()).await;
    let mut log = pool.event_log().await;
    let first = round(&pool, &mut log, "first").await;
    let mut takes = [0; 60];
    for run in &first {
        takes[number(run)] = run.takes();
    }
    eventually("the dispatcher has read all results", SOON, async || {
        for number in 0..60 {
            if pool.api().get(&format!("/tasks/first-{number}")).await["result"].is_null() {
                return None;
            }
        }
        Some(())
    })
    .await;
    let again = round(&pool, &mut log, "again").await;
    let in_order: Vec<u64> = again.iter().map(|run| takes[number(run)]).collect();
    let (as_it_came, made) = (over_possible(&takes), over_possible(&in_order));
    eprintln!("{made:.2} of what is possible; {as_it_came:.2} in the order of the list");
    assert!(
        made <= 1.15,
        "all are done after {made:.2} of what is possible; in the order of the list after {as_it_came:.2}"
    );
}

/// Submits the sixty tasks together; gives their attempts in the order in which they started.
async fn round(pool: &Pool, log: &mut EventLog, round: &str) -> Vec<Run> {
    let seconds = |ms: &u64| format!("{}.{:03}", ms / 1000, ms % 1000);
    let tasks: Vec<Value> = heavy_tailed()
        .iter()
        .enumerate()
        .map(|(number, ms)| works(&format!("{round}-{number}"), &seconds(ms), &[]))
        .collect();
    pool.api().submit(&json!(tasks)).await;
    let before = log
        .entries
        .iter()
        .filter(|entry| entry.is("finished"))
        .count();
    log.finished(before + 60, LONG).await;
    let of_round = |run: &Run| run.task.as_str().starts_with(round);
    runs(log.read().await)
        .into_iter()
        .filter(of_round)
        .collect()
}
