//! Runs a pool for some minutes while it keeps killing workers, dispatchers and the broker, and
//! reports what was lost. `scripts/soak` builds the programs and runs it.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use pool_tests::bench::pool::own_directory;
use pool_tests::faults::audit::Audit;
use pool_tests::faults::checker::Report;
use pool_tests::faults::client::{Submitter, http};
use pool_tests::faults::node::Node;
use pool_tests::soak::crew::{Camp, Crew, DISPATCHERS, WORKERS, broker_script, free_ports};
use pool_tests::soak::kinds::Kind;
use pool_tests::soak::load::{Door, Hand, Pace, Submitted, submit};
use pool_tests::soak::plan::{Blow, HAND_SIZE, Plan, Victim};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

/// A shorter or idler run proves nothing: the least number of tasks and kills a minute.
const LEAST_TASKS: usize = 500;
const LEAST_KILLS: usize = 2;
/// The limit for all submitted tasks to end after the last kill.
const REST_WITHIN: Duration = Duration::from_secs(240);
/// Broker fact 6: a younger queue can lose confirmed messages when its node is killed.
const SETTLED_AFTER: Duration = Duration::from_secs(6);

/// The exit status is 1 if a task or a result was lost, differs, was invented or never finished.
#[derive(Parser)]
#[command(name = "soak")]
struct Args {
    #[arg(long, default_value_t = 10)]
    minutes: u32,
    /// Decides which process is killed when. The same seed repeats a run, as far as the machine
    /// allows.
    #[arg(long)]
    seed: Option<u64>,
    /// Directory for the broker, the pool and its logs. It is emptied first.
    #[arg(long, default_value = ".pool/soak")]
    dir: PathBuf,
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    let seed = args
        .seed
        .unwrap_or_else(|| pool_telemetry::clock::wall_clock().0);
    eprintln!(
        "soak: {} min, seed {seed}, in {}",
        args.minutes,
        args.dir.display()
    );
    if args.dir.exists() {
        std::fs::remove_dir_all(&args.dir).context("failed to empty the directory")?;
    }
    std::fs::create_dir_all(&args.dir).context("failed to make the directory")?;
    let dir = args.dir.canonicalize()?;
    let node = Node::new(broker_script(), dir.join("broker"), None);
    let done = run(&args, seed, &dir, &node).await;
    node.kill().await?;
    verdict(&args, &done?)
}

type Blows = BTreeMap<(&'static str, Blow), usize>;

/// The blows and tasks of a run, and the report.
struct Run {
    report: Report,
    blows: Blows,
    handed_in: BTreeMap<Kind, usize>,
}

async fn run(args: &Args, seed: u64, dir: &std::path::Path, node: &Node) -> anyhow::Result<Run> {
    let printed = node.start().await?;
    let amqp_url = printed
        .lines()
        .find_map(|line| line.strip_prefix("AMQP_URL="))
        .context("no AMQP_URL")?
        .to_owned();
    let camp = Camp {
        programs: own_directory()?,
        dir: dir.to_owned(),
        amqp_url: amqp_url.clone(),
        ports: free_ports()?,
    };
    camp.pitch().await?;
    let urls = camp.urls();
    let crew = Arc::new(Crew::start(camp, node.clone())?);
    let mut audit = first_contact(&amqp_url).await?;
    let hands = hands(&amqp_url, &urls).await?;
    sleep(SETTLED_AFTER).await;

    let (enough, load) = start_load(hands);
    let blows = beat(&crew, args.minutes, seed).await?;
    enough.send_replace(true);
    let mut handed_in = BTreeMap::new();
    for submitted in load {
        for submitted in submitted.await.context("a submitter panicked")?? {
            submitted.enter(&mut audit);
            *handed_in.entry(submitted.job.kind).or_default() += 1;
        }
    }
    eprintln!(
        "soak: {} tasks confirmed; waiting until all have ended",
        audit.confirmed()
    );
    audit.settled(REST_WITHIN).await?;
    crew.stop().await?;
    Ok(Run {
        report: audit.report().await?,
        blows,
        handed_in,
    })
}

/// Waits until the dispatchers have declared the topology.
async fn first_contact(amqp_url: &str) -> anyhow::Result<Audit> {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        match Audit::open(amqp_url).await {
            Ok(audit) => return Ok(audit),
            Err(error) if Instant::now() > deadline => return Err(error),
            Err(_) => sleep(Duration::from_millis(200)).await,
        }
    }
}

