//! A worker process: chooses its programmers, gives each its parts, and ends them in order.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use metrics_exporter_prometheus::PrometheusHandle;
use pool_broker::process::{Process, called};
use pool_broker::{heartbeats, log_broker_error};
use pool_core::config_hash::config_hash;
use pool_core::eligibility::consumer_priority;
use pool_core::event::{Event, ProgrammerUp};
use pool_core::heartbeat::{Gate, Heartbeat, ProgrammerBeat, ShutReason};
use pool_core::id::ProgrammerId;
use pool_core::pool::{self, Pool};
use pool_telemetry;
use pool_telemetry::clock::wall_clock;
use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::answers::Answers;
use crate::health::{self, Health, Hosted};
use crate::prober::Prober;
use crate::programmer::attempt::Workshop;
use crate::programmer::completer::Completer;
use crate::programmer::conclude::OutcomeWriter;
use crate::programmer::consumer::{OpenError, hold};
use crate::programmer::gate::{GateState, PeerPresence, watch_gates};
use crate::programmer::telemetry::watch_gate;
use crate::programmer::{Ending, Programmer, progress};

/// The time between two searches for free ids.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// How long a process that ends waits for its last heartbeat to be sent.
const GOODBYE_WITHIN: Duration = Duration::from_secs(1);

/// Which programmers a worker hosts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    All,
    These(BTreeSet<ProgrammerId>),
    /// This number of programmers that no other process holds.
    Any(usize),
}

/// How this process appears to others.
pub struct Shown {
    /// Its name in the management UI, from `--name`.
    pub name: Option<String>,
    pub metrics: PrometheusHandle,
    /// The listener for `--listen`.
    pub listener: Option<TcpListener>,
}

/// Runs programmers until `ending` is over.
///
/// # Errors
/// If something is wrong that waiting does not cure.
pub async fn run(pool: Pool, choice: Choice, shown: Shown, ending: Ending) -> anyhow::Result<()> {
    let Shown {
        name,
        metrics,
        listener,
    } = shown;
    let pool = Arc::new(pool);
    let shutdown = CancellationToken::new();
    let others = PeerPresence::new();
    let hear = {
        let others = others.clone();
        move |heartbeat: Heartbeat| others.hear(&heartbeat)
    };
    let starting = Process::start(&pool, called("worker", name), hear, shutdown.clone());
    let process = tokio::select! {
        process = starting => process?,
        () = ending.drain.cancelled() => return Ok(()),
    };
    let hosted = Hosted::default();
    if let Some(listener) = listener {
        tokio::spawn(health::serve_process(
            listener,
            process.clone(),
            hosted.clone(),
            metrics.clone(),
        ));
    }
    let programmers = tokio::select! {
        chosen = choose(&process, &pool, choice) => chosen?,
        () = ending.drain.cancelled() => return Ok(()),
    };
    let workshop = Arc::new(Workshop::open(Arc::clone(&pool))?);
    let gates = watch_gates(process.clone(), Arc::clone(&pool), others, &programmers);
    let progress = progress::Sender::start(process.publisher.clone(), shutdown.clone());
    let host = Host {
        pool,
        process: process.clone(),
        workshop,
        metrics,
        gates,
        ending,
        scribes: Arc::default(),
        answers: Arc::default(),
        progress,
        hosted,
    };
    let worked = host.work(programmers).await;
    shutdown.cancel();
    process.consume.close().await;
    worked
}

/// Chooses the programmers. For `Any` it waits until enough ids are free.
async fn choose(
    process: &Process,
    pool: &Pool,
    choice: Choice,
) -> anyhow::Result<Vec<pool::Programmer>> {
    match choice {
        Choice::All => Ok(pool.programmers.clone()),
        Choice::These(ids) => ids
            .iter()
            .map(|id| {
                pool.programmer(id)
                    .cloned()
                    .with_context(|| unknown(pool, id))
            })
            .collect(),
        Choice::Any(count) if count > pool.programmers.len() => {
            bail!(
                "--any {count}: {} has {} programmers",
                pool.file.display(),
                pool.programmers.len()
            )
        }
        Choice::Any(count) => Ok(free_ones(process, pool, count).await),
    }
}

