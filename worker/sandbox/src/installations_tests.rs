use super::*;
use crate::toolchains::tests::Table;

const HOME: &str = "/home/u";

fn trust() -> TrustMap {
    TrustMap {
        guarded: [HOME, "/work", "/repos", "/etc/pool"]
            .map(PathBuf::from)
            .to_vec(),
        written: ["/work", "/cache", "/t/tree"].map(PathBuf::from).to_vec(),
        repositories: vec!["/repos".into()],
    }
}

fn lookup<'a>(machine: &'a Table, trust: &'a TrustMap) -> ProgramLookup<'a, Table> {
    ProgramLookup {
        machine,
        trust,
        shown: ShownPaths::default(),
    }
}

fn of_directory(machine: &Table, directory: &str) -> Vec<PathBuf> {
    let trust = trust();
    let mut lookup = lookup(machine, &trust);
    lookup.show_directory(Path::new(directory));
    lookup.shown.read
}

fn of_program(machine: &Table, program: &str) -> Vec<PathBuf> {
    let trust = trust();
    let mut lookup = lookup(machine, &trust);
    lookup.show_program(Path::new(program));
    lookup.shown.read
}

fn is_shown(shown: &[PathBuf], path: &str) -> bool {
    shown.iter().any(|shown| Path::new(path).starts_with(shown))
}

#[test]
fn the_directory_above_bin_is_an_installation_only_with_a_proof() {
    for (files, directory, needed, others) in [
        (
            "a directory that many programs share",
            "/home/u/.local/bin",
            "/home/u/.local/bin/tool",
            "/home/u/.local/share/keyrings",
        ),
        (
            "Go's",
            "/home/u/go/bin",
            "/home/u/go/bin/gopls",
            "/home/u/go/token",
        ),
        (
            "a home directory's",
            "/home/u/bin",
            "/home/u/bin/x",
            "/home/u/.netrc",
        ),
        (
            "any",
            "/data/tools/bin",
            "/data/tools/bin/x",
            "/data/tools/key",
        ),
    ] {
        let machine = Table(&[
            ("/home/u/.local/bin/tool", ""),
            ("/home/u/.local/lib/python3.11/site-packages/x", ""),
            ("/home/u/.local/share/keyrings", ""),
            ("/home/u/go/bin/gopls", ""),
            ("/home/u/go/token", ""),
            ("/home/u/bin/x", ""),
            ("/data/tools/bin/x", ""),
        ]);
        let shown = of_directory(&machine, directory);
        assert!(is_shown(&shown, needed), "{files}: {shown:?}");
        assert!(!is_shown(&shown, others), "{files}: {shown:?}");
    }
}

