//! Warm starts: programs in Python that a fork server starts, compared with cold ones.
#![expect(clippy::expect_used, reason = "a helper that fails fails the test")]

use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pool_core::pool::{self, SandboxLevel};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use worker::sandbox::warm::{Modules, StartKind, WarmPart, WarmPlaces, WarmStart};
use worker::sandbox::{CommandAccess, Exit, Finished, SandboxCommand, SandboxLauncher, Watch};

use crate::support::{alive, eventually, helper, limits, path};

pub(crate) const PYTHON: &str = "/usr/bin/python3";

/// A launcher of level `strict` with fork servers.
pub(crate) fn launcher(directory: &Path) -> SandboxLauncher {
    launcher_with(directory, limits())
}

/// The same with these limits.
pub(crate) fn launcher_with(directory: &Path, limits: pool::Sandbox) -> SandboxLauncher {
    let limits = pool::Sandbox {
        level: SandboxLevel::Strict,
        ..limits
    };
    let [lists, records] = ["warm", "records"].map(|name| directory.join(name));
    SandboxLauncher::with_helper(&limits, helper()).with_warm_starts(WarmPlaces { lists, records })
}

/// Without it, Python sets a variable of its own.
fn language() -> (OsString, OsString) {
    ("LANG".into(), "C.UTF-8".into())
}

/// A directory with programs.
pub(crate) struct Place {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) sandbox: SandboxLauncher,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self::limited(limits())
    }

    pub(crate) fn limited(limits: pool::Sandbox) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(dir.path().join("tree")).expect("a directory");
        let sandbox = launcher_with(dir.path(), limits);
        Self { dir, sandbox }
    }

    pub(crate) fn program(&self, name: &str, text: &str) -> PathBuf {
        let file = self.dir.path().join(name);
        std::fs::write(&file, text).expect("a program");
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).expect("a mode");
        file
    }

    pub(crate) fn command(&self, program: &Path, modules: Option<&[&str]>) -> SandboxCommand {
        let names = modules.unwrap_or_default();
        let start = WarmStart {
            interpreter: PYTHON.into(),
            program: program.to_owned(),
            env: vec![path(), language(), ("HOME".into(), "/tmp".into())],
            modules: Modules::Named(names.iter().map(ToString::to_string).collect()),
        };
        SandboxCommand {
            argv: vec![PYTHON.into(), program.into(), "a word".into()],
            cwd: self.dir.path().join("tree"),
            env: vec![path(), language(), ("NAME".into(), OsString::from("value"))],
            timeout: Duration::from_secs(60),
            silence: None,
            access: CommandAccess {
                read: vec![program.to_owned()],
                ..CommandAccess::default()
            },
            warm: modules.map_or(WarmPart::None, |_| WarmPart::Run(start)),
        }
    }

    /// The same with a module of its own, and an interpreter by whose name its server can be found.
    pub(crate) fn command_with_module(
        &self,
        program: &Path,
        module: &str,
        marker: &str,
    ) -> SandboxCommand {
        let modules = self.dir.path().join("modules");
        std::fs::create_dir_all(&modules).expect("a directory");
        let file = modules.join("own.py");
        // Writing the same again would be an edit.
        if std::fs::read_to_string(&file).ok().as_deref() != Some(module) {
            std::fs::write(&file, module).expect("a module");
        }
        let python = self.dir.path().join(format!("python_{marker}"));
        if !python.exists() {
            std::os::unix::fs::symlink(PYTHON, &python).expect("a link");
        }
        let mut command = self.command(program, Some(&["own"]));
        command.argv[0] = python.clone().into();
        command.access.programs.push(python.clone());
        command.access.read.push(modules.clone());
        let variable = ("PYTHONPATH".into(), OsString::from(&modules));
        command.env.push(variable.clone());
        if let WarmPart::Run(start) = &mut command.warm {
            start.interpreter = python;
            // The server sees the directories of its `PATH`.
            start.env = vec![("PATH".into(), modules.into()), variable, language()];
        }
        command
    }

    pub(crate) async fn run(&self, command: SandboxCommand) -> Finished {
        let watch = Watch::new(CancellationToken::new());
        self.sandbox.run(command, &watch).await.expect("it runs")
    }

    /// Runs until the server has started it.
    pub(crate) async fn run_warm(&self, command: &SandboxCommand) -> Finished {
        let warm = async {
            loop {
                let finished = self.run(command.clone()).await;
                if finished.start == StartKind::Warm {
                    return finished;
                }
                eprintln!("{:?}: {}", finished.start, finished.output.text());
            }
        };
        timeout(Duration::from_secs(120), warm)
            .await
            .expect("a warm start")
    }
}