fn unknown(pool: &Pool, id: &ProgrammerId) -> String {
    let known: Vec<&str> = pool
        .programmers
        .iter()
        .map(|programmer| programmer.id.as_str())
        .collect();
    format!(
        "programmer {id} is not in {}; it has {}",
        pool.file.display(),
        known.join(", ")
    )
}

/// Takes the locks of ids until it has enough. The locks last as long as the connection.
async fn free_ones(process: &Process, pool: &Pool, count: usize) -> Vec<pool::Programmer> {
    let limit = process.consume.endpoint().timeout();
    let mut taken: Vec<pool::Programmer> = Vec::new();
    loop {
        for programmer in &pool.programmers {
            if taken.len() == count {
                return taken;
            }
            if taken.iter().any(|have| have.id == programmer.id) {
                continue;
            }
            // A refusal closes the channel, so each id needs a new channel.
            let Ok(channel) = process.consume.channel().await else {
                break;
            };
            match hold(&channel, limit, &programmer.id).await {
                Ok(()) => taken.push(programmer.clone()),
                Err(OpenError::Held(_)) => {}
                Err(OpenError::Broker(error)) => {
                    log_broker_error(&error, "failed to try a programmer's id")
                }
            }
        }
        tracing::info!(
            taken = taken.len(),
            wanted = count,
            "waiting for programmer ids to become free"
        );
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

struct Host {
    pool: Arc<Pool>,
    process: Process,
    workshop: Arc<Workshop>,
    metrics: PrometheusHandle,
    gates: BTreeMap<ProgrammerId, watch::Receiver<GateState>>,
    ending: Ending,
    scribes: Arc<OutcomeWriter>,
    answers: Arc<Answers>,
    progress: progress::Sender,
    hosted: Hosted,
}

/// A programmer as its heartbeats show it.
struct Seen {
    id: ProgrammerId,
    port: u16,
    llm: pool_core::id::LlmName,
    status: watch::Receiver<Gate>,
}

impl Host {
    async fn work(self, programmers: Vec<pool::Programmer>) -> anyhow::Result<()> {
        let mut running = JoinSet::new();
        let mut seen = Vec::new();
        let nudge = Arc::new(Notify::new());
        for programmer in programmers {
            let (status, shown) = watch::channel(Gate::Shut {
                reason: ShutReason::Log,
                detail: "starting: reading the event log".to_owned(),
            });
            let port = self.serve_health(&programmer, shown.clone()).await?;
            let (id, llm) = (programmer.id.clone(), programmer.primary().clone());
            tokio::spawn(nudge_on_change(shown.clone(), Arc::clone(&nudge)));
            tokio::spawn(watch_gate(programmer.id.clone(), shown.clone()));
            seen.push(Seen {
                id,
                port,
                llm,
                status: shown,
            });
            running.spawn(self.programmer(programmer, status).await?.run());
        }
        let ids: Vec<String> = seen
            .iter()
            .map(|programmer| programmer.id.to_string())
            .collect();
        tracing::info!(programmers = ids.join(","), broker = %self.process.consume.endpoint().address(), "the worker is up");
        self.hosted.are(
            seen.iter()
                .map(|programmer| (programmer.id.clone(), programmer.status.clone()))
                .collect(),
        );
        self.say_again(&seen);
        tokio::spawn(self.prober(&seen).run());
        tokio::spawn(Arc::clone(&self.answers).tell(self.process.clone()));
        tokio::spawn(pool_broker::pool_metrics::watch(
            self.process.clone(),
            Arc::clone(&self.pool),
        ));
        let heartbeats = self.send_heartbeats(seen, nudge);
        let stop = drain_deadline(self.ending.clone(), self.pool.dispatcher.drain_timeout);
        tokio::spawn(stop);
        let worked = all_end(running).await;
        self.process.shutdown.cancel();
        // If the goodbye is lost, the other processes notice the missing heartbeats.
        let _ = tokio::time::timeout(GOODBYE_WITHIN, heartbeats).await;
        worked
    }

    async fn serve_health(
        &self,
        programmer: &pool::Programmer,
        status: watch::Receiver<Gate>,
    ) -> anyhow::Result<u16> {
        let listener = health::bind(programmer.port).await.with_context(|| {
            format!(
                "failed to take port {} of programmer {}; give it another `port` in the pool file, or 0",
                programmer.port, programmer.id
            )
        })?;
        let port = listener.local_addr()?.port();
        let (process, pool, metrics) = (
            self.process.clone(),
            Arc::clone(&self.pool),
            self.metrics.clone(),
        );
        let health = Health {
            programmer: programmer.clone(),
            port,
            process,
            pool,
            status,
            metrics,
        };
        tokio::spawn(health::serve(
            listener,
            health,
            self.process.shutdown.clone(),
        ));
        Ok(port)
    }

    async fn programmer(
        &self,
        config: pool::Programmer,
        status: watch::Sender<Gate>,
    ) -> anyhow::Result<Programmer> {
        let gate = self
            .gates
            .get(&config.id)
            .cloned()
            .context("a programmer without a gate")?;
        Ok(Programmer {
            attempts: self
                .workshop
                .attempts(config.clone())
                .await?
                .told_to(self.progress.of(&config.id)),
            priority: consumer_priority(&self.pool, &config),
            config,
            process: self.process.clone(),
            pool: Arc::clone(&self.pool),
            gate,
            status,
            ending: self.ending.clone(),
            completer: Completer::default(),
            scribes: Arc::clone(&self.scribes),
            answers: Arc::clone(&self.answers),
        })
    }

    /// Repeats that these programmers are held, before the log forgets it. Each programmer appends
    /// the first one itself.
    fn say_again(&self, seen: &[Seen]) {
        for programmer in seen {
            let status = programmer.status.clone();
            let (log, host) = (self.process.log.clone(), self.process.host.clone());
            let up = Event::from(ProgrammerUp {
                programmer: programmer.id.clone(),
                host,
                again: true,
            });
            let every = self.pool.events.restate_every();
            tokio::spawn(async move {
                loop {
                    tokio::time::sleep(every).await;
                    let elsewhere = matches!(
                        &*status.borrow(),
                        Gate::Shut {
                            reason: ShutReason::Held,
                            ..
                        }
                    );
                    if !elsewhere {
                        // If this event is lost, the next one replaces it.
                        let _ = log.append(up.clone()).await;
                    }
                }
            });
        }
    }

    /// The prober, which finds out when the LLMs of these programmers are back.
    fn prober(&self, seen: &[Seen]) -> Prober {
        let mine =
            |programmer: &&pool::Programmer| seen.iter().any(|held| held.id == programmer.id);
        Prober {
            process: self.process.clone(),
            upstreams: self.workshop.upstreams(),
            config_hash: config_hash(&self.pool),
            programmers: self.pool.programmers.iter().filter(mine).cloned().collect(),
            pool: Arc::clone(&self.pool),
        }
    }

    fn send_heartbeats(&self, seen: Vec<Seen>, nudge: Arc<Notify>) -> JoinHandle<()> {
        let (process, name) = (self.process.id, self.process.name.clone());
        let beat = move || Heartbeat {
            process,
            name: name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            at_ms: wall_clock().0,
            programmers: seen
                .iter()
                .map(|programmer| ProgrammerBeat {
                    id: programmer.id.clone(),
                    port: programmer.port,
                    gate: programmer.status.borrow().clone(),
                    current_llm: programmer.llm.clone(),
                })
                .collect(),
            asks: false,
            ends: false,
        };
        let every = self.pool.load_balancing.health_check_interval / 3;
        tokio::spawn(heartbeats::send(
            self.process.publisher.clone(),
            every,
            nudge,
            beat,
            self.process.shutdown.clone(),
        ))
    }
}

async fn all_end(mut running: JoinSet<()>) -> anyhow::Result<()> {
    while let Some(ended) = running.join_next().await {
        ended.context("a programmer panicked")?;
    }
    Ok(())
}

async fn nudge_on_change(mut status: watch::Receiver<Gate>, nudge: Arc<Notify>) {
    while status.changed().await.is_ok() {
        nudge.notify_one();
    }
}

/// Limits how long running tasks may go on after the drain has begun.
async fn drain_deadline(ending: Ending, limit: Duration) {
    ending.drain.cancelled().await;
    tracing::info!(limit_s = limit.as_secs(), "draining: taking no more tasks");
    tokio::time::sleep(limit).await;
    ending.kill.cancel();
}
