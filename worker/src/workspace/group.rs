//! The processes of one git command, and their end.

use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::process::Child;
use tokio::time::timeout;

/// Between SIGTERM, on which git removes its lock files, and SIGKILL.
const GRACE: Duration = Duration::from_secs(2);

/// A running git with its children (ssh, index-pack). Git removes its lock files on SIGTERM, so SIGTERM comes first, also
/// when the caller drops this value: a lock that stays behind shuts a repository for good.
pub(super) struct Group(Option<Child>);

impl Group {
    pub(super) fn new(git: Child) -> Self {
        Self(Some(git))
    }

    /// None once git was waited for.
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

impl Drop for Group {
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
    // Its children, too, which may not have ended with it.
    if let Some(group) = group {
        let _ = killpg(group, Signal::SIGKILL);
    }
    let _ = timeout(GRACE, git.wait()).await;
}

/// Gives the group, unless git was waited for.
fn signal_group(git: &Child, signal: Signal) -> Option<Pid> {
    let group = Pid::from_raw(i32::try_from(git.id()?).ok()?);
    let _ = killpg(group, signal);
    Some(group)
}
