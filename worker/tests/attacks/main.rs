//! Attacks on the kernel layers. Each attack must succeed without the layers, because an attack that
//! cannot succeed proves nothing, and must fail behind them. And each layer is left out once, so
//! that an attack succeeds which that layer holds.
//!
//! The scripts are in `tests/attacks`. As root, the tests run everything as an ordinary user, too.
#![expect(clippy::expect_used, reason = "a test that cannot go on fails")]

mod warm;

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use agent_sandbox::{Layers, Level, Plan, RunLimits, WarmRole, landlock_abi, send_files};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid, getuid};
use serde_json::{Value, json};

mod hidden;
mod limits;
mod thousand;

use warm::ForkServer;

const PYTHON: &str = "/usr/bin/python3";
/// An ordinary user. It need not exist.
const USER: u32 = 2001;

/// Attacks that succeed for root only, without any layer.
const NEED_ROOT: [&str; 6] = [
    "change_the_mode_of_a_device",
    "read_the_password_hashes",
    "open_a_packet_socket",
    "change_a_setting_of_the_kernel",
    "mount_a_file_system",
    "make_a_device",
];
/// Attacks that `files` does not stop: Landlock knows neither of them.
const OPEN_IN_FILES: [&str; 5] = [
    "change_the_mode_of_a_device",
    "change_the_mode_of_a_file_outside",
    "see_whether_a_file_outside_exists",
    "change_the_priority_of_a_process",
    "attach_to_shared_memory",
];
/// Attacks that `files` stops only with a newer Landlock.
const SINCE: [(&str, u32); 4] = [
    ("connect_to_another_port", 4),
    ("connect_over_ipv6", 4),
    ("signal_a_process", 6),
    ("connect_to_an_abstract_socket", 2),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    Succeeded,
    Failed,
    NoTarget,
}

/// A directory with an attempt in it, and a victim.
struct World {
    dir: tempfile::TempDir,
    user: u32,
    victim: Child,
    facts: Value,
    /// Starts every program that has a plan, if there is one.
    server: Option<ForkServer>,
}

/// The process that starts a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Start {
    Helper,
    ForkServer,
}

impl World {
    fn new(user: u32) -> Self {
        Self::below(&std::env::temp_dir(), user)
    }

    fn below(parent: &Path, user: u32) -> Self {
        let dir = tempfile::tempdir_in(parent).expect("a directory");
        // Otherwise an ordinary user could not read the worker's executable or the scripts.
        for (name, source) in [
            ("worker", PathBuf::from(env!("CARGO_BIN_EXE_worker"))),
            ("attacks.py", scripts().join("attacks.py")),
            ("limits.py", scripts().join("limits.py")),
            ("victim.py", scripts().join("victim.py")),
        ] {
            // Another process writes them: children of other tests could inherit a file that this
            // process has open for writing, and then nobody can start it.
            let copied = Command::new("cp")
                .arg(source)
                .arg(dir.path().join(name))
                .status();
            assert!(copied.expect("cp").success(), "{name} is copied");
        }
        for part in ["tree", "scratch"] {
            std::fs::create_dir_all(dir.path().join("attempts/mine").join(part))
                .expect("a directory");
        }
        give(dir.path(), user);
        let mut victim = as_user(Command::new(PYTHON), user)
            .arg(dir.path().join("victim.py"))
            .arg(dir.path())
            .env_clear()
            .env("SECRET", secret())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the victim starts");
        let mut line = String::new();
        BufReader::new(victim.stdout.as_mut().expect("its output"))
            .read_line(&mut line)
            .expect("what it says");
        let facts = serde_json::from_str(&line).expect("facts about the victim");
        Self {
            dir,
            user,
            victim,
            facts,
            server: None,
        }
    }

    fn started_by(user: u32, start: Start) -> Self {
        Self::started_below(&std::env::temp_dir(), user, start)
    }

    fn started_below(parent: &Path, user: u32, start: Start) -> Self {
        let mut world = Self::below(parent, user);
        if start == Start::ForkServer {
            world.server = Some(ForkServer::start(world.helper(), PYTHON));
        }
        world
    }

    fn helper(&self) -> Command {
        as_user(Command::new(self.dir.path().join("worker")), self.user)
    }

    fn tree(&self) -> PathBuf {
        self.dir.path().join("attempts/mine/tree")
    }

