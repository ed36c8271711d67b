//! How long a sandbox takes, and whether anything is left after many runs.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use agent_sandbox::{Layers, Level, RunLimits, landlock_abi};
use serde_json::json;

use super::{World, alive, users};

/// The most for a whole run of a program that does nothing, in the middle of all runs.
const SETUP: Duration = Duration::from_millis(50);

/// The things that a run could leave behind.
#[derive(Debug, PartialEq, Eq)]
struct Remains {
    mounts: usize,
    groups: usize,
    files: usize,
}

impl Remains {
    fn now(world: &World) -> Self {
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mounts");
        Self {
            mounts: mounts.lines().count(),
            groups: count(Path::new("/sys/fs/cgroup")),
            files: count(world.dir.path()),
        }
    }
}

/// Everything below a directory. Files of control groups are not counted twice: they come and go with their directory.
fn count(directory: &Path) -> usize {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.file_type() {
            Ok(kind) if kind.is_dir() => 1 + count(&entry.path()),
            Ok(_) | Err(_) => 1,
        })
        .sum()
}

#[expect(clippy::disallowed_methods, reason = "it measures")]
fn now() -> Instant {
    Instant::now()
}

/// `RUNS` is the number of runs, 1,000 without it.
#[test]
#[ignore = "takes a minute, and measures"]
fn a_thousand_runs_are_quick_and_leave_nothing() {
    let runs: usize = std::env::var("RUNS").map_or(1000, |runs| runs.parse().expect("a number"));
    for user in users() {
        for level in [None, Some(Level::Files), Some(Level::Strict)] {
            let world = World::new(user);
            let plan = level.map(|level| world.plan(Layers::all(level, landlock_abi())));
            let limits = RunLimits {
                memory_bytes: 1 << 30,
                processes: 1000,
                disk_bytes: 1 << 30,
            };
            let order = json!({"plan": plan, "limits": limits, "write": [world.tree()]});
            // All stages have the program's arguments.
            let marker = format!("run-of-{}-{user}-{level:?}", std::process::id());
            let before = Remains::now(&world);
            let mut took: Vec<Duration> = (0..runs)
                .map(|_| {
                    let began = now();
                    let (report, printed) = world.carry_out(&order, &["/bin/true", &marker]);
                    assert_eq!(report["ended"]["status"], 0, "{report} {printed}");
                    began.elapsed()
                })
                .collect();
            took.sort();
            let load = fs::read_to_string("/proc/loadavg").expect("the load");
            eprintln!(
                "user {user}, {}: {runs} runs, median {:?}, 95th percentile {:?}, least {:?}, load {}",
                level.map_or("off", Level::name),
                took[runs / 2],
                took[runs * 95 / 100],
                took[0],
                load.trim()
            );
            assert_eq!(Remains::now(&world), before, "nothing is left");
            assert_eq!(alive(&marker), Vec::<i32>::new(), "no process is left");
            if std::env::var_os("RUNS").is_none() {
                assert!(took[runs / 2] < SETUP, "the median is {:?}", took[runs / 2]);
            }
        }
    }
}
