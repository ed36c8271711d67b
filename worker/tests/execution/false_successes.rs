//! Ways in which an agent has made a failing check pass. Each check here fails, whatever the agent does.
//! `check_tree` has two more: a check that changes what the next one tests, and the agent's git
//! configuration.

use nix::unistd::getuid;
use pool_core::result::ResultMessage;
use serde_json::{Value, json};

use crate::repo::Bench;
use crate::rig::{Rig, check, word};

/// A base commit with a Python test that fails.
fn bench() -> Bench {
    let bench = Bench::new();
    bench.write(
        "test_calc.py",
        "from calc import add\nassert add(1, 2) == 3\n",
    );
    bench.commit("a test");
    bench
}

async fn outcome(script: &str, sections: Value, task: Value) -> ResultMessage {
    let mut sections = sections;
    sections["defaults"] = json!({"max_fix_iterations": 1});
    let rig = Rig::with_sections(bench(), script, sections).await;
    rig.outcome(task).await
}

#[tokio::test]
async fn programs_in_the_home_of_the_agent_decide_nothing() {
    let plant = "site=$(python3 -c 'import site, os; print(os.path.relpath(site.getusersitepackages(), os.environ[\"HOME\"]))'); \
        for dir in \"$HOME\" \"$TMPDIR\" ..; do \
            mkdir -p \"$dir/$site\" \"$dir/bin\" \"$dir/.local/bin\"; \
            echo 'import os; os._exit(0)' | tee \"$dir/$site/usercustomize.py\" >\"$dir/usercustomize.py\"; \
            for name in python3 git sh; do printf '#!/bin/sh\\nexit 0\\n' | tee \"$dir/bin/$name\" >\"$dir/.local/bin/$name\"; done; \
            chmod +x \"$dir\"/bin/* \"$dir\"/.local/bin/*; \
            echo 'alias python3=true' | tee \"$dir/.bashrc\" \"$dir/.profile\" >\"$dir/.bash_profile\"; \
            printf '[core]\\n\\tfsmonitor = /bin/true\\n[alias]\\n\\tcheck = !true\\n' >\"$dir/.gitconfig\"; \
        done; ";
    // Without this the test would prove nothing: the planted file works where it is obeyed.
    let control = "python3 -c 'raise SystemExit(3)'; test $? = 0 && echo works";
    let script = format!("{plant}{control}; echo changed >>calc.py");
    let result = outcome(&script, json!({}), check("python3 test_calc.py")).await;
    assert!(
        result.log_tail.contains("works"),
        "the attack works in the agent's home: {result:?}"
    );
    assert_eq!(word(&result), "acceptance_failed", "{result:?}");
    for script in [
        "bash -lc 'python3 test_calc.py'",
        "git check",
        "git diff --quiet HEAD",
    ] {
        let result = outcome(
            &format!("{plant}echo changed >>calc.py"),
            json!({}),
            check(script),
        )
        .await;
        assert_eq!(word(&result), "acceptance_failed", "{script}: {result:?}");
    }
}

#[tokio::test]
async fn a_check_has_no_variable_that_changes_programs() {
    let script = "export GIT_DIR=/x PYTHONSTARTUP=/x; echo changed >>calc.py";
    let result = outcome(
        script,
        json!({}),
        check("env | grep -E '^(GIT|PYTHON|LD_|NODE_|BASH_ENV|ENV=)' | sort; exit 1"),
    )
    .await;
    let printed: Vec<&str> = result.acceptance[0].output_tail.lines().collect();
    let names: Vec<&str> = printed
        .iter()
        .filter_map(|line| line.split('=').next())
        .collect();
    assert_eq!(
        names,
        ["GIT_CEILING_DIRECTORIES", "PYTHONDONTWRITEBYTECODE"],
        "{printed:?}"
    );
}

#[tokio::test]
async fn a_program_in_the_repository_does_not_replace_one_of_the_machine() {
    let script = "for name in python3 git; do printf '#!/bin/sh\\nexit 0\\n' >$name; chmod +x $name; done; echo changed >>calc.py";
    let result = outcome(script, json!({}), check("python3 test_calc.py")).await;
    assert_eq!(word(&result), "acceptance_failed", "{result:?}");
}

