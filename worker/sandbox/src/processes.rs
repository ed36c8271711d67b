//! The processes that are alive, and their processor time: read from `/proc/*/stat`, which shows every process of the same
//! user.

use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, SysconfVar, sysconf};

/// The fields of `/proc/PID/stat` of one process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct ProcStat {
    pid: i32,
    /// `Z` for a process that has ended and was not waited for, `T` for a stopped one.
    state: char,
    parent: i32,
    group: i32,
    session: i32,
    /// The processor time of all its threads, and of the children that it has waited for, with
    /// theirs.
    ticks: u64,
}

/// The number of this process in `/proc`. In a container that shows its own `/proc` inside, it is
/// another one than `getpid` returns.
fn this_process() -> i32 {
    let own = std::fs::read_link("/proc/self");
    own.ok()
        .and_then(|link| link.to_str()?.parse().ok())
        .unwrap_or(0)
}

/// All processes below this one.
pub fn descendants() -> Vec<Pid> {
    let family = family(&processes(), this_process());
    family
        .into_iter()
        .skip(1)
        .map(|process| Pid::from_raw(process.pid))
        .collect()
}

/// All other processes of this process's namespace, of which it is process 1.
pub(crate) fn of_namespace() -> Vec<Pid> {
    match this_process() {
        // Nothing else is in this `/proc`, and its list is much quicker than the files in it.
        1 => numbers()
            .filter(|pid| *pid != 1)
            .map(Pid::from_raw)
            .collect(),
        _ => descendants(),
    }
}

/// All processes below this one, except for the stages of a sandbox whose first stage is `first`.
pub fn others_than_stages(first: Pid) -> Vec<Pid> {
    let family = family(&processes(), this_process());
    let first = first.as_raw();
    family
        .iter()
        .skip(1)
        .filter(|process| process.pid != first && process.parent != first)
        .map(|process| Pid::from_raw(process.pid))
        .collect()
}

/// A process that this one has started or adopted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChildProcess {
    pub pid: Pid,
    pub group: Pid,
    /// It has ended, and nobody has waited for it.
    pub ended: bool,
    pub below: Vec<Pid>,
}

/// The children of this process, each with everything below it.
pub fn children() -> Vec<ChildProcess> {
    let (all, own) = (processes(), this_process());
    let children = all.iter().filter(|process| process.parent == own);
    children
        .map(|child| ChildProcess {
            pid: Pid::from_raw(child.pid),
            group: Pid::from_raw(child.group),
            ended: child.state == 'Z',
            below: family(&all, child.pid)
                .iter()
                .skip(1)
                .map(|process| Pid::from_raw(process.pid))
                .collect(),
        })
        .collect()
}

/// Whether a signal has stopped a process.
pub fn is_stopped(pid: Pid) -> bool {
    stat_of(pid.as_raw()).is_some_and(|process| process.state == 'T')
}

/// All processes in the session that `leader` made, also after the leader has ended, and everything
/// below them.
pub fn session_of(leader: Pid) -> Vec<Pid> {
    let all = processes();
    let of_session = all
        .iter()
        .filter(|process| process.session == leader.as_raw());
    let mut found: Vec<i32> = of_session
        .flat_map(|process| family(&all, process.pid))
        .map(|process| process.pid)
        .collect();
    found.sort_unstable();
    found.dedup();
    found.into_iter().map(Pid::from_raw).collect()
}

/// The processor time of a process and its descendants. A descendant that has ended counts if some
/// process below `root` waited for it. A subreaper waits for orphans.
pub fn processor_time(root: Pid) -> Duration {
    let ticks: u64 = family(&processes(), root.as_raw())
        .iter()
        .map(|process| process.ticks)
        .sum();
    Duration::from_millis(ticks.saturating_mul(1000) / ticks_per_second())
}

fn ticks_per_second() -> u64 {
    let known = sysconf(SysconfVar::CLK_TCK).ok().flatten();
    // It is 100 on every Linux.
    known
        .and_then(|ticks| u64::try_from(ticks).ok())
        .filter(|ticks| *ticks > 0)
        .unwrap_or(100)
}

