//! Looks again and again at what a run uses. Process 1 of `strict` does so and, where the run has no
//! such process, the launcher.
//!
//! It is soft: between two looks a run may use more. A control group of the kernel is not.

use std::path::PathBuf;
use std::time::Duration;

use nix::unistd::Pid;
use rustix::time::{ClockId, clock_gettime};

use crate::exceeded::{Exceeded, RunLimit, RunUsage, exceeded};
use crate::plan::RunLimits;
use crate::usage;
use crate::walk::Places;

/// The time between two looks at the memory of all processes.
const MEMORY_EVERY: Duration = Duration::from_millis(100);
/// The shortest time between two walks over the files.
const WALK_LEAST: Duration = Duration::from_millis(500);
/// A look may take this part of the time.
const SHARE: u32 = 20;

/// Watches the processes and files of one run.
#[derive(Debug)]
pub struct LimitWatch {
    limits: RunLimits,
    places: Places,
    /// The bytes on the disk before the run.
    before: u64,
    usage: RunUsage,
    /// The bytes of files in memory.
    files: u64,
    next_usage: Duration,
    next_walk: Duration,
}

impl LimitWatch {
    /// Call it before the program starts: what is in `write` then does not count. `temporary` are
    /// directories of the run that may lie in memory. None: nothing is limited.
    pub fn new(limits: RunLimits, write: &[PathBuf], temporary: &[&str]) -> Option<Self> {
        if limits == RunLimits::default() {
            return None;
        }
        let places = Places::new(write, temporary);
        let before = match limits.disk_bytes {
            0 => 0,
            _ => places.usage(&[]).disk,
        };
        Some(Self {
            limits,
            places,
            before,
            usage: RunUsage::default(),
            files: 0,
            next_usage: Duration::ZERO,
            next_walk: Duration::ZERO,
        })
    }

    /// The limit that is exceeded now. `processes` lists the processes of the run.
    pub fn exceeded(&mut self, processes: impl Fn() -> Vec<Pid>) -> Option<Exceeded> {
        let begin = now();
        let all = processes();
        // Without their threads, because only that is quick enough for every look.
        self.usage.processes = all.len() as u64;
        if begin >= self.next_walk {
            let files = self.places.usage(&all);
            self.files = files.memory;
            self.usage.disk = files.disk.saturating_sub(self.before);
            self.next_walk = next(begin, WALK_LEAST);
        }
        if begin >= self.next_usage {
            let begin = now();
            let (memory, threads) = usage::look(&all);
            self.usage.processes = threads.max(self.usage.processes);
            self.usage.memory = memory.with_files(self.files);
            self.next_usage = next(begin, MEMORY_EVERY);
        }
        let found = exceeded(self.limits, self.usage)?;
        if found.limit != RunLimit::Memory {
            return Some(found);
        }
        // Pages that a fork shares have counted twice.
        self.usage.memory = usage::exact(&all).with_files(self.files);
        exceeded(self.limits, self.usage)
    }
}

/// When to look again after a look that ends now.
fn next(begin: Duration, least: Duration) -> Duration {
    let end = now();
    end + (end.saturating_sub(begin) * SHARE).max(least)
}

fn now() -> Duration {
    let time = clock_gettime(ClockId::Monotonic);
    Duration::new(
        u64::try_from(time.tv_sec).unwrap_or(0),
        u32::try_from(time.tv_nsec).unwrap_or(0),
    )
}
