//! An agent that does nothing at all, for measuring the pool itself.

use std::ffi::OsString;
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt, ready};
use pool_core::result::TaskFailure;

use super::{AgentEvidence, AgentRun, CodingAgent, Job};
use crate::sandbox::warm::{StartKind, WarmStart};
use crate::sandbox::{CommandOutput, Denials, Exit, SandboxLauncher, Watch};

pub(super) struct Noop;

impl CodingAgent for Noop {
    fn run<'a>(
        &'a self,
        _: &'a Job,
        _: &'a SandboxLauncher,
        _: &'a Watch,
    ) -> BoxFuture<'a, Result<AgentRun, TaskFailure>> {
        let (output, duration) = (CommandOutput::new(0), Duration::ZERO);
        ready(Ok(AgentRun {
            may_live: false,
            exit: Exit::Status(0),
            output,
            evidence: AgentEvidence::None,
            duration,
            start: StartKind::Usual,
            denials: Denials::default(),
        }))
        .boxed()
    }

    fn warm_start(&self, _: &[(OsString, OsString)]) -> Option<WarmStart> {
        None
    }
}
