//! Looks again and again at what a run uses. Process 1 of `strict` does so and, where the run has no
//! such process, the launcher.
//!
//! It is soft: between two looks a run may use more. A control group of the kernel is not.

use std::path::PathBuf;
use std::time::Duration;

use nix::unistd::Pid;
use rustix::time::{ClockId, clock_gettime};

use crate::exceeded::{Exceeded, RunLimit, RunUsage, exceeded};
use crate::file_usage::Places;
use crate::plan::RunLimits;
use crate::usage;

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
    /// The last walk was given up. The next one is not, so that a run cannot prevent them all.
    given_up: bool,
}

impl LimitWatch {
    /// Call it before the program starts: what is in `write` then does not count. `temporary` are
    /// directories of the run that may lie in memory. None: nothing is limited.
    pub fn new(limits: RunLimits, write: &[PathBuf], temporary: &[&str]) -> Option<Self> {
        if limits == RunLimits::default() {
            return None;
        }
        let write = match limits.disk_bytes {
            0 => &[],
            _ => write,
        };
        let places = Places::new(write, temporary);
        let before = places.usage(&[], &|| false).unwrap_or_default().disk;
        Some(Self {
            limits,
            places,
            before,
            usage: RunUsage::default(),
            files: 0,
            next_usage: Duration::ZERO,
            next_walk: Duration::ZERO,
            given_up: false,
        })
    }

    /// The limit that is exceeded now. `processes` are those of the run. A walk over many files takes
    /// long, and is given up when something is `urgent`.
    pub fn exceeded(
        &mut self,
        processes: impl Fn() -> Vec<Pid>,
        urgent: impl Fn() -> bool,
    ) -> Option<Exceeded> {
        let begin = now();
        let all = processes();
        // Without their threads, because only that is quick enough for every look.
        self.usage.processes = all.len() as u64;
        if begin >= self.next_walk {
            let must_end = self.given_up;
            let files = self.places.usage(&all, &|| !must_end && urgent());
            self.given_up = files.is_none();
            if let Some(files) = files {
                self.files = files.memory;
                self.usage.disk = files.disk.saturating_sub(self.before);
            }
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
