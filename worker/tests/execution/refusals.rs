//! A change that cannot be kept is refused once, by name. The report names the first cause.

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use crate::repo::Bench;
use crate::rig::{Rig, is_made_again, message, word};

fn bench() -> Bench {
    let bench = Bench::new();
    bench.write(".gitignore", "build/\n");
    bench.git(&["add", "--all"]);
    let submodule = format!("160000,{},library", bench.git(&["rev-parse", "HEAD"]));
    bench.git(&["update-index", "--add", "--cacheinfo", &submodule]);
    bench.git(&["commit", "--quiet", "-m", "second"]);
    bench
}

const SOCKET: &str =
    "python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"docs/sock\")'";

#[tokio::test]
async fn a_change_that_cannot_be_kept_is_refused_once_and_names_the_path() {
    let encoding =
        "echo '*.u16 text working-tree-encoding=UTF-16' >.gitattributes; printf 'a\\nb' >wrong.u16";
    let deeds = [
        ("secret", "ln -s /etc/passwd secret"),
        ("docs/up", "ln -s ../../x docs/up"),
        ("inner", "git init -q inner; echo x >inner/a"),
        (
            "frontend/app",
            "mkdir -p frontend; git init -q frontend/app; cd frontend/app; git commit -q --allow-empty -m x",
        ),
        ("side", "git worktree add -q --detach side"),
        ("library", "rmdir library"),
        ("library", "rmdir library; echo x >library"),
        (
            "library",
            "git clone -q . library && cd library && git commit -q --allow-empty -m x",
        ),
        ("docs/pipe", "mkfifo docs/pipe"),
        ("docs/sock", SOCKET),
        ("calc.py", "rm calc.py; mkfifo calc.py"),
        ("docs/.gitignore", "mkfifo docs/.gitignore"),
        ("wrong.u16", encoding),
    ];
    let identity =
        "export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a";
    for (path, deed) in deeds {
        let rig = Rig::start(
            bench(),
            &format!("{identity}; echo fixed >calc.py; {deed}; exit 0"),
        )
        .await;
        let began = Instant::now();
        let result = rig.outcome(json!({})).await;
        assert_eq!(
            (word(&result), result.runs),
            ("change_refused", 1),
            "{deed}: {result:?}"
        );
        assert!(
            !is_made_again(&result),
            "{deed}: another attempt would fail in the same way"
        );
        assert!(
            message(&result).contains(path),
            "{deed}: the message names {path}: {}",
            message(&result)
        );
        assert!(
            message(&result).contains(": "),
            "{deed}: and the next step: {}",
            message(&result)
        );
        assert!(
            began.elapsed() < Duration::from_secs(10),
            "{deed}: it took {:?}",
            began.elapsed()
        );
    }
}

#[tokio::test]
async fn devices_are_refused_too() {
    let rig = Rig::start(bench(), "mknod docs/null c 1 3 || mkfifo docs/null; exit 0").await;
    let result = rig.outcome(json!({})).await;
    assert_eq!(word(&result), "change_refused", "{result:?}");
    assert!(
        message(&result).contains("docs/null"),
        "the message names it: {}",
        message(&result)
    );
}

#[tokio::test]
async fn a_tree_in_whose_place_is_a_link_is_not_followed() {
    let other = tempfile::tempdir().expect("a directory");
    std::fs::write(other.path().join("precious"), "x").expect("a file");
    let script = format!(
        "mv ../tree ../moved; ln -s {} ../tree; exit 0",
        other.path().display()
    );
    let rig = Rig::start(bench(), &script).await;
    let result = rig.outcome(json!({})).await;
    assert_eq!(word(&result), "change_refused", "{result:?}");
    assert!(
        other.path().join("precious").exists(),
        "its target is untouched"
    );
}

#[tokio::test]
async fn what_is_ignored_may_be_anything() {
    let litter = format!(
        "mkdir build; mkfifo build/pipe; git init -q build/inner; ln -s /etc build/out; {SOCKET}; mv docs/sock build/"
    );
    let rig = Rig::start(bench(), &format!("{litter}; echo fixed >calc.py")).await;
    let result = rig.outcome(json!({})).await;
    assert_eq!(
        (word(&result), &result.files_changed[..]),
        ("succeeded", &["calc.py".to_owned()][..]),
        "{result:?}"
    );
}

#[tokio::test]
async fn what_cannot_be_read_is_made_readable() {
    let locks = "mkdir -p locked/inner; echo x >locked/inner/file; echo x >secret; echo y >>docs/guide.md; \
        chmod 000 secret docs/guide.md locked/inner locked; chmod 400 docs; stat -c %a secret locked";
    let rig = Rig::start(bench(), locks).await;
    let result = rig
        .outcome(json!({"acceptance": [
            {"name": "modes", "run": ["stat", "-c", "%A", "secret", "docs/guide.md", "locked/inner/file", "locked"]}
        ]}))
        .await;
    assert_eq!(word(&result), "succeeded", "{result:?}");
    assert_eq!(
        result.files_changed,
        ["docs/guide.md", "locked/inner/file", "secret"],
        "each is listed"
    );
    for line in result.acceptance[0].output_tail.lines() {
        assert!(
            line.starts_with("-rw") || line.starts_with("drwx"),
            "the check can read it: {line}"
        );
    }
}

const NESTED: &str = "git init -q inner; mkfifo docs/.gitignore; rmdir library";

#[tokio::test]
async fn the_exit_status_of_an_agent_comes_before_what_it_left() {
    let rig = Rig::start(bench(), &format!("{NESTED}; exit 1")).await;
    let result = rig.outcome(json!({})).await;
    assert_eq!(word(&result), "agent_failed", "{result:?}");
    assert!(
        message(&result).contains("status 1"),
        "{}",
        message(&result)
    );
}

#[tokio::test]
async fn a_time_out_comes_before_what_the_agent_left() {
    let rig = Rig::with(
        bench(),
        &format!("{NESTED}; exec sleep 600"),
        json!({"max_duration_per_job_s": 2}),
    )
    .await;
    let began = Instant::now();
    let result = rig.outcome(json!({})).await;
    assert_eq!(
        (word(&result), is_made_again(&result)),
        ("agent_timeout", false),
        "{result:?}"
    );
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "it took {:?}",
        began.elapsed()
    );
}

#[tokio::test]
async fn a_refusal_of_the_gateway_comes_before_what_the_agent_left() {
    let asks = "python3 - <<'EOF'
import json, os, urllib.request
body = {'model': os.environ['POOL_MODEL'], 'messages': [{'role': 'user', 'content': 'word ' * 5000}]}
request = urllib.request.Request(os.environ['POOL_BASE_URL'] + '/chat/completions', json.dumps(body).encode(),
    {'content-type': 'application/json', 'authorization': 'Bearer ' + os.environ['POOL_TOKEN']})
try:
    urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request)
except OSError:
    pass
EOF";
    let rig = Rig::with(
        bench(),
        &format!("{NESTED}; {asks}"),
        json!({"max_tokens_per_job": 1000}),
    )
    .await;
    let result = rig.outcome(json!({})).await;
    assert_eq!(
        (word(&result), is_made_again(&result)),
        ("token_limit", false),
        "{result:?}"
    );
}
