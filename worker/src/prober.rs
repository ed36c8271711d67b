//! Finds out when an LLM behind an open breaker is back: one small call, by the first in the log who says so.
//!
//! A probe is not a task: nobody's worktree, agent or attempt is touched. It costs like any other call and is reserved
//! like any other.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use pool_shared::broker::process::Process;
use pool_shared::config::{self, Pool};
use pool_shared::event::Decision;
use pool_shared::fold::Verdict;
use pool_shared::id::{AttemptId, LlmName, ProgrammerId};
use pool_shared::llm::{LlmKey, Scope};
use pool_shared::money::MicroUsd;
use pool_shared::time::wall_clock;

use crate::llm::{Probed, Upstreams};

/// How often it is looked whether a cooldown is over.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// An LLM that wants to be probed, and who of this process may.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Due {
    key: LlmKey,
    llm: LlmName,
    scope: Scope,
    programmer: ProgrammerId,
}

pub struct Prober {
    pub process: Process,
    pub pool: Arc<Pool>,
    pub upstreams: Arc<Upstreams>,
    /// Those of this process.
    pub programmers: Vec<config::Programmer>,
}

impl Prober {
    /// Probes until the process ends, one LLM at a time.
    pub async fn run(self) {
        while !self.process.shutdown.is_cancelled() {
            // Jittered, so that not all processes speak at the same moment.
            tokio::time::sleep(LOOK_EVERY.mul_f64(0.5 + rand::random::<f64>())).await;
            if self.process.log.is_fresh() && self.process.clock.now().is_ok() {
                for due in self.due() {
                    self.probe(due).await;
                }
            }
        }
    }

    fn due(&self) -> Vec<Due> {
        self.process.log.read(|fold| {
            let due = fold.breakers.due(fold.now().max(wall_clock()));
            due.filter_map(|(key, llm, scope)| {
                let programmer = self.programmers.iter().find(|programmer| self.may(programmer, (key, llm, scope)))?;
                let (key, llm, scope) = (key.clone(), llm.clone(), scope.clone());
                Some(Due { key, llm, scope, programmer: programmer.id.clone() })
            })
            .collect()
        })
    }

    /// Whether the breaker holds this programmer's calls back.
    fn may(&self, programmer: &config::Programmer, (key, llm, scope): (&LlmKey, &LlmName, &Scope)) -> bool {
        let host = &self.process.host;
        let within = match scope {
            Scope::Pool => true,
            Scope::Host(other) => other == host,
            Scope::Programmer(id) => *id == programmer.id,
        };
        within && programmer.llms.contains(llm) && self.pool.llm_key(llm, host) == *key
    }

    async fn probe(&self, Due { key, llm, scope, programmer }: Due) {
        let probe = AttemptId::new();
        let probing =
            Decision::Probing { key: key.clone(), scope: scope.clone(), programmer: programmer.clone(), probe };
        match self.process.log.append(probing).await {
            Ok(Verdict::Accepted) => {}
            // Somebody else was first.
            Ok(Verdict::Refused(_)) | Err(_) => return,
        }
        let Some(probed) = self.ask(&llm, &programmer, probe).await else { return };
        tracing::info!(%llm, %scope, %programmer, fault = probed.fault.map(|fault| fault.as_str()), "probed");
        let Probed { fault, retry_after, cost } = probed;
        let retry_after_ms = retry_after.and_then(|wait| u64::try_from(wait.as_millis()).ok());
        let told = Decision::Probed { key, scope, probe, fault, retry_after_ms };
        if let Err(error) = self.process.log.append(told).await {
            tracing::warn!(%llm, %error, "what the probe found did not reach the log; another one will be made");
        }
        if cost > MicroUsd::ZERO || self.upstreams.probe_cost(&llm) > Some(MicroUsd::ZERO) {
            let settled = Decision::Settled { attempt: probe, cost_usd: cost, by_llm: BTreeMap::from([(llm, cost)]) };
            let _ = self.process.log.append(settled).await;
        }
    }

    /// The call. None when it may not be made: then the lease runs out, and the next one asks.
    async fn ask(&self, llm: &LlmName, programmer: &ProgrammerId, probe: AttemptId) -> Option<Probed> {
        let worst = self.upstreams.probe_cost(llm)?;
        if worst > MicroUsd::ZERO {
            let programmer = programmer.clone();
            let reserved = Decision::Reserved { attempt: probe, task: None, programmer, amount_usd: worst };
            if !matches!(self.process.log.append(reserved).await, Ok(Verdict::Accepted)) {
                tracing::info!(%llm, "no money is left for a probe");
                return None;
            }
        }
        Some(self.upstreams.probe(llm, self.pool.failover.probe_timeout()).await)
    }
}