    fn plan(&self, layers: Layers) -> Plan {
        Plan {
            layers,
            gateway_port: None,
            read: vec![self.dir.path().join("attacks.py")],
            write: vec![self.tree()],
            pinned: Vec::new(),
            hide: Vec::new(),
            directory: self.tree(),
            limits: RunLimits::default(),
            warm: self.server.as_ref().map(|_| WarmRole::Run),
        }
    }

    /// The last report about a program, or null if the helper could not send one.
    fn run_to_any_end(&self, plan: &Plan, argv: &[&str]) -> Value {
        self.start(Some(plan), argv).0
    }

    /// Runs a program in the worktree. Returns its report and what it printed.
    fn run(&self, plan: Option<&Plan>, argv: &[&str]) -> (Value, String) {
        let (report, printed) = self.start(plan, argv);
        assert!(!report.is_null(), "a report comes: {printed}");
        let cold = &report["ended"]["cold"];
        assert!(cold.is_null(), "the fork server started it: {cold}");
        (report, printed)
    }

    fn start(&self, plan: Option<&Plan>, argv: &[&str]) -> (Value, String) {
        self.carry_out(&json!({ "plan": plan }), argv)
    }

    /// Gives an order to the helper.
    fn carry_out(&self, order: &Value, argv: &[&str]) -> (Value, String) {
        let text = order.to_string();
        let bytes = text.as_bytes();
        let server = self.server.as_ref().filter(|_| !order["plan"].is_null());
        let (mut line, helper_line) = UnixStream::pair().expect("a line");
        let mut rest = bytes;
        if let Some(server) = server {
            let child = server.fork();
            send_files(&line, &bytes[..1], &[child.as_fd()]).expect("it is sent");
            rest = &bytes[1..];
        }
        line.write_all(rest).expect("the helper has room for it");
        let mut helper = as_user(Command::new(self.dir.path().join("worker")), self.user)
            .args(["sandbox-exec", "--order", &bytes.len().to_string(), "--"])
            .args(argv)
            .current_dir(self.tree())
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("WORLD", self.facts.to_string())
            .env("TREE", self.tree())
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdin(Stdio::from(OwnedFd::from(helper_line)))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the helper starts");
        let mut report = String::new();
        line.read_to_string(&mut report).expect("a report");
        let mut printed = String::new();
        for output in [
            helper.stdout.take().map(OwnedFd::from),
            helper.stderr.take().map(OwnedFd::from),
        ] {
            std::fs::File::from(output.expect("its output"))
                .read_to_string(&mut printed)
                .expect("text");
        }
        helper.wait().expect("it ended");
        let last = report.lines().last().unwrap_or_default();
        (serde_json::from_str(last).unwrap_or_default(), printed)
    }

    fn attack(&self, plan: Option<&Plan>, name: &str) -> (Outcome, String) {
        let script = self.dir.path().join("attacks.py");
        let script = script.to_str().expect("a path in UTF-8");
        let (report, printed) = self.run(plan, &[PYTHON, script, name]);
        let outcome = match report["ended"]["status"].as_i64() {
            Some(0) => Outcome::Succeeded,
            Some(1) => Outcome::Failed,
            Some(2) => Outcome::NoTarget,
            _ => panic!("{name} ended with {report}: {printed}"),
        };
        (outcome, printed.trim().to_owned())
    }

    /// Allowed acts must work: a sandbox that starts nothing stops every attack.
    fn allowed_things_work(&self, plan: &Plan) {
        let script = "import os, tempfile, threading, multiprocessing
open('a', 'w').write('x'); os.mkdir('d'); os.rename('a', 'd/a'); os.unlink('d/a'); os.rmdir('d')
threading.Thread(target=print).start()
print(os.popen('echo from a shell').read(), os.cpu_count() > 0, open('/etc/passwd').readline() != '')";
        let (report, printed) = self.run(Some(plan), &[PYTHON, "-c", script]);
        assert!(
            report["ended"]["status"] == 0 && printed.contains("from a shell\n True True"),
            "what is allowed works: {report} {printed}"
        );
    }
}

impl Drop for World {
    fn drop(&mut self) {
        drop(self.victim.stdin.take());
        let _ = self.victim.wait();
    }
}

fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/attacks")
}

fn names() -> Vec<String> {
    let listed = Command::new(PYTHON)
        .arg(scripts().join("attacks.py"))
        .arg("--list")
        .output()
        .expect("Python");
    let text = String::from_utf8(listed.stdout).expect("text");
    text.lines().map(str::to_owned).collect()
}

fn secret() -> String {
    let mut random = [0; 16];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut random))
        .expect("random bytes");
    random.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Gives a directory and everything in it to a user.
