//! The parts that the programmers of a process share, and the part of each programmer that runs
//! attempts.

use std::ffi::OsString;
use std::sync::Arc;

use anyhow::Context;
use llm_gateway::{Gateway, Upstreams};
use pool_config::Env;
use pool_core::pool::{self, Pool};

use super::progress::OutputReporter;
use crate::agent::{self, CodingAgent};
use crate::baselines::Baselines;
use crate::sandbox::{SandboxLauncher, Separation, trust};
use crate::workspace::{Reach, Workspaces};

/// Shared by the programmers of a process: keys, worktrees, the sandbox.
pub struct Workshop {
    pub(super) pool: Arc<Pool>,
    upstreams: Arc<Upstreams>,
    pub(super) workspaces: Workspaces,
    pub(super) baselines: Baselines,
    pub(super) sandbox: SandboxLauncher,
    pub(super) agent: Box<dyn CodingAgent>,
    /// The part of the worker's environment that agents may see.
    pub(super) env: Vec<(OsString, OsString)>,
    /// The worker's own `PATH`, for acceptance checks.
    pub(super) path: OsString,
}

impl Workshop {
    /// `sandbox` starts the agents and the acceptance checks.
    ///
    /// # Errors
    /// When the workspace directory or the providers cannot be used. The message names the culprit.
    pub fn open(pool: Arc<Pool>, sandbox: SandboxLauncher) -> anyhow::Result<Self> {
        let env = Env::of_process();
        let upstreams = Upstreams::new(&pool, |name| {
            env.secret(name).unwrap_or_else(|problem| {
                tracing::error!("{name}_FILE {problem}");
                None
            })
        })?;
        let workspaces = Workspaces::open(&pool.workspace).with_context(|| {
            format!(
                "failed to use the workspace directory {}",
                pool.workspace.dir.display()
            )
        })?;
        let mut workspaces = workspaces.guarding(trust::guarded(&pool).places);
        if let Some(reach) = reach(&sandbox) {
            workspaces = workspaces.keeping_trees(reach);
        }
        Ok(Self {
            upstreams,
            sandbox: sandbox.with_warm_starts(workspaces.warm_places()),
            workspaces,
            baselines: Baselines::default(),
            agent: agent::from_config(&pool.agent),
            env: agent::allowed_env(&pool.agent.env_allow),
            path: std::env::var_os("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into()),
            pool,
        })
    }

    /// The variables that every run of the agent has.
    pub(super) fn agent_variables(&self) -> Vec<(OsString, OsString)> {
        let mut variables = self.sandbox.variables().to_vec();
        variables.extend(self.env.iter().cloned());
        variables
    }

    /// Starts the agent's fork server, if it has one.
    pub async fn warm_up(&self) {
        if let Some(start) = self.agent.warm_start(&self.agent_variables()) {
            self.sandbox.warm_up(&start).await;
        }
    }

    /// Whether the agent's fork server is ready.
    pub fn is_warm(&self) -> bool {
        let start = self.agent.warm_start(&self.agent_variables());
        start.is_some_and(|start| self.sandbox.is_warm(&start.program))
    }

    pub fn upstreams(&self) -> Arc<Upstreams> {
        Arc::clone(&self.upstreams)
    }

    /// The attempts of one programmer, with a gateway of their own. `reporter` gets the output of
    /// its agents.
    ///
    /// # Errors
    /// When no loopback port is free.
    pub async fn attempts(
        self: &Arc<Self>,
        programmer: pool::Programmer,
        reporter: Option<OutputReporter>,
    ) -> anyhow::Result<Attempts> {
        let gateway = Gateway::start(Arc::clone(&self.upstreams))
            .await
            .context("failed to start the LLM gateway")?;
        Ok(Attempts {
            workshop: Arc::clone(self),
            programmer,
            gateway,
            reporter,
        })
    }
}

/// The programs that can reach a tree between two attempts. None: an agent may write to it, so no
/// tree is used again.
fn reach(sandbox: &SandboxLauncher) -> Option<Reach> {
    Some(match sandbox.separation()? {
        Separation::Whole => Reach::Nobody,
        Separation::ExceptAttributes => Reach::Attributes,
    })
}

/// Runs attempts of one programmer, one at a time.
pub struct Attempts {
    pub(super) workshop: Arc<Workshop>,
    pub(super) programmer: pool::Programmer,
    pub(super) gateway: Gateway,
    pub(super) reporter: Option<OutputReporter>,
}