#[test]
fn each_kind_of_installation_is_known_by_its_file() {
    for (root, needed, others) in [
        ("/home/u/venv", "lib/python3.12/site-packages", "pip.conf"),
        ("/home/u/miniconda3", "lib/libz.so", "/home/u/.ssh"),
        (
            "/home/u/jdk-21",
            "conf/security/java.security",
            "/home/u/.m2",
        ),
        ("/home/u/go1.22", "pkg/tool", "token"),
        ("/home/u/.npm-global", "lib/node_modules/npm", ".npmrc"),
        ("/data/rust", "lib/librustc_driver.so", "credentials"),
        ("/data/python", "lib/libpython3.12.so", "secret"),
        ("/data/maven", "boot/plexus.jar", "conf/settings.xml"),
        ("/data/gradle", "lib/gradle-core.jar", "gradle.properties"),
        ("/data/ruby", "lib/ruby/3.3.0", "secret"),
    ] {
        let machine = Table(&[
            ("/home/u/venv/pyvenv.cfg", "home = /usr/bin\n"),
            ("/home/u/venv/bin/python", ""),
            ("/home/u/venv/lib/python3.12/site-packages", ""),
            ("/home/u/venv/pip.conf", ""),
            ("/home/u/miniconda3/bin/python", ""),
            ("/home/u/miniconda3/conda-meta/history", ""),
            ("/home/u/jdk-21/bin/java", ""),
            ("/home/u/jdk-21/release", "JAVA_VERSION=\"21\"\n"),
            ("/home/u/go1.22/bin/go", ""),
            ("/home/u/go1.22/pkg/tool", ""),
            ("/home/u/go1.22/VERSION", "go1.22.1\n"),
            ("/home/u/.npm-global/bin/npm", ""),
            ("/home/u/.npm-global/lib/node_modules/npm", ""),
            ("/home/u/.npm-global/.npmrc", ""),
            ("/data/rust/bin/cargo", ""),
            ("/data/rust/lib/rustlib/x", ""),
            ("/data/python/bin/python3", ""),
            ("/data/python/lib/python3.12/os.py", ""),
            ("/data/maven/bin/m2.conf", "main is org.apache.maven\n"),
            ("/data/maven/boot/plexus.jar", ""),
            ("/data/maven/conf/settings.xml", ""),
            ("/data/gradle/bin/gradle", ""),
            ("/data/gradle/lib/gradle-launcher-8.5.jar", ""),
            ("/data/ruby/bin/ruby", ""),
            ("/data/ruby/lib/ruby/3.3.0", ""),
        ]);
        let shown = of_directory(&machine, &format!("{root}/bin"));
        let at = |part: &str| Path::new(root).join(part).display().to_string();
        assert!(is_shown(&shown, &at("bin")), "programs: {shown:?}");
        assert!(is_shown(&shown, &at(needed)), "{needed}: {shown:?}");
        assert!(!is_shown(&shown, &at(others)), "{others}: {shown:?}");
    }
}

#[test]
fn a_file_with_passwords_in_a_whole_installation_is_hidden() {
    let machine = Table(&[
        ("/data/conda/bin/python", ""),
        ("/data/conda/conda-meta/history", ""),
    ]);
    let trust = trust();
    let mut lookup = lookup(&machine, &trust);
    lookup.show_directory(Path::new("/data/conda/bin"));
    let hidden = Path::new("/data/conda/.condarc").to_owned();
    assert!(lookup.shown.hide.contains(&hidden), "{:?}", lookup.shown);
}

#[test]
fn a_directory_with_a_guarded_one_is_never_shown() {
    for directory in ["/home/u", "/home", "/", "/etc", "/work", "/up"] {
        let machine = Table(&[
            ("/home/u/pyvenv.cfg", "home = /usr/bin\n"),
            ("/home/u/bin/x", ""),
            ("/bin/x", ""),
            ("/etc/pool/key", ""),
            ("/work/x", ""),
            ("/up", "-> /home"),
        ]);
        assert_eq!(
            of_directory(&machine, directory),
            Vec::<PathBuf>::new(),
            "{directory} itself"
        );
        let bin = format!("{directory}/bin");
        let shown = of_directory(&machine, &bin);
        assert!(
            shown.iter().all(|path| path.ends_with("bin")),
            "{directory} is no installation: {shown:?}"
        );
    }
}

#[test]
fn a_program_brings_its_installation_and_those_that_it_leads_to() {
    let machine = Table(&[
        ("/srv/tools/aider", "-> ../venv/bin/aider"),
        ("/srv/venv/bin/aider", ""),
        (
            "/srv/venv/pyvenv.cfg",
            "version = 3\nhome = /data/python/bin\n",
        ),
        ("/data/python/bin/python3", ""),
        ("/data/python/lib/python3.12/os.py", ""),
        ("/srv/app/node_modules/x/node_modules/y/cli.js", ""),
    ]);
    let shown = of_program(&machine, "/srv/tools/aider");
    for needed in [
        "/srv/tools/aider",
        "/srv/venv/bin/aider",
        "/data/python/bin/python3",
        "/data/python/lib/python3.12/os.py",
    ] {
        let is_there = shown.iter().any(|path| {
            walk(path, |path| machine.kind(path)).is_some_and(|walk| {
                Path::new(needed).starts_with(walk.end) || path.ends_with("aider")
            })
        });
        assert!(is_there, "{needed}: {shown:?}");
    }
    assert!(!is_shown(&shown, "/srv/tools/other"), "{shown:?}");
    let shown = of_program(&machine, "/srv/app/node_modules/x/node_modules/y/cli.js");
    assert!(
        is_shown(&shown, "/srv/app/node_modules/z") && !is_shown(&shown, "/srv/app/.env"),
        "the first node_modules: {shown:?}"
    );
}

