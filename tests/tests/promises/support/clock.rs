//! Days that end soon, and machines whose clock is wrong.

use std::path::{Path, PathBuf};
use std::time::Duration;

use pool_core::time::Timestamp;
use pool_telemetry::clock::wall_clock;

const DAY_S: u64 = 24 * 60 * 60;

/// A time zone in which the day ends after this time, as a POSIX TZ string, and the time of its
/// end.
pub(crate) fn zone_whose_day_ends_in(left: Duration) -> (String, Timestamp) {
    let now_s = wall_clock().0 / 1000;
    let ends_s = now_s + left.as_secs();
    // The zone's clocks are ahead of UTC by this much, so that they show midnight when UTC shows
    // `ends`.
    let ahead = (DAY_S - ends_s % DAY_S) % DAY_S;
    // POSIX counts the hours behind UTC; both directions reach half around the world.
    let (sign, offset) = if ahead <= DAY_S / 2 {
        ("-", ahead)
    } else {
        ("", DAY_S - ahead)
    };
    let (hours, minutes, seconds) = (offset / 3600, offset / 60 % 60, offset % 60);
    (
        format!("TST{sign}{hours}:{minutes:02}:{seconds:02}"),
        Timestamp(ends_s * 1000),
    )
}

/// The clock of one process, which can be set while the process runs: libfaketime reads a file.
pub(crate) struct FakeClock {
    library: PathBuf,
    file: PathBuf,
}

impl FakeClock {
    /// A clock that is right, with its file in this directory.
    ///
    /// # Panics
    /// Without libfaketime.
    pub(crate) fn right(directory: &Path) -> Self {
        let clock = Self {
            library: library(),
            file: directory.join("clock"),
        };
        clock.set("+0");
        clock
    }

    /// Sets the offset of the clock: `+1d`, `-1d`, `+0`.
    pub(crate) fn set(&self, offset: &str) {
        let part = self.file.with_extension("part");
        std::fs::write(&part, format!("{offset}\n")).expect("the file of a clock");
        std::fs::rename(&part, &self.file).expect("the file of a clock");
    }

    /// The environment that gives a process this clock.
    pub(crate) fn environment(&self) -> [(&str, &str); 4] {
        [
            (
                "LD_PRELOAD",
                self.library.to_str().expect("a path in UTF-8"),
            ),
            (
                "FAKETIME_TIMESTAMP_FILE",
                self.file.to_str().expect("a path in UTF-8"),
            ),
            // It reads the file again after a second. Timers are not changed, as on a machine whose
            // clock is set.
            ("FAKETIME_CACHE_DURATION", "1"),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ]
    }
}

fn library() -> PathBuf {
    let libraries = std::fs::read_dir("/usr/lib")
        .into_iter()
        .flatten()
        .flatten();
    let mut found = libraries
        .map(|entry| entry.path().join("faketime/libfaketimeMT.so.1"))
        .filter(|file| file.is_file());
    found
        .next()
        .expect("there is no libfaketime: run scripts/test, which installs it")
}
