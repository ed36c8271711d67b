//! Refusals of the kernel layers are counted and named, and a program without layers is left alone.

use std::path::Path;

use pool_core::pool::{SandboxLevel, SandboxNetwork};
use pool_core::result::NetworkAttempts;
use pool_tests::places::lasting_directory;
use tokio_util::sync::CancellationToken;
use worker::sandbox::{Finished, SandboxLauncher, Watch};

use crate::support::{helper, limits, shell};

/// One attempt of each kind, and then a file of the machine.
const SCRIPT: &str = "(exec 3<>/dev/tcp/10.1.2.3/80) 2>/dev/null
    (exec 3<>/dev/tcp/127.0.0.1/9) 2>/dev/null
    (exec 3<>/dev/udp/127.0.0.1/53; echo where >&3) 2>/dev/null
    cat";

#[expect(clippy::expect_used, reason = "a helper that fails fails the test")]
async fn run(level: SandboxLevel, network: SandboxNetwork, file: &Path) -> Finished {
    let mut limits = limits();
    (limits.level, limits.network) = (level, network);
    let directory = tempfile::tempdir().expect("a directory");
    let mut command = shell(directory.path(), &format!("{SCRIPT} {}", file.display()));
    command.argv[0] = "bash".into();
    SandboxLauncher::with_helper(&limits, helper())
        .run(command, &Watch::new(CancellationToken::new()))
        .await
        .expect("it starts")
}

#[tokio::test]
async fn refused_connections_are_counted_and_a_hidden_file_is_named() {
    let place = lasting_directory();
    let file = place.path().join("data.txt");
    std::fs::write(&file, "data").expect("a file");
    let named = file.display().to_string();

    let strict = run(SandboxLevel::Strict, SandboxNetwork::Gateway, &file).await;
    let expected = NetworkAttempts {
        addresses: 1,
        names: 1,
        local_ports: 1,
    };
    let output = strict.output.text();
    assert_eq!(strict.denials.network, expected, "one of each: {output}");
    let hints = strict.denials.hints.join("\n");
    assert!(
        hints.contains(&named) && hints.contains("sandbox.read"),
        "the file and its key: {hints:?}, output {output}"
    );
    assert!(strict.setup.is_some(), "the layers took some time");

    let open = run(SandboxLevel::Strict, SandboxNetwork::Host, &file).await;
    assert_eq!(
        open.denials.network,
        NetworkAttempts::default(),
        "the counters of the machine are not the run's"
    );

    let files = run(SandboxLevel::Files, SandboxNetwork::Gateway, &file).await;
    let hints = files.denials.hints.join("\n");
    assert!(
        hints.contains(&named),
        "`files` says \"Permission denied\": {hints:?}, output {}",
        files.output.text()
    );

    let off = run(SandboxLevel::Off, SandboxNetwork::Gateway, &file).await;
    assert_eq!(
        off.denials.hints,
        Vec::<String>::new(),
        "nothing is refused"
    );
    assert!(
        off.output.text().contains("data"),
        "the control: it can be read"
    );
    assert_eq!(off.setup, None, "there are no layers");
}
