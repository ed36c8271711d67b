//! A change may contain only paths that the pool file and the task leave free.

use pool_core::result::ResultMessage;
use serde_json::{Value, json};

use crate::repo::Bench;
use crate::rig::{Rig, is_made_again, message, word};

/// A base commit with files that an agent may not change.
fn bench() -> Bench {
    let bench = Bench::new();
    bench.write(".github/workflows/ci.yml", "on: push\n");
    bench.write(".env.example", "KEY=\n");
    bench.write("tests/test_calc.py", "assert add(1, 2) == 3\n");
    bench.write("caf\u{e9}/menu", "soup\n");
    bench.commit("second");
    bench
}

async fn outcome(script: &str, sections: Value, task: Value) -> (Rig, ResultMessage) {
    let mut sections = sections;
    sections["defaults"] = json!({"max_fix_iterations": 1});
    let rig =
        Rig::with_sections(bench(), &format!("echo fixed >calc.py; {script}"), sections).await;
    let result = rig.outcome(task).await;
    (rig, result)
}

#[tokio::test]
async fn a_denied_path_is_refused_by_name_in_whatever_way_it_changes() {
    for (path, pattern, deed) in [
        (".env", ".env*", "echo KEY=1 >.env"),
        (".ENV.local", ".env*", "echo KEY=1 >.ENV.local"),
        (
            ".gitlab-ci.yml",
            ".gitlab-ci.yml",
            "ln -s calc.py .gitlab-ci.yml",
        ),
        (
            ".github/workflows/new.yml",
            ".github/workflows/**",
            "echo x >.github/workflows/new.yml",
        ),
        (
            ".github/workflows/ci.yml",
            ".github/workflows/**",
            "echo x >>.github/workflows/ci.yml",
        ),
        (
            ".github/workflows/ci.yml",
            ".github/workflows/**",
            "rm -r .github",
        ),
        (
            ".github/workflows/ci.yml",
            ".github/workflows/**",
            "chmod +x .github/workflows/ci.yml",
        ),
        (
            ".github/workflows/ci.yml",
            ".github/workflows/**",
            "mv .github/workflows/ci.yml ci.yml",
        ),
        (".env.example", ".env*", "mv .env.example example"),
        (
            ".vscode/tasks.json",
            ".vscode/**",
            "mkdir .vscode; cp docs/guide.md .vscode/tasks.json",
        ),
        (
            ".vscode",
            ".vscode/**",
            "mkdir code; echo x >code/tasks.json; ln -s code .vscode",
        ),
        (
            ".gitmodules",
            ".gitmodules",
            "git config -f .gitmodules submodule.x.url ext::x",
        ),
        (
            "docs/.gitconfig",
            "**/.git*config",
            "echo x >docs/.gitconfig",
        ),
    ] {
        let (_rig, result) = outcome(deed, json!({}), json!({})).await;
        assert_eq!(
            (word(&result), result.runs),
            ("policy", 1),
            "{deed}: {result:?}"
        );
        assert!(
            !is_made_again(&result),
            "{deed}: another attempt would do the same"
        );
        for part in [path, pattern, "patch.deny"] {
            assert!(
                message(&result).contains(part),
                "{part} is in {}",
                message(&result)
            );
        }
        assert!(result.commit.is_none(), "{deed}: nothing is committed");
    }
}

#[tokio::test]
async fn what_no_pattern_names_is_free() {
    let deeds =
        "mkdir config; echo x >config/.env; echo x >.github/CODEOWNERS; echo x >environment";
    let (_rig, result) = outcome(deeds, json!({}), json!({})).await;
    assert_eq!(word(&result), "succeeded", "{result:?}");
    let none = json!({"patch": {"deny": []}});
    let (_rig, result) = outcome("echo x >.env", none, json!({})).await;
    assert_eq!(
        word(&result),
        "succeeded",
        "the operator decides: {result:?}"
    );
}

#[tokio::test]
async fn task_and_pool_file_protect_paths_together() {
    let pool = || {
        json!({"patch": {"protect": ["docs/**"], "protect_in": {
            "app": ["tests/**"], "other": ["calc.py"], "https://example.org/app": ["calc.py"],
        }}})
    };
    let task = json!({"protect": ["CAFE\u{301}/*"]});
    for (path, key, deed, task) in [
        (
            "tests/test_calc.py",
            "patch.protect_in` of app",
            "echo pass >tests/test_calc.py",
            json!({}),
        ),
        // A task adds to the rules of the pool file and takes none away.
        (
            "tests/test_calc.py",
            "patch.protect_in` of app",
            "rm tests/test_calc.py",
            json!({"protect": []}),
        ),
        (
            "docs",
            "patch.protect`",
            "rm -r docs; echo x >docs",
            json!({}),
        ),
        (
            "caf\u{e9}/menu",
            "`protect` in the task",
            "echo x >>caf*/menu",
            task,
        ),
    ] {
        let (_rig, result) = outcome(deed, pool(), task).await;
        assert_eq!(
            (word(&result), is_made_again(&result)),
            ("protected_changed", false),
            "{deed}: {result:?}"
        );
        for part in [path, key] {
            assert!(
                message(&result).contains(part),
                "{part} is in {}",
                message(&result)
            );
        }
    }
    let (_rig, result) = outcome("echo x >>caf*/menu", pool(), json!({})).await;
    assert_eq!(
        word(&result),
        "succeeded",
        "rules of other repositories do not count: {result:?}"
    );
}

