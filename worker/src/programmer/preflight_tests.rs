use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use pool_core::task::TaskMessage;
use pool_core::time::Timestamp;
use serde_json::{Value, json};

use super::*;

fn check(fields: Value) -> AcceptanceCheck {
    let mut check = json!({"name": "tests", "run": ["true"]});
    for (field, value) in fields.as_object().expect("an object") {
        check[field] = value.clone();
    }
    let task = json!({"instruction": "x", "repository": "app", "acceptance": [check]});
    let task = TaskMessage::parse(task.to_string().as_bytes(), Timestamp(0)).expect("a task");
    task.acceptance.into_iter().next().expect("a check")
}

/// A tree with a script that can be run and one that cannot.
fn tree() -> tempfile::TempDir {
    let tree = tempfile::tempdir().expect("a directory");
    for (name, mode) in [("run.sh", 0o755), ("plain.sh", 0o644)] {
        fs::write(tree.path().join(name), "#!/bin/sh\n").expect("a file");
        let mode = Permissions::from_mode(mode);
        fs::set_permissions(tree.path().join(name), mode).expect("a mode");
    }
    tree
}

#[test]
fn a_check_that_cannot_start_is_found() {
    let tree = tree();
    let found = |fields| cannot_start(&check(fields), tree.path(), OsStr::new("/usr/bin:/bin"));
    for (fields, named) in [
        (
            json!({"run": ["pytset", "-q"]}),
            "pytset is not in the PATH",
        ),
        (
            json!({"run": ["/usr/bin/pytset"]}),
            "/usr/bin/pytset is not an executable file",
        ),
        (
            json!({"run": ["/etc/passwd"]}),
            "/etc/passwd is not an executable file",
        ),
        (
            json!({"run": ["./plain.sh"]}),
            "./plain.sh is not executable",
        ),
    ] {
        let failure = found(fields.clone()).expect("a problem");
        assert_eq!(failure.kind, ErrorKind::CheckCannotStart, "{fields}");
        let said = &failure.message;
        assert!(said.contains(named) && said.contains("\"tests\""), "{said}");
    }
    for fields in [
        json!({"run": ["sh", "-c", "true"]}),
        json!({"run": ["/bin/sh"]}),
        json!({"run": ["./run.sh"]}),
        // The change may bring these.
        json!({"run": ["./made-later.sh"]}),
        json!({"run": ["./plain.sh"], "before": "fails"}),
        json!({"run": ["./plain.sh"], "overlay": {"plain.sh": "#!/bin/sh\n"}}),
    ] {
        assert_eq!(found(fields.clone()), None, "{fields} may start");
    }
}

#[test]
fn a_file_that_the_base_lacks_is_named() {
    let tree = tree();
    let files = |names: &[&str]| -> Vec<RelativePath> {
        let path = |name: &&str| RelativePath::new(*name).expect("a path");
        names.iter().map(path).collect()
    };
    assert_eq!(
        missing_file(tree.path(), "c1", &files(&["run.sh"])),
        None,
        "it is there"
    );
    let failure = missing_file(tree.path(), "c1", &files(&["run.sh", "no/such.py"]));
    let failure = failure.expect("a problem");
    assert_eq!(failure.kind, ErrorKind::Repository, "its kind");
    assert!(
        failure.message.contains("c1 has no no/such.py"),
        "{}",
        failure.message
    );
}

#[test]
fn a_check_proves_something_if_it_does_what_before_says() {
    for (before, status, proves) in [
        ("fails", Some(0), false),
        ("fails", Some(1), true),
        ("fails", None, true),
        ("passes", Some(0), true),
        ("passes", Some(1), false),
        ("passes", None, false),
        ("any", Some(0), true),
        ("any", Some(1), true),
    ] {
        let check = check(json!({"before": before}));
        let report = CheckReport {
            name: check.name.clone(),
            exit_status: status,
            tries: 1,
            duration_ms: 1,
            output_tail: String::new(),
        };
        let failure = proves_nothing(&check, &report);
        assert_eq!(
            failure.is_none(),
            proves,
            "{before} and {status:?}: {failure:?}"
        );
    }
}
