//! `worker sandbox -- COMMAND` in made-up home directories, which are laid out as toolchains lay
//! them out: programs work, and the credentials beside them stay invisible.
#![expect(clippy::expect_used, reason = "a helper that fails fails the test")]

use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use agent_sandbox::landlock_abi;
use nix::unistd::getuid;

use crate::repo::write;
use crate::support::copy_helper;

/// An ordinary user. It need not exist.
const USER: u32 = 2001;

/// Credentials that lie beside toolchains.
const SECRETS: [&str; 16] = [
    ".cargo/credentials.toml",
    ".config/gh/hosts.yml",
    ".docker/config.json",
    ".gradle/gradle.properties",
    ".local/share/keyrings/login.keyring",
    ".m2/settings.xml",
    ".netrc",
    ".npm-global/.npmrc",
    ".npmrc",
    ".ssh/id_ed25519",
    "go/token",
    "go/src/private/key",
    "maven/conf/settings.xml",
    "miniconda3/.condarc",
    "private/bin/key",
    "venvs/tool/pip.conf",
];

/// The directories of `PATH` in the home directory.
const DIRECTORIES: [&str; 13] = [
    ".cargo/bin",
    ".pyenv/shims",
    "venvs/tool/bin",
    "miniconda3/bin",
    ".local/bin",
    "bin",
    ".nvm/versions/node/v20.1.0/bin",
    ".npm-global/bin",
    "sdk/go1.22/bin",
    "go/bin",
    ".sdkman/candidates/java/current/bin",
    "jdk-17/bin",
    "maven/bin",
];

/// Programs of the home directory. `HERE` is their directory, `HOME` the home directory.
const PROGRAMS: [(&str, &str); 20] = [
    // A proxy, as rustup has it: it finds the toolchain by a variable.
    (
        ".cargo/bin/rustup",
        "exec \"$RUSTUP_HOME/toolchains/$(cat \"$RUSTUP_HOME/settings.toml\")/bin/${0##*/}\"",
    ),
    (
        ".rustup/toolchains/stable/bin/cargo",
        "test -d $CARGO_HOME/registry/index && cat HERE/../lib/rustlib/components && echo cargo works",
    ),
    // A shim, as pyenv and others have it.
    (
        ".pyenv/shims/python3.12",
        "exec $PYENV_ROOT/versions/3.12.1/bin/python3.12 \"$@\"",
    ),
    (
        ".pyenv/versions/3.12.1/bin/python3.12",
        "test -f HERE/../lib/python3.12/os.py && exec /usr/bin/python3 \"$@\"",
    ),
    (
        "venvs/tool/bin/tool",
        "exec HERE/python -c 'print(\"tool works\")'",
    ),
    (
        ".local/share/pipx/venvs/black/bin/black",
        "exec HERE/python -c 'print(\"black works\")'",
    ),
    (
        "miniconda3/bin/conda-python",
        "cat HERE/../ssl/openssl.cnf && echo conda works",
    ),
    (".local/bin/own-script", "echo own-script works"),
    ("bin/my-script", "echo my-script works"),
    (
        ".nvm/versions/node/v20.1.0/bin/node",
        "cat HERE/../lib/node_modules/npm/package.json && echo node works",
    ),
    (
        ".npm-global/lib/node_modules/tsc/bin/tsc.js",
        "cat HERE/../../helper/index.js && echo tsc works",
    ),
    (
        "sdk/go1.22/bin/go",
        "HERE/../pkg/tool/compile && test -d $GOMODCACHE/cache && echo go works",
    ),
    ("sdk/go1.22/pkg/tool/compile", "true"),
    ("go/bin/gopls", "echo gopls works"),
    (
        ".sdkman/candidates/java/21.0.1/bin/java",
        "cat HERE/../lib/modules && echo java works",
    ),
    (
        "jdk-17/bin/java17",
        "cat HERE/../conf/net.properties && echo java17 works",
    ),
    (
        "maven/bin/mvn",
        "cat HERE/../boot/classworlds.jar && echo mvn works",
    ),
    ("private/bin/show", "echo show works"),
    (".ssh/bin/python3", "echo a decoy"),
    ("other/bin/decoy", "echo a decoy"),
];

const FILES: [(&str, &str); 19] = [
    (".cargo/config.toml", "[build]\n"),
    (".cargo/registry/index/config.json", ""),
    (".rustup/settings.toml", "stable"),
    (".rustup/toolchains/stable/lib/rustlib/components", ""),
    (".pyenv/versions/3.12.1/lib/python3.12/os.py", ""),
    (
        "venvs/tool/pyvenv.cfg",
        "home = HOME/.pyenv/versions/3.12.1/bin\n",
    ),
    (
        ".local/share/pipx/venvs/black/pyvenv.cfg",
        "home = HOME/.pyenv/versions/3.12.1/bin\n",
    ),
    ("miniconda3/conda-meta/history", ""),
    ("miniconda3/ssl/openssl.cnf", ""),
    (
        ".nvm/versions/node/v20.1.0/lib/node_modules/npm/package.json",
        "",
    ),
    (".npm-global/lib/node_modules/helper/index.js", ""),
    ("sdk/go1.22/VERSION", "go1.22.1\n"),
    ("go/pkg/mod/cache/lock", ""),
    (
        ".sdkman/candidates/java/21.0.1/release",
        "JAVA_VERSION=\"21.0.1\"\n",
    ),
    (".sdkman/candidates/java/21.0.1/lib/modules", ""),
    ("jdk-17/release", "JAVA_VERSION=\"17\"\n"),
    ("jdk-17/conf/net.properties", ""),
    ("maven/bin/m2.conf", "main is org.apache.maven.cli\n"),
    ("maven/boot/classworlds.jar", ""),
];