#[tokio::test]
async fn a_warm_program_ends_and_prints_as_a_cold_one() {
    let place = Place::new();
    for (name, script) in [
        (
            "status",
            "import sys; print('out', flush=True); print('err', file=sys.stderr); sys.exit(7)",
        ),
        ("large_status", "import sys; sys.exit(256 + 3)"),
        ("message", "import sys; sys.exit('a message')"),
        ("error", "def f(): raise ValueError('x')\nf()"),
        (
            "signal",
            "import os, signal; os.kill(os.getpid(), signal.SIGTERM)",
        ),
        (
            "interrupt",
            "import os, signal; os.kill(os.getpid(), signal.SIGINT); import time; time.sleep(30)",
        ),
        (
            "exits",
            "import atexit, threading, time\natexit.register(print, 'at exit')\nthreading.Thread(target=lambda: (time.sleep(.1), print('thread'))).start()\nprint('main')",
        ),
        (
            "words",
            "import os, sys; print(sys.argv, os.getcwd(), sorted(os.environ.items()), __name__, __file__, sys.path[0], sys.stdin.read())",
        ),
        (
            "rights",
            "import os, resource\nprint([resource.getrlimit(getattr(resource, n)) for n in sorted(dir(resource)) if n.startswith('RLIMIT')], os.getpriority(0, 0), os.umask(0), sorted(os.listdir('/')), os.getuid(), os.getgid(), os.getgroups())\n\
            for line in open('/proc/self/status'):\n    if line.split(':')[0] in ('Uid', 'Gid', 'Groups', 'SigBlk', 'SigIgn', 'SigCgt', 'CapInh', 'CapPrm', 'CapEff', 'CapBnd', 'CapAmb', 'NoNewPrivs', 'Seccomp', 'Seccomp_filters', 'Threads', 'Umask', 'PPid'): print(line)\n\
            print(open('/proc/self/oom_score_adj').read(), open('/proc/self/comm').read(), os.getpgid(0) == os.getpid(), open('/proc/net/dev').read().count(':'), sorted(os.listdir('/proc/self/fd')))",
        ),
    ] {
        let program = place.program(name, script);
        let cold = place.run(place.command(&program, None)).await;
        let warm = place
            .run_warm(&place.command(&program, Some(&["json"])))
            .await;
        assert_eq!(cold.start, StartKind::Usual, "{name}");
        assert_eq!(warm.exit, cold.exit, "{name}");
        assert_eq!(warm.output.text(), cold.output.text(), "{name}");
    }
}

#[tokio::test]
async fn a_run_whose_server_was_killed_is_cold_and_the_next_server_takes_over() {
    let place = Place::new();
    let marker = format!("server_{}", std::process::id());
    let program = place.program(&marker, "print('done')");
    let mut command = place.command(&program, Some(&[]));
    // The server's environment cannot be seen, but its interpreter can be a name of its own.
    let python = place.dir.path().join(format!("python_{marker}"));
    std::os::unix::fs::symlink(PYTHON, &python).expect("a link");
    command.argv[0] = python.clone().into();
    command.access.programs.push(python.clone());
    if let WarmPart::Run(start) = &mut command.warm {
        start.interpreter = python;
    }
    place.run_warm(&command).await;
    let servers = alive(&format!("python_{marker} -c"));
    assert!(!servers.is_empty(), "the server lives between runs");
    for pid in servers {
        let _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL);
    }
    let next = place.run(command.clone()).await;
    assert_eq!(next.exit, Exit::Status(0), "it runs in any case");
    assert!(matches!(next.start, StartKind::Cold(_)), "{:?}", next.start);
}

#[tokio::test]
async fn a_server_with_a_thread_or_an_open_file_is_not_used() {
    let place = Place::new();
    for (module, word) in [
        (
            "import threading, time\nthreading.Thread(target=time.sleep, args=(600,), daemon=True).start()\n",
            "thread",
        ),
        (
            "import os\nfile = os.open('/usr', os.O_RDONLY)\n",
            "files open",
        ),
    ] {
        let directory = tempfile::tempdir_in(place.dir.path()).expect("a directory");
        std::fs::write(directory.path().join("bad.py"), module).expect("a module");
        let program = place.program(&format!("uses {word}"), "print('done')");
        let mut command = place.command(&program, Some(&["bad"]));
        if let WarmPart::Run(start) = &mut command.warm {
            // The server sees the directories of its `PATH`.
            start.env = ["PATH", "PYTHONPATH"]
                .map(|name| (name.into(), directory.path().into()))
                .to_vec();
        }
        let said = async {
            loop {
                let finished = place.run(command.clone()).await;
                assert_eq!(finished.exit, Exit::Status(0), "it runs in any case");
                match finished.start {
                    StartKind::Cold(why) if why.contains(word) => return,
                    StartKind::Cold(_) => {}
                    StartKind::Usual | StartKind::Warm => panic!("{:?}", finished.start),
                }
            }
        };
        timeout(Duration::from_secs(60), said).await.expect(word);
    }
}

