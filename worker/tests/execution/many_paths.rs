//! A pool file with very many paths. The order to the helper is then longer than the buffer of a
//! socket.

use pool_core::pool::{Sandbox, SandboxLevel};
use tokio_util::sync::CancellationToken;
use worker::sandbox::{Exit, SandboxLauncher, Watch};

use crate::support::{helper, limits, shell};

const PATHS: usize = 2_000;

#[tokio::test]
async fn two_thousand_long_paths_are_shown() {
    let mut levels = vec![limits().level];
    if levels == [SandboxLevel::Strict] && agent_sandbox::landlock_abi() >= 2 {
        levels.push(SandboxLevel::Files);
    }
    let dir = tempfile::tempdir().expect("a directory");
    let places: Vec<_> = (0..PATHS)
        .map(|number| dir.path().join("shown").join(format!("{number:0>200}")))
        .collect();
    for place in &places {
        std::fs::create_dir_all(place).expect("a directory");
    }
    let last = places.last().expect("a path");
    std::fs::write(last.join("file"), "the last file").expect("a file");
    let tree = dir.path().join("tree");
    std::fs::create_dir(&tree).expect("a directory");
    for level in levels {
        let limits = Sandbox {
            level,
            read: places.clone(),
            ..limits()
        };
        let sandbox = SandboxLauncher::with_helper(&limits, helper());
        let script = format!("cat {}/file", last.display());
        let finished = sandbox
            .run(shell(&tree, &script), &Watch::new(CancellationToken::new()))
            .await
            .expect("it starts");
        assert_eq!(
            (finished.exit, finished.output.text().as_str()),
            (Exit::Status(0), "the last file"),
            "it runs in {level:?}"
        );
    }
}
