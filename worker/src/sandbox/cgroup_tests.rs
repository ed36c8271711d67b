//! The decisions about control groups, on directories that look like the kernel's.

use super::*;

#[test]
fn the_group_of_a_process_is_found_below_its_mount() {
    let mount = |root: &str, at: &str, kind: &str| {
        format!("30 24 0:26 {root} {at} rw,nosuid shared:4 - {kind} cgroup2 rw,nsdelegate\n")
    };
    let unified = mount("/", "/sys/fs/cgroup", "cgroup2");
    let hybrid = format!(
        "{}{}",
        mount("/", "/sys/fs/cgroup/memory", "cgroup"),
        mount("/", "/sys/fs/cgroup/unified", "cgroup2")
    );
    let container = mount("/docker/abc", "/sys/fs/cgroup", "cgroup2");
    for (groups, mounts, expected) in [
        (
            "0::/system.slice/w.service\n",
            &unified,
            Some("/sys/fs/cgroup/system.slice/w.service"),
        ),
        ("0::/\n", &unified, Some("/sys/fs/cgroup")),
        (
            "4:memory:/a\n0::/b\n",
            &hybrid,
            Some("/sys/fs/cgroup/unified/b"),
        ),
        ("0::/docker/abc/x\n", &container, Some("/sys/fs/cgroup/x")),
        ("0::/other\n", &container, None),
        ("4:memory:/a\n", &unified, None),
        ("0::/\n", &String::new(), None),
    ] {
        let found = own_group(groups, mounts);
        assert_eq!(
            found.as_deref(),
            expected.map(Path::new),
            "{groups} in {mounts}"
        );
    }
}

#[test]
fn a_unit_of_systemd_must_be_marked_as_delegated() {
    let unit = "/sys/fs/cgroup/system.slice/worker.service";
    let of_user = "/sys/fs/cgroup/user.slice/user-1000.slice/user@1000.service/app.slice/w.scope";
    let session = "/sys/fs/cgroup/user.slice/user-0.slice/session-1.scope";
    for (group, root, marked, expected) in [
        (unit, true, true, true),
        (unit, true, false, false),
        // systemd gives it to the user only if it is delegated.
        (unit, false, false, true),
        (of_user, false, false, false),
        (of_user, false, true, true),
        (session, true, false, false),
        ("/sys/fs/cgroup", true, false, true),
        ("/sys/fs/cgroup/pool", false, false, true),
    ] {
        let delegated = is_delegated(Path::new(group), root, marked);
        assert_eq!(
            delegated, expected,
            "{group}, root: {root}, marked: {marked}"
        );
    }
}

fn group(members: &str, controllers: &str) -> tempfile::TempDir {
    let group = tempfile::tempdir().expect("a directory");
    for (file, text) in [
        ("cgroup.procs", members),
        ("cgroup.controllers", controllers),
        ("cgroup.subtree_control", ""),
    ] {
        fs::write(group.path().join(file), text).expect("a file");
    }
    group
}

#[test]
fn only_a_group_of_its_own_is_used() {
    let own = format!("{}\n", getpid());
    let refused =
        |group: &tempfile::TempDir| check(group.path()).expect_err("it is not used").to_string();
    check(group(&own, "cpu memory pids").path()).expect("nobody else is in it");
    let shared = group(&format!("{own}1\n"), "memory pids");
    assert!(
        refused(&shared).contains("other processes"),
        "a shell is in it"
    );
    assert!(
        refused(&group(&own, "cpu pids")).contains("controllers"),
        "no memory"
    );
    let missing = tempfile::tempdir().expect("a directory");
    assert!(
        refused(&missing).contains("not delegated"),
        "it has no files"
    );
}

#[test]
fn a_taken_group_has_the_worker_in_a_child_and_no_dead_run() {
    let own = getpid().to_string();
    let delegated = group(&own, "memory pids");
    let (home, dead, alive) = (
        delegated.path().join(HOME),
        delegated.path().join("run-1-0"),
        delegated.path().join("run-2-0"),
    );
    for child in [&home, &dead, &alive] {
        fs::create_dir(child).expect("a directory");
    }
    // 2 is a worker beside this one.
    fs::write(home.join("cgroup.procs"), format!("2\n{own}\n")).expect("a file");
    let taken = Delegation::take_group(&home).expect("this process is in it already");
    assert_eq!(
        taken.group,
        delegated.path(),
        "the group above the worker's"
    );
    let enabled = fs::read_to_string(delegated.path().join("cgroup.subtree_control"));
    assert!(
        enabled.expect("text").contains("+cpu"),
        "the controllers are on"
    );
    assert!(
        !dead.exists() && alive.exists(),
        "a run of a living worker stays"
    );
    let run = taken.next_run(RunLimits::default());
    assert_eq!(
        (run.path.parent(), run.home),
        (Some(delegated.path()), home),
        "runs lie beside the worker"
    );
}

#[test]
fn events_of_the_kernel_are_counted_by_their_whole_names() {
    let events = "low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\noom_group_kill 1\n";
    for (event, expected) in [("max", 12), ("oom_kill", 2), ("oom", 3), ("missing", 0)] {
        assert_eq!(count(events, event), expected, "{event}");
    }
    assert_eq!(worker_of_run("run-12-3"), Some(12), "a run");
    assert_eq!(worker_of_run("worker"), None, "the worker");
}
