//! Limits of whole runs that the kernel enforces: a control group (cgroup v2) for each run.
//!
//! They need a group that is delegated to the worker, for example by `Delegate=yes` of systemd. The
//! worker moves itself into the child `worker` of that group, and makes a child for each run. It
//! never moves a process that it has not started, so a group with other processes in it is not
//! used. Without a delegated group runs are watched.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use agent_sandbox::{Exceeded, RunLimit, RunLimits};
use nix::poll::{PollTimeout, poll};
use nix::unistd::{AccessFlags, access, getpid, getuid};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

/// The child with the worker and its helpers. The name says so to people who list groups.
const HOME: &str = "worker";
/// The beginning of the name of a run's group. The worker's process id follows.
const RUN: &str = "run-";
/// A run's share of busy processors. The worker has 100.
const CPU_WEIGHT: &str = "20";
/// A group is empty soon after its processes are killed.
const REMOVAL_TRIES: u32 = 200;
const REMOVAL_PAUSE_MS: u16 = 10;

/// The mechanism that enforces the limits of whole runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LimitsBy {
    /// The kernel, with a control group for each run. The disk is watched.
    Cgroup,
    /// A process that looks at the run again and again.
    Watched,
}

impl LimitsBy {
    /// The mechanism that enforces the limits of this process's runs.
    pub fn of_this_process() -> Self {
        match delegation() {
            Ok(_) => Self::Cgroup,
            Err(_) => Self::Watched,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Cgroup => "cgroup",
            Self::Watched => "watched",
        }
    }
}

/// Why the worker has no control groups.
#[derive(Debug, thiserror::Error)]
pub enum NotDelegated {
    #[error("this process is in no group of cgroup v2")]
    NoGroup,
    #[error("{0} is not delegated to this user")]
    NotOurs(PathBuf),
    #[error("{0} does not have the controllers memory and pids")]
    NoControllers(PathBuf),
    #[error("there are other processes in {0}")]
    Others(PathBuf),
    #[error("cannot use {group}: {source}")]
    System { group: PathBuf, source: io::Error },
}

/// A group that is delegated to this worker, with the worker in a child of it.
#[derive(Debug)]
pub struct Delegation {
    group: PathBuf,
    runs: AtomicU64,
}

/// The delegation of this process. The first call moves the process into its child.
pub fn delegation() -> Result<&'static Delegation, &'static NotDelegated> {
    static TAKEN: OnceLock<Result<Delegation, NotDelegated>> = OnceLock::new();
    TAKEN.get_or_init(Delegation::take).as_ref()
}

impl Delegation {
    fn take() -> Result<Self, NotDelegated> {
        let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let own = own_group(&groups, &mounts).ok_or(NotDelegated::NoGroup)?;
        Self::take_group(&own)
    }

    /// Takes the group of this process, or the group above it if another worker has made `worker`.
    fn take_group(own: &Path) -> Result<Self, NotDelegated> {
        let (group, home) = match (own.file_name(), own.parent()) {
            (Some(name), Some(above)) if name == HOME => (above.to_owned(), own.to_owned()),
            _ => (own.to_owned(), own.join(HOME)),
        };
        check(&group)?;
        let system = |source| NotDelegated::System {
            group: group.clone(),
            source,
        };
        if home != own {
            make(&home).map_err(system)?;
            join(&home).map_err(system)?;
        }
        if let Err(source) = enable(&group, "+memory +pids") {
            if home != own {
                // The process is where it was before.
                let _ = join(&group).and_then(|()| fs::remove_dir(&home));
            }
            return Err(system(source));
        }
        // Runs have a smaller share of the processors only where this controller is delegated too.
        let _ = enable(&group, "+cpu");
        remove_leftovers(&group, &home);
        Ok(Self {
            group,
            runs: AtomicU64::new(0),
        })
    }

    /// The group of the next run. The helper makes it.
    pub(super) fn next_run(&self, limits: RunLimits) -> RunGroup {
        let number = self.runs.fetch_add(1, Ordering::Relaxed);
        RunGroup {
            path: self.group.join(format!("{RUN}{}-{number}", getpid())),
            home: self.group.join(HOME),
            limits,
        }
    }
}

/// The directory of this process's group, from `/proc/self/cgroup` and `/proc/self/mountinfo`.
fn own_group(groups: &str, mounts: &str) -> Option<PathBuf> {
    let own = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    let own = Path::new(own);
    mounts.lines().find_map(|line| {
        let (mount, system) = line.split_once(" - ")?;
        if system.split(' ').next() != Some("cgroup2") {
            return None;
        }
        let mut fields = mount.split(' ').skip(3);
        let (root, at) = (fields.next()?, fields.next()?);
        let below = own.strip_prefix(root).ok()?;
        // `join` would add a slash for an empty path.
        Some(
            Path::new(at)
                .components()
                .chain(below.components())
                .collect(),
        )
    })
}

fn check(group: &Path) -> Result<(), NotDelegated> {
    let may_write = |file: &str| access(&group.join(file), AccessFlags::W_OK).is_ok();
    let writable = ["", "cgroup.procs", "cgroup.subtree_control"]
        .into_iter()
        .all(may_write);
    if !writable || !is_delegated(group, getuid().is_root(), is_marked(group)) {
        return Err(NotDelegated::NotOurs(group.to_owned()));
    }
    let controllers = fs::read_to_string(group.join("cgroup.controllers")).unwrap_or_default();
    let has = |name| controllers.split_whitespace().any(|known| known == name);
    if !has("memory") || !has("pids") {
        return Err(NotDelegated::NoControllers(group.to_owned()));
    }
    // A process of another namespace is listed as 0.
    let own = getpid().as_raw();
    match members(group).iter().all(|pid| *pid == own) {
        true => Ok(()),
        false => Err(NotDelegated::Others(group.to_owned())),
    }
}

