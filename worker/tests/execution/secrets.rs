//! Secrets of a run stay out of the reach of agents, other runs and other users of the machine.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use pool_core::pool::{AgentKind, SandboxLevel, Secret};
use tokio_util::sync::CancellationToken;
use worker::agent::from_config;
use worker::sandbox::{SandboxLauncher, Watch};

use crate::agents::{job, program, run, shell_agent};
use crate::repo::{Bench, write};
use crate::support::{copy_helper, helper, limits};

/// Prints the command lines that contain the token. The pattern is in a file, because it would be
/// in a command line otherwise.
const LOOKS: &str = "printf %s \"$OPENAI_API_KEY\" >\"$HOME/key\"; test -s \"$HOME/key\" || echo no token; \
    for line in /proc/[0-9]*/cmdline; do grep -qaF -f \"$HOME/key\" \"$line\" 2>/dev/null && tr '\\0' ' ' <\"$line\"; done; \
    echo looked";

#[tokio::test]
async fn no_command_line_of_a_run_contains_its_token() {
    let bench = Bench::new();
    let aider = program(&bench, "aider", LOOKS);
    let worktree = bench.worktree().await;
    let mut job = job(&worktree, &[]);
    // Other tests run at the same time.
    job.token = Secret::new("token-of-this-test");
    let kinds = [
        AgentKind::Aider {
            program: aider,
            edit_format: "diff".to_owned(),
        },
        shell_agent(LOOKS, &["{prompt_file}", "{base_url}", "{model}"]),
    ];
    for kind in kinds {
        let finished = run(&kind, &job).await.expect("it runs");
        assert_eq!(finished.output.text(), "looked\n", "{kind:?}");
    }
    // A control: a pool file can put it there, and then the agent of this test sees it.
    let told = shell_agent(LOOKS, &["--key={token}"]);
    let finished = run(&told, &job).await.expect("it runs");
    let text = finished.output.text();
    assert!(
        text.contains("--key=token-of-this-test"),
        "it is found: {text}"
    );
}

#[test]
fn no_pool_file_puts_a_token_on_a_command_line() {
    let config = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../config");
    let mut open = vec![config];
    let mut seen = 0;
    while let Some(next) = open.pop() {
        for entry in std::fs::read_dir(next).expect("a directory") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|kind| kind == "yaml") {
                let text = std::fs::read_to_string(&path).expect("a file");
                seen += usize::from(text.contains("command:"));
                // In `env` it is fine.
                let named = text.lines().filter(|line| line.contains("{token}"));
                for line in named {
                    assert!(
                        line.contains("env:"),
                        "{}: every user of the machine can read it: {line}",
                        path.display()
                    );
                }
            }
        }
    }
    assert!(seen >= 3, "the samples for codex, claude and the trial");
}

/// The stand-in for aider tries to read and to change the files that it must not see.
#[tokio::test]
async fn an_agent_can_neither_read_nor_change_what_is_hidden_from_it() {
    let bench = Bench::new();
    bench.write(".env", "SECRET=of-the-repository\n");
    bench.write(".aider.conf.yml", "old: true\n");
    bench.commit("configuration");
    let tries = "cd \"$HOME/..\"; grep -rs of-the-repository . ../hidden ..; ls ../hidden 2>/dev/null; \
        for place in . hidden ../hidden \"$HOME\"; do echo SECRET=changed >$place/.env; echo x >$place/.aider.conf.yml; done 2>/dev/null; \
        cd - >/dev/null; rm -rf ../hidden 2>/dev/null; echo SECRET=mine >.env; echo tried";
    let stand_in = program(&bench, "aider", tries);
    let worktree = bench.worktree().await;
    let config = pool_core::pool::Agent {
        kind: AgentKind::Aider {
            program: stand_in.clone(),
            edit_format: "diff".to_owned(),
        },
        no_output_timeout: std::time::Duration::from_secs(30),
        done_when: None,
        env_allow: Vec::new(),
        warm: false,
        warm_modules: Vec::new(),
    };
    let mut job = job(&worktree, &[]);
    job.access.read.push(stand_in);
    let strict = pool_core::pool::Sandbox {
        level: SandboxLevel::Strict,
        ..limits()
    };
    let sandbox = SandboxLauncher::with_helper(&strict, helper());
    let watch = Watch::new(CancellationToken::new());
    let finished = from_config(&config)
        .run(&job, &sandbox, &watch)
        .await
        .expect("it runs");
    assert_eq!(finished.output.text(), "tried\n", "it found nothing");
    let read = |name: &str| std::fs::read_to_string(worktree.path().join(name)).expect("a file");
    assert_eq!(
        (read(".env").as_str(), read(".aider.conf.yml").as_str()),
        ("SECRET=of-the-repository\n", "old: true\n"),
        "they are back as they were"
    );
    let changes = worktree.collect().await.expect("good changes");
    assert!(changes.is_empty(), "no change: {:?}", changes.files);
}

