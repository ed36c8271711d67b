//! Which files a program may see: an allow-list of paths, made from the plan.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::path_walk::{PathKind, Walk, kind_of, walk};
use crate::plan::Plan;
use crate::system;

/// How a path is shown. Everything below a shown directory is shown the same way, unless it has an
/// entry of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathAccess {
    ReadOnly,
    Writable,
    Hidden,
    /// A link that leads to a path with an entry.
    Link(PathBuf),
}

pub type Entries = BTreeMap<PathBuf, PathAccess>;

/// The entries of a plan on this machine.
pub fn entries(plan: &Plan) -> Entries {
    let mut entries = of_plan(plan, &kind_of);
    for path in not_for_everybody(Path::new(system::CONFIGURATION)) {
        entries.entry(path).or_insert(PathAccess::Hidden);
    }
    drop_repetitions(&entries)
}

fn of_plan(plan: &Plan, kind: &dyn Fn(&Path) -> Option<PathKind>) -> Entries {
    let mut entries = Entries::new();
    let written = written(plan, kind);
    let mut show = |path: &Path, how: &PathAccess| {
        for (path, entry) in follow(path, how, &written, kind) {
            match entry {
                // A link never replaces what it leads to.
                PathAccess::Link(_) => drop(entries.entry(path).or_insert(entry)),
                PathAccess::ReadOnly | PathAccess::Writable | PathAccess::Hidden => {
                    drop(entries.insert(path, entry));
                }
            }
        }
    };
    for path in system::DIRECTORIES
        .iter()
        .chain([&system::CONFIGURATION, &system::PROCESSORS])
    {
        show(Path::new(path), &PathAccess::ReadOnly);
    }
    if plan.layers.opens_network() {
        show(Path::new(system::NAME_SERVERS), &PathAccess::ReadOnly);
    }
    for path in &plan.hide {
        show(path, &PathAccess::Hidden);
    }
    for path in &plan.read {
        show(path, &PathAccess::ReadOnly);
    }
    for path in &plan.write {
        show(path, &PathAccess::Writable);
    }
    entries
}

/// The writable directories, without links. The links in them are those of agents.
fn written(plan: &Plan, kind: &dyn Fn(&Path) -> Option<PathKind>) -> Vec<PathBuf> {
    let mut paths: Vec<&PathBuf> = plan.write.iter().collect();
    paths.sort_by_key(|path| path.components().count());
    let mut written = Vec::new();
    for path in paths {
        let end = trusted_walk(path, &written, kind).map(|walk| walk.end);
        // The root itself is never shown as a whole.
        written.extend(end.filter(|end| end.parent().is_some()));
    }
    written
}

/// Follows a path, unless an agent may have made a link on the way.
fn trusted_walk(
    path: &Path,
    written: &[PathBuf],
    kind: &dyn Fn(&Path) -> Option<PathKind>,
) -> Option<Walk> {
    let of_agent = |at: &Path| written.iter().any(|directory| at.starts_with(directory));
    walk(path, kind).filter(|walk| !walk.links.iter().any(|link| of_agent(&link.at)))
}

/// The entry of a path after all links on the way, and the entries of those links. Nothing if the
/// path leads nowhere, or where an agent wants it to lead.
fn follow(
    path: &Path,
    how: &PathAccess,
    written: &[PathBuf],
    kind: &dyn Fn(&Path) -> Option<PathKind>,
) -> Vec<(PathBuf, PathAccess)> {
    let Some(Walk { links, end }) = trusted_walk(path, written, kind) else {
        return Vec::new();
    };
    let links = links
        .into_iter()
        .map(|link| (link.at, PathAccess::Link(link.target)));
    // The root itself is never shown as a whole.
    let shown = end.parent().is_some().then(|| (end, how.clone()));
    links.chain(shown).collect()
}

/// The entry that decides about a path, other than the path's own.
fn above<'a>(entries: &'a Entries, path: &Path) -> Option<&'a PathAccess> {
    path.ancestors()
        .skip(1)
        .find_map(|ancestor| entries.get(ancestor))
}

