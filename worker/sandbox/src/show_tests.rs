use super::*;
use crate::plan::{Layers, Level, RunLimits};

fn plan(read: &[&str], write: &[&str], hide: &[&str]) -> Plan {
    let paths = |list: &[&str]| list.iter().map(PathBuf::from).collect();
    Plan {
        layers: Layers::all(Level::Strict, 7),
        gateway_port: None,
        read: paths(read),
        write: paths(write),
        pinned: Vec::new(),
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

#[test]
fn a_hidden_file_that_does_not_exist_yet_is_hidden_unless_the_program_can_make_it() {
    let missing = plan(
        &["/srv/app"],
        &["/t/tree"],
        &["/srv/app/gone/key", "/t/tree/gone/key"],
    );
    let exists = |path: &Path| {
        let missing = path.iter().any(|name| name == "gone");
        (!missing).then_some(PathKind::Other)
    };
    let entries = drop_repetitions(&of_plan(&missing, &exists));
    let hidden: Vec<&PathBuf> = entries
        .iter()
        .filter(|(_, entry)| **entry == PathAccess::Hidden)
        .map(|(path, _)| path)
        .collect();
    assert_eq!(
        hidden,
        [Path::new("/srv/app/gone/key")],
        "and not the program's own"
    );
}

#[test]
fn a_pinned_directory_never_shows_more_than_another_entry() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = FileId::of(open_end(&dir.path().canonicalize().expect("its path")).expect("open"))
        .expect("its number");
    let mut plan = plan(&["/srv"], &[], &["/srv/pool", "/data"]);
    plan.pinned = [
        "/srv/pool/objects",
        "/srv/app",
        "/srv/pool",
        "/data/objects",
        "/srv/link",
    ]
    .map(|path| PinnedPath {
        path: path.into(),
        file,
    })
    .to_vec();
    assert_eq!(
        shown(&plan, &[("/srv/link", "/data")]),
        [
            ("/data/objects".to_owned(), PathAccess::Pinned(file)),
            ("/srv".to_owned(), PathAccess::ReadOnly),
            ("/srv/pool".to_owned(), PathAccess::Hidden),
            ("/srv/pool/objects".to_owned(), PathAccess::Pinned(file)),
        ],
        "what is shown anyway, and what is hidden, stay as they are"
    );
}

#[test]
fn a_pinned_directory_is_opened_only_while_it_is_the_same_one() {
    let dir = tempfile::tempdir().expect("a directory");
    let at = |name: &str| dir.path().canonicalize().expect("its path").join(name);
    for name in ["objects", "secrets"] {
        fs::create_dir(at(name)).expect("a directory");
    }
    let pinned = |name| FileId::of(open_end(&at(name)).expect("it is there")).expect("its number");
    let access = PathAccess::Pinned(pinned("objects"));
    let opened = || access.open(&at("objects")).expect("no error").is_some();
    assert!(opened(), "it is the same directory");
    fs::rename(at("objects"), at("before")).expect("it is moved");
    assert!(!opened(), "it is gone");
    std::os::unix::fs::symlink("secrets", at("objects")).expect("a link");
    assert!(!opened(), "a link");
    fs::remove_file(at("objects")).expect("the link is gone");
    fs::rename(at("secrets"), at("objects")).expect("it is moved");
    assert!(!opened(), "another directory");
}
