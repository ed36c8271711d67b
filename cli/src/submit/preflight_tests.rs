use std::fs;

use pool_core::time::Timestamp;
use serde_json::{Value, json};

use super::*;

/// A root with the repository `app`, and a pool that has it.
struct Bench {
    dir: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let bench = Self {
            dir: tempfile::tempdir().expect("a directory"),
        };
        let app = bench.dir.path().join("root/app");
        for (path, text) in [
            ("calc.py", "x"),
            ("tests/unit/test_calc.py", "x"),
            ("tests/data.json", "{}"),
            ("run.sh", "#!/bin/sh\n"),
        ] {
            let file = app.join(path);
            fs::create_dir_all(file.parent().expect("a parent")).expect("a directory");
            fs::write(file, text).expect("a file");
        }
        for args in [
            &["init", "--quiet"][..],
            &["add", "--all"],
            &[
                "-c",
                "user.name=a",
                "-c",
                "user.email=a",
                "commit",
                "--quiet",
                "-m",
                "first",
            ],
        ] {
            let done = Command::new("git").args(args).current_dir(&app).status();
            assert!(done.expect("git runs").success(), "{args:?}");
        }
        bench
    }

    fn look_with(&self, patch: Value, fields: Value) -> Found {
        let file = json!({
            "programmers": [{"id": "001", "port": 0, "primary_llm": "ollama/x", "capabilities": ["fast"]}],
            "workspace": {"roots": [self.dir.path().join("root")]},
            "patch": patch,
        });
        let pool = pool_config::parse(&file.to_string(), Path::new("/pool.yaml")).expect("a pool");
        let mut task = json!({"instruction": "x", "repository": "app"});
        for (field, value) in fields.as_object().expect("an object") {
            task[field] = value.clone();
        }
        let task = TaskMessage::parse(task.to_string().as_bytes(), Timestamp(0)).expect("a task");
        Preflight::new(&pool).look(&task)
    }

    fn look(&self, fields: Value) -> Found {
        self.look_with(json!({}), fields)
    }
}

fn check(run: &[&str]) -> Value {
    json!([{"name": "tests", "run": run}])
}

#[test]
fn a_good_task_has_neither_problem_nor_warning() {
    let found = Bench::new().look(json!({
        "files": ["calc.py", "tests"], "protect": ["tests/**"],
        "acceptance": check(&["sh", "-c", "cat tests/data.json"]),
    }));
    assert_eq!(found, Found::default(), "nothing is wrong");
}

#[test]
fn what_would_fail_is_a_problem() {
    let bench = Bench::new();
    for (fields, said) in [
        (
            json!({"repository": "ap"}),
            "repository ap: not found below",
        ),
        (
            json!({"base": "nowhere"}),
            "base nowhere does not name a commit",
        ),
        (
            json!({"files": ["calc.py", "cacl.py"]}),
            "the base has no cacl.py",
        ),
        (
            json!({"acceptance": check(&["./run.sh"])}),
            "run.sh is not executable",
        ),
    ] {
        let problem = bench.look(fields.clone()).problem.unwrap_or_default();
        assert!(problem.contains(said), "{fields}: {problem}");
    }
}

#[test]
fn what_this_machine_cannot_tell_is_a_warning() {
    let bench = Bench::new();
    for (fields, said) in [
        (
            json!({"repository": "https://example.org/app"}),
            "are not checked here",
        ),
        (
            json!({"acceptance": check(&["no-such-program"])}),
            "no-such-program, which is not on this machine",
        ),
        (
            json!({"acceptance": check(&["/no/such/program"])}),
            "/no/such/program, which is not",
        ),
    ] {
        let found = bench.look(fields.clone());
        assert_eq!(found.problem, None, "{fields}");
        assert!(
            found.warnings.concat().contains(said),
            "{fields}: {:?}",
            found.warnings
        );
    }
}

#[test]
fn files_of_a_check_that_the_agent_may_change_are_named() {
    let bench = Bench::new();
    for (run, reads) in [
        (&["sh", "tests/data.json"][..], "tests/data.json"),
        (
            &["sh", "-c", "cat ./tests/data.json; true"],
            "tests/data.json",
        ),
        (&["sh", "--file=tests/data.json"], "tests/data.json"),
        (
            &["python3", "-m", "unittest", "tests.unit.test_calc"],
            "tests/unit/test_calc.py",
        ),
        (
            &["sh", "tests/unit/test_calc.py::test_add"],
            "tests/unit/test_calc.py",
        ),
        (&["sh", "tests"], "tests"),
    ] {
        let found = bench.look(json!({"acceptance": check(run)}));
        let said = format!("reads {reads}, which the agent may change");
        assert!(
            found.warnings.concat().contains(&said),
            "{run:?}: {:?}",
            found.warnings
        );
    }
}

#[test]
fn what_is_protected_given_or_laid_over_needs_no_warning() {
    let bench = Bench::new();
    let run = &["sh", "tests/data.json"];
    let laid = json!([{"name": "tests", "run": run, "overlay": {"tests/data.json": "{}"}}]);
    for (patch, fields) in [
        (
            json!({}),
            json!({"protect": ["tests/**"], "acceptance": check(run)}),
        ),
        (
            json!({}),
            json!({"files": ["tests/data.json"], "acceptance": check(run)}),
        ),
        (json!({}), json!({"acceptance": laid})),
        (
            json!({"protect": ["**/*.json"]}),
            json!({"acceptance": check(run)}),
        ),
        (
            json!({"protect_in": {"./app": ["tests/*"]}}),
            json!({"acceptance": check(run)}),
        ),
        (
            json!({}),
            json!({"acceptance": check(&["git", "diff", "--quiet", "HEAD", "--", "tests"])}),
        ),
        (
            json!({}),
            json!({"acceptance": check(&["sh", "-c", "echo tests calc.py"])}),
        ),
    ] {
        let found = bench.look_with(patch, fields.clone());
        assert_eq!(found, Found::default(), "{fields}");
    }
    let part = json!({"protect": ["tests/unit/**"], "acceptance": check(&["sh", "tests"])});
    assert_eq!(
        bench.look(part).warnings.len(),
        1,
        "a part of a directory is not enough"
    );
}
