//! Starts a process with a clean signal state and chosen files.

use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};

use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, PosixSpawnFlags, posix_spawnp};
use nix::sys::signal::SigSet;
use nix::unistd::Pid;

/// A process to start, with this process's output.
#[derive(Debug, Clone)]
pub struct Spawn<'a> {
    /// Looked up in this process's `PATH` if it has no slash.
    pub program: &'a OsStr,
    /// The arguments, with the name of the program as the first one.
    pub argv: &'a [OsString],
    pub environment: Vec<(OsString, OsString)>,
    /// Descriptors of this process and the numbers that they get. Standard input is `/dev/null`
    /// unless it is among them.
    pub files: &'a [(BorrowedFd<'a>, i32)],
}

/// Starts it in a process group of its own, with an empty signal mask and default dispositions.
/// Otherwise the program and its children would inherit the blocked signals of this process, and
/// the signals that the worker ignores. `kill 0` in a script must not reach this process.
///
/// # Errors
/// Those of the system, for example that the program does not exist.
pub fn spawn(spawn: Spawn<'_>) -> io::Result<Pid> {
    let argv = spawn
        .argv
        .iter()
        .map(|word| CString::new(word.clone().into_vec()))
        .collect::<Result<Vec<_>, _>>()?;
    let variable = |(mut name, value): (OsString, OsString)| {
        name.push("=");
        name.push(value);
        CString::new(name.into_vec())
    };
    let environment = spawn
        .environment
        .into_iter()
        .map(variable)
        .collect::<Result<Vec<_>, _>>()?;
    let program = CString::new(spawn.program.as_bytes())?;
    let mut files = PosixSpawnFileActions::init()?;
    let nothing = File::open("/dev/null")?;
    files.add_dup2(nothing.as_raw_fd(), 0)?;
    for (descriptor, number) in spawn.files {
        files.add_dup2(descriptor.as_raw_fd(), *number)?;
    }
    let mut attributes = PosixSpawnAttr::init()?;
    attributes.set_pgroup(Pid::from_raw(0))?;
    attributes.set_sigmask(&SigSet::empty())?;
    attributes.set_sigdefault(&SigSet::all())?;
    attributes.set_flags(
        PosixSpawnFlags::POSIX_SPAWN_SETPGROUP
            | PosixSpawnFlags::POSIX_SPAWN_SETSIGMASK
            | PosixSpawnFlags::POSIX_SPAWN_SETSIGDEF,
    )?;
    Ok(posix_spawnp(
        &program,
        &files,
        &attributes,
        &argv,
        &environment,
    )?)
}
