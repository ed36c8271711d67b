use super::*;

use Refusal::{Denied, Missing, ReadOnly};

fn found(output: &str) -> Vec<(&str, Refusal)> {
    refused_paths(output)
        .into_iter()
        .map(|found| (found.path, found.how))
        .collect()
}

/// The words are those of the programs.
#[test]
fn the_output_of_many_tools_names_the_path_and_how_it_was_refused() {
    /// A tool, what it prints, and what it says by that.
    type Row = (
        &'static str,
        &'static str,
        &'static [(&'static str, Refusal)],
    );
    let table: &[Row] = &[
        (
            "coreutils",
            "cat: /home/u/data.txt: No such file or directory\n",
            &[("/home/u/data.txt", Missing)],
        ),
        (
            "coreutils, a quoted path",
            "mkdir: cannot create directory '/opt/my cache': Read-only file system\n",
            &[("/opt/my cache", ReadOnly)],
        ),
        (
            "coreutils in a UTF-8 locale",
            "ls: cannot open directory ‘/srv/secret’: Permission denied\n",
            &[("/srv/secret", Denied)],
        ),
        (
            "dash",
            "sh: 1: /home/u/bin/tool: not found\n",
            &[("/home/u/bin/tool", Missing)],
        ),
        (
            "dash, a redirection",
            "sh: 1: cannot create /opt/log: Read-only file system\n",
            &[("/opt/log", ReadOnly)],
        ),
        (
            "bash",
            "bash: line 1: /home/u/.nvm/nvm.sh: No such file or directory\n",
            &[("/home/u/.nvm/nvm.sh", Missing)],
        ),
        (
            "Python",
            "Traceback (most recent call last):\n  File \"<string>\", line 1, in <module>\n\
             FileNotFoundError: [Errno 2] No such file or directory: '/home/u/model.bin'\n",
            &[("/home/u/model.bin", Missing)],
        ),
        (
            "Python, no permission",
            "PermissionError: [Errno 13] Permission denied: '/srv/data/x.csv'\n",
            &[("/srv/data/x.csv", Denied)],
        ),
        (
            "pip",
            "ERROR: Could not install packages due to an OSError: [Errno 30] Read-only file system: '/opt/venv/lib/x'\n",
            &[("/opt/venv/lib/x", ReadOnly)],
        ),
        (
            "Node",
            "Error: ENOENT: no such file or directory, open '/home/u/.config/app.json'\n    at Object.openSync (node:fs:601:3) {\n  errno: -2,\n  \
             code: 'ENOENT',\n  syscall: 'open',\n  path: '/home/u/.config/app.json'\n}\n",
            &[("/home/u/.config/app.json", Missing)],
        ),
        (
            "npm",
            "npm error code EACCES\nnpm error syscall mkdir\nnpm error path /home/u/.npm\nnpm error errno -13\n\
             npm error Error: EACCES: permission denied, mkdir '/home/u/.npm'\n",
            &[("/home/u/.npm", Denied)],
        ),
        (
            "cargo, the reason four lines behind the path",
            "error: failed to get `dep` as a dependency of package `a v0.1.0 (/w/tree)`\n\nCaused by:\n  failed to read `/home/u/dep/Cargo.toml`\n\n\
             Caused by:\n  No such file or directory (os error 2)\n",
            &[("/home/u/dep/Cargo.toml", Missing)],
        ),
        (
            "rustc",
            "error: couldn't read `/home/u/gen.rs`: No such file or directory (os error 2)\n",
            &[("/home/u/gen.rs", Missing)],
        ),
        (
            "Java, old files",
            "Exception in thread \"main\" java.io.FileNotFoundException: /home/u/.m2/settings.xml (No such file or directory)\n\tat \
             java.base/java.io.FileInputStream.open0(Native Method)\n",
            &[("/home/u/.m2/settings.xml", Missing)],
        ),
        (
            "Java, new files",
            "java.nio.file.NoSuchFileException: /home/u/.gradle/init.gradle\n\tat java.base/sun.nio.fs.UnixException.translateToIOException(UnixException.java:92)\n",
            &[("/home/u/.gradle/init.gradle", Missing)],
        ),
        (
            "Java, no permission",
            "java.nio.file.AccessDeniedException: /srv/repo/lock\n",
            &[("/srv/repo/lock", Denied)],
        ),
        (
            "Go",
            "panic: open /home/u/fixture.json: no such file or directory\n",
            &[("/home/u/fixture.json", Missing)],
        ),
        (
            "Go, no permission",
            "2026/01/02 03:04:05 open /srv/data: permission denied\n",
            &[("/srv/data", Denied)],
        ),
        (
            "gcc",
            "main.c:1:10: fatal error: /home/u/include/x.h: No such file or directory\n    1 | #include \"/home/u/include/x.h\"\n",
            &[("/home/u/include/x.h", Missing)],
        ),
        (
            "make",
            "make: /home/u/bin/gen: No such file or directory\nmake: *** [Makefile:2: all] Error 127\n",
            &[("/home/u/bin/gen", Missing)],
        ),
        (
            "git",
            "fatal: could not open '/home/u/.gitmessage' for reading: No such file or directory\n",
            &[("/home/u/.gitmessage", Missing)],
        ),
        (
            "Ruby",
            "x.rb:1:in `initialize': No such file or directory @ rb_sysopen - /home/u/x.yml (Errno::ENOENT)\n",
            &[("/home/u/x.yml", Missing)],
        ),
        (
            "Perl",
            "Can't open perl script \"/home/u/x.pl\": No such file or directory\n",
            &[("/home/u/x.pl", Missing)],
        ),
        (
            "PHP",
            "PHP Warning:  file_get_contents(/home/u/x.ini): Failed to open stream: No such file or directory in /w/tree/x.php on line 1\n",
            &[("/home/u/x.ini", Missing), ("/w/tree/x.php", Missing)],
        ),
        (
            ".NET",
            "Unhandled exception. System.UnauthorizedAccessException: Access to the path '/srv/data/x' is denied.\n",
            &[("/srv/data/x", Denied)],
        ),
        (
            ".NET, missing",
            "System.IO.FileNotFoundException: Could not find file '/home/u/x.json'.\n",
            &[("/home/u/x.json", Missing)],
        ),
        (
            "SQLite in Python, no path",
            "sqlite3.OperationalError: unable to open database file\n",
            &[],
        ),
    ];
    for (tool, output, expected) in table {
        assert_eq!(found(output), *expected, "{tool}: {output}");
    }
}