/// Drops entries that say the same as an entry above them.
fn drop_repetitions(entries: &Entries) -> Entries {
    let repeats = |path: &Path, entry: &PathAccess| match above(entries, path) {
        None | Some(PathAccess::Link(_)) => *entry == PathAccess::Hidden,
        Some(PathAccess::Hidden) => *entry == PathAccess::Hidden,
        Some(shown @ (PathAccess::ReadOnly | PathAccess::Writable)) => {
            shown == entry || matches!(entry, PathAccess::Link(_))
        }
    };
    entries
        .iter()
        .filter(|(path, entry)| !repeats(path, entry))
        .map(|(path, entry)| (path.clone(), entry.clone()))
        .collect()
}

/// The parts of a directory that not every user can read. The worker may be able to: as root, or
/// as a member of a group.
fn not_for_everybody(directory: &Path) -> Vec<PathBuf> {
    const READ: u32 = 0o4;
    const READ_AND_ENTER: u32 = 0o5;
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let Ok(meta) = entry.metadata() else { continue };
        if meta.is_symlink() {
            continue;
        }
        let needed = if meta.is_dir() { READ_AND_ENTER } else { READ };
        if meta.mode() & needed != needed {
            found.push(entry.path());
        } else if meta.is_dir() {
            found.extend(not_for_everybody(&entry.path()));
        }
    }
    found
}

