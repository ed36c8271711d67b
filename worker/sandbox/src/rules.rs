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

use crate::plan::{Level, Plan};
use crate::show::{Entries, PathAccess, hides_a_part, parts};
use crate::system;

/// With ABI 1 a file cannot be moved to another directory, and then cargo, npm and others fail.
pub(crate) const LEAST_ABI: u32 = 2;
pub(crate) const NETWORK_SINCE: u32 = 4;
pub(crate) const SCOPES_SINCE: u32 = 6;

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
    with_paths(rules, abi, &allowed(layers.level, shown))
}

/// The paths that a program may use. A rule also holds for everything below its path.
#[derive(Debug, Default, PartialEq, Eq)]
struct AllowedPaths {
    /// The names of files can be read, but not their contents.
    list: Vec<PathBuf>,
    read: Vec<ShownPath>,
    /// Files can be made and changed, but not read.
    fill: Vec<PathBuf>,
    write: Vec<PathBuf>,
}

/// A path without links, and how it is shown.
type ShownPath = (PathBuf, PathAccess);

/// Rules only add rights, so a hidden path is left out by listing everything around it. In `strict`
/// it is also covered, but the cover goes with the file if somebody outside moves or replaces it.
fn allowed(level: Level, shown: &Entries) -> AllowedPaths {
    let mut allowed = AllowedPaths::default();
    for (path, entry) in shown {
        let parts = || parts(shown, path).into_iter();
        match entry {
            PathAccess::ReadOnly | PathAccess::Pinned(_) => {
                allowed
                    .read
                    .extend(parts().map(|part| (part, entry.clone())));
            }
            PathAccess::Writable => {
                allowed.write.extend(parts());
                if level == Level::Strict && hides_a_part(shown, path) {
                    allowed.fill.push(path.clone());
                }
            }
            PathAccess::Hidden | PathAccess::Link(_) => {}
        }
    }
    allowed.read.push(("/proc".into(), PathAccess::ReadOnly));
    let own: &[&str] = match level {
        Level::Strict => {
            allowed.list.push("/".into());
            &["/tmp", "/dev/shm", "/dev/pts"]
        }
        Level::Files => &["/dev/shm"],
    };
    allowed.write.extend(own.iter().map(PathBuf::from));
    allowed
}

fn with_paths(
    rules: RulesetCreated,
    abi: ABI,
    allowed: &AllowedPaths,
) -> Result<RulesetCreated, RulesetError> {
    let all = AccessFs::from_all(abi);
    let read = AccessFs::from_read(abi);
    let fill = all & !(AccessFs::ReadFile | AccessFs::Execute);
    let device: BitFlags<AccessFs> =
        (AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::IoctlDev | AccessFs::Truncate) & all;
    let devices = system::DEVICES.iter().chain(&["tty", "ptmx"]);
    let devices: Vec<PathBuf> = devices.map(|name| Path::new("/dev").join(name)).collect();
    let plain = |path: &PathBuf| path_beneath(path, &PathAccess::ReadOnly);
    rules
        .add_rules(beneath(
            allowed.list.iter().filter_map(plain),
            AccessFs::ReadDir.into(),
            abi,
        ))?
        .add_rules(beneath(
            allowed
                .read
                .iter()
                .filter_map(|(path, how)| path_beneath(path, how)),
            read,
            abi,
        ))?
        .add_rules(beneath(allowed.fill.iter().filter_map(plain), fill, abi))?
        .add_rules(beneath(allowed.write.iter().filter_map(plain), all, abi))?
        .add_rules(beneath(devices.iter().filter_map(plain), device, abi))
}

/// A path that does not exist, has become a link or is pinned to another file gets no rule.
fn path_beneath(path: &Path, how: &PathAccess) -> Option<OwnedFd> {
    how.open(path).ok()?
}

/// Rules for open files. One that is no directory gets only the rights that files have.
fn beneath(
    files: impl Iterator<Item = OwnedFd>,
    access: BitFlags<AccessFs>,
    abi: ABI,
) -> impl Iterator<Item = Result<PathBeneath<OwnedFd>, RulesetError>> {
    let rules = files.filter_map(move |file| {
        let is_directory =
            FileType::from_raw_mode(fstat(&file).ok()?.st_mode) == FileType::Directory;
        let of_files = if is_directory {
            access
        } else {
            access & AccessFs::from_file(abi)
        };
        Some(PathBeneath::new(file, of_files))
    });
    rules.map(Ok)
}