/// Four submitters over HTTP and one over AMQP. All replies go to the audit's queue.
async fn hands(amqp_url: &str, urls: &[String]) -> anyhow::Result<Vec<(String, Hand, Duration)>> {
    let mut hands = Vec::new();
    for number in 0..5 {
        let (name, door, every_ms) = match number {
            0..4 => (format!("http{number}"), Door::Http, 350),
            _ => ("amqp".to_owned(), Door::Amqp, 250),
        };
        let submitter = Submitter::join(amqp_url, "audit").await?;
        let hand = Hand {
            door,
            client: http()?,
            urls: urls.to_owned(),
            submitter,
        };
        hands.push((name, hand, Duration::from_millis(every_ms)));
    }
    Ok(hands)
}

type Load = Vec<tokio::task::JoinHandle<anyhow::Result<Vec<Submitted>>>>;

/// About 900 tasks a minute in total.
fn start_load(hands: Vec<(String, Hand, Duration)>) -> (watch::Sender<bool>, Load) {
    let enough = watch::Sender::new(false);
    let start = |(name, hand, every)| {
        tokio::spawn(submit(
            Pace {
                name,
                every,
                enough: enough.subscribe(),
            },
            hand,
        ))
    };
    let load = hands.into_iter().map(start).collect();
    (enough, load)
}

/// Kills and stops processes for `minutes` minutes, at least [`HAND_SIZE`] times a minute.
async fn beat(crew: &Arc<Crew>, minutes: u32, seed: u64) -> anyhow::Result<Blows> {
    let until = Instant::now() + Duration::from_secs(60) * minutes;
    let least = HAND_SIZE * usize::try_from(minutes)?;
    let (mut blows, mut falling) = (Blows::new(), JoinSet::new());
    for (number, step) in Plan::new(seed, WORKERS.len(), DISPATCHERS).enumerate() {
        sleep(step.pause).await;
        if number >= least && Instant::now() > until {
            break;
        }
        let crew = Arc::clone(crew);
        falling.spawn(async move {
            let began = Instant::now();
            let hit = crew.hit(step.victim, step.blow).await;
            eprintln!(
                "soak: {:?} {:?}, {} ms",
                step.blow,
                step.victim,
                began.elapsed().as_millis()
            );
            hit
        });
        let kind = match step.victim {
            Victim::Worker(_) => "worker",
            Victim::Dispatcher(_) => "dispatcher",
            Victim::Broker => "broker",
        };
        *blows.entry((kind, step.blow)).or_default() += 1;
        while let Some(fallen) = falling.try_join_next() {
            fallen.context("a kill panicked")??;
        }
    }
    while let Some(fallen) = falling.join_next().await {
        fallen.context("a kill panicked")??;
    }
    Ok(blows)
}

fn verdict(
    args: &Args,
    Run {
        report,
        blows,
        handed_in,
    }: &Run,
) -> anyhow::Result<ExitCode> {
    let mut out = std::io::stdout();
    writeln!(out, "{report}")?;
    let mut of_kind: BTreeMap<&str, usize> = BTreeMap::new();
    for ((kind, blow), count) in blows {
        writeln!(out, "{kind}: {blow:?} {count} times")?;
        *of_kind.entry(kind).or_default() += count;
    }
    for (kind, count) in handed_in {
        writeln!(out, "submitted: {count} {kind:?}")?;
    }
    let minutes = usize::try_from(args.minutes)?;
    let beaten = ["worker", "dispatcher", "broker"].iter().all(|kind| {
        of_kind
            .get(kind)
            .is_some_and(|count| *count >= LEAST_KILLS * minutes)
    });
    let all_kinds = Kind::ALL
        .iter()
        .all(|kind| handed_in.get(kind).is_some_and(|count| *count >= minutes));
    if !beaten || !all_kinds || report.tasks < LEAST_TASKS * minutes {
        writeln!(
            out,
            "too little happened: {LEAST_TASKS} tasks, one of each kind, and {LEAST_KILLS} kills of each kind a minute \
             are the least"
        )?;
        return Ok(ExitCode::FAILURE);
    }
    Ok(if report.is_clean() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
