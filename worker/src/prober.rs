//! Finds out when an LLM behind an open breaker is back, by one small call. The first process whose
//! `probing` is in the log makes it.
//!
//! A probe is not a task: it uses no worktree, agent or attempt. It is paid, reserved and waits for
//! a place under `max_concurrent` like any call. It also has the time-out of a call, because a
//! local model may have to load first. So each probe runs on its own: it delays neither other
//! probes nor the end of the process.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pool_broker::process::Process;
use pool_core::event::{BudgetReserved, BudgetSettled, Event, ProbeEnded, ProbeStarted};
use pool_core::id::{AttemptId, ProgrammerId};
use pool_core::llm::{Dialect, LlmKey, Scope};
use pool_core::money::MicroUsd;
use pool_core::pool::{self, Pool};
use pool_core::rules::LEASE_MARGIN;
use pool_core::state::Verdict;
use pool_telemetry::clock::wall_clock;
use tokio::task::JoinSet;
use tokio::time::Instant;

use llm_gateway::{Probed, Upstreams};

/// How often to check whether a cooldown is over.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// An LLM that is due for a probe, and a programmer of this process that may make it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct DueProbe {
    key: LlmKey,
    scope: Scope,
    programmer: ProgrammerId,
    dialect: Option<Dialect>,
}

pub struct Prober {
    pub process: Process,
    pub pool: Arc<Pool>,
    pub upstreams: Arc<Upstreams>,
    pub config_hash: String,
    /// The programmers of this process.
    pub programmers: Vec<pool::Programmer>,
}

impl Prober {
    /// Probes until the process ends. A running probe then ends with it, and its lease expires
    /// later.
    pub async fn run(self) {
        let prober = Arc::new(self);
        let mut running = JoinSet::new();
        let under_way: Arc<Mutex<BTreeSet<(LlmKey, Scope)>>> = Arc::default();
        while !prober.process.shutdown.is_cancelled() {
            // Jittered, so that the processes do not all append at the same moment.
            tokio::time::sleep(LOOK_EVERY.mul_f64(0.5 + rand::random::<f64>())).await;
            while running.try_join_next().is_some() {}
            if !prober.process.log.is_fresh() || prober.process.clock.now().is_err() {
                continue;
            }
            for due in prober.due() {
                let breaker = (due.key.clone(), due.scope.clone());
                if under_way
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .insert(breaker.clone())
                {
                    let (prober, under_way) = (Arc::clone(&prober), Arc::clone(&under_way));
                    running.spawn(async move {
                        prober.probe(due).await;
                        under_way
                            .lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .remove(&breaker);
                    });
                }
            }
        }
    }

    fn due(&self) -> Vec<DueProbe> {
        self.process.log.read(|fold| {
            // If this process's pool file is not the one in force, its address or key may differ.
            if fold
                .configuration()
                .is_none_or(|configuration| configuration.hash != self.config_hash)
            {
                return Vec::new();
            }
            let due = fold.breakers.due(fold.now().max(wall_clock()));
            due.filter_map(|(key, scope, dialect)| {
                let programmer = self
                    .programmers
                    .iter()
                    .find(|programmer| self.may(programmer, (key, scope)))?;
                Some(DueProbe {
                    key: key.clone(),
                    scope: scope.clone(),
                    programmer: programmer.id.clone(),
                    dialect,
                })
            })
            .collect()
        })
    }

    /// Whether the breaker concerns this programmer's calls.
    fn may(&self, programmer: &pool::Programmer, (key, scope): (&LlmKey, &Scope)) -> bool {
        let host = &self.process.host;
        let within = match scope {
            Scope::Pool => true,
            Scope::Host(other) => other == host,
            Scope::Programmer(id) => *id == programmer.id,
        };
        within && programmer.llms.contains(&key.llm) && self.pool.llm_key(&key.llm, host) == *key
    }

    async fn probe(&self, due: DueProbe) {
        // Before the lease is taken, so that another process may probe until then.
        let _place = self.upstreams.place_for_probe(&due.key.llm).await;
        let (probe, began) = (AttemptId::new(), Instant::now());
        let DueProbe {
            key,
            scope,
            programmer,
            dialect,
        } = &due;
        let (key, scope, llm) = (key.clone(), scope.clone(), &due.key.llm);
        let probing = Event::from(ProbeStarted {
            key: key.clone(),
            scope: scope.clone(),
            programmer: programmer.clone(),
            probe,
        });
        match self.process.log.append(probing).await {
            Ok(Verdict::Accepted) => {}
            // Another process was first.
            Ok(Verdict::Refused(_)) | Err(_) => return,
        }
        let Some(Probed {
            fault,
            retry_after,
            cost,
        }) = self.ask(&due, probe, began).await
        else {
            return;
        };
        tracing::info!(%llm, %scope, %programmer, ?dialect, fault = fault.map(|fault| fault.as_str()), "probed");
        let retry_after_ms = retry_after.and_then(|wait| u64::try_from(wait.as_millis()).ok());
        let told = Event::from(ProbeEnded {
            key,
            scope,
            probe,
            fault,
            retry_after_ms,
        });
        if let Err(error) = self.process.log.append(told).await {
            tracing::warn!(%llm, %error, "the result of a probe is not in the log; another probe follows");
        }
        if cost > MicroUsd::ZERO || self.upstreams.probe_cost(llm, *dialect) > Some(MicroUsd::ZERO)
        {
            let by_llm = BTreeMap::from([(llm.clone(), cost)]);
            let _ = self
                .process
                .log
                .append(Event::from(BudgetSettled {
                    attempt: probe,
                    cost_usd: cost,
                    by_llm,
                }))
                .await;
        }
    }

    /// Makes the call. None if it must not be made. Then the lease expires, and another process
    /// asks.
    async fn ask(&self, due: &DueProbe, probe: AttemptId, began: Instant) -> Option<Probed> {
        let llm = &due.key.llm;
        let worst = self.upstreams.probe_cost(llm, due.dialect)?;
        if worst > MicroUsd::ZERO {
            let programmer = due.programmer.clone();
            let reserved = Event::from(BudgetReserved {
                attempt: probe,
                task: None,
                programmer,
                amount_usd: worst,
            });
            if !matches!(
                self.process.log.append(reserved).await,
                Ok(Verdict::Accepted)
            ) {
                tracing::info!(%llm, "no money is left for a probe");
                return None;
            }
        }
        if began.elapsed() > LEASE_MARGIN {
            tracing::info!(%llm, "the log was too slow: the lease of this probe would end before its call");
            return None;
        }
        Some(
            self.upstreams
                .probe(llm, due.dialect, self.pool.failover.call_timeout)
                .await,
        )
    }
}