#[tokio::test]
async fn no_process_of_the_agent_is_alive_during_checks() {
    let marker = "sleep 424242.7";
    let rewrites = "while :; do echo >../checks/tree/test_calc.py; done 2>/dev/null";
    let script = format!(
        "setsid sh -c '{rewrites}' >/dev/null 2>&1 & setsid {marker} >/dev/null 2>&1 & (trap '' TERM; exec setsid {marker}) >/dev/null 2>&1 & \
         echo changed >>calc.py"
    );
    let sees = format!("pgrep -f '^{marker}' && exit 0; python3 test_calc.py");
    let result = outcome(&script, json!({}), check(&sees)).await;
    assert_eq!(word(&result), "acceptance_failed", "{result:?}");
    assert!(
        result.acceptance[0].output_tail.contains("Error"),
        "the test itself failed: {result:?}"
    );
}

/// Takes the helper's end of the line to the worker, says that the check passed, and ends the helper.
const FORGES: &str = r#"
import ctypes, os, signal, socket
libc = ctypes.CDLL(None, use_errno=True)
pids, pid = [], os.getppid()
while pid > 0:
    pids.append(pid)
    try:
        pid = int(open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[1])
    except OSError:
        break
for pid in pids:
    try:
        if b"sandbox-" not in open(f"/proc/{pid}/cmdline", "rb").read():
            continue
    except OSError:
        continue
    handle = libc.syscall(434, pid, 0)
    line = libc.syscall(438, handle, 0, 0)
    if line >= 0:
        tried = b'{"addresses":0,"names":0,"local_ports":0}'
        report = b'{"ended":{"status":0,"signal":null,"stragglers":0,"network":' + tried + b'}}\n'
        socket.socket(fileno=line).send(report)
        os.kill(pid, signal.SIGKILL)
        os._exit(0)
raise SystemExit(1)
"#;

#[tokio::test]
async fn a_check_cannot_report_its_own_success() {
    let task =
        || json!({"acceptance": [{"name": "forges", "run": ["/usr/bin/python3", "-c", FORGES]}]});
    for level in ["strict", "files"] {
        let sections = json!({"sandbox": {"level": level}});
        let result = outcome("echo changed >>calc.py", sections, task()).await;
        assert_eq!(word(&result), "acceptance_failed", "{level}: {result:?}");
        let ended = result.acceptance[0].exit_status;
        assert_eq!(
            ended,
            Some(1),
            "{level}: the check ran to its end: {result:?}"
        );
    }
    let sections = json!({"sandbox": {"level": "off"}});
    let result = outcome("echo changed >>calc.py", sections, task()).await;
    // Root may look into every process. So the attack works there, which shows that it is one.
    let expected = if getuid().is_root() {
        "succeeded"
    } else {
        "acceptance_failed"
    };
    assert_eq!(word(&result), expected, "off: {result:?}");
}

#[tokio::test]
async fn a_planted_test_helper_is_in_the_change_and_can_be_protected() {
    let plant = "mkdir -p tests; echo 'import os; os._exit(0)' >tests/__init__.py; echo 'assert False' >tests/test_it.py; echo changed >>calc.py";
    let run = json!([{"name": "tests", "run": ["python3", "-m", "unittest", "tests.test_it"]}]);
    let result = outcome(plant, json!({}), json!({"acceptance": run})).await;
    assert_eq!(
        word(&result),
        "succeeded",
        "the submitter protects nothing: {result:?}"
    );
    assert!(
        result
            .files_changed
            .contains(&"tests/__init__.py".to_owned()),
        "but sees it: {result:?}"
    );
    let task = json!({"acceptance": run, "protect": ["**/__init__.py", "**/conftest.py"]});
    let result = outcome(plant, json!({}), task).await;
    assert_eq!(word(&result), "protected_changed", "{result:?}");
}
