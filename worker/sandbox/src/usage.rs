//! The memory of a run's processes, as `/proc` shows it.
//!
//! Files in memory are not in it, because their pages need no process: [`walk`](crate::path_walk) finds them.

use std::fs;

use nix::unistd::Pid;

const KIB: u64 = 1024;

/// Memory of processes in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Memory {
    /// Memory that belongs to no file, also where it is swapped out.
    anonymous: u64,
    /// Mapped pages of shared memory. They may belong to files in memory.
    shared: u64,
}

impl Memory {
    /// All memory, with files in memory. How much of the shared pages belongs to these files is not
    /// known, so the larger number counts.
    pub(crate) fn with_files(self, files: u64) -> u64 {
        self.anonymous + self.shared.max(files)
    }
}

/// A quick look: pages that several processes share count once for each of them.
pub(crate) fn look(processes: &[Pid]) -> (Memory, u64) {
    let (mut memory, mut threads) = (Memory::default(), 0);
    for pid in processes {
        let status = read(*pid, "status");
        threads += field(&status, "Threads:");
        memory.anonymous += KIB * (field(&status, "RssAnon:") + field(&status, "VmSwap:"));
        memory.shared += KIB * field(&status, "RssShmem:");
    }
    (memory, threads)
}

/// An exact look: shared pages are divided among those who share them. A process whose pages cannot
/// be read counts with all of them.
pub(crate) fn exact(processes: &[Pid]) -> Memory {
    let mut memory = Memory::default();
    for pid in processes {
        let rollup = read(*pid, "smaps_rollup");
        if rollup.is_empty() {
            let (one, _) = look(&[*pid]);
            memory.anonymous += one.anonymous;
            memory.shared += one.shared;
        } else {
            memory.anonymous += KIB * (field(&rollup, "Pss_Anon:") + field(&rollup, "SwapPss:"));
            memory.shared += KIB * field(&rollup, "Pss_Shmem:");
        }
    }
    memory
}

/// Empty if the process has ended, or does not let this process look.
fn read(pid: Pid, file: &str) -> String {
    fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default()
}

fn field(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}
