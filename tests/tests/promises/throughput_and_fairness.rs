//! A programmer does one task at a time, and no programmer is idle while a task waits that it can
//! do.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use pool_core::event::{Event, TaskEvent, TaskFinished, TaskStarted, TaskSubmitted};
use pool_core::id::{AttemptId, Capability, ProgrammerId, TaskId};
use pool_core::routing::{Routes, queue_name};
use pool_core::time::Timestamp;
use serde_json::{Value, json};

use crate::support::event_log::Entry;
use crate::support::pool::task;
use crate::support::pool_file::{PROGRAMMERS, ROUTES, offered};
use crate::support::{Pool, PoolFile};

const TASKS: usize = 200;
/// Works for 300 ms, marked by a directory. If the directory exists, a second agent of its
/// programmer runs.
const AGENT: &str = r#"
who="${2##*-}"
mkdir "$1/alive-$who" || echo "$who" >>"$1/two-at-once"
from="$(date +%s%3N)"
sleep 0.3
echo "$who" >>readme.txt
rmdir "$1/alive-$who"
echo "$who $from $(date +%s%3N)" >>"$1/runs"
"#;

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_tasks_never_meet_at_one_programmer_and_never_wait_beside_an_idle_one() {
    let stamps = tempfile::tempdir().expect("a directory for stamps");
    let directory = stamps.path().to_str().expect("a path in UTF-8");
    let file = PoolFile::sample()
        .writable(stamps.path())
        .command(&["/bin/sh", "-c", AGENT, "agent", directory, "{model}"]);
    let pool = Pool::start_alone(&file).await;
    let tasks: Vec<Value> = (0..TASKS)
        .map(|n| {
            let mut task = task(&format!("t{n}"));
            task["capabilities"] = json!(ROUTES[n % ROUTES.len()]);
            task
        })
        .collect();
    let mut log = pool.event_log().await;
    pool.api().submit(&json!(tasks)).await;
    log.finished(TASKS, Duration::from_secs(120)).await;

    let succeeded = pool.api().get("/tasks?status=succeeded&limit=1").await;
    assert_eq!(succeeded["total"], TASKS, "every task succeeded");
    assert_eq!(
        lines(directory, "runs"),
        TASKS,
        "every agent has run to its end"
    );
    assert_eq!(
        lines(directory, "two-at-once"),
        0,
        "no programmer ever had two agents"
    );
    let entries = log.read().await;
    assert_eq!(
        overlaps(entries),
        Vec::<String>::new(),
        "no programmer had two tasks at once"
    );
    judge_waits(waits(entries));
}

fn lines(directory: &str, file: &str) -> usize {
    std::fs::read_to_string(format!("{directory}/{file}"))
        .unwrap_or_default()
        .lines()
        .count()
}

fn judge_waits(mut waits: Vec<Duration>) {
    waits.sort_unstable();
    let at = |percent: usize| waits[(waits.len() - 1) * percent / 100];
    eprintln!(
        "{} waits: median {:?}, p95 {:?}, max {:?}",
        waits.len(),
        at(50),
        at(95),
        at(100)
    );
    assert!(
        waits.len() > TASKS / 2,
        "most tasks were waiting when their programmer became free: {}",
        waits.len()
    );
    assert!(
        at(95) <= Duration::from_millis(250),
        "p95 of the way from one task to the next is {:?}",
        at(95)
    );
    assert!(
        at(100) <= Duration::from_secs(2),
        "the longest way from one task to the next is {:?}",
        at(100)
    );
}

/// The starts of programmers that had a task already.
fn overlaps(entries: &[Entry]) -> Vec<String> {
    let mut busy: HashMap<ProgrammerId, (TaskId, AttemptId)> = HashMap::new();
    let mut overlaps = Vec::new();
    for entry in entries.iter().filter(|entry| entry.accepted) {
        match &entry.decision {
            Event::Task(TaskEvent::Started(TaskStarted {
                task,
                attempt,
                programmer,
                ..
            })) => {
                if let Some((other, _)) = busy.insert(programmer.clone(), (task.clone(), *attempt))
                {
                    overlaps.push(format!("{programmer} started {task} while it had {other}"));
                }
            }
            Event::Task(TaskEvent::Finished(TaskFinished {
                attempt: Some(attempt),
                ..
            })) => busy.retain(|_, (_, running)| running != attempt),
            _ => {}
        }
    }
    overlaps
}

/// A gap is the time of a programmer from `finished` to its next `started`. For each gap: how long,
/// at its end, a task that the programmer could take has waited in the log.
fn waits(entries: &[Entry]) -> Vec<Duration> {
    let routes = sample_routes();
    let mut waiting: BTreeMap<String, BTreeSet<TaskId>> = BTreeMap::new();
    let mut owner: HashMap<AttemptId, ProgrammerId> = HashMap::new();
    let mut free_since: BTreeMap<ProgrammerId, Option<Timestamp>> = BTreeMap::new();
    let mut waits = Vec::new();
    for Entry { at, decision, .. } in entries.iter().filter(|entry| entry.accepted) {
        match decision {
            Event::Task(TaskEvent::Submitted(TaskSubmitted { task, route, .. })) => {
                waiting
                    .entry(route.clone())
                    .or_default()
                    .insert(task.clone());
            }
            Event::Task(TaskEvent::Started(TaskStarted {
                task,
                attempt,
                programmer,
                route,
                ..
            })) => {
                if let Some(Some(since)) = free_since.remove(programmer) {
                    waits.push(at.since(since));
                }
                waiting.entry(route.clone()).or_default().remove(task);
                owner.insert(*attempt, programmer.clone());
            }
            Event::Task(TaskEvent::Finished(TaskFinished {
                attempt: Some(attempt),
                ..
            })) => {
                free_since.insert(owner[attempt].clone(), None);
            }
            _ => {}
        }
        for (programmer, since) in &mut free_since {
            let work = routes
                .of(programmer)
                .iter()
                .any(|route| waiting.get(&route.name).is_some_and(|t| !t.is_empty()));
            *since = if work { since.or(Some(*at)) } else { None };
        }
    }
    waits
}

fn sample_routes() -> Routes {
    let capabilities = |id: &str| {
        offered(id)
            .iter()
            .map(|word| Capability::new(*word).expect("a capability"))
            .collect()
    };
    let offers = PROGRAMMERS.map(|id| (ProgrammerId::new(id).expect("an id"), capabilities(id)));
    let routes = Routes::new(&offers.into());
    assert_eq!(
        queue_name(&routes.all()[0].name),
        "tasks.any",
        "the routes of the sample pool"
    );
    routes
}
