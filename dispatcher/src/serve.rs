//! `dispatcher serve` starts the parts of a dispatcher in order, and ends them after the last answer.
//! `dispatcher topology` declares the topology, puts the pool file into force, and ends.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use pool_broker::process::{Process, called};
use pool_broker::service::Services;
use pool_config::{Env, load};
use pool_core::pool::Pool;
use pool_telemetry::clock::{new_id, wall_clock};
use pool_telemetry::{self, LogFormat, init_logs, install_metrics};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::api::token::Access;
use crate::api::{self, App, events};
use crate::dashboard::Hub;
use crate::dead::DeadLetters;
use crate::history::{History, Outputs};
use crate::intake::Intake;
use crate::maintenance::rescuer::PresenceTracker;
use crate::maintenance::{self, Maintenance, configuration};
use crate::views::Reader;
use crate::views::journal::Journal;
use crate::views::presence::Presence;
use crate::{lost_workers, pool_metrics, results};

/// Time for open requests to finish when the process ends.
const LAST_ANSWERS: Duration = Duration::from_secs(10);
/// The name of the service that answers requests.
const HTTP_API: &str = "http_api";

#[derive(Debug, Clone, clap::Args)]
pub struct PoolFile {
    /// The pool file
    #[arg(long, env = "POOL_FILE", default_value = "config/pool.yaml")]
    pub pool: PathBuf,
}

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit status: 0 a signal ended it; 1 it cannot run, and waiting would not help, or one of its services has failed; 2 the pool file has mistakes.\n\nExamples:\n  \
    dispatcher serve --pool config/pool.yaml\n  \
    dispatcher serve --listen 127.0.0.1:7000"
)]
pub struct ServeArgs {
    #[command(flatten)]
    pool_file: PoolFile,
    /// Address and port of the HTTP API; default: `dispatcher.listen` of the pool file
    #[arg(long)]
    listen: Option<SocketAddr>,
    /// Write the API's URL into this file once the API is up (useful with port 0)
    #[arg(long)]
    url_file: Option<PathBuf>,
    /// The name of its connections in the management UI; default: `dispatcher HOST/PID`
    #[arg(long, env = "POOL_PROCESS_NAME")]
    name: Option<String>,
}

pub async fn run(args: ServeArgs) -> anyhow::Result<ExitCode> {
    let mut pool = match pool(&args.pool_file.pool) {
        Ok(pool) => pool,
        Err(code) => return Ok(code),
    };
    logs();
    if let Some(listen) = args.listen {
        pool.dispatcher.listen = listen;
    }
    let access = Access::new(pool.dispatcher.listen, &Env::of_process())
        .context("failed to serve the HTTP API")?;
    let listener = TcpListener::bind(pool.dispatcher.listen)
        .await
        .with_context(|| {
            format!(
                "failed to listen on {}; is another dispatcher running there?",
                pool.dispatcher.listen
            )
        })?;
    let told = CancellationToken::new();
    let _signals = end_on_signals(told.clone())?;
    let api_listener = ApiListener {
        listener,
        access,
        url_file: args.url_file,
    };
    serve(pool, called("dispatcher", args.name), api_listener, told).await
}

/// The listener of the API, its token and the file for its URL.
struct ApiListener {
    listener: TcpListener,
    access: Access,
    /// The URL is written to it once the API is served.
    url_file: Option<PathBuf>,
}

async fn serve(
    pool: Pool,
    name: String,
    api_listener: ApiListener,
    told: CancellationToken,
) -> anyhow::Result<ExitCode> {
    // Cancelled after the last request is answered, not at the signal: a submission in progress
    // needs all parts of the process.
    let shutdown = CancellationToken::new();
    let mut services = Services::new("dispatcher");
    let (metrics, upkeep) = install_metrics("dispatcher", env!("CARGO_PKG_VERSION"))
        .context("failed to set up metrics")?;
    services.start("metrics_upkeep", upkeep);
    let (presence, presence_tracker) = (Presence::default(), Arc::<PresenceTracker>::default());
    let hear = {
        let (presence, presence_tracker) = (presence.clone(), Arc::clone(&presence_tracker));
        move |heartbeat| {
            presence_tracker.hear(&heartbeat, wall_clock());
            presence.hear(heartbeat);
        }
    };
    let preparing = Process::prepare(&pool, name, hear, shutdown.clone());
    let (process, of_process) = tokio::select! {
        prepared = preparing => prepared?,
        () = told.cancelled() => return Ok(ExitCode::SUCCESS),
    };
    let journal = Journal::default();
    process.log.keep_list();
    process.log.observe(Arc::new(journal.clone()));
    services.start_all(of_process);
    tokio::select! {
        in_force = put_in_force(&process, &pool, &mut services) => in_force?,
        () = told.cancelled() => return Ok(ExitCode::SUCCESS),
    }
    let url = format!("http://{}", api_listener.listener.local_addr()?);
    let base = Base {
        process: process.clone(),
        pool: Arc::new(pool),
        presence,
        presence_tracker,
        journal,
    };
    let (reader, outputs, dead) = start_services(base, &mut services);
    let app = App {
        intake: intake(&reader),
        hub: Hub::new(new_id::<uuid::Uuid>().simple().to_string()),
        streams: Arc::new(Semaphore::new(events::STREAMS)),
        ending: told.clone(),
        access: api_listener.access,
        reader,
        dead,
        metrics,
        outputs,
    };
    services.start("pool_metrics", pool_metrics::run(app.reader.clone()));
    services.start("hub", app.hub.clone().run(app.reader.clone()));
    if let Some(file) = api_listener.url_file {
        std::fs::write(&file, &url)
            .with_context(|| format!("failed to write {}", file.display()))?;
    }
    tracing::info!(%url, broker = %process.consume.endpoint().address(), "the dispatcher serves its API");
    let serving = axum::serve(api_listener.listener, api::router(app))
        .with_graceful_shutdown(told.clone().cancelled_owned());
    services.start(HTTP_API, async {
        if let Err(error) = serving.await {
            tracing::error!(%error, "the HTTP API stopped");
        }
    });
    let code = until_told(&mut services, &told).await;
    // A client may have stopped in the middle of its request.
    let answered = tokio::time::timeout(LAST_ANSWERS, services.end_of(HTTP_API));
    let _ = answered.await;
    shutdown.cancel();
    process.consume.close().await;
    tracing::info!("the dispatcher has ended");
    Ok(code)
}

