//! `--dry-run`: each task's queue, the programmers that could do it, its cost limit, and what is wrong
//! with it as far as this machine can tell.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;

use pool_api::format::counted;
use pool_config::{Env, load};
use pool_core::id::ProgrammerId;
use pool_core::money::MicroUsd;
use pool_core::pool::Pool;
use pool_core::routing::Routes;
use pool_core::task::TaskMessage;
use pool_telemetry::clock::wall_clock;
use serde::Serialize;
use serde_json::Value;

use super::preflight::{Found, Preflight};
use crate::check::ranges;
use crate::output::{Format, exit_code};
use crate::table::{lines, table};

/// One row of the plan.
#[derive(Serialize)]
struct Planned {
    index: usize,
    queue: Option<String>,
    able: Vec<ProgrammerId>,
    worst_cost_usd: MicroUsd,
    problem: Option<String>,
    warnings: Vec<String>,
}

pub(super) fn run(file: &Path, tasks: &[Value], format: Format) -> anyhow::Result<ExitCode> {
    let pool = match load(file, &Env::of_process()) {
        Ok(pool) => pool,
        Err(mistakes) => {
            eprintln!("{mistakes}");
            return Ok(ExitCode::from(2));
        }
    };
    let routes = Routes::new(&pool.capabilities());
    let mut preflight = Preflight::new(&pool);
    let plan: Vec<Planned> = tasks
        .iter()
        .enumerate()
        .map(|(index, task)| planned(&mut preflight, &pool, &routes, index, task))
        .collect();
    if format == Format::Table {
        warn(&plan);
    }
    let printed = format.print(&plan, |plan| text(plan))?;
    let good = plan.iter().all(|row| row.problem.is_none());
    Ok(exit_code(printed, good))
}

/// Each warning once, with the tasks that have it.
fn warn(plan: &[Planned]) {
    let mut tasks: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for row in plan {
        for warning in &row.warnings {
            tasks
                .entry(warning)
                .or_default()
                .push(row.index.to_string());
        }
    }
    for (warning, tasks) in tasks {
        eprintln!("warning: task {}: {warning}", tasks.join(", "));
    }
}

fn planned(
    preflight: &mut Preflight<'_>,
    pool: &Pool,
    routes: &Routes,
    index: usize,
    task: &Value,
) -> Planned {
    let wrong = |problem: String| Planned {
        index,
        queue: None,
        able: Vec::new(),
        worst_cost_usd: MicroUsd::ZERO,
        problem: Some(problem),
        warnings: Vec::new(),
    };
    let message = match TaskMessage::parse(task.to_string().as_bytes(), wall_clock()) {
        Ok(message) => message,
        Err(error) => return wrong(error.to_string()),
    };
    match routes.route(&message.capabilities) {
        Err(error) => wrong(error.to_string()),
        Ok(route) => {
            let Found { problem, warnings } = preflight.look(&message);
            Planned {
                index,
                queue: Some(route.queue()),
                able: route.eligible.iter().cloned().collect(),
                worst_cost_usd: route
                    .eligible
                    .iter()
                    .map(|id| worst_cost(pool, id, &message))
                    .max()
                    .unwrap_or_default(),
                problem,
                warnings,
            }
        }
    }
}

/// The cost limit of one attempt; zero if every LLM of the programmer is free.
fn worst_cost(pool: &Pool, id: &ProgrammerId, message: &TaskMessage) -> MicroUsd {
    let Some(programmer) = pool.programmer(id) else {
        return MicroUsd::ZERO;
    };
    if programmer.llms.iter().all(|llm| pool.is_free(llm)) {
        return MicroUsd::ZERO;
    }
    let cap = programmer.limits.max_cost;
    message.limits.max_cost_usd.map_or(cap, |own| own.min(cap))
}

fn text(plan: &[Planned]) -> String {
    let mut rows = table(&["task", "queue", "able", "worst cost", "problem"]);
    rows.align_right(&[0, 3]);
    for row in plan {
        rows.add_row([
            row.index.to_string(),
            row.queue.clone().unwrap_or_default(),
            ranges(row.able.iter().map(ToString::to_string)),
            format!("${}", row.worst_cost_usd),
            row.problem.clone().unwrap_or_default(),
        ]);
    }
    let wrong = plan.iter().filter(|row| row.problem.is_some()).count();
    let cost: MicroUsd = plan.iter().map(|row| row.worst_cost_usd).sum();
    let count = counted(plan.len(), "task", "tasks");
    let wrong = if wrong == 0 {
        String::new()
    } else {
        format!(", {wrong} wrong")
    };
    format!(
        "{}{count}{wrong}; at most ${cost} for one attempt each\n",
        lines(rows)
    )
}