/// Runs as an ordinary user: root may look into every process.
#[test]
fn no_process_of_the_same_user_can_look_into_a_worker() {
    let dir = tempfile::tempdir().expect("a directory");
    let exe = dir.path().join("worker");
    copy_helper(&exe);
    let file = dir.path().join("pool.yaml");
    // Nobody listens there, so the worker waits for the broker.
    write(
        &file,
        "broker: {url: \"amqp://guest:guest@127.0.0.1:1/%2f\"}\n\
         programmers: [{id: \"001\", port: 0, primary_llm: free/small, capabilities: [fast]}]\n\
         providers: {free: {base_url: \"http://127.0.0.1:1\", free: true}}\n\
         agent: {kind: noop}\nworkspace: {dir: work}\nsandbox: {level: \"off\"}\n",
    );
    let script = r#"
import ctypes, os, subprocess, sys, time
pool = sys.argv[2]
env = dict(os.environ, FREE_API_KEY="key-of-the-pool", RUST_LOG="info")
worker = subprocess.Popen([sys.argv[1], "run", "--all", "--pool", pool], env=env, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True)
other = subprocess.Popen(["sleep", "60"], env=env)
# The first line of its log comes after it has hidden itself.
line = worker.stdout.readline()
libc = ctypes.CDLL(None, use_errno=True)

def look(pid):
    found = []
    for name in ("environ", "mem", "maps", "auxv"):
        try:
            with open(f"/proc/{pid}/{name}", "rb") as file:
                if name != "mem":
                    file.read()
            found.append(name)
        except OSError:
            pass
    try:
        os.readlink(f"/proc/{pid}/fd/0")
        found.append("fd")
    except OSError:
        pass
    if libc.ptrace(16, pid, 0, 0) == 0:
        os.waitpid(pid, 0)
        found.append("ptrace")
    return found

print("other", *look(other.pid))
print("worker", *look(worker.pid))
print("alive", worker.poll() is None, line.strip())
for child in (worker, other):
    child.kill()
"#;
    use std::os::unix::process::CommandExt as _;
    let mut command = Command::new("/usr/bin/python3");
    if nix::unistd::getuid().is_root() {
        for path in [dir.path(), &exe, &file] {
            std::os::unix::fs::chown(path, Some(2001), Some(2001)).expect("a new owner");
        }
        command.uid(2001).gid(2001);
    }
    let done = command
        .args(["-c", script])
        .args([&exe, &file])
        .current_dir(dir.path())
        .env_clear()
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .env("HOME", dir.path())
        .stderr(Stdio::piped())
        .output()
        .expect("Python");
    let said = String::from_utf8_lossy(&done.stdout);
    let errors = String::from_utf8_lossy(&done.stderr);
    let line = |name: &str| said.lines().find(|line| line.starts_with(name));
    assert_eq!(
        line("other"),
        Some("other environ mem maps auxv fd ptrace"),
        "a usual process is open to its user: {said}{errors}"
    );
    assert!(
        line("alive").is_some_and(|line| line.starts_with("alive True")),
        "the worker runs: {said}{errors}"
    );
    assert_eq!(
        line("worker"),
        Some("worker"),
        "the worker is not: {said}{errors}"
    );
}