fn give(path: &Path, user: u32) {
    if path.is_symlink() {
        return;
    }
    if getuid().is_root() {
        chown(path, Some(user), Some(user)).expect("a new owner");
    }
    if path.is_dir() {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).expect("a mode");
        for entry in std::fs::read_dir(path).expect("a directory") {
            give(&entry.expect("an entry").path(), user);
        }
    }
}

fn as_user(mut command: Command, user: u32) -> Command {
    if getuid() != Uid::from_raw(user) {
        command.uid(user).gid(user);
    }
    command
}

/// The users to run as: this one and, as root, an ordinary one.
fn users() -> Vec<u32> {
    let me = getuid();
    if me.is_root() {
        vec![0, USER]
    } else {
        vec![me.as_raw()]
    }
}

/// Each attack with its outcome, for all users.
fn outcomes(layers: Option<Layers>, start: Start) -> BTreeMap<(u32, String), (Outcome, String)> {
    let mut outcomes = BTreeMap::new();
    for user in users() {
        let world = World::started_by(user, start);
        let plan = layers.map(|layers| world.plan(layers));
        if let Some(plan) = &plan {
            world.allowed_things_work(plan);
        }
        for name in names() {
            let outcome = world.attack(plan.as_ref(), &name);
            outcomes.insert((user, name), outcome);
        }
    }
    outcomes
}

fn succeeded(outcomes: &BTreeMap<(u32, String), (Outcome, String)>) -> Vec<(u32, String, String)> {
    outcomes
        .iter()
        .filter(|(_, (outcome, _))| *outcome == Outcome::Succeeded)
        .map(|((user, name), (_, said))| (*user, name.clone(), said.clone()))
        .collect()
}

fn layers(level: Level) -> Layers {
    Layers::all(level, landlock_abi())
}

#[test]
fn every_attack_succeeds_without_the_layers() {
    for ((user, name), (outcome, said)) in outcomes(None, Start::Helper) {
        let expected = user == 0 || !NEED_ROOT.contains(&name.as_str());
        match outcome {
            Outcome::NoTarget => eprintln!("{name} as {user} is skipped: {said}"),
            Outcome::Succeeded => assert!(expected, "{name} as {user} needs no root"),
            Outcome::Failed => assert!(!expected, "{name} as {user} must succeed, but {said}"),
        }
    }
}

#[test]
fn no_attack_succeeds_in_strict() {
    let succeeded = succeeded(&outcomes(Some(layers(Level::Strict)), Start::Helper));
    assert!(succeeded.is_empty(), "{succeeded:?}");
}

#[test]
fn no_attack_succeeds_in_a_warm_process() {
    let succeeded = succeeded(&outcomes(Some(layers(Level::Strict)), Start::ForkServer));
    assert!(succeeded.is_empty(), "{succeeded:?}");
}

#[test]
fn only_known_attacks_succeed_in_files() {
    let abi = landlock_abi();
    if abi < 2 {
        eprintln!("skipped: this kernel has Landlock {abi}");
        return;
    }
    let is_known = |name: &str| {
        let since = SINCE.iter().find(|(known, _)| *known == name);
        OPEN_IN_FILES.contains(&name) || since.is_some_and(|(_, since)| abi < *since)
    };
    let mut succeeded = succeeded(&outcomes(Some(layers(Level::Files)), Start::Helper));
    succeeded.retain(|(_, name, _)| !is_known(name));
    assert!(succeeded.is_empty(), "{succeeded:?}");
}

#[test]
fn every_layer_that_is_left_out_lets_an_attack_succeed() {
    let strict = layers(Level::Strict);
    let files = layers(Level::Files);
    let without = |layers: Layers, landlock: bool, seccomp: bool| Layers {
        landlock: if landlock { 0 } else { layers.landlock },
        seccomp: !seccomp,
        ..layers
    };
    let host_network = Layers {
        own_network: false,
        ..strict
    };
    let starts = [Start::Helper, Start::ForkServer];
    for (user, start) in users()
        .into_iter()
        .flat_map(|user| starts.map(|start| (user, start)))
    {
        let world = World::started_by(user, start);
        for (what, layers, name) in [
            ("seccomp", without(strict, false, true), "make_a_namespace"),
            ("seccomp", without(strict, false, true), "open_an_io_uring"),
            (
                "Landlock",
                without(strict, true, false),
                "write_to_the_process_file_system",
            ),
            (
                "the network namespace",
                host_network,
                "connect_to_another_port",
            ),
            (
                "Landlock",
                without(files, true, false),
                "read_a_key_in_the_home_directory",
            ),
            ("seccomp", without(files, false, true), "send_a_datagram"),
            ("the namespaces", files, "see_whether_a_file_outside_exists"),
        ] {
            // A fork server starts nothing with these layers.
            if start == Start::ForkServer && (layers.level == Level::Files || !layers.own_network) {
                continue;
            }
            let level = layers.level.name();
            let (outcome, said) = world.attack(Some(&world.plan(layers)), name);
            assert_eq!(
                outcome,
                Outcome::Succeeded,
                "{name} as {user} in {level} without {what}, started by {start:?}: {said}"
            );
        }
    }
}

