//! Where a benchmark ran: the machine, and the commit of the checkout.

use std::path::Path;
use std::process::Command;

use anyhow::Context;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Machine {
    /// The name that the processor gives itself.
    pub processor: String,
    /// The cores that this process may use.
    pub cores: usize,
    pub memory_mb: u64,
    /// The version of Linux.
    pub kernel: String,
    /// The type of the file system that holds the files of the benchmark.
    pub file_system: String,
}

impl Machine {
    /// The machine of this process, with its files in `directory`, which must exist.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn of_this_process(directory: &Path) -> anyhow::Result<Self> {
        let directory = directory
            .canonicalize()
            .with_context(|| format!("failed to find {}", directory.display()))?;
        Ok(Self {
            processor: field(&read("/proc/cpuinfo")?, "model name")
                .unwrap_or(std::env::consts::ARCH)
                .to_owned(),
            cores: std::thread::available_parallelism()
                .context("failed to count the cores")?
                .get(),
            memory_mb: memory_mb(&read("/proc/meminfo")?)
                .context("/proc/meminfo has no MemTotal")?,
            kernel: read("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            file_system: file_system(&read("/proc/self/mounts")?, &directory)
                .context("/proc/self/mounts has no root")?
                .to_owned(),
        })
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Commit {
    pub id: String,
    /// Whether the checkout has changes that are not in the commit.
    pub modified: bool,
}

impl Commit {
    /// The commit of the checkout in the current directory.
    ///
    /// # Errors
    /// When git does not tell.
    pub fn of_checkout() -> anyhow::Result<Self> {
        Ok(Self {
            id: git(&["rev-parse", "HEAD"])?,
            modified: !git(&["status", "--porcelain", "--untracked-files=no"])?.is_empty(),
        })
    }

    /// For a file name or a sentence: `ca40f05b1c2d`, `ca40f05b1c2d-modified`.
    #[must_use]
    pub fn short(&self) -> String {
        let id: String = self.id.chars().take(12).collect();
        if self.modified { id + "-modified" } else { id }
    }
}

fn git(arguments: &[&str]) -> anyhow::Result<String> {
    let done = Command::new("git")
        .args(arguments)
        .output()
        .context("failed to run git")?;
    anyhow::ensure!(
        done.status.success(),
        "git {arguments:?} failed: {}",
        String::from_utf8_lossy(&done.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&done.stdout).trim().to_owned())
}

fn read(path: &str) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("failed to read {path}"))
}

/// The value of the first line `name : value`.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim())
    })
}

fn memory_mb(meminfo: &str) -> Option<u64> {
    let kib: u64 = field(meminfo, "MemTotal")?
        .strip_suffix(" kB")?
        .parse()
        .ok()?;
    Some(kib * 1024 / 1_000_000)
}

/// The type of the file system with the longest mount point above `directory`. The last one
/// of several at one mount point is visible.
fn file_system<'a>(mounts: &'a str, directory: &Path) -> Option<&'a str> {
    mounts
        .lines()
        .filter_map(|line| {
            let mut words = line.split(' ').skip(1);
            Some((words.next()?, words.next()?))
        })
        .filter(|(point, _)| directory.starts_with(point))
        .max_by_key(|(point, _)| point.len())
        .map(|(_, kind)| kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_system_of_a_directory_is_that_of_the_nearest_mount() {
        const MOUNTS: &str = "overlay / overlay rw 0 0\n\
            tmpfs /tmp tmpfs rw 0 0\n\
            /dev/sda1 /data ext4 rw 0 0\n\
            tmpfs /data/x tmpfs rw 0 0\n\
            /dev/sdb1 /data/x xfs rw 0 0\n";
        for (directory, expected) in [
            ("/home/me", "overlay"),
            ("/tmp", "tmpfs"),
            ("/tmpfiles", "overlay"),
            ("/data/wt", "ext4"),
            ("/data/x/y", "xfs"),
        ] {
            assert_eq!(
                file_system(MOUNTS, Path::new(directory)),
                Some(expected),
                "{directory}"
            );
        }
    }

    #[test]
    fn the_memory_is_in_megabytes_of_a_million_bytes() {
        let meminfo = "MemFree:  1 kB\nMemTotal:       16384000 kB\n";
        assert_eq!(memory_mb(meminfo), Some(16777), "16384000 KiB");
    }

    #[test]
    fn this_machine_says_what_it_is() {
        let machine = Machine::of_this_process(Path::new(".")).expect("/proc tells");
        assert!(
            machine.cores > 0 && machine.memory_mb > 100,
            "cores and memory: {machine:?}"
        );
        assert!(
            !machine.processor.is_empty() && !machine.kernel.is_empty(),
            "names: {machine:?}"
        );
    }
}
