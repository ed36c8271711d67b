//! Warm starts in which something goes wrong: an installation that changes, a server or a child that
//! is killed, too little memory. The run must end as a cold one, and nothing may hang.
#![expect(clippy::expect_used, reason = "a helper that fails fails the test")]

use std::time::Duration;

use agent_sandbox::RunLimit;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pool_core::pool;
use tokio::time::timeout;
use worker::sandbox::warm::{StartKind, WarmPart};
use worker::sandbox::{Exit, Finished, SandboxCommand};

use crate::support::{alive, eventually, limits};
use crate::warm::{Place, interpreters};

/// A run that takes longer hangs: no stage waits more than 2 s for an answer.
const HANGS: Duration = Duration::from_secs(30);
const MIB: u64 = 1024 * 1024;

fn send(pid: u32, signal: Signal) {
    kill(Pid::from_raw(pid.cast_signed()), signal).expect("it is there");
}

fn marker(name: &str) -> String {
    format!("{name}_{}", std::process::id())
}

/// The interpreters with this marker that are stopped.
fn stopped(marker: &str) -> Vec<u32> {
    let mut found = interpreters(marker);
    found.retain(|pid| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit(") ")
            .next()
            .unwrap_or_default()
            .starts_with('T')
    });
    found
}

fn assert_cold(finished: &Finished, what: &str) {
    let said = finished.output.text();
    assert_eq!(
        finished.exit,
        Exit::Status(0),
        "{what}: it runs in any case: {said}"
    );
    assert_eq!(said, "done\n", "{what}: once");
    assert!(
        matches!(finished.start, StartKind::Cold(_)),
        "{what}: {:?}",
        finished.start
    );
}

#[tokio::test]
async fn an_edit_of_a_loaded_file_is_noticed_before_the_next_run() {
    let place = Place::new();
    let program = place.program("prints", "import own; print(own.NUMBER, own.DATA)");
    let module = "import os\nNUMBER = 1\n\
        with open(os.path.join(os.path.dirname(__file__), 'data')) as file:\n    DATA = file.read()\n";
    let [data, source] = ["data", "own.py"].map(|name| place.dir.path().join("modules").join(name));
    let command = place.command_with_module(&program, module, &marker("edited"));
    std::fs::write(&data, "a").expect("its data");
    let said = async || place.run_warm(&command).await.output.text();
    assert_eq!(said().await, "1 a\n", "before");
    for (file, text, expected) in [
        // Of the same length.
        (&source, module.replace("= 1", "= 2"), "2 a\n"),
        (&data, "b".to_owned(), "2 b\n"),
    ] {
        std::fs::write(file, text).expect("an edit in place");
        let next = place.run(command.clone()).await;
        assert_eq!(next.output.text(), expected, "the next run has the edit");
        let StartKind::Cold(why) = &next.start else {
            panic!("{:?}", next.start)
        };
        let name = file.to_str().expect("a path in UTF-8");
        assert!(why.contains(name), "the reason names the file: {why}");
        assert_eq!(said().await, expected, "the next server has it, too");
    }
}

#[tokio::test]
async fn a_server_that_is_killed_before_it_forks_costs_a_warm_start_and_nothing_else() {
    let place = Place::new();
    let marker = marker("request");
    let program = place.program(&marker, "print('done')");
    let command = place.command_with_module(&program, "", &marker);
    place.run_warm(&command).await;
    let server = interpreters(&marker)[0];
    send(server, Signal::SIGSTOP);
    let before = alive(&marker).len();
    let kills = async {
        // The request is on its way before the helper starts.
        assert!(
            eventually(|| alive(&marker).len() > before).await,
            "the run begins"
        );
        send(server, Signal::SIGKILL);
    };
    let (finished, ()) = futures_util::join!(timeout(HANGS, place.run(command.clone())), kills);
    assert_cold(&finished.expect("it ends"), "a killed server");
    assert_eq!(
        place.run_warm(&command).await.output.text(),
        "done\n",
        "the next server"
    );
}

/// A module that stops the first, second or third process after the server. The third one becomes the
/// program.
fn stops_at(fork: u32) -> String {
    format!(
        "import os, signal\nforks = 0\ndef forked():\n    global forks\n    forks += 1\n    \
         if forks == {fork}: os.kill(os.getpid(), signal.SIGSTOP)\nos.register_at_fork(after_in_child=forked)\n"
    )
}