/// The parts that exist before the dispatcher's own services start.
struct Base {
    process: Process,
    pool: Arc<Pool>,
    presence: Presence,
    presence_tracker: Arc<PresenceTracker>,
    journal: Journal,
}

/// Starts the services that do not need HTTP. Returns the parts that the API uses.
fn start_services(base: Base, services: &mut Services) -> (Reader, Outputs, DeadLetters) {
    let Base {
        process,
        pool,
        presence,
        presence_tracker,
        journal,
    } = base;
    let outputs = Outputs::default();
    let (history, of_history) = History::new(&process, outputs.clone());
    services.start_all(of_history);
    services.start_all(results::services(
        process.clone(),
        history.clone(),
        pool.dispatcher.reply_patience,
    ));
    let pool_watch = pool_broker::pool_metrics::watch(process.clone(), Arc::clone(&pool));
    services.start("pool_watch", pool_watch);
    let lost_workers = lost_workers::watch(process.clone(), presence.clone());
    services.start("lost_workers", lost_workers);
    let dead = DeadLetters::new(process.clone());
    let maintenance = Maintenance {
        process: process.clone(),
        pool: Arc::clone(&pool),
        history: history.clone(),
        dead: dead.clone(),
        presence_tracker,
    };
    maintenance::start(services, maintenance);
    (
        Reader::new(process, pool, history, presence, journal),
        outputs,
        dead,
    )
}

fn intake(reader: &Reader) -> Intake {
    Intake::new(reader.process.clone(), reader.history.clone(), &reader.pool)
}

/// Waits for a signal or for the end of a service. After the end of a service the process ends, with status 1.
async fn until_told(services: &mut Services, told: &CancellationToken) -> ExitCode {
    let ended = tokio::select! {
        biased;
        () = told.cancelled() => return ExitCode::SUCCESS,
        ended = services.first_end() => ended,
    };
    ended.log_end();
    told.cancel();
    ExitCode::FAILURE
}

/// Waits until the event log has been read, and puts this pool file in force.
async fn put_in_force(
    process: &Process,
    pool: &Pool,
    services: &mut Services,
) -> anyhow::Result<()> {
    let in_force = async {
        process.log.ready().await?;
        configuration::put_in_force(process, pool).await;
        Ok(())
    };
    tokio::select! {
        in_force = in_force => in_force,
        ended = services.first_end() => Err(ended.into()),
    }
}

pub async fn topology(file: PoolFile) -> anyhow::Result<ExitCode> {
    let pool = match pool(&file.pool) {
        Ok(pool) => pool,
        Err(code) => return Ok(code),
    };
    logs();
    let shutdown = CancellationToken::new();
    let name = called("dispatcher topology", None);
    let (process, of_process) = Process::prepare(&pool, name, |_| (), shutdown.clone()).await?;
    let mut services = Services::new("dispatcher");
    services.start_all(of_process);
    put_in_force(&process, &pool, &mut services).await?;
    let routes = process.routes.all().len();
    tracing::info!(routes, "declared the topology and bound the routes");
    shutdown.cancel();
    process.consume.close().await;
    Ok(ExitCode::SUCCESS)
}

/// Reads the pool file; its mistakes go to standard error, and the exit status is 2.
pub fn pool(file: &Path) -> Result<Pool, ExitCode> {
    load(file, &Env::of_process()).map_err(|mistakes| {
        eprintln!("{mistakes}");
        ExitCode::from(2)
    })
}

fn logs() {
    let format = match std::env::var("POOL_LOG").as_deref() {
        Ok("json") => LogFormat::Json,
        Ok(_) | Err(_) => LogFormat::Text,
    };
    init_logs(std::env::var("RUST_LOG").ok().as_deref(), format);
}

/// SIGTERM and SIGINT end the process in order; a second signal ends it at once.
fn end_on_signals(told: CancellationToken) -> anyhow::Result<AbortOnDropHandle<()>> {
    let mut term = signal(SignalKind::terminate()).context("failed to listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("failed to listen for SIGINT")?;
    let listening = tokio::spawn(async move {
        for first in [true, false] {
            tokio::select! { _ = term.recv() => {} _ = interrupt.recv() => {} }
            if !first {
                std::process::exit(1);
            }
            tracing::info!("ending");
            told.cancel();
        }
    });
    Ok(AbortOnDropHandle::new(listening))
}