/// The things that runs could leave behind.
#[derive(Debug, PartialEq, Eq)]
struct Remains {
    mounts: usize,
    /// In the directory, where the worker and the runs may write.
    files: usize,
}

impl Remains {
    fn now(place: &Place) -> Self {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("mounts");
        Self {
            mounts: mounts.lines().count(),
            files: count(place.dir.path()),
        }
    }
}

/// Everything below a directory.
fn count(directory: &Path) -> usize {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.file_type() {
            Ok(kind) if kind.is_dir() => 1 + count(&entry.path()),
            Ok(_) | Err(_) => 1,
        })
        .sum()
}

async fn many_warm_runs(runs: usize) {
    let place = Place::new();
    let marker = format!("many_{}_{runs}", std::process::id());
    let program = place.program(
        &marker,
        "import subprocess; subprocess.Popen(['sleep', '600'], start_new_session=True)",
    );
    let command = place.command(&program, Some(&["subprocess"]));
    place.run_warm(&command).await;
    let files = || std::fs::read_dir("/proc/self/fd").expect("/proc").count();
    let (before, remains) = (files(), Remains::now(&place));
    for number in 0..runs {
        let finished = place.run(command.clone()).await;
        assert_eq!(finished.exit, Exit::Status(0), "{}", finished.output.text());
        assert_eq!(finished.start, StartKind::Warm, "run {number}");
    }
    assert!(
        files() <= before + 2,
        "descriptors: {before} and {}",
        files()
    );
    assert_eq!(Remains::now(&place), remains, "nothing is left");
    assert!(
        eventually(|| alive(&marker).is_empty()).await,
        "no process is left"
    );
}

#[tokio::test]
async fn many_warm_runs_leave_nothing() {
    many_warm_runs(200).await;
}

/// The server is replaced twice meanwhile.
#[tokio::test]
#[ignore = "takes a minute"]
async fn a_thousand_warm_runs_leave_nothing() {
    many_warm_runs(1000).await;
}

#[tokio::test]
async fn a_server_that_was_started_before_has_the_first_run_warm() {
    let place = Place::new();
    let program = place.program("early", "print('done')");
    let command = place.command(&program, Some(&["json"]));
    let WarmPart::Run(start) = &command.warm else {
        panic!("it may be warm")
    };
    place.sandbox.warm_up(start).await;
    assert!(
        eventually(|| place.sandbox.is_warm(&program)).await,
        "the server becomes ready without a run"
    );
    let first = place.run(command).await;
    assert_eq!(first.start, StartKind::Warm, "the first run");
}

/// The processes of an interpreter with this marker: a server and its children, without the stages
/// of their sandboxes.
pub(crate) fn interpreters(marker: &str) -> Vec<u32> {
    let name = format!("/python_{marker}");
    let mut found = alive(&name);
    found.retain(|pid| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        line.split('\0')
            .next()
            .is_some_and(|first| first.ends_with(&name))
    });
    found
}

#[tokio::test]
async fn a_server_holds_no_secret() {
    let place = Place::new();
    let marker = format!("secret_{}", std::process::id());
    let program = place.program(
        &marker,
        "import os; print(os.environ['TOKEN'])\n\
         print(open('/proc/self/environ').read().replace('\\0', '\\n'))",
    );
    let mut command = place.command_with_module(&program, "", &marker);
    command.env.push(("TOKEN".into(), "of-this-run".into()));
    let WarmPart::Run(start) = &command.warm else {
        panic!("it may be warm")
    };
    let pairs = start.env.iter();
    let mut given: Vec<String> = pairs
        .map(|(name, value)| format!("{}={}", name.to_string_lossy(), value.to_string_lossy()))
        .collect();
    given.sort();
    let finished = place.run_warm(&command).await;
    // A warm process has the environment with which its server was started where `/proc` looks.
    let printed = finished.output.text();
    let mut lines = printed.lines().filter(|line| !line.is_empty());
    assert_eq!(lines.next(), Some("of-this-run"), "the run's own variables");
    let mut server: Vec<&str> = lines.collect();
    server.sort_unstable();
    assert_eq!(
        server, given,
        "the server has those of all runs, and nothing of the worker's or of a run"
    );
    if !nix::unistd::getuid().is_root() {
        eprintln!("the server's files are skipped: only root may look at them");
        return;
    }
    let servers = interpreters(&marker);
    assert_eq!(servers.len(), 1, "one server, and no child: {servers:?}");
    let files = std::fs::read_dir(format!("/proc/{}/fd", servers[0])).expect("its files");
    for file in files.flatten() {
        let target = std::fs::read_link(file.path()).expect("a file");
        let target = target.to_string_lossy().into_owned();
        let is_harmless = ["/dev/null", "pipe:", "socket:", "user:["]
            .iter()
            .any(|known| target.starts_with(known));
        assert!(is_harmless, "the server has {target} open");
    }
}