const LINKS: [(&str, &str); 6] = [
    (".cargo/bin/cargo", "rustup"),
    (
        "venvs/tool/bin/python",
        "../../../.pyenv/versions/3.12.1/bin/python3.12",
    ),
    (
        ".local/share/pipx/venvs/black/bin/python",
        "../../../../../../.pyenv/versions/3.12.1/bin/python3.12",
    ),
    (".local/bin/black", "../share/pipx/venvs/black/bin/black"),
    (".npm-global/bin/tsc", "../lib/node_modules/tsc/bin/tsc.js"),
    (".sdkman/candidates/java/current", "21.0.1"),
];

/// A machine of a worker's user: a home directory, a repository and a pool file.
struct Machine {
    dir: tempfile::TempDir,
    user: u32,
}

impl Machine {
    fn new(user: u32) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let machine = Self { dir, user };
        machine.lay_out_home();
        let tree = machine.tree();
        let home = machine.home();
        machine.program(&tree.join("say.sh"), "echo the tree works");
        machine.program(
            &tree.join(".venv/bin/pytest"),
            "exec HERE/python -c 'print(\"pytest works\")'",
        );
        let python = home.join(".pyenv/versions/3.12.1/bin/python3.12");
        symlink(python, tree.join(".venv/bin/python")).expect("a link");
        // An agent has left these.
        let decoy = format!("home = {}/.ssh/bin\n", home.display());
        write(&tree.join(".venv/pyvenv.cfg"), &decoy);
        symlink(home.join("other/bin/decoy"), tree.join(".venv/bin/decoy")).expect("a link");
        copy_helper(&machine.at("worker"));
        machine.write_pool("");
        give(machine.dir.path(), user);
        machine
    }

    fn lay_out_home(&self) {
        let home = self.home();
        for (name, script) in PROGRAMS {
            self.program(&home.join(name), script);
        }
        for (name, text) in FILES {
            let text = text.replace("HOME", home.to_str().expect("a path in UTF-8"));
            write(&home.join(name), text);
        }
        for name in SECRETS {
            write(&home.join(name), "secret");
        }
        for (name, target) in LINKS {
            let link = home.join(name);
            std::fs::create_dir_all(link.parent().expect("a parent")).expect("its directory");
            symlink(target, link).expect("a link");
        }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn home(&self) -> PathBuf {
        self.at("home")
    }

    fn tree(&self) -> PathBuf {
        self.at("repos/app")
    }

    /// Writes a shell script.
    fn program(&self, file: &Path, script: &str) {
        let here = file.parent().expect("a directory").display().to_string();
        let script = script.replace("HERE", &here);
        write(file, format!("#!/bin/sh\n{script}\n"));
        std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o755)).expect("executable");
    }

    fn write_pool(&self, sandbox: &str) {
        let yaml = format!(
            "programmers:\n  - {{id: \"001\", port: 0, primary_llm: bench/none, capabilities: [fast]}}\n\
             providers:\n  bench: {{base_url: \"http://127.0.0.1:9/v1\", free: true}}\n\
             agent: {{kind: noop}}\nworkspace: {{dir: {0}/work, roots: [{0}/repos]}}\n\
             sandbox: {{{sandbox}}}\n",
            self.dir.path().display()
        );
        write(&self.at("etc/pool.yaml"), yaml);
    }

    /// Runs a command as a check runs. Returns whether it succeeded, and its output.
    fn check(&self, level: &str, command: &[&str]) -> (bool, String) {
        self.check_in(&self.tree(), level, command)
    }

    fn check_in(&self, directory: &Path, level: &str, command: &[&str]) -> (bool, String) {
        let home = self.home();
        let mut path: Vec<PathBuf> = DIRECTORIES.iter().map(|name| home.join(name)).collect();
        path.extend([
            self.tree().join(".venv/bin"),
            "/usr/bin".into(),
            "/bin".into(),
        ]);
        let mut worker = Command::new(self.at("worker"));
        if getuid().as_raw() != self.user {
            worker.uid(self.user).gid(self.user);
        }
        let done = worker
            .args(["sandbox", "--level", level, "--pool"])
            .arg(self.at("etc/pool.yaml"))
            .arg("--in")
            .arg(directory)
            .arg("--")
            .args(command)
            .current_dir(self.dir.path())
            .env_clear()
            .env("HOME", &home)
            .env("PATH", std::env::join_paths(path).expect("a PATH"))
            .output()
            .expect("the worker starts");
        let said = [done.stdout, done.stderr].concat();
        (
            done.status.success(),
            String::from_utf8_lossy(&said).into_owned(),
        )
    }

    /// Which of these files a check can read.
    fn readable(&self, level: &str, names: &[&str]) -> Vec<String> {
        let home = self.home();
        let files: Vec<String> = names
            .iter()
            .map(|name| home.join(name).display().to_string())
            .collect();
        let script = "for file; do test \"$(cat \"$file\" 2>&1)\" = secret && echo \"read $file\"; done; echo looked";
        let mut command = vec!["sh", "-c", script, "check"];
        command.extend(files.iter().map(String::as_str));
        let (_, said) = self.check(level, &command);
        assert!(said.contains("looked"), "the check ran: {said}");
        let read = said.lines().filter_map(|line| line.strip_prefix("read "));
        read.map(str::to_owned).collect()
    }
}