/// The steps by which a fork server's child gives up its rights, the text in their place, and the
/// reason by which process 1 refuses a child that has left the step out. `no_new_privs` is missing:
/// the helper of the server sets it already.
const LEFT_OUT: [(&str, &str, &str); 11] = [
    ("    drop_capabilities()\n", "", "Cap"),
    (
        "        libc.prctl(PR_CAPBSET_DROP, ctypes.c_ulong(number)",
        "        number == 7 or libc.prctl(PR_CAPBSET_DROP, ctypes.c_ulong(number)",
        "CapBnd",
    ),
    (
        "        check(libc.syscall(ctypes.c_long(LANDLOCK_RESTRICT_SELF)",
        "        0 and check(libc.syscall(ctypes.c_long(LANDLOCK_RESTRICT_SELF)",
        "Landlock",
    ),
    (
        "    for text in plan[\"filters\"]:",
        "    for text in []:",
        "Seccomp",
    ),
    (
        "    for text in plan[\"filters\"]:",
        "    for text in plan[\"filters\"][:2]:",
        "Seccomp_filters",
    ),
    (
        "        if kind in room:",
        "        if kind in room and kind != \"cgroup\":",
        "cgroup namespace",
    ),
    (
        "        if kind in room:",
        "        if kind in room and kind != \"mnt\":",
        "",
    ),
    (
        "        if kind in room:",
        "        if kind in room and kind != \"net\":",
        "net namespace",
    ),
    (
        "        if kind in room:",
        "        if kind in room and kind != \"ipc\":",
        "ipc namespace",
    ),
    (
        "        if kind in room:",
        "        if kind in room and kind != \"uts\":",
        "uts namespace",
    ),
    (
        "        if kind in room:",
        "        if kind in room and kind != \"pid\":",
        "",
    ),
];

#[test]
fn process_1_refuses_a_warm_process_that_has_kept_any_right() {
    for user in users() {
        let mut world = World::new(user);
        for (step, instead, reason) in LEFT_OUT {
            if reason == "Landlock" && landlock_abi() < 2 {
                eprintln!("skipped: this kernel has no Landlock");
                continue;
            }
            assert_eq!(
                warm::SOURCE.matches(step).count(),
                1,
                "the server has {step}"
            );
            let source = warm::SOURCE.replace(step, instead);
            let helper = world.helper();
            world.server = Some(ForkServer::start_changed(helper, PYTHON, &source));
            let plan = world.plan(layers(Level::Strict));
            let (report, printed) = world.start(Some(&plan), &[PYTHON, "-c", "print('done')"]);
            let cold = report["ended"]["cold"].as_str().unwrap_or_default();
            assert!(
                !cold.is_empty() && cold.contains(reason),
                "without {step} as {user}: {report}"
            );
            assert_eq!(printed, "done\n", "it runs cold: {report}");
        }
    }
}

/// Reads the victim's key, and writes into the worktree.
const READ_KEY: &str = "import json, os
world = json.loads(os.environ['WORLD'])
open('written', 'w').write('x')
print('has the key' if world['secret'] in open(world['key']).read() else 'has another file')";

/// The levels that this kernel has.
fn levels() -> Vec<Level> {
    if landlock_abi() < 2 {
        eprintln!(
            "level files is skipped: this kernel has Landlock {}",
            landlock_abi()
        );
        return vec![Level::Strict];
    }
    vec![Level::Strict, Level::Files]
}