#[tokio::test]
async fn a_path_that_leads_to_the_same_repository_has_its_rules() {
    let bench = bench();
    std::os::unix::fs::symlink("app", bench.dir.path().join("root/link")).expect("a link");
    let sections = json!({
        "patch": {"protect_in": {"app": ["tests/**"]}},
        "defaults": {"max_fix_iterations": 1},
    });
    let absolute = bench.app();
    let rig = Rig::with_sections(bench, "echo pass >tests/test_calc.py", sections).await;
    for name in [
        "./app",
        "link",
        "app/.git",
        absolute.to_str().expect("a path"),
    ] {
        let result = rig.outcome(json!({"repository": name})).await;
        assert_eq!(word(&result), "protected_changed", "{name}: {result:?}");
    }
}

#[tokio::test]
async fn a_repair_is_told_to_undo_a_forbidden_change() {
    let script = "cat \"$1\"; if grep -q 'may not be changed' \"$1\"; then git checkout -q HEAD -- tests; rm .env; \
        else echo fixed >calc.py; echo pass >tests/test_calc.py; echo KEY=1 >.env; fi";
    let rig = Rig::start(bench(), script).await;
    let result = rig.outcome(json!({"protect": ["tests/**"]})).await;
    assert_eq!((word(&result), result.runs), ("succeeded", 2), "{result:?}");
    assert_eq!(
        result.files_changed,
        ["calc.py"],
        "the rest of the change is kept"
    );
    for part in ["Fix add.", "\n.env\ntests/test_calc.py\n"] {
        assert!(
            result.log_tail.contains(part),
            "{part:?} is in {}",
            result.log_tail
        );
    }
}

/// A base commit whose protected files can get another content by attributes alone.
fn bench_with_attributes() -> Bench {
    let bench = Bench::new();
    bench.write("tests/test_calc.py", "# $Id$\nassert add(1, 2) == 3\n");
    bench.write(
        "tests/unit/deep/test_more.py",
        "# $Id$\nassert add(0, 0) == 0\n",
    );
    bench.write("tests/fixed.txt", "a\nb\n");
    bench.write("data/.gitattributes", "*.txt eol=crlf\n");
    bench.write("data/protected.txt", "a\nb\n");
    bench.commit("second");
    bench
}

/// The checks print what the protected files contain.
fn prints_protected_files() -> Value {
    let prints = "cat tests/test_calc.py tests/unit/deep/test_more.py tests/fixed.txt data/protected.txt | sha1sum";
    json!({
        "protect": ["tests/**/*.py", "tests/*.txt", "data/protected.txt"],
        "acceptance": [{"name": "prints", "run": ["bash", "-c", prints]}],
    })
}

async fn outcome_with_attributes(deed: &str, task: Value) -> ResultMessage {
    let sections = json!({"defaults": {"max_fix_iterations": 1}});
    let script = format!("echo fixed >calc.py; {deed}");
    let rig = Rig::with_sections(bench_with_attributes(), &script, sections).await;
    rig.outcome(task).await
}

#[tokio::test]
async fn attributes_that_change_what_a_protected_file_contains_are_refused() {
    for (attribute, path, source, deed) in [
        (
            "eol",
            "tests/fixed.txt",
            ".gitattributes",
            "echo 'tests/*.txt eol=crlf' >.gitattributes",
        ),
        (
            "ident",
            "tests/unit/deep/test_more.py",
            ".gitattributes",
            "echo 'test_more.py ident' >.gitattributes",
        ),
        (
            "working-tree-encoding",
            "tests/test_calc.py",
            ".gitattributes",
            "echo 'test_calc.py working-tree-encoding=UTF-16' >.gitattributes",
        ),
        (
            "ident",
            "tests/unit/deep/test_more.py",
            "tests/unit/.gitattributes",
            "echo '*.py ident' >tests/unit/.gitattributes",
        ),
        (
            "filter",
            "tests/test_calc.py",
            "tests/.gitattributes",
            "echo 'test_calc.py filter=evil' >tests/.gitattributes",
        ),
        (
            "export-subst",
            "tests/test_calc.py",
            "tests/.gitattributes",
            "echo 'test_calc.py export-subst' >tests/.gitattributes",
        ),
        // Git reads the target of the link as if it were the text of the file.
        (
            "eol",
            "tests/fixed.txt",
            "tests/.gitattributes",
            "ln -s '*.txt eol=crlf' tests/.gitattributes",
        ),
        (
            "eol",
            "tests/fixed.txt",
            ".gitattributes",
            "printf '[attr]mine eol=crlf\\ntests/fixed.txt mine\\n' >.gitattributes",
        ),
        (
            "eol",
            "data/protected.txt",
            "data/.gitattributes",
            "rm data/.gitattributes",
        ),
        (
            "eol",
            "data/protected.txt",
            "data/.gitattributes",
            "ln -sf ../docs/guide.md data/.gitattributes",
        ),
    ] {
        let result = outcome_with_attributes(deed, prints_protected_files()).await;
        assert_eq!(
            (word(&result), is_made_again(&result)),
            ("protected_changed", false),
            "{deed}: {result:?}"
        );
        let said = format!("{source} changes the git attribute `{attribute}` of {path}");
        assert!(message(&result).contains(&said), "{}", message(&result));
    }
}