fn give(path: &Path, user: u32) {
    if path.is_symlink() {
        return;
    }
    if getuid().is_root() {
        chown(path, Some(user), Some(user)).expect("a new owner");
    }
    if path.is_dir() {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).expect("a mode");
        for entry in std::fs::read_dir(path).expect("a directory") {
            give(&entry.expect("an entry").path(), user);
        }
    }
}

/// This user and, as root, an ordinary one.
fn users() -> Vec<u32> {
    let me = getuid();
    if me.is_root() {
        vec![0, USER]
    } else {
        vec![me.as_raw()]
    }
}

/// The levels that this kernel has.
fn levels() -> Vec<&'static str> {
    if landlock_abi() < 2 {
        eprintln!(
            "level files is skipped: this kernel has Landlock {}",
            landlock_abi()
        );
        return vec!["strict"];
    }
    vec!["strict", "files"]
}

#[test]
fn programs_of_toolchains_in_a_home_directory_work_and_credentials_stay_invisible() {
    for user in users() {
        let machine = Machine::new(user);
        let open = machine.readable("off", &SECRETS);
        assert_eq!(open.len(), SECRETS.len(), "without layers: {open:?}");
        for level in levels() {
            for program in [
                "cargo",
                "python3.12 -c 'print(\"python works\")'",
                "tool",
                "conda-python",
                "own-script",
                "my-script",
                "node",
                "tsc",
                "go",
                "gopls",
                "java",
                "java17",
                "mvn",
                "./say.sh",
                ".venv/bin/pytest",
            ] {
                let (_, said) = machine.check(level, &["sh", "-c", program]);
                assert!(
                    said.contains("works"),
                    "{program} in {level} as {user}: {said}"
                );
            }
            for program in ["black", "cargo", ".venv/bin/pytest"] {
                let (_, said) = machine.check(level, &[program]);
                assert!(
                    said.contains("works"),
                    "{program} in {level} as {user}: {said}"
                );
            }
            let read = machine.readable(level, &SECRETS);
            assert_eq!(read, Vec::<String>::new(), "in {level} as {user}");
        }
    }
}

#[test]
fn the_program_of_a_check_shows_only_what_the_operator_has_named() {
    for user in users() {
        let machine = Machine::new(user);
        let show = machine.home().join("private/bin/show");
        let show = show.to_str().expect("a path in UTF-8");
        let decoy = machine.tree().join(".venv/bin/decoy");
        let decoy = decoy.to_str().expect("a path in UTF-8");
        let (works, said) = machine.check("off", &[show]);
        assert!(
            works && said.contains("show works"),
            "without layers: {said}"
        );
        for level in levels() {
            for program in [show, decoy, "decoy"] {
                let (works, said) = machine.check(level, &[program]);
                assert!(!works, "{program} in {level} as {user}: {said}");
            }
            let private = machine.home().join("private");
            machine.write_pool(&format!("read: [{}]", private.display()));
            let (works, said) = machine.check(level, &[show]);
            assert!(works, "sandbox.read shows it in {level} as {user}: {said}");
            machine.write_pool("");
        }
    }
}

#[test]
fn a_directory_with_secrets_is_no_worktree() {
    let machine = Machine::new(getuid().as_raw());
    symlink(machine.home(), machine.at("link")).expect("a link");
    for directory in ["home", "link", "repos", "."] {
        let (works, said) = machine.check_in(&machine.at(directory), "strict", &["true"]);
        assert!(
            !works && said.contains("could read and change"),
            "{directory}: {said}"
        );
    }
}

#[test]
fn paths_of_the_pool_file_that_show_too_much_are_refused_by_name() {
    let machine = Machine::new(getuid().as_raw());
    symlink("home", machine.at("link")).expect("a link");
    let base = machine.dir.path().display().to_string();
    for (key, path) in [
        ("read", format!("{base}/link")),
        ("read", format!("{base}/home/bin/..")),
        ("write", format!("{base}/repos/app/../..")),
    ] {
        machine.write_pool(&format!("{key}: [{path}]"));
        let (works, said) = machine.check("strict", &["true"]);
        assert!(!works, "{path} is refused");
        assert!(said.contains(&format!("sandbox.{key}")), "{path}: {said}");
    }
}
