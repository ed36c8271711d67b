//! Ends the processes of a run that have outlived its helper.
//!
//! A program without a file system of its own runs as the user of its helper, and can kill it. A
//! process that has made a session of its own then has nothing above it that the worker knows. So
//! the worker adopts all orphans below it, and every helper marks what it starts: it lowers a limit
//! that nobody but root can raise again.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::sync::{Mutex, MutexGuard, Once, PoisonError};
use std::time::Duration;

use agent_sandbox::processes::{ChildProcess, children, signal_all};
use nix::poll::{PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::{Pid, getpgrp};
use tokio::process::{Child, Command};
use tokio::time::Instant;

/// The kernel keeps this limit and has no use for it.
const MARKED: Resource = Resource::RLIMIT_LOCKS;
/// Processes without a mark usually have no limit.
const MARK: u64 = 1 << 62;
/// The time between two rounds of SIGKILL.
const ROUND_MS: u16 = 10;
/// A process that survives SIGKILL for this long hangs in the kernel.
const KILL_LIMIT: Duration = Duration::from_secs(5);

/// The helpers of this process, also those that have ended in the meantime.
static HELPERS: Mutex<BTreeSet<Pid>> = Mutex::new(BTreeSet::new());

fn helpers() -> MutexGuard<'static, BTreeSet<Pid>> {
    HELPERS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Marks this process and everything that it will start.
pub(super) fn mark() {
    let Ok((_, hard)) = getrlimit(MARKED) else {
        return;
    };
    let marked = hard.min(MARK + 1).saturating_sub(1);
    // Without a mark, only the session of the helper is ended.
    let _ = setrlimit(MARKED, marked, marked);
}

/// Starts a helper, so that it is never taken for an orphan.
pub(super) fn start_helper(command: &mut Command) -> io::Result<Child> {
    static ADOPT: Once = Once::new();
    ADOPT.call_once(|| {
        // Every kernel that the sandbox needs has this.
        let _ = prctl::set_child_subreaper(true);
    });
    let mut helpers = helpers();
    let child = command.spawn()?;
    helpers.extend(pid_of(&child));
    Ok(child)
}

/// Forgets a helper that has been waited for: another process may get its number.
pub(super) fn forget_helper(helper: Option<Pid>) {
    if let Some(helper) = helper {
        helpers().remove(&helper);
    }
}

pub(super) fn pid_of(child: &Child) -> Option<Pid> {
    Some(Pid::from_raw(i32::try_from(child.id()?).ok()?))
}

/// Ends the marked processes that this one has adopted, and everything below them. Kills in rounds,
/// because a process can fork between being listed and being killed.
pub(super) fn end_orphans() {
    let deadline = Instant::now() + KILL_LIMIT;
    loop {
        let orphans = orphans();
        if orphans.is_empty() || Instant::now() >= deadline {
            return;
        }
        signal_all(&orphans, Signal::SIGKILL);
        let _ = poll(&mut [], PollTimeout::from(ROUND_MS));
    }
}

/// The orphans that are alive, and everything below them. Takes note of the others' end.
fn orphans() -> Vec<Pid> {
    let mut helpers = helpers();
    let children = children();
    helpers.retain(|helper| children.iter().any(|child| child.pid == *helper));
    let own_limit = getrlimit(MARKED).map_or(0, |(_, hard)| hard);
    let is_orphan = |child: &&ChildProcess| {
        let is_marked = || limit_of(child.pid).is_some_and(|limit| limit < own_limit);
        !helpers.contains(&child.pid) && is_marked()
    };
    let mut alive = Vec::new();
    for orphan in children.iter().filter(is_orphan) {
        if orphan.ended {
            take_note(orphan.pid);
        } else {
            alive.push(orphan.pid);
        }
        alive.extend(&orphan.below);
    }
    for child in children.iter().filter(|child| was_gits(child)) {
        take_note(child.pid);
    }
    alive
}

/// Whether a child that has ended is one that git left behind: this process starts git and helpers
/// as leaders of their groups, and puts nothing else into them.
fn was_gits(child: &ChildProcess) -> bool {
    child.ended && child.group != child.pid && child.group != getpgrp()
}

fn take_note(ended: Pid) {
    let _ = waitpid(ended, Some(WaitPidFlag::WNOHANG));
}

/// The hard limit of another process.
fn limit_of(pid: Pid) -> Option<u64> {
    hard_limit(&fs::read_to_string(format!("/proc/{pid}/limits")).ok()?)
}

/// Reads `/proc/PID/limits`: name, soft limit, hard limit, unit.
fn hard_limit(limits: &str) -> Option<u64> {
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max file locks"))?;
    match line.split_whitespace().nth(1)? {
        "unlimited" => Some(u64::MAX),
        number => number.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hard_limit_is_the_second_number() {
        let file = |soft: &str, hard: &str| {
            format!(
                "Limit                     Soft Limit           Hard Limit           Units     \n\
                 Max address space         7                    8                    bytes     \n\
                 Max file locks            {soft:<20} {hard:<20} locks     \n"
            )
        };
        assert_eq!(hard_limit(&file("unlimited", "unlimited")), Some(u64::MAX));
        assert_eq!(hard_limit(&file("5", &MARK.to_string())), Some(MARK));
        assert_eq!(hard_limit("Max cpu time 1 2 seconds"), None);
        assert!(limit_of(nix::unistd::getpid()).is_some(), "of this process");
    }
}
