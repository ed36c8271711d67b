//! `pool status`: the programmers, queues and breakers as tables.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use pool_api::budget::BudgetStatus;
use pool_api::events::Tone;
use pool_api::format::{age, clock, counted, millis, with_clocks};
use pool_api::pool::{BreakerState, PoolStatus};
use pool_api::status::{ProgrammerState, ProgrammerStatus};
use pool_core::heartbeat::ShutReason;
use pool_core::pause::{Pause, Target};
use pool_core::sandbox::SandboxStatus;
use pool_core::time::Timestamp;
use pool_telemetry::clock::wall_clock;
use tokio::time::Instant;

use crate::check::ranges;
use crate::client::Client;
use crate::output::OutputArgs;
use crate::table::{Cell, lines, table};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit status: 0 success; 1 no dispatcher answers, or a programmer is not ready in time (--wait-ready).\n\nExamples:\n  \
    pool status\n  \
    pool status --wait-ready 60\n  \
    pool status --format json"
)]
pub(super) struct StatusArgs {
    /// Wait until every programmer is ready: a worker runs it, and it reports no problem. Fail
    /// after this many seconds. A pause, an open breaker or an exhausted budget does not count as a
    /// problem
    #[arg(long, value_name = "SECONDS")]
    wait_ready: Option<u64>,
    #[command(flatten)]
    output: OutputArgs,
}

pub(super) async fn run(args: StatusArgs) -> anyhow::Result<ExitCode> {
    let client = args.output.client()?;
    let status = match args.wait_ready {
        None => client.get("/programmer_pool/status").await?,
        Some(seconds) => wait_ready(&client, Duration::from_secs(seconds)).await?,
    };
    args.output.print(&status, text)
}

