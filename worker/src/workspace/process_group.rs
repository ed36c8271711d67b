//! The processes of one git command, and how they end.

use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::process::Child;
use tokio::time::timeout;

/// The time between SIGTERM, on which git removes its lock files, and SIGKILL.
const GRACE: Duration = Duration::from_secs(2);

/// A running git with its children (ssh, index-pack). Git removes its lock files on SIGTERM. So
/// SIGTERM comes first, also if the caller drops this value. A lock file that stays behind would
/// block a repository for good.
pub(super) struct GitProcessGroup(Option<Child>);

impl GitProcessGroup {
    pub(super) fn new(git: Child) -> Self {
        Self(Some(git))
    }

    /// The process id of git; None after git has been waited for.
    pub(super) fn id(&self) -> Option<u32> {
        self.0.as_ref().and_then(Child::id)
    }

    pub(super) fn git(&mut self) -> Option<&mut Child> {
        self.0.as_mut()
    }

    pub(super) async fn end(mut self) {
        if let Some(git) = self.0.take() {
            end(git).await;
        }
    }
}

impl Drop for GitProcessGroup {
    fn drop(&mut self) {
        let Some(git) = self.0.take().filter(|git| git.id().is_some()) else {
            return;
        };
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(end(git));
        } else {
            signal_group(&git, Signal::SIGKILL);
        }
    }
}

async fn end(mut git: Child) {
    let group = signal_group(&git, Signal::SIGTERM);
    let _ = timeout(GRACE, git.wait()).await;
    // Its children, too, which may outlive it.
    if let Some(group) = group {
        let _ = killpg(group, Signal::SIGKILL);
    }
    let _ = timeout(GRACE, git.wait()).await;
}

/// The process group to signal, unless git has been waited for.
fn signal_group(git: &Child, signal: Signal) -> Option<Pid> {
    let group = Pid::from_raw(i32::try_from(git.id()?).ok()?);
    let _ = killpg(group, signal);
    Some(group)
}