#[tokio::test]
async fn attributes_of_other_files_and_those_that_git_does_not_read_are_free() {
    let mut seen = Vec::new();
    for deed in [
        "true",
        "echo 'calc.py eol=crlf' >.gitattributes",
        "echo '*.md text' >tests/.gitattributes",
        "echo '*.txt eol=crlf' >>data/.gitattributes",
        // Those of the agent's own repository, and those that the commit lacks.
        "mkdir .git/info; echo '* eol=crlf ident' >.git/info/attributes; git config core.attributesFile \"$PWD/docs/guide.md\"",
        "mkdir .git/info; git config filter.evil.smudge 'sed s/3/4/'; echo '* filter=evil' >.git/info/attributes",
        "printf '.gitattributes\\n' >tests/.gitignore; echo '* eol=crlf ident' >tests/.gitattributes",
    ] {
        let result = outcome_with_attributes(deed, prints_protected_files()).await;
        assert_eq!(word(&result), "succeeded", "{deed}: {result:?}");
        seen.push(result.acceptance[0].output_tail.clone());
    }
    seen.dedup();
    assert_eq!(seen.len(), 1, "the protected files are the same: {seen:?}");
}

#[tokio::test]
async fn a_repair_can_take_attributes_back() {
    let script = "if grep -q 'may not be changed' \"$1\"; then git rm -qf .gitattributes; git checkout -q HEAD -- tests; \
        else echo fixed >calc.py; echo 'tests/** eol=crlf' >.gitattributes; fi";
    let rig = Rig::start(bench_with_attributes(), script).await;
    let result = rig.outcome(prints_protected_files()).await;
    assert_eq!((word(&result), result.runs), ("succeeded", 2), "{result:?}");
    assert_eq!(result.files_changed, ["calc.py"], "the rest is kept");
}

#[tokio::test]
async fn a_repair_that_undoes_nothing_leaves_the_refusal() {
    let rig = Rig::start(
        bench(),
        "echo fixed >calc.py; echo pass >tests/test_calc.py",
    )
    .await;
    let result = rig
        .outcome(json!({"protect": ["tests/**"], "acceptance": [
            {"name": "never", "run": ["sh", "-c", "touch \"$HOME/ran\""]}
        ]}))
        .await;
    assert_eq!(
        (word(&result), result.runs),
        ("protected_changed", 2),
        "{result:?}"
    );
    assert!(
        message(&result).contains("the run to repair it failed"),
        "{}",
        message(&result)
    );
    assert!(
        result.acceptance.is_empty(),
        "no check ran on a forbidden change"
    );
}

#[tokio::test]
async fn a_change_that_is_too_large_does_not_get_into_the_repository() {
    let limit = json!({"patch": {"max_mib": 1}});
    let deeds = "head -c 900000 /dev/urandom >one; head -c 900000 /dev/urandom >two";
    let (rig, result) = outcome(deeds, limit.clone(), json!({})).await;
    assert_eq!(
        (word(&result), is_made_again(&result)),
        ("policy", false),
        "{result:?}"
    );
    for part in ["2 MiB together", "patch.max_mib", "two (1 MiB)"] {
        assert!(
            message(&result).contains(part),
            "{part} is in {}",
            message(&result)
        );
    }
    let objects = rig.bench.git(&["count-objects", "-v"]);
    let size: u64 = objects
        .lines()
        .find_map(|line| line.strip_prefix("size: ")?.parse().ok())
        .expect("a size in KiB");
    assert!(size < 500, "no object was written: {objects}");
    let (_rig, result) = outcome("head -c 900000 /dev/urandom >one", limit, json!({})).await;
    assert_eq!(word(&result), "succeeded", "{result:?}");
}

#[tokio::test]
async fn a_change_that_grows_over_several_runs_is_measured_as_a_whole() {
    let script = "if test -e one; then head -c 900000 /dev/urandom >two; else head -c 900000 /dev/urandom >one; fi";
    let sections = json!({"patch": {"max_mib": 1}});
    let rig = Rig::with_sections(bench(), script, sections).await;
    let result = rig
        .outcome(json!({"acceptance": [{"name": "never", "run": ["false"]}]}))
        .await;
    assert_eq!((word(&result), result.runs), ("policy", 2), "{result:?}");
}