/// The process with this pid, if it exists, and everything below it.
fn family(processes: &[ProcStat], root: i32) -> Vec<ProcStat> {
    let mut family: Vec<ProcStat> = processes
        .iter()
        .filter(|process| process.pid == root)
        .copied()
        .collect();
    let mut next = 0;
    while let Some(parent) = family.get(next).map(|process| process.pid) {
        family.extend(processes.iter().filter(|process| process.parent == parent));
        next += 1;
    }
    family
}

/// Sends a signal to each process. A process that has ended in the meantime is not an error.
pub fn signal_all(pids: &[Pid], signal: Signal) {
    for pid in pids {
        let _ = kill(*pid, signal);
    }
}

fn numbers() -> impl Iterator<Item = i32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten();
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

fn processes() -> Vec<ProcStat> {
    numbers().filter_map(stat_of).collect()
}

fn stat_of(pid: i32) -> Option<ProcStat> {
    parse(
        pid,
        &std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?,
    )
}

/// Parses `pid (name) state ppid pgrp session …`. The name may contain spaces and parentheses.
/// Numbers 14 to 17 are processor times: user and system time of the process, then of its children.
fn parse(pid: i32, stat: &str) -> Option<ProcStat> {
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let state = fields.first()?.chars().next()?;
    let parent = fields.get(1)?.parse().ok()?;
    let group = fields.get(2)?.parse().ok()?;
    let session = fields.get(3)?.parse().ok()?;
    // The times of children can be negative.
    let times = fields
        .iter()
        .skip(11)
        .take(4)
        .map(|field| field.parse::<i64>().ok());
    let ticks = times
        .map(|time| time.and_then(|time| u64::try_from(time).ok()).unwrap_or(0))
        .sum();
    Some(ProcStat {
        pid,
        state,
        parent,
        group,
        session,
        ticks,
    })
}

#[cfg(test)]
mod tests {
    use nix::unistd::getpid;

    use super::*;

    #[test]
    fn a_program_name_cannot_forge_its_parent_or_its_time() {
        let stat = "7 (a) S 1 2 3 4 5 6 7 8 9 10 11 99 99) R 42 8 9 0 -1 4194304 500 0 1 0 30 4 200 1000 39 19 1 0 5000";
        let expected = ProcStat {
            pid: 7,
            state: 'R',
            parent: 42,
            group: 8,
            session: 9,
            ticks: 1234,
        };
        assert_eq!(
            parse(7, stat),
            Some(expected),
            "the last parenthesis counts"
        );
        let short = ProcStat {
            pid: 7,
            state: 'Z',
            parent: 42,
            group: 8,
            session: 9,
            ticks: 0,
        };
        assert_eq!(
            parse(7, "7 (x) Z 42 8 9"),
            Some(short),
            "a missing process has no family"
        );
        assert_eq!(parse(7, "nonsense"), None, "anything else is refused");
    }

    #[test]
    fn a_family_is_everything_below_its_root() {
        let process = |pid, parent| ProcStat {
            pid,
            state: 'S',
            parent,
            group: 0,
            session: 0,
            ticks: 1,
        };
        let all = [
            process(1, 0),
            process(10, 5),
            process(5, 1),
            process(11, 10),
            process(6, 1),
        ];
        let pids = |root| {
            family(&all, root)
                .iter()
                .map(|process| process.pid)
                .collect::<Vec<_>>()
        };
        assert_eq!(
            pids(5),
            [5, 10, 11],
            "children before their parents in the list, too"
        );
        assert_eq!(pids(99), [0; 0], "a missing process has no descendants");
    }

    #[test]
    fn what_this_process_computes_is_counted() {
        let before = processor_time(getpid());
        let mut sum = 0_u64;
        while processor_time(getpid()) < before + Duration::from_millis(50) {
            sum = std::hint::black_box((0..100_000_u64).fold(sum, u64::wrapping_add));
        }
    }
}
