//! Finds out when an LLM behind an open breaker is back: one small call, by the first in the log who says so.
//!
//! A probe is not a task: nobody's worktree, agent or attempt is touched. It costs like any other call and is reserved
//! like any other.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use pool_shared::broker::process::Process;
use pool_shared::config::{self, Pool};
use pool_shared::event::Decision;
use pool_shared::fold::Verdict;
use pool_shared::id::{AttemptId, LlmName, ProgrammerId};
use pool_shared::llm::{LlmKey, Scope};
use pool_shared::money::MicroUsd;
use pool_shared::rules::LEASE_MARGIN;
use pool_shared::time::wall_clock;
use tokio::time::Instant;

use crate::llm::{Probed, Upstreams};

/// How often it is looked whether a cooldown is over.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// An LLM that wants to be probed, and who of this process may.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Due {
    key: LlmKey,
    scope: Scope,
    programmer: ProgrammerId,
}

pub struct Prober {
    pub process: Process,
    pub pool: Arc<Pool>,
    pub upstreams: Arc<Upstreams>,
    pub config_hash: String,
    /// Those of this process.
    pub programmers: Vec<config::Programmer>,
}

impl Prober {
    /// Probes until the process ends.
    pub async fn run(self) {
        while !self.process.shutdown.is_cancelled() {
            // Jittered, so that not all processes speak at the same moment.
            tokio::time::sleep(LOOK_EVERY.mul_f64(0.5 + rand::random::<f64>())).await;
            if self.process.log.is_fresh() && self.process.clock.now().is_ok() {
                join_all(self.due().into_iter().map(|due| self.probe(due))).await;
            }
        }
    }

    fn due(&self) -> Vec<Due> {
        self.process.log.read(|fold| {
            // Whose pool file is not the one in force may have another address or key.
            if fold.configuration().is_none_or(|configuration| configuration.hash != self.config_hash) {
                return Vec::new();
            }
            let due = fold.breakers.due(fold.now().max(wall_clock()));
            due.filter_map(|(key, scope)| {
                let programmer = self.programmers.iter().find(|programmer| self.may(programmer, (key, scope)))?;
                Some(Due { key: key.clone(), scope: scope.clone(), programmer: programmer.id.clone() })
            })
            .collect()
        })
    }

    /// Whether the breaker holds this programmer's calls back.
    fn may(&self, programmer: &config::Programmer, (key, scope): (&LlmKey, &Scope)) -> bool {
        let host = &self.process.host;
        let within = match scope {
            Scope::Pool => true,
            Scope::Host(other) => other == host,
            Scope::Programmer(id) => *id == programmer.id,
        };
        within && programmer.llms.contains(&key.llm) && self.pool.llm_key(&key.llm, host) == *key
    }

    async fn probe(&self, Due { key, scope, programmer }: Due) {
        let (probe, llm, began) = (AttemptId::new(), key.llm.clone(), Instant::now());
        let probing =
            Decision::Probing { key: key.clone(), scope: scope.clone(), programmer: programmer.clone(), probe };
        match self.process.log.append(probing).await {
            Ok(Verdict::Accepted) => {}
            // Somebody else was first.
            Ok(Verdict::Refused(_)) | Err(_) => return,
        }
        let Some(probed) = self.ask((&llm, &programmer), probe, began).await else { return };
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
    async fn ask(
        &self,
        (llm, programmer): (&LlmName, &ProgrammerId),
        probe: AttemptId,
        began: Instant,
    ) -> Option<Probed> {
        let worst = self.upstreams.probe_cost(llm)?;
        if worst > MicroUsd::ZERO {
            let programmer = programmer.clone();
            let reserved = Decision::Reserved { attempt: probe, task: None, programmer, amount_usd: worst };
            if !matches!(self.process.log.append(reserved).await, Ok(Verdict::Accepted)) {
                tracing::info!(%llm, "no money is left for a probe");
                return None;
            }
        }
        if began.elapsed() > LEASE_MARGIN {
            tracing::info!(%llm, "the log was too slow: the lease of this probe would end before its call");
            return None;
        }
        Some(self.upstreams.probe(llm, self.pool.failover.probe_timeout()).await)
    }
}