#[test]
fn a_worktree_below_a_directory_of_the_system_can_be_used_and_nothing_beside_it() {
    if !getuid().is_root() {
        eprintln!("skipped: only root can write to /opt and /etc");
        return;
    }
    for parent in ["/opt", "/etc"] {
        for (user, level) in users()
            .into_iter()
            .flat_map(|user| levels().into_iter().map(move |level| (user, level)))
        {
            let world = World::below(Path::new(parent), user);
            let plan = Plan {
                hide: vec![world.dir.path().to_owned()],
                ..world.plan(layers(level))
            };
            world.allowed_things_work(&plan);
            let (outcome, said) = world.attack(None, "read_the_tree_of_another_attempt");
            assert_eq!(outcome, Outcome::Succeeded, "without layers: {said}");
            for name in [
                "read_the_tree_of_another_attempt",
                "read_a_key_in_the_home_directory",
            ] {
                let (outcome, said) = world.attack(Some(&plan), name);
                let level = level.name();
                assert_eq!(
                    outcome,
                    Outcome::Failed,
                    "{name} in {parent}, {level}: {said}"
                );
            }
        }
    }
}

#[test]
fn a_link_that_an_agent_has_left_in_a_shared_directory_shows_nothing() {
    for user in users() {
        for level in levels() {
            let world = World::new(user);
            let at = |name: &str| world.dir.path().join(name);
            std::fs::create_dir(at("cache")).expect("a directory");
            give(&at("cache"), user);
            for link in ["operators", "cache/agents"] {
                std::os::unix::fs::symlink(at("home"), at(link)).expect("a link");
            }
            for (read, write, shows_key) in [
                (vec!["operators"], vec!["cache"], true),
                (vec!["cache/agents"], vec!["cache"], false),
                (vec!["cache/agents/.ssh"], vec!["cache"], false),
                (vec![], vec!["cache", "cache/agents"], false),
            ] {
                let mut plan = world.plan(layers(level));
                plan.read.extend(read.iter().map(|name| at(name)));
                plan.write.extend(write.iter().map(|name| at(name)));
                let (report, printed) = world.run(Some(&plan), &[PYTHON, "-c", READ_KEY]);
                let level = level.name();
                assert_eq!(
                    printed.contains("has the key"),
                    shows_key,
                    "{read:?} {write:?} in {level} as {user}: {report} {printed}"
                );
                assert!(world.tree().join("written").exists(), "it ran: {printed}");
            }
        }
    }
}

#[test]
fn a_link_beside_a_hidden_file_shows_nothing_in_files() {
    for user in users() {
        for level in levels() {
            let world = World::new(user);
            let shared = world.dir.path().join("shared");
            std::fs::create_dir(&shared).expect("a directory");
            std::fs::write(shared.join("secret"), "").expect("a file");
            std::os::unix::fs::symlink("../home", shared.join("link")).expect("a link");
            give(&shared, user);
            let mut plan = world.plan(layers(level));
            plan.read.push(shared.clone());
            plan.hide.push(shared.join("secret"));
            let (report, printed) = world.run(Some(&plan), &[PYTHON, "-c", READ_KEY]);
            assert!(
                !printed.contains("has the key") && world.tree().join("written").exists(),
                "{} as {user}: {report} {printed}",
                level.name()
            );
        }
    }
}

/// The processes whose command line contains `marker`.
fn alive(marker: &str) -> Vec<i32> {
    let entries = std::fs::read_dir("/proc").expect("/proc");
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains(marker)
        })
        .collect()
}

#[expect(
    clippy::disallowed_methods,
    reason = "no event tells that a process of somebody else has ended, and there is no runtime"
)]
fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..1000 {
        if done() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("{what}");
}

#[test]
fn nothing_survives_a_stage_that_was_killed() {
    for user in users() {
        for (number, stage) in ["sandbox-exec", "sandbox-namespaces", "sandbox-init"]
            .into_iter()
            .enumerate()
        {
            let world = World::new(user);
            let plan = world.plan(layers(Level::Strict));
            let marker = format!("marker {}.{number}.{user}", std::process::id());
            let script = format!(
                "import subprocess, sys, time
subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)  # {marker}'], start_new_session=True)
time.sleep(600)  # {marker}"
            );
            std::thread::scope(|scope| {
                let running = scope.spawn(|| world.run_to_any_end(&plan, &[PYTHON, "-c", &script]));
                // The helper, the two other stages, the program and its child.
                eventually("it is up", || alive(&marker).len() == 5);
                let stages = alive(stage);
                let victim = stages.iter().find(|pid| alive(&marker).contains(pid));
                let victim = Pid::from_raw(*victim.expect("the stage"));
                kill(victim, Signal::SIGKILL).expect("it is killed");
                eventually("nothing is left", || alive(&marker).is_empty());
                let report = running.join().expect("no panic");
                assert!(
                    report["ended"]["status"].is_null(),
                    "{stage} as {user}: no success: {report}"
                );
            });
        }
    }
}
