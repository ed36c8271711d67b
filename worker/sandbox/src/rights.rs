//! Capabilities, and other rights that a stage gives up before the program starts.

use std::io;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::SigSet;
use rustix::process::{
    DumpableBehavior, Signal, set_dumpable_behavior, set_parent_process_death_signal,
};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set,
    configure_capability_in_ambient_set, remove_capability_from_bounding_set, set_capabilities,
    set_no_new_privs,
};

/// Capabilities have numbers below this. The kernel of 2026 knows 41.
const MOST: u32 = 64;

fn each() -> impl Iterator<Item = CapabilitySet> {
    (0..MOST).map(|number| CapabilitySet::from_bits_retain(1 << number))
}

/// Dies with the parent, and takes no signal but SIGKILL from now on: the launcher signals all
/// descendants, and the stages must outlive the program.
pub(crate) fn outlive_the_program() -> io::Result<()> {
    die_with_the_parent()?;
    SigSet::all().thread_block()?;
    Ok(())
}

pub(crate) fn die_with_the_parent() -> io::Result<()> {
    Ok(set_parent_process_death_signal(Some(Signal::KILL))?)
}

/// A process whose uid is not 0 loses its capabilities when it starts another program, except for
/// the ambient ones.
pub(crate) fn keep_capabilities_over_exec() -> io::Result<()> {
    let have = capabilities(None)?;
    set_capabilities(
        None,
        CapabilitySets {
            inheritable: have.permitted,
            ..have
        },
    )?;
    for one in each().filter(|one| have.permitted.contains(*one)) {
        configure_capability_in_ambient_set(one, true)?;
    }
    Ok(())
}

/// Bounds the processes of the namespace of users that this process is in; 0: unlimited. A limit
/// that is set before the namespace is made would count all processes of the user.
pub(crate) fn limit_processes(most: u64) -> io::Result<()> {
    /// So that a run is ended with that cause before the kernel refuses a process.
    const MORE: u64 = 64;
    if most == 0 {
        return Ok(());
    }
    let (_, allowed) = getrlimit(Resource::RLIMIT_NPROC)?;
    let most = allowed.min(most.saturating_add(MORE));
    Ok(setrlimit(Resource::RLIMIT_NPROC, most, most)?)
}

/// Gives all capabilities up, for this process and everything that it starts.
pub(crate) fn drop_capabilities() -> io::Result<()> {
    keep(CapabilitySet::empty())
}

/// The same, but this process may still look into every directory of the run: a program could
/// otherwise hide its files from the limit of the disk.
pub(crate) fn keep_reading() -> io::Result<()> {
    keep(CapabilitySet::DAC_READ_SEARCH)
}

/// Keeps these capabilities for this process alone: what it starts has none.
fn keep(kept: CapabilitySet) -> io::Result<()> {
    clear_ambient_capability_set()?;
    let have = capabilities(None)?;
    for one in each().filter(|one| have.permitted.contains(*one)) {
        remove_capability_from_bounding_set(one)?;
    }
    set_capabilities(
        None,
        CapabilitySets {
            effective: kept,
            permitted: kept,
            inheritable: CapabilitySet::empty(),
        },
    )?;
    give_up_privileges()
}

/// No set-user-ID program gives privileges any more.
pub(crate) fn give_up_privileges() -> io::Result<()> {
    Ok(set_no_new_privs(true)?)
}

/// Keeps other processes of the same user from reading this process's memory or taking its files.
///
/// # Errors
/// Those of the system.
pub fn hide_process() -> io::Result<()> {
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}
