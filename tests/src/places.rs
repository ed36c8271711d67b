//! Directories for tests that the sandbox shows to programs as any other directory.
#![expect(clippy::expect_used, reason = "a helper that fails fails the test")]

use std::path::Path;

use tempfile::TempDir;

/// Every program has these to itself, or cannot have them, so a hint never names a path in them.
const SPECIAL: [&str; 8] = [
    "/boot", "/dev", "/proc", "/run", "/sys", "/tmp", "/var/run", "/var/tmp",
];

/// A directory beside the program of this test or, if the build lies in a special directory, in
/// `/srv` or `/opt`.
///
/// # Panics
/// If none of them is writable.
pub fn lasting_directory() -> TempDir {
    let program = std::env::current_exe().expect("the path of this test");
    let places = [
        program.parent().expect("its directory"),
        Path::new("/srv"),
        Path::new("/opt"),
    ];
    let lasts = |place: &&Path| !SPECIAL.iter().any(|special| place.starts_with(special));
    let mut lasting = places.into_iter().filter(lasts);
    let made = lasting.find_map(|place| tempfile::tempdir_in(place).ok());
    made.expect("a writable directory for files that last")
}