/// Has a run's child stop after this fork, and lets `meddle` do something to it.
async fn run_that_stops(
    (place, marker): (&Place, &str),
    fork: u32,
    meddle: impl Fn(u32),
) -> Finished {
    let program = place.program(marker, "print('done')");
    let command = place.command_with_module(&program, &stops_at(fork), marker);
    let WarmPart::Run(start) = &command.warm else {
        panic!("it may be warm")
    };
    place.sandbox.warm_up(start).await;
    assert!(
        eventually(|| place.sandbox.is_warm(&program)).await,
        "the server becomes ready"
    );
    let meddles = async {
        assert!(
            eventually(|| !stopped(marker).is_empty()).await,
            "a process stops after fork {fork}"
        );
        stopped(marker).into_iter().for_each(meddle);
    };
    let (finished, ()) = futures_util::join!(timeout(HANGS, place.run(command)), meddles);
    finished.expect("the run ends")
}

#[tokio::test]
async fn a_child_that_is_killed_on_its_way_into_the_sandbox_costs_a_warm_start_and_nothing_else() {
    for fork in 1..=3 {
        let (place, marker) = (Place::new(), marker(&format!("kill{fork}")));
        let kill_it = |pid| send(pid, Signal::SIGKILL);
        let finished = run_that_stops((&place, &marker), fork, kill_it).await;
        assert_cold(&finished, &format!("killed after fork {fork}"));
    }
}

#[tokio::test]
async fn a_child_that_hangs_on_its_way_into_the_sandbox_is_given_up_and_leaves_nothing() {
    for fork in 1..=3 {
        let (place, marker) = (Place::new(), marker(&format!("hang{fork}")));
        let finished = run_that_stops((&place, &marker), fork, |_| ()).await;
        assert_cold(&finished, &format!("hangs after fork {fork}"));
        drop(place);
        assert!(
            eventually(|| alive(&marker).is_empty()).await,
            "nothing of the server or its children is left after fork {fork}: {:?}",
            alive(&marker)
        );
    }
}

#[tokio::test]
async fn a_server_that_ends_while_its_child_runs_does_not_disturb_the_run() {
    let place = Place::new();
    let marker = marker("later");
    let program = place.program(
        &marker,
        "import os, time\n\
         if 'PAUSE' in os.environ: open('started', 'w'); time.sleep(1)\n\
         print('done')",
    );
    let command = place.command_with_module(&program, "", &marker);
    for way in ["killed", "replaced"] {
        place.run_warm(&command).await;
        let server = interpreters(&marker);
        assert_eq!(server.len(), 1, "{way}: a server, and no child");
        let mut long = command.clone();
        long.env.push(("PAUSE".into(), "1".into()));
        let ends = async {
            let started = place.dir.path().join("tree/started");
            assert!(eventually(|| started.exists()).await, "{way}: it runs");
            std::fs::remove_file(started).expect("a file");
            if way == "killed" {
                send(server[0], Signal::SIGKILL);
            } else {
                let module = place.dir.path().join("modules/own.py");
                std::fs::write(module, "X = 1").expect("an edit");
                assert_cold(&place.run(command.clone()).await, way);
            }
            let gone = || !interpreters(&marker).contains(&server[0]);
            assert!(eventually(gone).await, "{way}: the server ends");
        };
        let (finished, ()) = futures_util::join!(timeout(HANGS, place.run(long)), ends);
        let finished = finished.expect("it ends");
        assert_eq!(finished.start, StartKind::Warm, "{way}");
        assert_eq!(finished.output.text(), "done\n", "{way}");
    }
}

#[tokio::test]
async fn a_warm_run_may_use_as_much_memory_as_a_cold_one_and_no_more() {
    let place = Place::limited(pool::Sandbox {
        max_total_memory_bytes: 256 * MIB,
        ..limits()
    });
    let marker = marker("memory");
    // Three processes that share what the server has loaded, and a process with too much of its own.
    let sparing = "import os, own, time\nfor _ in range(2):\n    if os.fork() == 0: break\n\
        time.sleep(.5)\nprint('done') if own.DATA else None\n";
    let wasteful = "import time\nx = bytearray(b'x') * (400 << 20)\ntime.sleep(60)\n";
    let module = "DATA = bytearray(b'x') * (150 << 20)\n";
    let run = async |text: &str, warm: bool| {
        let program = place.program(&marker, text);
        let mut command: SandboxCommand = place.command_with_module(&program, module, &marker);
        match warm {
            true => place.run_warm(&command).await,
            false => {
                command.warm = WarmPart::None;
                place.run(command).await
            }
        }
    };
    for warm in [false, true] {
        let finished = run(sparing, warm).await;
        let said = finished.output.text();
        assert_eq!(finished.exit, Exit::Status(0), "warm {warm}: {said}");
        let finished = run(wasteful, warm).await;
        let Exit::Limit(exceeded) = finished.exit else {
            panic!("warm {warm}: {:?}", finished.exit)
        };
        assert_eq!(exceeded.limit, RunLimit::Memory, "warm {warm}");
    }
    let next = run(sparing, true).await;
    assert_eq!(next.exit, Exit::Status(0), "the server goes on");
}
