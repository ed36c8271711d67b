//! A worker process: chooses its programmers, gives each its parts, and ends them in order.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use futures_util::{FutureExt as _, future};
use metrics_exporter_prometheus::PrometheusHandle;
use pool_broker::process::{Process, called};
use pool_broker::service::Services;
use pool_broker::{heartbeats, log_broker_error};
use pool_core::config_hash::config_hash;
use pool_core::eligibility::consumer_priority;
use pool_core::event::{Event, ProgrammerUp};
use pool_core::heartbeat::{Gate, Heartbeat, ProgrammerBeat, ShutReason};
use pool_core::id::ProgrammerId;
use pool_core::pool::{self, Pool};
use pool_core::result::NetworkAttempts;
use pool_core::sandbox::SandboxStatus;
use pool_telemetry::clock::wall_clock;
use pool_telemetry::install_metrics;
use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::answers::AnsweredCalls;
use crate::health::{self, Hosted, ProcessHealth, ProgrammerHealth};
use crate::prober::Prober;
use crate::programmer::completer::Completer;
use crate::programmer::conclude::OutcomeWriter;
use crate::programmer::consumer::{OpenError, hold};
use crate::programmer::gate::{GateState, PeerPresence, is_held_elsewhere, watch_gates};
use crate::programmer::telemetry::watch_gate;
use crate::programmer::workshop::Workshop;
use crate::programmer::{EndSignals, ProgrammerRunner, progress};
use crate::sandbox::access::settle;
use crate::sandbox::settled::SettledSandbox;
use crate::sandbox::telemetry::{ConnectionsRefused, SandboxInForce};
use crate::sandbox::{FIRST_WAIT, SandboxHealth, SandboxLauncher};

/// The time between two searches for free ids.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// How long a process whose service has ended waits until its programmers have given their tasks back. This may need the
/// service that has ended.
const GIVEN_BACK_WITHIN: Duration = Duration::from_secs(10);
/// How long a process that ends waits for its last heartbeat to be sent.
const GOODBYE_WITHIN: Duration = Duration::from_secs(1);
/// The name of the service that sends heartbeats.
const HEARTBEAT_SENDER: &str = "heartbeat_sender";

/// Which programmers a worker hosts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    All,
    These(BTreeSet<ProgrammerId>),
    /// This number of programmers that no other process holds.
    Any(usize),
}

/// How this process appears to others.
pub struct HostOptions {
    /// Its name in the management UI, from `--name`.
    pub name: Option<String>,
    /// The listener for `--listen`.
    pub listener: Option<TcpListener>,
    /// The sandbox of its agents and checks.
    pub sandbox: SettledSandbox,
}

/// Runs programmers until `ending` is over.
///
/// # Errors
/// If something is wrong that waiting does not cure.
pub async fn run(
    pool: Pool,
    choice: Choice,
    shown: HostOptions,
    ending: EndSignals,
) -> anyhow::Result<()> {
    let HostOptions {
        name,
        listener,
        sandbox:
            SettledSandbox {
                status: sandbox,
                layers,
                ..
            },
    } = shown;
    let mut services = Services::new("worker");
    let (metrics, upkeep) =
        install_metrics("worker", env!("CARGO_PKG_VERSION")).context("failed to set up metrics")?;
    services.start("metrics_upkeep", upkeep);
    SandboxInForce { status: &sandbox }.emit();
    let pool = Arc::new(pool);
    let shutdown = CancellationToken::new();
    let others = PeerPresence::new();
    let hear = {
        let others = others.clone();
        move |heartbeat: Heartbeat| others.hear(&heartbeat)
    };
    let preparing = Process::prepare(&pool, called("worker", name), hear, shutdown.clone());
    let (process, of_process) = tokio::select! {
        prepared = preparing => prepared?,
        () = ending.drain.cancelled() => return Ok(()),
    };
    services.start_all(of_process);
    let hosted = Hosted::default();
    if let Some(listener) = listener {
        let health = ProcessHealth {
            process: process.clone(),
            hosted: hosted.clone(),
            sandbox: sandbox.clone(),
        };
        let serving = health::serve_process(listener, health, metrics.clone());
        services.start("health", serving);
    }
    let programmers = tokio::select! {
        chosen = choose(&process, &pool, choice) => chosen?,
        ended = services.first_end() => return Err(ended.into()),
        () = ending.drain.cancelled() => return Ok(()),
    };
    let launcher = SandboxLauncher::new(&pool, layers);
    let health = launcher.health().clone();
    let workshop = Arc::new(Workshop::open(Arc::clone(&pool), launcher)?);
    workshop.warm_up().await;
    services.start(
        "sandbox_test",
        test_sandbox(health.clone(), Arc::clone(&pool)),
    );
    let (gates, watching) = watch_gates(
        process.clone(),
        Arc::clone(&pool),
        others,
        health,
        &programmers,
    );
    services.start("gates", watching);
    let (progress, sending) = progress::Sender::new(process.publisher.clone(), shutdown.clone());
    services.start("live_output", sending);
    let host = Host {
        pool,
        process: process.clone(),
        sandbox,
        workshop,
        metrics,
        gates,
        ending,
        outcome_writer: Arc::default(),
        answers: Arc::default(),
        progress,
        hosted,
    };
    let worked = host.work(programmers, services).await;
    shutdown.cancel();
    process.consume.close().await;
    worked
}

