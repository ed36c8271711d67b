//! A hidden file that somebody outside moves, replaces or makes while a program runs. A cover over
//! it goes with the file, and then only the rules of Landlock hide what has come in its place.

use std::fs;
use std::path::Path;

use agent_sandbox::{Layers, Level, Plan, landlock_abi};
use pool_tests::places::lasting_directory;

use super::{PYTHON, Start, World, eventually, give, users};

const NEW: &str = "the new secret";
/// Tries to read the files in its arguments, before and after the driver has acted.
const SCRIPT: &str = "import os, sys, time
def see(path):
    try:
        return open(path).read()
    except OSError as error:
        return type(error).__name__
shared, *paths = sys.argv[1:]
print('before:', *map(see, paths))
open('ready', 'w').close()
while not os.path.exists('go'):
    time.sleep(0.005)
print('after:', *map(see, paths))
print(see(shared + '/beside'))
try:
    print('listed:', 'beside' in os.listdir(shared))
except PermissionError:
    print('not listed')";

/// Something that happens outside while the program runs.
struct Change {
    name: &'static str,
    hidden: &'static str,
    /// The paths that the program tries to read.
    tried: &'static [&'static str],
    act: fn(&Path),
}

const CHANGES: [Change; 3] = [
    Change {
        name: "a file is replaced",
        hidden: "secret",
        tried: &["secret"],
        act: |shared| {
            fs::write(shared.join(".new"), NEW).expect("a file");
            fs::rename(shared.join(".new"), shared.join("secret")).expect("it is replaced");
        },
    },
    Change {
        name: "a directory is moved and made anew",
        hidden: "keys",
        tried: &["keys/key", "moved/key"],
        act: |shared| {
            fs::rename(shared.join("keys"), shared.join("moved")).expect("it is moved");
            fs::create_dir(shared.join("keys")).expect("a directory");
            fs::write(shared.join("keys/key"), NEW).expect("a file");
        },
    },
    Change {
        name: "a file is made",
        hidden: "later",
        tried: &["later"],
        act: |shared| fs::write(shared.join("later"), NEW).expect("a file"),
    },
];

/// The output of a program behind these layers, during a change of a directory that it is shown.
fn seen(user: u32, start: Start, layers: Layers, writable: bool, change: &Change) -> String {
    // Everything below `/tmp` is the program's own.
    let place = lasting_directory();
    give(place.path(), user);
    let world = World::started_below(place.path(), user, start);
    let shared = world.dir.path().join("shared");
    fs::create_dir_all(shared.join("keys")).expect("a directory");
    for name in ["secret", "keys/key"] {
        fs::write(shared.join(name), "the old secret").expect("a file");
    }
    fs::write(shared.join("beside"), "no secret").expect("a file");
    give(&shared, user);
    let mut plan: Plan = world.plan(layers);
    plan.hide.push(shared.join(change.hidden));
    match writable {
        true => plan.write.push(shared.clone()),
        false => plan.read.push(shared.clone()),
    }
    let mut argv = vec![PYTHON.to_owned(), "-c".to_owned(), SCRIPT.to_owned()];
    argv.push(shared.display().to_string());
    argv.extend(
        change
            .tried
            .iter()
            .map(|name| shared.join(name).display().to_string()),
    );
    let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
    std::thread::scope(|scope| {
        let running = scope.spawn(|| world.run(Some(&plan), &argv));
        eventually("it is up", || {
            world.tree().join("ready").exists() || running.is_finished()
        });
        (change.act)(&shared);
        give(&shared, user);
        fs::write(world.tree().join("go"), "").expect("a file");
        let (report, printed) = running.join().expect("no panic");
        assert_eq!(report["ended"]["status"], 0, "{printed}");
        assert!(
            !printed.contains("the old secret"),
            "{}: {printed}",
            change.name
        );
        printed
    })
}

#[test]
fn a_hidden_file_stays_hidden_when_somebody_outside_replaces_it() {
    let abi = landlock_abi();
    if abi < 2 {
        eprintln!("skipped: this kernel has Landlock {abi}");
        return;
    }
    let strict = Layers::all(Level::Strict, abi);
    for user in users() {
        for change in &CHANGES {
            let without = Layers {
                landlock: 0,
                ..strict
            };
            let printed = seen(user, Start::Helper, without, false, change);
            assert!(
                printed.contains(NEW),
                "{} as {user}: without Landlock it is seen: {printed}",
                change.name
            );
            for (level, start, writable) in [
                (Level::Strict, Start::Helper, false),
                (Level::Strict, Start::ForkServer, false),
                (Level::Strict, Start::Helper, true),
                (Level::Files, Start::Helper, false),
            ] {
                // In a writable directory such a file may be the program's own.
                if writable && change.hidden == "later" {
                    continue;
                }
                let printed = seen(user, start, Layers::all(level, abi), writable, change);
                assert!(
                    !printed.contains(NEW) && printed.contains("\nno secret\n"),
                    "{} as {user} in {}, started by {start:?}: {printed}",
                    change.name,
                    level.name()
                );
                let lists = level == Level::Strict;
                assert_eq!(printed.contains("listed: True"), lists, "{printed}");
            }
        }
    }
}
