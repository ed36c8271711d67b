//! Use of memory, processes and disk by all processes of a run together, seen from process 1 of their namespace: its `/proc`
//! shows these processes and no other.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use crate::plan::{Plan, RunLimits};

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
/// The time between two looks at the memory of all processes.
const MEMORY_EVERY: Duration = Duration::from_millis(100);
/// The shortest time between two walks over the disk.
const WALK_LEAST: Duration = Duration::from_millis(500);
/// A walk over the disk may take this part of the time.
const WALK_SHARE: u32 = 20;

pub(crate) struct LimitWatch {
    limits: RunLimits,
    directories: Vec<PathBuf>,
    /// The size of the directories when the run began.
    before: u64,
    next_usage: Duration,
    next_walk: Duration,
}

impl LimitWatch {
    /// None: nothing is limited.
    pub(crate) fn new(plan: &Plan) -> Option<Self> {
        let limits = plan.limits;
        if limits == RunLimits::default() {
            return None;
        }
        let mut directories = plan.write.clone();
        directories.extend(["/tmp", "/dev/shm"].map(PathBuf::from));
        let before = if limits.disk_bytes > 0 {
            directories.iter().map(|path| disk(path)).sum()
        } else {
            0
        };
        Some(Self {
            limits,
            directories,
            before,
            next_usage: Duration::ZERO,
            next_walk: Duration::ZERO,
        })
    }

    /// The limit that is exceeded, in words.
    pub(crate) fn exceeded(&mut self) -> Option<String> {
        let begin = now();
        if begin >= self.next_usage {
            self.next_usage = begin + MEMORY_EVERY;
            let usage = ProcessUsage::now();
            if let Some(exceeded) = self
                .by_processes(usage.processes)
                .or(self.by_memory(usage.memory))
            {
                return Some(exceeded);
            }
        }
        if begin >= self.next_walk {
            let exceeded = self.by_disk();
            let end = now();
            self.next_walk = end + (end.saturating_sub(begin) * WALK_SHARE).max(WALK_LEAST);
            return exceeded;
        }
        // Without their threads, because only that is quick enough for every look.
        self.by_processes(processes().count() as u64)
    }

    fn by_processes(&self, count: u64) -> Option<String> {
        let allowed = self.limits.processes;
        (allowed > 0 && count > allowed)
            .then(|| format!("it had {count} processes and threads, and {allowed} are allowed"))
    }

    fn by_memory(&self, used: u64) -> Option<String> {
        let allowed = self.limits.memory_bytes;
        // Pages that a fork shares count twice, so the exact number decides.
        let exceeded = allowed > 0 && used > allowed && exact_memory() > allowed;
        exceeded.then(|| {
            format!(
                "it used {} MiB of memory, and {} are allowed",
                used / MIB,
                allowed / MIB
            )
        })
    }

    fn by_disk(&self) -> Option<String> {
        let allowed = self.limits.disk_bytes;
        if allowed == 0 {
            return None;
        }
        let used: u64 = self.directories.iter().map(|path| disk(path)).sum();
        let added = used.saturating_sub(self.before);
        (added > allowed).then(|| {
            format!(
                "it wrote {} MiB to the disk, and {} are allowed",
                added / MIB,
                allowed / MIB
            )
        })
    }
}

fn now() -> Duration {
    let time = clock_gettime(ClockId::Monotonic);
    Duration::new(
        u64::try_from(time.tv_sec).unwrap_or(0),
        u32::try_from(time.tv_nsec).unwrap_or(0),
    )
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct ProcessUsage {
    processes: u64,
    /// Anonymous and shared memory, in bytes.
    memory: u64,
}

impl ProcessUsage {
    fn now() -> Self {
        let mut usage = Self::default();
        for directory in processes() {
            let Ok(status) = fs::read_to_string(directory.join("status")) else {
                continue;
            };
            usage.processes += field(&status, "Threads:");
            usage.memory += KIB * (field(&status, "RssAnon:") + field(&status, "RssShmem:"));
        }
        usage
    }
}

fn processes() -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter(|entry| {
            entry
                .file_name()
                .as_encoded_bytes()
                .iter()
                .all(u8::is_ascii_digit)
        })
        .map(|entry| entry.path())
}

fn field(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}

/// Shared pages are divided among those who share them. A process whose pages cannot be read counts
/// with all of them.
fn exact_memory() -> u64 {
    let of = |directory: PathBuf| {
        let rollup = fs::read_to_string(directory.join("smaps_rollup"));
        let status = fs::read_to_string(directory.join("status")).unwrap_or_default();
        match rollup {
            Ok(rollup) => field(&rollup, "Pss_Anon:") + field(&rollup, "Pss_Shmem:"),
            Err(_) => field(&status, "RssAnon:") + field(&status, "RssShmem:"),
        }
    };
    processes().map(of).sum::<u64>() * KIB
}

/// Bytes below a directory on its own file system. Links are not followed.
fn disk(directory: &Path) -> u64 {
    let device = directory.metadata().map(|meta| meta.dev()).ok();
    let mut sum = 0;
    let mut open = vec![directory.to_owned()];
    while let Some(next) = open.pop() {
        for entry in fs::read_dir(&next).into_iter().flatten().flatten() {
            let Ok(meta) = entry.metadata() else { continue };
            if Some(meta.dev()) != device {
                continue;
            }
            sum += meta.blocks() * 512;
            if meta.is_dir() {
                open.push(entry.path());
            }
        }
    }
    sum
}