/// Runs the self-test of the sandbox whenever a run could not set it up.
async fn test_sandbox(health: SandboxHealth, pool: Arc<Pool>) {
    let test = || {
        let pool = Arc::clone(&pool);
        let test = move || settle(&pool).map(drop).map_err(|error| error.to_string());
        tokio::task::spawn_blocking(test).map(|tested| match tested {
            Ok(tested) => tested,
            Err(error) => Err(format!("the self-test of the sandbox failed: {error}")),
        })
    };
    health.keep_testing(FIRST_WAIT, test).await;
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
    sandbox: SandboxStatus,
    workshop: Arc<Workshop>,
    metrics: PrometheusHandle,
    gates: BTreeMap<ProgrammerId, watch::Receiver<GateState>>,
    ending: EndSignals,
    outcome_writer: Arc<OutcomeWriter>,
    answers: Arc<AnsweredCalls>,
    progress: progress::Sender,
    hosted: Hosted,
}

/// A programmer as its heartbeats show it.
struct HostedProgrammer {
    id: ProgrammerId,
    port: u16,
    llm: pool_core::id::LlmName,
    status: watch::Receiver<Gate>,
}

impl Host {
    /// Runs these programmers until all of them have ended, or a service ends.
    async fn work(
        self,
        programmers: Vec<pool::Programmer>,
        mut services: Services,
    ) -> anyhow::Result<()> {
        let mut running = JoinSet::new();
        let mut seen = Vec::new();
        let nudge = Arc::new(Notify::new());
        for programmer in programmers {
            let (status, shown) = watch::channel(Gate::Shut {
                reason: ShutReason::Log,
                detail: "starting: reading the event log".to_owned(),
            });
            let (port, serving) = self.serve_health(&programmer, shown.clone()).await?;
            services.start("programmer_health", serving);
            let (id, llm) = (programmer.id.clone(), programmer.primary().clone());
            let nudging = nudge_on_change(shown.clone(), Arc::clone(&nudge));
            let watching = watch_gate(programmer.id.clone(), shown.clone());
            seen.push(HostedProgrammer {
                id,
                port,
                llm,
                status: shown,
            });
            ConnectionsRefused {
                programmer: &programmer.id,
                attempts: NetworkAttempts::default(),
            }
            .emit();
            let programmer = self.programmer(programmer, status).await?;
            running.spawn(future::join3(programmer.run(), nudging, watching).map(drop));
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
        let (process, pool) = (self.process.clone(), Arc::clone(&self.pool));
        services.start("programmer_snapshots", self.append_snapshots(&seen));
        services.start("prober", self.prober(&seen).run());
        let answers = Arc::clone(&self.answers);
        services.start("answer_reports", answers.append_reports(process.clone()));
        let watching = pool_broker::pool_metrics::watch(process, pool);
        services.start("pool_watch", watching);
        let leaving = CancellationToken::new();
        let heartbeats = self.send_heartbeats(seen, nudge, leaving.clone());
        services.start(HEARTBEAT_SENDER, heartbeats);
        let stop = drain_deadline(self.ending.clone(), self.pool.dispatcher.drain_timeout);
        tokio::spawn(stop);
        let all = all_end(running);
        tokio::pin!(all);
        let worked = tokio::select! {
            worked = &mut all => worked,
            ended = services.first_end() => {
                // The programmers give their tasks back, so that these attempts do not count.
                self.ending.drain.cancel();
                self.ending.kill.cancel();
                let _ = tokio::time::timeout(GIVEN_BACK_WITHIN, &mut all).await;
                Err(ended.into())
            }
        };
        leaving.cancel();
        // If the goodbye is lost, the other processes notice the missing heartbeats.
        let goodbye = services.end_of(HEARTBEAT_SENDER);
        let _ = tokio::time::timeout(GOODBYE_WITHIN, goodbye).await;
        worked
    }

    async fn serve_health(
        &self,
        programmer: &pool::Programmer,
        status: watch::Receiver<Gate>,
    ) -> anyhow::Result<(u16, impl Future<Output = ()> + Send + use<>)> {
        let listener = health::bind(programmer.port).await.with_context(|| {
            format!(
                "failed to take port {} of programmer {}; give it another `port` in the pool file, or 0",
                programmer.port, programmer.id
            )
        })?;
        let port = listener.local_addr()?.port();
        let health = ProgrammerHealth {
            programmer: programmer.clone(),
            port,
            process: self.process.clone(),
            pool: Arc::clone(&self.pool),
            status,
            metrics: self.metrics.clone(),
            sandbox: self.sandbox.clone(),
        };
        Ok((port, health::serve(listener, health)))
    }

    async fn programmer(
        &self,
        config: pool::Programmer,
        status: watch::Sender<Gate>,
    ) -> anyhow::Result<ProgrammerRunner> {
        let gate = self
            .gates
            .get(&config.id)
            .cloned()
            .context("a programmer without a gate")?;
        Ok(ProgrammerRunner {
            attempts: self
                .workshop
                .attempts(config.clone(), Some(self.progress.of(&config.id)))
                .await?,
            priority: consumer_priority(&self.pool, &config),
            config,
            process: self.process.clone(),
            pool: Arc::clone(&self.pool),
            gate,
            status,
            ending: self.ending.clone(),
            completer: Completer::default(),
            outcome_writer: Arc::clone(&self.outcome_writer),
            answers: Arc::clone(&self.answers),
        })
    }

    /// Repeats that these programmers are held, before the log forgets it. Each programmer appends
    /// the first one itself.
    fn append_snapshots(
        &self,
        seen: &[HostedProgrammer],
    ) -> impl Future<Output = ()> + Send + use<> {
        let held: Vec<_> = seen
            .iter()
            .map(|programmer| (programmer.id.clone(), programmer.status.clone()))
            .collect();
        let (log, host) = (self.process.log.clone(), self.process.host.clone());
        let every = self.pool.events.restate_every();
        async move {
            loop {
                tokio::time::sleep(every).await;
                let held_here = held
                    .iter()
                    .filter(|(_, status)| !is_held_elsewhere(&status.borrow()));
                let append = held_here.map(|(programmer, _)| {
                    log.append(Event::from(ProgrammerUp {
                        programmer: programmer.clone(),
                        host: host.clone(),
                        again: true,
                    }))
                });
                // If an event is lost, the next one replaces it.
                let _ = future::join_all(append).await;
            }
        }
    }

    /// The prober, which finds out when the LLMs of these programmers are back.
    fn prober(&self, seen: &[HostedProgrammer]) -> Prober {
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

    /// Sends heartbeats, and the last one when the process is `leaving`.
    fn send_heartbeats(
        &self,
        seen: Vec<HostedProgrammer>,
        nudge: Arc<Notify>,
        leaving: CancellationToken,
    ) -> impl Future<Output = ()> + Send + use<> {
        let (process, name) = (self.process.id, self.process.name.clone());
        let sandbox = self.sandbox.clone();
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
            sandbox: Some(sandbox.clone()),
            asks: false,
            ends: false,
        };
        let every = self.pool.load_balancing.health_check_interval / 3;
        heartbeats::send(self.process.publisher.clone(), every, nudge, beat, leaving)
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
async fn drain_deadline(ending: EndSignals, limit: Duration) {
    ending.drain.cancelled().await;
    tracing::info!(limit_s = limit.as_secs(), "draining: taking no more tasks");
    tokio::time::sleep(limit).await;
    ending.kill.cancel();
}
