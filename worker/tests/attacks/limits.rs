//! Attempts to use more than a run may. Each must succeed while nothing is limited, and be ended with
//! its limit otherwise.

use agent_sandbox::{Layers, Level, Plan, RunLimits, landlock_abi};
use serde_json::json;

use super::{PYTHON, Start, World, scripts, users};

const MIB: u64 = 1024 * 1024;
const LIMITS: RunLimits = RunLimits {
    memory_bytes: 60 * MIB,
    processes: 20,
    disk_bytes: 20 * MIB,
};
/// Without a file system of its own, a run's files in a directory that all users share are not known.
const NEEDS_STRICT: &str = "take_memory_in_a_directory_that_lies_in_memory";

/// An attack with the limit that it is about.
struct Attack {
    name: String,
    limit: String,
}

fn attacks() -> Vec<Attack> {
    let listed = std::process::Command::new(PYTHON)
        .arg(scripts().join("limits.py"))
        .arg("--list")
        .output()
        .expect("Python");
    let text = String::from_utf8(listed.stdout).expect("text");
    text.lines()
        .map(|line| {
            let (name, limit) = line.split_once(' ').expect("a name and a limit");
            Attack {
                name: name.to_owned(),
                limit: limit.to_owned(),
            }
        })
        .collect()
}

/// The levels, and none.
fn levels() -> Vec<Option<Level>> {
    let files = (landlock_abi() >= 2).then_some(Some(Level::Files));
    [Some(Level::Strict), None]
        .into_iter()
        .chain(files)
        .collect()
}

fn plan(world: &World, level: Option<Level>) -> Option<Plan> {
    let layers = Layers::all(level?, landlock_abi());
    let mut plan = world.plan(layers);
    plan.read.push(world.dir.path().join("limits.py"));
    Some(plan)
}

/// Runs `limits.py`. The report, and what it printed.
fn run(
    world: &World,
    level: Option<Level>,
    limits: RunLimits,
    name: &str,
    seconds: &str,
) -> (serde_json::Value, String) {
    let order = json!({"plan": plan(world, level), "limits": limits, "write": [world.tree()]});
    let script = world.dir.path().join("limits.py");
    let script = script.to_str().expect("a path in UTF-8");
    let ended = world.carry_out(&order, &[PYTHON, script, name, seconds]);
    let tree = world.tree();
    let removed = std::process::Command::new("/bin/sh")
        .args(["-c", "chmod -R u+rwx \"$0\"; rm -rf \"$0\""])
        .arg(&tree)
        .status();
    assert!(
        removed.is_ok_and(|status| status.success()),
        "what it wrote is removed"
    );
    std::fs::create_dir(&tree).expect("a directory");
    super::give(&tree, world.user);
    ended
}

#[test]
fn a_run_that_exceeds_a_limit_is_ended_and_told_which() {
    let starts = [Start::Helper, Start::ForkServer];
    for (user, start) in users()
        .into_iter()
        .flat_map(|user| starts.map(|start| (user, start)))
    {
        let world = World::started_by(user, start);
        let mut levels = levels();
        if start == Start::ForkServer {
            levels.retain(|level| *level == Some(Level::Strict));
        }
        for level in levels {
            for Attack { name, limit } in attacks() {
                let called = level.map_or("off", Level::name);
                if name == NEEDS_STRICT && level != Some(Level::Strict) {
                    eprintln!("{name} is skipped in {called}");
                    continue;
                }
                let (report, printed) = run(&world, level, RunLimits::default(), &name, "0");
                if level == Some(Level::Files) && report["ended"]["status"] == 1 {
                    eprintln!("{name} as {user} is skipped in files: {printed}");
                    continue;
                }
                assert_eq!(
                    report["ended"]["status"], 0,
                    "{name} as {user} in {called} without limits: {report} {printed}"
                );
                let cold = &report["ended"]["cold"];
                assert!(cold.is_null(), "the fork server started it: {cold}");
                let (report, printed) = run(&world, level, LIMITS, &name, "60");
                assert_eq!(
                    report["ended"]["limit"]["limit"],
                    limit.as_str(),
                    "{name} as {user} in {called}: {report} {printed}"
                );
            }
        }
    }
}

#[test]
fn what_processes_share_counts_once() {
    let script = "import os, time
kept = bytearray(os.urandom(1 << 20)) * 30
for _ in range(8):
    if os.fork() == 0:
        time.sleep(1)
        os._exit(0)
open('one', 'wb').write(kept[:12 << 20])
os.link('one', 'two')
[os.wait() for _ in range(8)]";
    for user in users() {
        for level in levels() {
            let world = World::new(user);
            let order =
                json!({"plan": plan(&world, level), "limits": LIMITS, "write": [world.tree()]});
            let (report, printed) = world.carry_out(&order, &[PYTHON, "-c", script]);
            assert_eq!(
                report["ended"]["status"], 0,
                "as {user}: {report} {printed}"
            );
        }
    }
}

#[test]
fn a_directory_that_nobody_may_read_keeps_its_mode() {
    let script = "import os, time
os.mkdir('closed'); open('closed/file', 'w').close(); os.chmod('closed', 0)
time.sleep(1.2)
print(oct(os.stat('closed').st_mode))
os.chmod('closed', 0o700)";
    for user in users() {
        for level in levels() {
            let world = World::new(user);
            let order =
                json!({"plan": plan(&world, level), "limits": LIMITS, "write": [world.tree()]});
            let (report, printed) = world.carry_out(&order, &[PYTHON, "-c", script]);
            assert!(
                printed.contains("0o40000\n"),
                "as {user}: {report} {printed}"
            );
        }
    }
}
