//! `dispatcher status`: the programmers as a table.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use pool_shared::status::ProgrammerState;
use tokio::time::Instant;

use super::{Client, Format, PoolUrl};
use crate::check::print;
use crate::pool_view::PoolStatus;
use crate::pool_view::llms::{BreakerState, BudgetStatus};
use crate::tables::{lines, table};

#[derive(Debug, clap::Args)]
pub struct StatusArgs {
    /// Wait until every programmer of the pool is available, at most so many seconds
    #[arg(long, value_name = "SECONDS")]
    wait_ready: Option<u64>,
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    #[command(flatten)]
    url: PoolUrl,
}

pub(super) async fn run(args: StatusArgs) -> anyhow::Result<ExitCode> {
    let client = Client::new(&args.url)?;
    let status = match args.wait_ready {
        None => client.get("/programmer_pool/status").await?,
        Some(seconds) => wait_ready(&client, Duration::from_secs(seconds)).await?,
    };
    Ok(print(&match args.format {
        Format::Json => format!("{:#}\n", serde_json::to_value(&status)?),
        Format::Table => text(&status),
    }))
}

async fn wait_ready(client: &Client, limit: Duration) -> anyhow::Result<PoolStatus> {
    let until = Instant::now() + limit;
    loop {
        let answer: anyhow::Result<PoolStatus> = client.get("/programmer_pool/status").await;
        match answer {
            Ok(status) if status.unavailable == 0 => return Ok(status),
            Ok(status) if Instant::now() >= until => bail!(
                "{} of {} programmers are not available after {} s:\n{}",
                status.unavailable,
                status.pool_size,
                limit.as_secs(),
                unavailable(&status)
            ),
            Err(error) if Instant::now() >= until => return Err(error),
            Ok(_) | Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

fn unavailable(status: &PoolStatus) -> String {
    let shut = status.programmers.iter().filter(|p| state_is_bad(p.state));
    shut.map(|p| format!("  {} {}", p.agent, p.reason)).collect::<Vec<_>>().join("\n")
}

fn state_is_bad(state: ProgrammerState) -> bool {
    match state {
        ProgrammerState::Idle | ProgrammerState::Busy => false,
        ProgrammerState::Shut | ProgrammerState::Down => true,
    }
}

fn word(state: ProgrammerState) -> &'static str {
    match state {
        ProgrammerState::Idle => "idle",
        ProgrammerState::Busy => "busy",
        ProgrammerState::Shut => "shut",
        ProgrammerState::Down => "down",
    }
}

fn text(status: &PoolStatus) -> String {
    let mut programmers = table(&["programmer", "state", "LLM", "capabilities", "doing"]);
    for p in &status.programmers {
        let llm = if p.using_backup { format!("{} (backup)", p.current_llm) } else { p.current_llm.clone() };
        programmers.add_row([
            p.agent.clone(),
            word(p.state).to_owned(),
            llm,
            p.capabilities.join(" "),
            p.reason.clone(),
        ]);
    }
    let mut routes = table(&["queue", "waiting", "running", "served by"]);
    for route in &status.routes {
        let served: Vec<&str> = route.programmers.iter().map(pool_shared::id::ProgrammerId::as_str).collect();
        let waiting = route.waiting.map_or("?".to_owned(), |n| n.to_string());
        routes.add_row([route.queue.clone(), waiting, route.running.to_string(), served.join(" ")]);
    }
    format!(
        "{}{}{}{} of {} programmers available, {} open tasks, {} waiting in queues, {}\n",
        lines(programmers),
        lines(routes),
        breakers(status),
        status.available,
        status.pool_size,
        status.open_tasks,
        status.total_queue_depth,
        budget(&status.budget),
    )
}

fn budget(budget: &BudgetStatus) -> String {
    let limit = budget.max_daily_spend_usd.map_or(String::new(), |limit| format!(" of ${limit}"));
    format!("${}{limit} spent today, ${} reserved", budget.spent_usd, budget.reserved_usd)
}

/// Those that are not closed.
fn breakers(status: &PoolStatus) -> String {
    let shut: Vec<_> = status.breakers.iter().filter(|breaker| breaker.state != BreakerState::Closed).collect();
    if shut.is_empty() {
        return String::new();
    }
    let mut rows = table(&["breaker", "for", "state", "since", "reason", "probed at"]);
    for breaker in shut {
        let state = match breaker.state {
            BreakerState::Closed => "closed",
            BreakerState::Open => "open",
            BreakerState::HalfOpen => "half-open",
        };
        let reason = breaker
            .reason
            .map_or(String::new(), |fault| format!("{} failures, last {}", breaker.failures, fault.as_str()));
        let until = breaker.until.map_or(String::new(), |until| until.to_string());
        let scope = breaker.scope.to_string();
        rows.add_row([breaker.llm.to_string(), scope, state.to_owned(), breaker.since.to_string(), reason, until]);
    }
    lines(rows)
}