async fn wait_ready(client: &Client, limit: Duration) -> anyhow::Result<PoolStatus> {
    let until = Instant::now() + limit;
    loop {
        let answer: anyhow::Result<PoolStatus> = client.get("/programmer_pool/status").await;
        match answer {
            Ok(status) if status.programmers.iter().all(is_ready) => return Ok(status),
            Ok(status) if Instant::now() >= until => {
                bail!(
                    "not every programmer is ready after {} s:\n{}",
                    limit.as_secs(),
                    not_ready(&status)
                )
            }
            Err(error) if Instant::now() >= until => return Err(error),
            Ok(_) | Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

fn not_ready(status: &PoolStatus) -> String {
    let bad = status
        .programmers
        .iter()
        .filter(|programmer| !is_ready(programmer));
    bad.map(|p| format!("  {} {}: {}", p.agent, p.state.as_str(), p.reason))
        .collect::<Vec<_>>()
        .join("\n")
}

/// The same condition as the programmer's `/ready`.
fn is_ready(programmer: &ProgrammerStatus) -> bool {
    match programmer.state {
        ProgrammerState::Idle | ProgrammerState::Busy => true,
        ProgrammerState::Shut => programmer.shut.is_some_and(|reason| !reason.is_trouble()),
        ProgrammerState::Down => false,
    }
}

pub(super) fn tone(state: ProgrammerState) -> Tone {
    match state {
        ProgrammerState::Idle => Tone::Good,
        ProgrammerState::Busy => Tone::Active,
        ProgrammerState::Shut => Tone::Warning,
        ProgrammerState::Down => Tone::Bad,
    }
}

fn text(status: &PoolStatus) -> String {
    let now = wall_clock();
    let mut programmers = table(&["programmer", "state", "LLM", "capabilities", "doing"]);
    programmers.spare(&[3]);
    programmers.folds(2);
    for p in &status.programmers {
        let llm = if p.using_backup {
            format!("{} (backup)", p.current_llm)
        } else {
            p.current_llm.clone()
        };
        programmers.add_row([
            p.agent.clone().into(),
            if p.unknown {
                "?".into()
            } else {
                Cell::toned(p.state.as_str(), tone(p.state))
            },
            llm.into(),
            p.capabilities.join(" ").into(),
            doing(p, now).into(),
        ]);
    }
    let mut routes = table(&["queue", "waiting", "running", "served by"]);
    for route in &status.routes {
        let served: Vec<&str> = route
            .programmers
            .iter()
            .map(pool_core::id::ProgrammerId::as_str)
            .collect();
        let is_paused = status
            .pauses
            .iter()
            .any(|p| matches!(&p.target, Target::Route { name } if *name == route.name));
        let queue = if is_paused {
            format!("{} (paused)", route.queue)
        } else {
            route.queue.clone()
        };
        routes.add_row([
            queue,
            route.waiting_in_words(),
            route.running.to_string(),
            served.join(" "),
        ]);
    }
    let depth = match status.uncounted_queues {
        0 => counted(status.total_queue_depth, "message", "messages"),
        _ => "? messages".to_owned(),
    };
    format!(
        "{}{}{}{}{}{} of {} available, {}, {depth} waiting in queues\n{}\n",
        first_of_all(status),
        lines(programmers),
        lines(routes),
        breakers(status),
        sandboxes(status),
        status.available,
        counted(status.pool_size, "programmer", "programmers"),
        counted(status.open_tasks, "open task", "open tasks"),
        budget(&status.budget),
    )
}

/// A short text: if its LLMs are out, the table of breakers has the reason.
fn doing(programmer: &ProgrammerStatus, now: Timestamp) -> String {
    match (
        &programmer.task,
        programmer.since,
        &programmer.circuit,
        programmer.shut,
    ) {
        (Some(task), Some(since), _, _) => format!("{task} for {}", age(millis(since, now))),
        (_, _, Some(circuit), Some(ShutReason::Breaker)) => {
            format!(
                "breaker: none of its LLMs is available, next probe at {}",
                clock(circuit.until, now)
            )
        }
        (_, _, _, _) => with_clocks(&programmer.reason, now),
    }
}

/// The reason why this view may be out of date, and the pauses.
fn first_of_all(status: &PoolStatus) -> String {
    let now = wall_clock();
    let trouble = status
        .detail
        .iter()
        .map(|detail| format!("dispatcher: {detail}\n"));
    let pauses = status.pauses.iter().map(|paused| {
        let how = match paused.pause {
            Pause::Pause => "paused",
            Pause::Drain => "drained",
        };
        format!(
            "{} is {how} since {}\n",
            paused.target,
            clock(paused.since, now)
        )
    });
    trouble.chain(pauses).collect()
}

pub(super) fn budget(budget: &BudgetStatus) -> String {
    let limit = budget
        .max_daily_spend_usd
        .map_or(String::new(), |limit| format!(" of ${limit}"));
    format!(
        "${}{limit} spent today, ${} reserved",
        budget.spent_usd, budget.reserved_usd
    )
}

pub(super) fn breaker_word(state: BreakerState) -> &'static str {
    match state {
        BreakerState::Closed => "closed",
        BreakerState::Open => "open",
        BreakerState::HalfOpen => "half-open",
    }
}

/// Breakers that are not closed.
fn breakers(status: &PoolStatus) -> String {
    if status.open_breakers().next().is_none() {
        return String::new();
    }
    let now = wall_clock();
    let mut rows = table(&["breaker", "for", "state", "since", "probed at", "reason"]);
    rows.spare(&[3, 1]);
    rows.folds(0);
    for breaker in status.open_breakers() {
        let state = breaker_word(breaker.state);
        let reason = breaker.reason.map_or(String::new(), |fault| {
            format!(
                "{}, last {}",
                counted(breaker.failures, "failure", "failures"),
                fault.as_str()
            )
        });
        let until = breaker
            .until
            .map_or(String::new(), |until| clock(until, now));
        let scope = breaker.scope.to_string();
        rows.add_row([
            breaker.llm.to_string().into(),
            scope.into(),
            Cell::toned(state, Tone::Bad),
            clock(breaker.since, now).into(),
            until.into(),
            reason.into(),
        ]);
    }
    lines(rows)
}

/// A line for all programmers with the same weaker sandbox; nothing about those with the whole one.
fn sandboxes(status: &PoolStatus) -> String {
    let mut weaker: Vec<(&SandboxStatus, Vec<String>)> = Vec::new();
    for programmer in &status.programmers {
        let Some(sandbox) = programmer.sandbox.as_ref().filter(|one| !one.is_full()) else {
            continue;
        };
        let id = programmer.id.to_string();
        match weaker.iter_mut().find(|(known, _)| *known == sandbox) {
            Some((_, ids)) => ids.push(id),
            None => weaker.push((sandbox, vec![id])),
        }
    }
    let line = |(sandbox, ids): (&SandboxStatus, Vec<String>)| {
        let why = sandbox
            .why
            .as_ref()
            .map_or(String::new(), |why| format!(": {why}"));
        format!("sandbox of {}: {sandbox}{why}\n", ranges(ids.into_iter()))
    };
    weaker.into_iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    /// The text in the row of a programmer with these extra fields.
    fn said(besides: &Value) -> String {
        let mut programmer = json!({
            "id": "001", "agent": "Prog-001", "port": 6151, "state": "shut", "reason": "", "shut": null, "task": null, "since": null,
            "worker": null, "primary_llm": "a/b", "backup_llm": null, "current_llm": "a/b", "using_backup": false,
            "circuit_open": false, "circuit": null, "failures": 0, "capabilities": []
        });
        for (name, value) in besides.as_object().into_iter().flatten() {
            programmer[name] = value.clone();
        }
        let programmer = serde_json::from_value(programmer).expect("a programmer");
        doing(&programmer, "2026-01-31T12:02:05Z".parse().expect("a time"))
    }

    #[test]
    fn of_a_route_tasks_wait_and_messages_are_told_where_they_are_others() {
        let waits = |tasks: usize, messages: Option<u32>| {
            let route = json!({
                "queue": "tasks.fast", "name": "fast", "waiting": messages, "waiting_tasks": tasks, "running": 0,
                "oldest_waiting": null, "programmers": []
            });
            serde_json::from_value::<pool_api::pool::RouteStatus>(route)
                .expect("a route")
                .waiting_in_words()
        };
        assert_eq!(waits(2, Some(2)), "2", "a message for each");
        assert_eq!(
            waits(1, Some(3)),
            "1 (3 messages)",
            "two messages are of cancelled tasks"
        );
        assert_eq!(
            waits(0, Some(1)),
            "0 (1 message)",
            "one task is not in the log"
        );
        assert_eq!(waits(2, None), "2", "the broker gave no number");
    }

    #[test]
    fn a_row_says_in_short_what_is_done_since_when_and_why_nothing_is() {
        let busy =
            json!({"reason": "working on t1", "task": "t1", "since": "2026-01-31T12:00:00Z"});
        assert_eq!(
            said(&busy),
            "t1 for 2 min 05 s",
            "its task, and for how long"
        );
        let circuit = json!({
            "since": "2026-01-31T12:00:00Z", "until": "2026-01-31T12:05:30Z", "reason": "rate_limited", "failures": 3, "detail": "long"
        });
        let out = json!({"reason": "breaker: long; longer", "shut": "breaker", "circuit": circuit});
        assert_eq!(
            said(&out),
            "breaker: none of its LLMs is available, next probe at 12:05:30 UTC",
            "the table of breakers has the rest"
        );
        let paused = json!({"reason": "paused: since 2026-01-31T12:00:07.123Z", "shut": "paused"});
        assert_eq!(
            said(&paused),
            "paused: since 12:00:07 UTC",
            "times are short"
        );
    }
}
