//! The signal state that the worker passes on to its children.
//!
//! A process inherits the blocked and the ignored signals of its parent. For example, `nohup`
//! ignores SIGHUP, and a shell script ignores SIGINT in its background processes. Programs keep
//! such a mask and ignored signals. So a signal would not end git, and git could not wait for its
//! children if SIGCHLD were ignored.

use std::io;

use nix::sys::signal::SigSet;
use tokio::signal::unix::{SignalKind, signal};

/// Empties the signal mask of this thread, and of all threads that it starts from now on.
///
/// # Errors
/// None in practice: an empty mask is valid.
pub fn unblock_all() -> io::Result<()> {
    Ok(SigSet::empty().thread_set_mask()?)
}

/// Replaces each ignored signal by a handler that does nothing: the kernel resets handlers to the
/// default in a new program. Needs a tokio runtime.
pub fn keep_ignored_signals_here() {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0);
    for number in (1..=64).filter(|number| ignored & (1 << (number - 1)) != 0) {
        // The standard library ignores SIGPIPE, and resets it in its child processes.
        if number != nix::libc::SIGPIPE {
            // Tokio refuses signals of faults (SIGFPE). Those stay ignored, and nothing sends them.
            let _ = signal(SignalKind::from_raw(number));
        }
    }
}
