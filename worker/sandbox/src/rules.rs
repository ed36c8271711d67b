//! The rules of Landlock: which files may be read and written, and with `files` also which port may
//! be reached.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible as _, NetPort,
    PathBeneath, Ruleset, RulesetAttr as _, RulesetCreated, RulesetCreatedAttr as _, RulesetError,
    Scope,
};
use rustix::fs::{FileType, fstat};

use crate::path_walk::open_end;
use crate::plan::{Level, Plan};
use crate::show::{Entries, PathAccess, parts};
use crate::system;

/// With ABI 1 a file cannot be moved to another directory, and then cargo, npm and others fail.
pub(crate) const LEAST_ABI: u32 = 2;
pub(crate) const NETWORK_SINCE: u32 = 4;
const SCOPES_SINCE: u32 = 6;

/// The versions of Landlock that brought rights. The versions between them brought other things.
const ABIS: [u32; 7] = [9, 6, 5, 4, 3, 2, 1];

/// The newest version of Landlock of which this kernel knows all rights; 0: it has no Landlock, or
/// Landlock is switched off.
pub fn landlock_abi() -> u32 {
    let known = |abi: &u32| handle(*abi, true).and_then(Ruleset::create).is_ok();
    ABIS.into_iter().find(known).unwrap_or(0)
}

/// A ruleset that denies everything a version of Landlock knows. Each right is required, so nothing
/// is left out silently.
fn handle(abi: u32, network: bool) -> Result<Ruleset, RulesetError> {
    let version = ABI::from(abi.cast_signed());
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(version))?;
    if network && abi >= NETWORK_SINCE {
        ruleset = ruleset.handle_access(AccessNet::from_all(version))?;
    }
    if abi >= SCOPES_SINCE {
        ruleset = ruleset.scope(Scope::from_all(version))?;
    }
    Ok(ruleset)
}

/// Restricts this process and everything that it starts.
pub(crate) fn restrict(plan: &Plan, shown: &Entries) -> Result<(), RulesetError> {
    ruleset(plan, shown)?.restrict_self()?;
    Ok(())
}

/// The rules for a program, not yet in force.
pub(crate) fn ruleset(plan: &Plan, shown: &Entries) -> Result<RulesetCreated, RulesetError> {
    let layers = &plan.layers;
    let guards_network =
        layers.level == Level::Files && layers.own_network && layers.landlock >= NETWORK_SINCE;
    let abi = ABI::from(layers.landlock.cast_signed());
    let mut rules = handle(layers.landlock, guards_network)?.create()?;
    if let (true, Some(port)) = (guards_network, plan.gateway_port) {
        rules = rules.add_rule(NetPort::new(port, AccessNet::ConnectTcp))?;
    }
    match layers.level {
        Level::Strict => with_paths(rules, abi, [Path::new("/")], &inside(shown)),
        Level::Files => {
            let (read, write) = outside(shown);
            with_paths(rules, abi, read, &write)
        }
    }
}

/// The writable places of `strict`.
fn inside(shown: &Entries) -> Vec<PathBuf> {
    let own = shown
        .iter()
        .filter(|(_, entry)| **entry == PathAccess::Writable)
        .map(|(path, _)| path.clone());
    own.chain(["/tmp", "/dev/shm", "/dev/pts"].map(PathBuf::from))
        .collect()
}

/// The paths that `files` shows on the machine's own file system. Rules only add rights, so a hidden path is
/// left out by listing everything around it.
fn outside(shown: &Entries) -> (Vec<PathBuf>, Vec<PathBuf>) {
    let of = |wanted: PathAccess| {
        let paths = shown.iter().filter(move |(_, entry)| **entry == wanted);
        paths.flat_map(|(path, _)| parts(shown, path))
    };
    let mut read: Vec<PathBuf> = of(PathAccess::ReadOnly).collect();
    read.push("/proc".into());
    let mut write: Vec<PathBuf> = of(PathAccess::Writable).collect();
    write.push("/dev/shm".into());
    (read, write)
}

fn with_paths(
    rules: RulesetCreated,
    abi: ABI,
    read: impl IntoIterator<Item = impl AsRef<Path>>,
    write: &[PathBuf],
) -> Result<RulesetCreated, RulesetError> {
    let all = AccessFs::from_all(abi);
    let device: BitFlags<AccessFs> =
        (AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::IoctlDev | AccessFs::Truncate) & all;
    let devices = system::DEVICES.iter().chain(&["tty", "ptmx"]);
    let devices = devices.map(|name| Path::new("/dev").join(name));
    rules
        .add_rules(beneath(read, AccessFs::from_read(abi), abi))?
        .add_rules(beneath(write, all, abi))?
        .add_rules(beneath(devices, device, abi))
}

/// Rules for paths without links. A path that does not exist, or has become a link, gets no rule. A
/// file gets only the rights that files have.
fn beneath(
    paths: impl IntoIterator<Item = impl AsRef<Path>>,
    access: BitFlags<AccessFs>,
    abi: ABI,
) -> impl Iterator<Item = Result<PathBeneath<OwnedFd>, RulesetError>> {
    let files = paths.into_iter().filter_map(move |path| {
        let file = open_end(path.as_ref()).ok()?;
        let is_directory =
            FileType::from_raw_mode(fstat(&file).ok()?.st_mode) == FileType::Directory;
        let of_files = if is_directory {
            access
        } else {
            access & AccessFs::from_file(abi)
        };
        Some(PathBeneath::new(file, of_files))
    });
    files.map(Ok)
}