#[test]
fn a_file_that_an_agent_can_write_shows_nothing() {
    let machine = Table(&[
        ("/t/tree/bin/tool", "-> /home/u/.ssh/bin/key"),
        ("/t/tree/.venv/bin/python", "-> /home/u/.ssh/bin/key"),
        ("/t/tree/.venv/pyvenv.cfg", "home = /home/u/.ssh/bin\n"),
        ("/cache/tools/bin/tool", "-> /home/u/.ssh/bin/key"),
        ("/cache/tools/pyvenv.cfg", "home = /home/u/.ssh/bin\n"),
        ("/cache/current", "-> /home/u/.ssh"),
        ("/data/current", "-> /cache/current"),
        ("/data/bin/tool", "-> /cache/tools/bin/tool"),
        ("/home/u/.ssh/bin/key", ""),
        ("/home/u/.ssh/pyvenv.cfg", "home = /usr/bin\n"),
    ]);
    for directory in [
        "/t/tree/bin",
        "/t/tree/.venv/bin",
        "/cache/tools/bin",
        "/cache/current/bin",
        "/data/current/bin",
    ] {
        let shown = of_directory(&machine, directory);
        assert_eq!(shown, Vec::<PathBuf>::new(), "{directory}");
        let shown = of_program(&machine, &format!("{directory}/key"));
        assert_eq!(shown, Vec::<PathBuf>::new(), "{directory}/key");
    }
    let shown = of_program(&machine, "/data/bin/tool");
    assert_eq!(
        shown,
        [PathBuf::from("/data/bin")],
        "the operator's directory, but not the link into an agent's"
    );
}

#[test]
fn a_file_of_a_repository_leads_nowhere_else() {
    let machine = Table(&[
        ("/repos/app/.venv/bin/python", "-> /home/u/.ssh/bin/key"),
        ("/repos/app/.venv/bin/pytest", ""),
        ("/repos/app/.venv/lib", "-> /home/u/.ssh"),
        ("/repos/app/.venv/pyvenv.cfg", "home = /home/u/.ssh/bin\n"),
        ("/repos/app/out", "-> /home/u/.ssh"),
        ("/home/u/.ssh/bin/key", ""),
    ]);
    let shown = of_directory(&machine, "/repos/app/.venv/bin");
    assert!(
        is_shown(&shown, "/repos/app/.venv/bin/pytest"),
        "the operator has named it: {shown:?}"
    );
    let all = [
        shown,
        of_program(&machine, "/repos/app/.venv/bin/python"),
        of_directory(&machine, "/repos/app/out/bin"),
    ];
    for path in all.iter().flatten() {
        let end = walk(path, |path| machine.kind(path)).map(|walk| walk.end);
        let inside = end.is_some_and(|end| end.starts_with("/repos/app/.venv"));
        assert!(inside, "{} leads out", path.display());
    }
}

#[test]
fn a_program_is_in_sight_below_a_shown_path_only() {
    let machine = Table(&[
        ("/srv/venv/bin/python", ""),
        ("/home/u/secret/bin/python", ""),
        ("/via", "-> /srv/venv"),
        ("/srv/venv/out", "-> /home/u/secret"),
    ]);
    let (trust, more) = (trust(), ["/srv/venv".into()]);
    let lookup = lookup(&machine, &trust);
    for (program, expected) in [
        ("/srv/venv/bin/python", true),
        ("/via/bin/python", true),
        ("/srv/venv/bin/../../../home/u/secret/bin/python", false),
        ("/srv/venv/out/bin/python", false),
        ("/home/u/secret/bin/python", false),
        ("/no/where", false),
    ] {
        let found = lookup.is_in_sight(Path::new(program), &more);
        assert_eq!(found, expected, "{program}");
    }
}
