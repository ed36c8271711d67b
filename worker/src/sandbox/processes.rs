//! Who is alive: read from `/proc/*/stat`, which shows every process of the same user.

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getpid};

/// What `/proc/PID/stat` says about one process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Process {
    pid: i32,
    parent: i32,
    session: i32,
}

/// Everything below this process.
pub(super) fn descendants() -> Vec<Pid> {
    let processes = processes();
    let mut family = vec![getpid().as_raw()];
    let mut next = 0;
    while let Some(parent) = family.get(next).copied() {
        family.extend(processes.iter().filter(|process| process.parent == parent).map(|process| process.pid));
        next += 1;
    }
    family.into_iter().skip(1).map(Pid::from_raw).collect()
}

/// Everything in the session that `leader` made, also after its end.
pub(super) fn session_of(leader: Pid) -> Vec<Pid> {
    let of_session = |process: &Process| process.session == leader.as_raw();
    processes().into_iter().filter(of_session).map(|process| Pid::from_raw(process.pid)).collect()
}

/// A process that has ended in the meantime is no mistake.
pub(super) fn signal_all(pids: &[Pid], signal: Signal) {
    for pid in pids {
        let _ = kill(*pid, signal);
    }
}

fn processes() -> Vec<Process> {
    std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(|pid| parse(pid, &std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?))
        .collect()
}

/// `pid (name) state ppid pgrp session …`; the name may hold spaces and parentheses.
fn parse(pid: i32, stat: &str) -> Option<Process> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(1);
    let parent = fields.next()?.parse().ok()?;
    let session = fields.nth(1)?.parse().ok()?;
    Some(Process { pid, parent, session })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_name_cannot_forge_its_parent() {
        let expected = Process { pid: 7, parent: 42, session: 9 };
        assert_eq!(parse(7, "7 (a) S 1 2) R 42 8 9 0"), Some(expected), "the last parenthesis counts");
    }
}
