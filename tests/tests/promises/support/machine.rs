//! Shares the cores between tests. Most tests run at the same time; a test that measures time runs
//! alone.
//!
//! A file lock, because test runners also run tests in separate processes.

use std::cell::RefCell;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Weak};
use std::time::Duration;

use pool_tests::bench::process::cpu_ms;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

/// A directory that cargo makes, for files that outlive a test.
pub(crate) fn shared_directory() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR"))
}

/// The checkout under test.
pub(crate) fn checkout() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the workspace's directory")
}

/// A program of this workspace, as cargo built it.
///
/// # Panics
/// When it has not been built: cargo builds for a test only the programs of the test's own package.
pub(crate) fn program(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("the test knows its own file");
    let profile = test
        .parent()
        .and_then(Path::parent)
        .expect("a test lies in target/<profile>/deps");
    let program = profile.join(name);
    assert!(
        program.is_file(),
        "{} is missing: run `cargo build --workspace --bins` first",
        program.display()
    );
    program
}

/// The aider executable.
///
/// # Panics
/// When it is missing: the promises about real agents need it.
pub(crate) fn aider() -> PathBuf {
    installed("aider", "POOL_AIDER")
}

/// The schemathesis executable.
///
/// # Panics
/// When it is missing.
pub(crate) fn schemathesis() -> PathBuf {
    installed("schemathesis", "POOL_SCHEMATHESIS")
}

/// A program that scripts/test has installed, or the one that this variable names.
fn installed(name: &str, variable: &str) -> PathBuf {
    let there = checkout().join(format!(".pool/{name}/bin/{name}"));
    let program = std::env::var_os(variable).map_or(there, PathBuf::from);
    assert!(
        program.is_file(),
        "there is no {name} at {}: run scripts/test, or set {variable}",
        program.display()
    );
    program
}

/// A share of one core: at least eight times the measured share of a process that waits for its
/// broker, in a debug build.
const IDLE: f64 = 0.05;

/// Checks for this time that the processes use almost no processor time.
pub(crate) async fn idles(pids: [u32; 2], span: Duration) {
    let used = || pids.map(|pid| cpu_ms(pid).expect("a process that runs"));
    let before = used();
    tokio::time::sleep(span).await;
    let shares = [0, 1].map(|one| (used()[one] - before[one]) / 1000.0 / span.as_secs_f64());
    assert!(
        shares.iter().all(|share| *share < IDLE),
        "parts of a core that {pids:?} use: {shares:.3?}"
    );
}

/// A port that is free now.
pub(crate) fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").port()
}

pub(crate) fn lock_file(name: &str) -> File {
    let path = shared_directory().join(name);
    let mut options = OpenOptions::new();
    options.create(true).truncate(false).write(true);
    options
        .open(&path)
        .unwrap_or_else(|error| panic!("failed to open {}: {error}", path.display()))
}

/// The cores, for as long as the value lives.
#[derive(Debug)]
pub(crate) struct Cores {
    _place: Option<Arc<SemaphorePermit<'static>>>,
    #[expect(dead_code, reason = "the lock goes with the file")]
    file: File,
    _time: TestTime,
}

/// Appends the name of its test and its seconds to the file that POOL_TEST_TIMES names, when it is dropped.
#[derive(Debug)]
struct TestTime {
    test: String,
    since: Instant,
}

impl TestTime {
    fn start() -> Self {
        let thread = std::thread::current();
        Self {
            test: thread.name().unwrap_or_default().to_owned(),
            since: Instant::now(),
        }
    }
}

impl Drop for TestTime {
    fn drop(&mut self) {
        let Some(path) = std::env::var_os("POOL_TEST_TIMES") else {
            return;
        };
        let line = format!("{:.1}\t{}\n", self.since.elapsed().as_secs_f64(), self.test);
        let file = OpenOptions::new().create(true).append(true).open(path);
        // A test's time is no promise: a file that cannot be written fails no test.
        let _ = file.and_then(|mut file| file.write_all(line.as_bytes()));
    }
}

/// Tests that run at once on each core. They mostly wait for processes, brokers and time-outs.
const TESTS_A_CORE: usize = 2;

static ALL_PLACES: LazyLock<usize> = LazyLock::new(|| {
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
    let places = std::env::var("POOL_TEST_PLACES").ok();
    places.map_or(cores * TESTS_A_CORE, |places| {
        places.parse().expect("POOL_TEST_PLACES is a number")
    })
});

/// A test that waits for the cores, or for a broker, has a thread but no place: RUST_TEST_THREADS may be large.
static PLACES: LazyLock<Semaphore> = LazyLock::new(|| Semaphore::new(*ALL_PLACES));

thread_local! {
    /// The place of the test that runs on this thread: a test with two pools has one place.
    static PLACE: RefCell<Weak<SemaphorePermit<'static>>> = const { RefCell::new(Weak::new()) };
}

async fn places(count: usize) -> Arc<SemaphorePermit<'static>> {
    if let Some(place) = PLACE.with_borrow(Weak::upgrade) {
        return place;
    }
    let count = u32::try_from(count.min(*ALL_PLACES)).expect("a few");
    let place = PLACES
        .acquire_many(count)
        .await
        .expect("places are never closed");
    let place = Arc::new(place);
    PLACE.set(Arc::downgrade(&place));
    place
}

/// Waits for a place among the tests that run.
pub(crate) async fn share_cores() -> Cores {
    share_cores_as(1).await
}

/// The same for a test with many processes, which takes the places of this many others.
pub(crate) async fn share_cores_as(tests: usize) -> Cores {
    let place = places(tests).await;
    Cores {
        _place: Some(place),
        file: locked(File::lock_shared).await,
        _time: TestTime::start(),
    }
}

/// Waits until no other test runs, and keeps others from starting.
pub(crate) async fn all_cores() -> Cores {
    Cores {
        _place: None,
        file: locked(File::lock).await,
        _time: TestTime::start(),
    }
}

async fn locked(lock: fn(&File) -> std::io::Result<()>) -> File {
    let locking = tokio::task::spawn_blocking(move || {
        let file = lock_file("cores.lock");
        lock(&file).expect("the lock on the cores");
        file
    });
    locking.await.expect("waiting for the cores")
}
