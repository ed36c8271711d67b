//! The kernel layers around a program that nobody has reviewed.
//!
//! [`launch()`] starts a program behind the layers of a [`Plan`]. All stages are the same executable,
//! started again with another first argument: `fork`, `clone` and code between `fork` and `exec`
//! would need `unsafe`. An executable that calls [`launch()`] must call [`run_stage`] first thing in
//! its `main`, before it starts a thread.
//!
//! - `strict`: the first stage ([`namespaces`]) makes new namespaces and opens the gateway's socket in them.
//!   Process 1 of the new process namespace ([`init`]) builds the file system, gives up its rights,
//!   applies Landlock and seccomp, starts the program and waits for it. If process 1 ends, the
//!   kernel kills everything inside.
//! - `files`: one stage ([`enter`]) applies Landlock and seccomp to itself and becomes the program.
//!
//! The layers do not depend on each other. Landlock is a second wall behind the file system of
//! `strict`, and seccomp keeps kernel interfaces away that neither of the two covers.

mod enter;
mod exceeded;
mod file_usage;
mod filter;
mod init;
pub mod installations;
mod launch;
mod message;
mod namespaces;
mod network;
pub mod path_walk;
mod plan;
pub mod probe;
pub mod processes;
mod rights;
mod rules;
pub mod show;
mod spawn;
mod system;
pub mod toolchains;
mod usage;
mod view;
mod warm;
mod watch;

use std::ffi::{OsStr, OsString};

pub use exceeded::{Exceeded, RunLimit};
pub use launch::{Launched, launch};
pub use message::{SetupError, SetupStep, StageMessage, receive, receive_bytes, send_bytes};
pub use network::NetworkAttempts;
pub use plan::{FileId, Layers, Level, PinnedPath, Plan, RunLimits};
pub use rights::hide_process;
pub use rules::landlock_abi;
pub use spawn::{Spawn, spawn};
pub use warm::{WarmRole, send_files};
pub use watch::LimitWatch;

/// The first arguments that make an executable a stage.
mod word {
    pub(crate) const NAMESPACES: &str = "sandbox-namespaces";
    pub(crate) const INIT: &str = "sandbox-init";
    pub(crate) const ENTER: &str = "sandbox-enter";
    pub(crate) const PROBE: &str = "sandbox-probe";
}

/// Runs the stage that the first argument names, and does not return. Returns if it names none.
pub fn run_stage(first: &OsStr, arguments: impl Iterator<Item = OsString>) {
    let arguments: Vec<OsString> = arguments.collect();
    match first.to_str() {
        Some(word::NAMESPACES) => namespaces::main(&arguments),
        Some(word::INIT) => init::main(&arguments),
        Some(word::ENTER) => enter::main(&arguments),
        Some(word::PROBE) => probe::inside(&arguments),
        Some(_) | None => {}
    }
}
