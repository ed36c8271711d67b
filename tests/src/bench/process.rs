//! The kernel's figures about processes: processor time, memory, and the load of the machine.

use anyhow::Context;

/// Ticks of `/proc/PID/stat`: 100 a second on every Linux that the pool runs on.
const TICK_MS: f64 = 10.0;

/// The processor time that a process has used, in ms.
///
/// # Errors
/// When there is no such process.
pub fn cpu_ms(pid: u32) -> anyhow::Result<f64> {
    let stat = read(&format!("/proc/{pid}/stat"))?;
    // The second field is the name in parentheses, which may contain anything.
    let fields: Vec<&str> = stat
        .rsplit(") ")
        .next()
        .unwrap_or_default()
        .split(' ')
        .collect();
    let ticks = |index: usize| {
        fields
            .get(index)
            .and_then(|field| field.parse::<f64>().ok())
            .unwrap_or_default()
    };
    Ok((ticks(11) + ticks(12)) * TICK_MS)
}

/// The processor time of several processes.
///
/// # Errors
/// When one of them is gone.
pub fn total_cpu_ms(pids: &[u32]) -> anyhow::Result<f64> {
    pids.iter().map(|pid| cpu_ms(*pid)).sum()
}

/// The processor time in ms of everything below a process, with what has ended there and was waited
/// for.
///
/// # Errors
/// When there is no such process.
pub fn tree_cpu_ms(root: u32) -> anyhow::Result<f64> {
    let ticks = |pid: u32, fields: std::ops::Range<usize>| -> anyhow::Result<f64> {
        let stat = read(&format!("/proc/{pid}/stat"))?;
        // The second field is the name in parentheses, which may contain anything.
        let fields_of = stat.rsplit(") ").next().unwrap_or_default().split(' ');
        let wanted = fields_of.skip(fields.start).take(fields.len());
        Ok(wanted.filter_map(|field| field.parse::<f64>().ok()).sum())
    };
    let ended = ticks(root, 13..15)?;
    // One that ends at this moment is in the figure of its parent, or missing.
    let alive = tree_below(root)
        .into_iter()
        .filter_map(|pid| ticks(pid, 11..15).ok());
    Ok((ended + alive.sum::<f64>()) * TICK_MS)
}

/// All processes below this one.
#[must_use]
pub fn tree_below(root: u32) -> Vec<u32> {
    let mut found = Vec::new();
    let mut next = vec![root];
    while let Some(pid) = next.pop() {
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task"))
            .into_iter()
            .flatten();
        for task in tasks.flatten() {
            let children = std::fs::read_to_string(task.path().join("children"));
            let children = children.unwrap_or_default();
            let pids = children
                .split_whitespace()
                .filter_map(|word| word.parse().ok());
            next.extend(pids.inspect(|pid| found.push(*pid)));
        }
    }
    found
}

/// The memory of several processes in MB of 1,000,000 bytes. Shared pages count by share (PSS).
///
/// # Errors
/// When one of them is gone.
pub fn total_pss_mb(pids: &[u32]) -> anyhow::Result<f64> {
    pids.iter().map(|pid| pss_mb(*pid)).sum()
}

/// The memory of one process, as [`total_pss_mb`] counts it.
///
/// # Errors
/// When it is gone.
pub fn pss_mb(pid: u32) -> anyhow::Result<f64> {
    let rollup = read(&format!("/proc/{pid}/smaps_rollup"))?;
    let line = rollup
        .lines()
        .find_map(|line| line.strip_prefix("Pss:"))
        .unwrap_or_default();
    let kib: f64 = line
        .trim_end_matches("kB")
        .trim()
        .parse()
        .context("smaps_rollup has no Pss line")?;
    Ok(kib * 1024.0 / 1e6)
}

/// The load average of the last minute.
///
/// # Errors
/// When `/proc` is not there.
pub fn load_average() -> anyhow::Result<f64> {
    let text = read("/proc/loadavg")?;
    text.split(' ')
        .next()
        .and_then(|first| first.parse().ok())
        .context("failed to parse /proc/loadavg")
}

fn read(path: &str) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("failed to read {path}"))
}
