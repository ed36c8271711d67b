//! Warm starts: programs in Python that a fork server starts, compared with cold ones. The tests
//! with aider need `POOL_AIDER` and `--ignored`.
#![expect(clippy::expect_used, reason = "a helper that fails fails the test")]

use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pool_core::pool::{self, SandboxLevel};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use worker::sandbox::warm::{Modules, StartKind, WarmPart, WarmStart};
use worker::sandbox::{CommandAccess, Exit, Finished, SandboxCommand, SandboxLauncher, Watch};

use crate::support::{alive, eventually, helper, limits, path};

const PYTHON: &str = "/usr/bin/python3";

/// A launcher of level `strict` with fork servers.
pub(crate) fn launcher(directory: &Path) -> SandboxLauncher {
    let limits = pool::Sandbox {
        level: SandboxLevel::Strict,
        ..limits()
    };
    SandboxLauncher::with_helper(&limits, helper()).with_warm_starts(&directory.join("warm"))
}

/// Without it, Python sets a variable of its own.
fn language() -> (OsString, OsString) {
    ("LANG".into(), "C.UTF-8".into())
}

/// A directory with programs.
struct Place {
    dir: tempfile::TempDir,
    sandbox: SandboxLauncher,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(dir.path().join("tree")).expect("a directory");
        let sandbox = launcher(dir.path());
        Self { dir, sandbox }
    }

    fn program(&self, name: &str, text: &str) -> PathBuf {
        let file = self.dir.path().join(name);
        std::fs::write(&file, text).expect("a program");
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).expect("a mode");
        file
    }

    fn command(&self, program: &Path, modules: Option<&[&str]>) -> SandboxCommand {
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

    async fn run(&self, command: SandboxCommand) -> Finished {
        let watch = Watch::new(CancellationToken::new());
        self.sandbox.run(command, &watch).await.expect("it runs")
    }

    /// Runs until the server has started it.
    async fn run_warm(&self, command: &SandboxCommand) -> Finished {
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

#[tokio::test]
async fn many_warm_runs_leave_nothing() {
    let place = Place::new();
    let marker = format!("many_{}", std::process::id());
    let program = place.program(
        &marker,
        "import subprocess; subprocess.Popen(['sleep', '600'], start_new_session=True)",
    );
    let command = place.command(&program, Some(&["subprocess"]));
    place.run_warm(&command).await;
    let files = || std::fs::read_dir("/proc/self/fd").expect("/proc").count();
    let before = files();
    for _ in 0..200 {
        let finished = place.run(command.clone()).await;
        assert_eq!(finished.exit, Exit::Status(0), "{}", finished.output.text());
        assert_eq!(finished.start, StartKind::Warm);
    }
    assert!(
        files() <= before + 2,
        "descriptors: {before} and {}",
        files()
    );
    assert!(
        eventually(|| alive(&marker).is_empty()).await,
        "no process is left"
    );
}

/// Ten runs at once take a small part of the time when they are warm.
#[tokio::test]
#[ignore = "needs aider: POOL_AIDER"]
async fn ten_warm_runs_of_aider_at_once_are_quick_and_right() {
    let dir = tempfile::tempdir().expect("a directory");
    let sandbox = launcher(dir.path());
    let rounds = async |warm: bool| {
        let begin = Instant::now();
        let runs = (0..10).map(|_| crate::aider::edit(&sandbox, warm));
        let all = futures_util::future::join_all(runs).await;
        (begin.elapsed(), all)
    };
    let ready = async { while crate::aider::edit(&sandbox, true).await != StartKind::Warm {} };
    timeout(Duration::from_secs(300), ready)
        .await
        .expect("a server");
    let (cold, kinds) = rounds(false).await;
    assert!(
        kinds.iter().all(|kind| *kind == StartKind::Usual),
        "{kinds:?}"
    );
    let (warm, kinds) = rounds(true).await;
    assert!(
        kinds.iter().all(|kind| *kind == StartKind::Warm),
        "{kinds:?}"
    );
    let load = std::fs::read_to_string("/proc/loadavg").expect("/proc");
    eprintln!(
        "ten runs of aider at once: cold {cold:?}, warm {warm:?}, ratio {:.1}, load {load}",
        cold.as_secs_f64() / warm.as_secs_f64()
    );
}