/// Whether a writable group is meant for the worker. systemd owns the groups of its units, and marks
/// those that it has delegated. Some versions do so in a way that only root can see.
fn is_delegated(group: &Path, root: bool, marked: bool) -> bool {
    let unit = group
        .extension()
        .is_some_and(|kind| kind == "service" || kind == "scope" || kind == "slice");
    let of_user = |part: &OsStr| part.to_str().is_some_and(|name| name.starts_with("user@"));
    let under_user_manager = group.iter().any(of_user);
    marked || !unit || (!root && !under_user_manager)
}

fn is_marked(group: &Path) -> bool {
    ["trusted.delegate", "user.delegate"]
        .into_iter()
        .any(|name| {
            let mut value = [0; 8];
            rustix::fs::getxattr(group, name, &mut value[..])
                .is_ok_and(|length| value.get(..length) == Some(b"1"))
        })
}

fn members(group: &Path) -> Vec<i32> {
    let text = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).collect()
}

fn make(group: &Path) -> io::Result<()> {
    match fs::create_dir(group) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

/// Moves this process.
fn join(group: &Path) -> io::Result<()> {
    set(group, "cgroup.procs", "0")
}

fn enable(group: &Path, controllers: &str) -> io::Result<()> {
    set(group, "cgroup.subtree_control", controllers)
}

fn set(group: &Path, file: &str, value: &str) -> io::Result<()> {
    let mut file = fs::File::options().write(true).open(group.join(file))?;
    io::Write::write_all(&mut file, value.as_bytes())
}

/// Ends the runs of workers that have died.
fn remove_leftovers(group: &Path, home: &Path) {
    let own = getpid().as_raw();
    let alive: Vec<i32> = members(home)
        .into_iter()
        .filter(|pid| *pid != own)
        .collect();
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let left = name.to_str().and_then(worker_of_run);
        if left.is_some_and(|worker| !alive.contains(&worker)) {
            end(&entry.path());
        }
    }
}

fn worker_of_run(name: &str) -> Option<i32> {
    let (worker, _) = name.strip_prefix(RUN)?.split_once('-')?;
    worker.parse().ok()
}

/// Kills everything in a group and removes it.
fn end(group: &Path) {
    for _ in 0..REMOVAL_TRIES {
        kill(group);
        match rustix::fs::rmdir(group) {
            Err(Errno::BUSY) => {
                let _ = poll(&mut [], PollTimeout::from(REMOVAL_PAUSE_MS));
            }
            Ok(()) | Err(_) => return,
        }
    }
    tracing::warn!(group = %group.display(), "a control group does not become empty; the next worker removes it");
}

fn kill(group: &Path) {
    // Linux has this file since 5.14. Without it, the helper kills the processes one by one.
    let _ = set(group, "cgroup.kill", "1");
}

/// The group of one run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RunGroup {
    path: PathBuf,
    home: PathBuf,
    limits: RunLimits,
}

impl RunGroup {
    /// Makes the group and moves this process into it, so that the program is born there. The
    /// caller calls [`Self::leave`] when the program has started.
    pub(super) fn enter(&self) -> io::Result<()> {
        make(&self.path)?;
        let entered = self.limit().and_then(|()| join(&self.path));
        if entered.is_err() {
            self.end();
        }
        entered
    }

    fn limit(&self) -> io::Result<()> {
        let RunLimits {
            memory_bytes,
            processes,
            ..
        } = self.limits;
        if memory_bytes > 0 {
            set(&self.path, "memory.max", &memory_bytes.to_string())?;
            // Kernels without swap accounting do not have this file.
            let _ = set(&self.path, "memory.swap.max", "0");
            set(&self.path, "memory.oom.group", "1")?;
        }
        if processes > 0 {
            set(&self.path, "pids.max", &processes.to_string())?;
        }
        // The controller may not be delegated.
        let _ = set(&self.path, "cpu.weight", CPU_WEIGHT);
        Ok(())
    }

    pub(super) fn leave(&self) -> io::Result<()> {
        join(&self.home)
    }

    /// The refusals of the kernel to the run.
    pub(super) fn exceeded(&self) -> Option<Exceeded> {
        let of = |limit, allowed| Exceeded {
            limit,
            used: allowed,
            allowed,
        };
        if self.count("memory.events", "oom_kill") > 0 {
            return Some(of(RunLimit::Memory, self.limits.memory_bytes));
        }
        (self.count("pids.events", "max") > 0)
            .then(|| of(RunLimit::Processes, self.limits.processes))
    }

    fn count(&self, file: &str, event: &str) -> u64 {
        let text = fs::read_to_string(self.path.join(file)).unwrap_or_default();
        count(&text, event)
    }

    pub(super) fn kill(&self) {
        kill(&self.path);
    }

    /// Kills everything in it and removes it.
    pub(super) fn end(&self) {
        if self.path.exists() {
            end(&self.path);
        }
    }
}

fn count(events: &str, event: &str) -> u64 {
    let line = events
        .lines()
        .find_map(|line| line.strip_prefix(event)?.strip_prefix(' '));
    line.and_then(|number| number.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
#[path = "cgroup_tests.rs"]
mod tests;