/// The parts of a shown directory that together leave out everything that is hidden. A rule on a
/// directory would show all that is below it, and a rule on a link all that it leads to.
pub(crate) fn parts(entries: &Entries, shown: &Path) -> Vec<PathBuf> {
    let below = |path: &Path| {
        entries
            .iter()
            .any(|(other, entry)| *entry == PathAccess::Hidden && other.starts_with(path))
    };
    if entries.get(shown) != Some(&PathAccess::Hidden) && !below(shown) {
        return vec![shown.to_owned()];
    }
    if entries.get(shown) == Some(&PathAccess::Hidden) {
        return Vec::new();
    }
    let children = fs::read_dir(shown).into_iter().flatten().flatten();
    children
        .filter(|child| child.file_type().is_ok_and(|kind| !kind.is_symlink()))
        .flat_map(|child| parts(entries, &child.path()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Layers, Level, RunLimits};

    fn plan(read: &[&str], write: &[&str], hide: &[&str]) -> Plan {
        let paths = |list: &[&str]| list.iter().map(PathBuf::from).collect();
        Plan {
            layers: Layers::all(Level::Strict, 7),
            gateway_port: None,
            read: paths(read),
            write: paths(write),
            hide: paths(hide),
            directory: "/".into(),
            limits: RunLimits::default(),
            warm: None,
        }
    }

    /// A machine with these links, on which every other path exists, except below `/no`.
    fn machine(links: &'static [(&str, &str)]) -> impl Fn(&Path) -> Option<PathKind> {
        move |path| {
            let link = links.iter().find(|(from, _)| Path::new(from) == path);
            match link {
                Some((_, to)) => Some(PathKind::Link(to.into())),
                None => (!path.starts_with("/no")).then_some(PathKind::Other),
            }
        }
    }

    fn shown(plan: &Plan, links: &'static [(&str, &str)]) -> Vec<(String, PathAccess)> {
        let system: Vec<&Path> = system::DIRECTORIES
            .iter()
            .chain([&system::CONFIGURATION, &system::PROCESSORS])
            .map(Path::new)
            .collect();
        drop_repetitions(&of_plan(plan, &machine(links)))
            .into_iter()
            .filter(|(path, _)| !system.contains(&path.as_path()))
            .map(|(path, entry)| (path.display().to_string(), entry))
            .collect()
    }

    #[test]
    fn links_on_the_way_are_shown_with_what_they_lead_to() {
        let links = &[
            ("/home", "usr/home"),
            ("/work/bin", "../data/bin"),
            ("/loop", "loop"),
        ];
        let listed = shown(
            &plan(&["/work/bin/tool", "/no/where", "/loop"], &[], &[]),
            links,
        );
        assert_eq!(
            listed,
            [
                ("/data/bin/tool".to_owned(), PathAccess::ReadOnly),
                (
                    "/work/bin".to_owned(),
                    PathAccess::Link("../data/bin".into())
                ),
            ],
            "the file and the link; what does not exist is left out"
        );
        assert_eq!(
            shown(&plan(&[], &["/home/u"], &[]), links),
            [
                ("/home".to_owned(), PathAccess::Link("usr/home".into())),
                ("/usr/home/u".to_owned(), PathAccess::Writable)
            ],
            "a writable directory inside a system directory"
        );
    }

    #[test]
    fn a_program_is_shown_through_a_link_in_a_hidden_directory() {
        let listed = shown(
            &plan(&["/data/pool/aider/bin"], &[], &["/data/pool"]),
            &[("/data/pool/aider", "/srv/aider")],
        );
        assert_eq!(
            listed,
            [
                (
                    "/data/pool/aider".to_owned(),
                    PathAccess::Link("/srv/aider".into())
                ),
                ("/srv/aider/bin".to_owned(), PathAccess::ReadOnly),
            ],
            "the link, and what it leads to"
        );
    }

    #[test]
    fn a_link_that_an_agent_can_make_is_not_followed() {
        let links = &[
            ("/cache/tools", "/root/.ssh"),
            ("/cache/sub", "/root"),
            ("/data/cache/x", "/root"),
            ("/via", "/data/cache"),
        ];
        let write = ["/cache/sub", "/cache", "/via", "/via/x", "/data/cache/x"];
        let listed = shown(&plan(&["/cache/tools/bin", "/via/x"], &write, &[]), links);
        assert_eq!(
            listed,
            [
                ("/cache".to_owned(), PathAccess::Writable),
                ("/data/cache".to_owned(), PathAccess::Writable),
                ("/via".to_owned(), PathAccess::Link("/data/cache".into())),
            ],
            "only the operator's own directories"
        );
    }

    #[test]
    fn name_servers_are_shown_to_programs_on_the_network_of_the_machine() {
        let links = &[("/etc/resolv.conf", "../run/resolve/stub.conf")];
        let mut plan = plan(&[], &[], &[]);
        assert_eq!(
            shown(&plan, links),
            [],
            "without that network there are none"
        );
        plan.layers.own_network = false;
        let expected = ("/run/resolve/stub.conf".to_owned(), PathAccess::ReadOnly);
        assert_eq!(shown(&plan, links), [expected], "where the link leads");
    }

    #[test]
    fn an_entry_that_says_nothing_new_is_dropped() {
        let listed = shown(
            &plan(
                &["/usr/share/x", "/t/tree/sub", "/opt/pool/venv"],
                &["/t/tree", "/t/tree/sub/deep"],
                &["/opt/pool", "/elsewhere"],
            ),
            &[],
        );
        assert_eq!(
            listed,
            [
                ("/opt/pool".to_owned(), PathAccess::Hidden),
                ("/opt/pool/venv".to_owned(), PathAccess::ReadOnly),
                ("/t/tree".to_owned(), PathAccess::Writable),
                ("/t/tree/sub".to_owned(), PathAccess::ReadOnly),
                ("/t/tree/sub/deep".to_owned(), PathAccess::Writable),
            ],
            "what is not shown at all needs not be hidden"
        );
    }

    #[test]
    fn parts_of_a_directory_leave_out_what_is_hidden() {
        let dir = tempfile::tempdir().expect("a directory");
        let at = |name: &str| dir.path().join(name);
        for name in ["a/x", "a/y", "b"] {
            fs::create_dir_all(at(name)).expect("a directory");
        }
        std::os::unix::fs::symlink("/root", at("a/link")).expect("a link");
        let entries = Entries::from([
            (at(""), PathAccess::ReadOnly),
            (at("a/x"), PathAccess::Hidden),
        ]);
        let mut found = parts(&entries, dir.path());
        found.sort();
        assert_eq!(
            found,
            [at("a/y"), at("b")],
            "everything but a/x and the link"
        );
    }

    #[test]
    fn files_that_are_not_for_everybody_are_found() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().expect("a directory");
        let at = |name: &str| dir.path().join(name);
        fs::create_dir_all(at("open/secret")).expect("a directory");
        fs::write(at("open/public"), "").expect("a file");
        fs::write(at("open/key"), "").expect("a file");
        for (name, mode) in [
            ("open", 0o755),
            ("open/secret", 0o710),
            ("open/public", 0o644),
            ("open/key", 0o640),
        ] {
            fs::set_permissions(at(name), fs::Permissions::from_mode(mode)).expect("a mode");
        }
        let mut found = not_for_everybody(dir.path());
        found.sort();
        assert_eq!(
            found,
            [at("open/key"), at("open/secret")],
            "a group's file and directory"
        );
    }
}
