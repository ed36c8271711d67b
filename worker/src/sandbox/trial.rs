//! `worker sandbox -- COMMAND`: runs a command as an acceptance check would run, for people who want
//! to know why a check fails.

use std::ffi::OsString;
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use agent_sandbox::Layers;
use anyhow::{Context as _, bail};
use pool_core::pool::Pool;
use tokio_util::sync::CancellationToken;

use super::trust::{guarded, shows};
use super::{Exit, SandboxLauncher, Watch};
use crate::acceptance::CheckEnvironment;
use crate::workspace::{make_directory, remove_tree};

/// Runs the command in `directory` and prints its output. Its home is empty and temporary.
///
/// # Errors
/// If the command does not start, or the directory holds what programs must not see.
pub fn run(
    pool: &Pool,
    layers: Option<Layers>,
    directory: &Path,
    command: Vec<OsString>,
) -> anyhow::Result<ExitCode> {
    let worktree = directory
        .canonicalize()
        .with_context(|| format!("{} is no directory", directory.display()))?;
    if let Some(shown) = shows(&worktree, &guarded(pool).places) {
        bail!(
            "--in {}: the command could read and change {}; name a repository",
            directory.display(),
            shown.display()
        );
    }
    let scratch = std::env::temp_dir().join(format!("worker-sandbox-{}", std::process::id()));
    make_directory(&scratch).context("cannot make a temporary home")?;
    let sandbox = SandboxLauncher::new(pool, layers);
    let place = CheckEnvironment {
        worktree: &worktree,
        scratch: &scratch,
        path: std::env::var_os("PATH").unwrap_or_default(),
        objects: Vec::new(),
        sandbox: &sandbox,
    };
    let command = place.command(command, pool.acceptance.timeout);
    let watch = Watch {
        listen: Arc::new(|bytes| drop(std::io::stdout().write_all(bytes))),
        ..Watch::new(CancellationToken::new())
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let finished = runtime.block_on(sandbox.run(command, &watch));
    remove_tree(&scratch).context("cannot remove the temporary home")?;
    let finished = finished?;
    let failed = finished.exit != Exit::Status(0);
    for hint in finished.denials.report(failed).hints {
        eprintln!("hint: {hint}");
    }
    Ok(match finished.exit {
        Exit::Status(status) => ExitCode::from(u8::try_from(status).unwrap_or(1)),
        exit @ (Exit::Signal(_)
        | Exit::TimedOut
        | Exit::Silent
        | Exit::Done
        | Exit::Limit(_)
        | Exit::Cancelled) => {
            eprintln!("the command {exit}");
            ExitCode::FAILURE
        }
    })
}