#[test]
fn what_is_no_absolute_path_beside_a_refusal_is_left_alone() {
    for output in [
        "GET https://example.org/a/b: 404 not found\n",
        "error: cannot find name 'x' in a/b/c.ts\n",
        "read /home/u/x and went on\n",
        "cat: ../../home/u: No such file or directory\n",
        "cat: /w/../home/u: No such file or directory\n",
        "cat: /: Permission denied\n",
        "open /home/u/\u{7}x: permission denied\n",
        "notfound /home/u/x\n",
        "",
    ] {
        assert_eq!(found(output), [], "{output:?}");
    }
    let long = format!("cat: /{}: No such file or directory\n", "x".repeat(300));
    assert_eq!(found(&long), [], "a path that is too long");
}

#[test]
fn only_the_end_of_the_output_counts_and_the_last_paths_come_first() {
    let line = |n: usize| format!("cat: /home/u/{n}: No such file or directory\n");
    let many: String = (0..10_000).map(line).collect();
    let paths = refused_paths(&many);
    assert_eq!(paths.len(), MOST_PATHS, "a bounded number");
    assert_eq!(paths[0].path, "/home/u/9999", "the last one first");
    let early = format!("{}{}", line(1), "x\n".repeat(OUTPUT_BYTES));
    assert_eq!(found(&early), [], "it is too far from the end");
    let repeated = line(1).repeat(100);
    assert_eq!(found(&repeated), [("/home/u/1", Missing)], "each once");
}

#[test]
fn a_long_output_of_refusals_is_read_in_a_moment() {
    let begin = tokio::time::Instant::now();
    for output in [
        "not found ".repeat(OUTPUT_BYTES),
        "/a not found:".repeat(OUTPUT_BYTES),
        "not found\n".repeat(OUTPUT_BYTES),
        "'/".repeat(OUTPUT_BYTES) + " not found",
        "‘/".repeat(OUTPUT_BYTES) + " not found",
        "ä'/".repeat(OUTPUT_BYTES) + "\nnot found\nnot found\nnot found",
    ] {
        refused_paths(&output);
        names_a_refused_call(&output);
    }
    // A debug build on a busy machine takes a tenth of that.
    assert!(begin.elapsed().as_secs() < 10, "{:?}", begin.elapsed());
}

#[test]
fn a_refused_system_call_is_seen() {
    for output in [
        "unshare: unshare failed: Operation not permitted\n",
        "PermissionError: [Errno 1] Operation not permitted\n",
        "Error: EPERM: operation not permitted, mount\n",
        "Bad system call (core dumped)\n",
    ] {
        assert!(names_a_refused_call(output), "{output}");
    }
    for output in [
        "not permitted\n",
        "HYPERMEDIA\n",
        "temperature\n",
        "SUPEREPERMANENT\n",
    ] {
        assert!(!names_a_refused_call(output), "{output}");
    }
}
