//! The signal state that the worker hands on to what it starts.
//!
//! A process inherits the blocked and the ignored signals of the one that started it: `nohup` ignores SIGHUP, a shell
//! script ignores SIGINT in what it starts in the background. Programs take SIG_IGN and a mask as an instruction, so
//! git would not end by a signal, and could not wait for its children where SIGCHLD is ignored.

use std::io;

use nix::sys::signal::SigSet;
use tokio::signal::unix::{SignalKind, signal};

/// Empties the signal mask of this thread, and of all threads that it starts from now on.
///
/// # Errors
/// Never in practice: an empty mask is valid.
pub fn unblock_all() -> io::Result<()> {
    Ok(SigSet::empty().thread_set_mask()?)
}

/// Makes every ignored signal one that this process goes on to ignore, but with a handler: the kernel resets a handler
/// to the default in a new program. Needs a tokio runtime.
pub fn keep_ignored_signals_here() {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0);
    for number in (1..=64).filter(|number| ignored & (1 << (number - 1)) != 0) {
        // The standard library ignores SIGPIPE, and resets it in what it starts.
        if number != nix::libc::SIGPIPE {
            // Tokio refuses signals of faults (SIGFPE): those stay ignored, and nobody sends them.
            let _ = signal(SignalKind::from_raw(number));
        }
    }
}
