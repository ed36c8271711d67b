//! The pool as tables for the terminal, readable from 80 columns on.

use std::fmt::Write as _;
use std::path::Path;

use pool_api::format::counted;
use pool_core::config_hash::config_hash;
use pool_core::id::{Capability, LlmName};
use pool_core::money::MicroUsd;
use pool_core::pool::{self, AgentKind, Pool, Programmer, SandboxLevel, SandboxNetwork};
use pool_core::price::{Rates, UtcDay};
use pool_core::routing::{Route, Routes};

use super::warnings;
use crate::llm_probe::LlmReport;
use crate::table::{Rows, lines, table};

/// How many routing keys of a queue are shown.
const NAMED_KEYS: usize = 4;

pub(super) fn pool(
    file: &Path,
    pool: &Pool,
    routes: &Routes,
    llms: Option<&[LlmReport]>,
    today: UtcDay,
) -> String {
    let mut text = format!(
        "{}: valid. {}, {}, configuration {}\n\n",
        file.display(),
        counted(pool.programmers.len(), "programmer", "programmers"),
        counted(routes.all().len(), "route", "routes"),
        &config_hash(pool)[..8]
    );
    text.push_str(&lines(programmers(pool, today)));
    text.push_str(&lines(route_table(routes)));
    text.push_str(&settings(pool));
    for warning in warnings::of(pool, today) {
        // Writing to a String does not fail.
        let _ = writeln!(text, "warning: {warning}");
    }
    match llms {
        Some(llms) => text.push_str(&llm_text(llms)),
        None => {
            text.push_str("\nNext: `pool check --llms` checks that every key and model exists.\n")
        }
    }
    text
}

/// Prices are dollars per million tokens. Programmers that differ only in id and port share a row.
fn programmers(pool: &Pool, today: UtcDay) -> Rows {
    let mut table = table(&[
        "id",
        "port",
        "LLMs, primary first",
        "$ in",
        "$ out",
        "capabilities",
    ]);
    let mut groups: Vec<Vec<&Programmer>> = Vec::new();
    for programmer in &pool.programmers {
        match groups
            .iter_mut()
            .find(|group| is_alike(group[0], programmer))
        {
            Some(group) => group.push(programmer),
            None => groups.push(vec![programmer]),
        }
    }
    for group in groups {
        let of = group[0];
        let each = |show: &dyn Fn(&LlmName) -> String| {
            of.llms.iter().map(show).collect::<Vec<_>>().join("\n")
        };
        table.add_row([
            ranges(group.iter().map(|programmer| programmer.id.to_string())),
            ranges(group.iter().map(|programmer| port(programmer))),
            each(&|llm| llm.to_string()),
            each(&|llm| price(pool, llm, today, |rates| rates.input)),
            each(&|llm| price(pool, llm, today, |rates| rates.output)),
            of.capabilities
                .iter()
                .map(Capability::as_str)
                .collect::<Vec<_>>()
                .join(", "),
        ]);
    }
    table.align_right(&[3, 4]);
    table
}

fn is_alike(a: &Programmer, b: &Programmer) -> bool {
    a.llms == b.llms && a.capabilities == b.capabilities && a.limits == b.limits
}

fn port(programmer: &Programmer) -> String {
    if programmer.port == 0 {
        "any".to_owned()
    } else {
        programmer.port.to_string()
    }
}

fn price(pool: &Pool, llm: &LlmName, today: UtcDay, part: fn(&Rates) -> MicroUsd) -> String {
    match pool.prices.get(llm).filter(|_| !pool.is_free(llm)) {
        Some(price) => part(&price.on(today).standard.base).to_string(),
        None => "free".to_owned(),
    }
}

fn route_table(routes: &Routes) -> Rows {
    let mut table = table(&["queue", "served by", "keys", "tasks that require"]);
    for route in routes.all() {
        let served_by = format!(
            "{} ({})",
            ranges(route.eligible.iter().map(ToString::to_string)),
            route.eligible.len()
        );
        table.add_row([
            route.queue(),
            served_by,
            route.keys.len().to_string(),
            named_keys(route),
        ]);
    }
    table.align_right(&[2]);
    table
}

/// The shortest keys first: they best describe the queue.
fn named_keys(route: &Route) -> String {
    let mut keys: Vec<&str> = route.keys.iter().map(String::as_str).collect();
    keys.sort_by_key(|key| (key.matches('.').count(), *key));
    let more = keys.len().saturating_sub(NAMED_KEYS);
    let named = keys.iter().take(NAMED_KEYS).map(|key| match *key {
        "any" => "nothing".to_owned(),
        words => words.replace('.', "+"),
    });
    let named = named.collect::<Vec<_>>().join(", ");
    if more == 0 {
        named
    } else {
        format!("{named}, {more} more")
    }
}

/// `001-005, 009`: consecutive numbers become a range, equal ones are shown once.
pub(crate) fn ranges(words: impl Iterator<Item = String>) -> String {
    let mut runs: Vec<(String, String)> = Vec::new();
    for word in words {
        match runs.last_mut() {
            Some((_, last)) if *last == word || follows(last, &word) => *last = word,
            Some(_) | None => runs.push((word.clone(), word)),
        }
    }
    let show = |(first, last): &(String, String)| {
        if first == last {
            first.clone()
        } else {
            format!("{first}-{last}")
        }
    };
    runs.iter().map(show).collect::<Vec<_>>().join(", ")
}

fn follows(last: &str, word: &str) -> bool {
    let number = |word: &str| word.parse::<u32>().ok();
    last.len() == word.len()
        && number(last)
            .and_then(|n| n.checked_add(1))
            .is_some_and(|next| number(word) == Some(next))
}

fn settings(pool: &Pool) -> String {
    let roots: Vec<String> = pool
        .workspace
        .roots
        .iter()
        .map(|root| root.display().to_string())
        .collect();
    let repositories = if roots.is_empty() {
        "https:// and ssh:// URLs only".to_owned()
    } else {
        roots.join(", ")
    };
    let mut text = String::new();
    for (name, value) in [
        ("budget", budget(pool)),
        ("agent", agent(pool)),
        ("work dir", pool.workspace.dir.display().to_string()),
        ("repositories", repositories),
        ("sandbox", sandbox(&pool.sandbox)),
        ("API", format!("http://{}", pool.dispatcher.listen)),
    ] {
        // Writing to a String does not fail.
        let _ = writeln!(text, "{name:<13} {value}");
    }
    text
}

/// The level that is wanted. Each worker finds out what its machine supports.
fn sandbox(wanted: &pool::Sandbox) -> String {
    let level = match wanted.level {
        SandboxLevel::Auto => "auto: strict, or else files; `worker sandbox` tests a machine",
        SandboxLevel::Strict => "strict; `worker sandbox` tests a machine",
        SandboxLevel::Files => "files; `worker sandbox` tests a machine",
        SandboxLevel::Off => "off: agents and checks have all rights of the worker's user",
    };
    match (wanted.level, wanted.network) {
        (SandboxLevel::Off, _) | (_, SandboxNetwork::Gateway) => level.to_owned(),
        (SandboxLevel::Auto | SandboxLevel::Strict | SandboxLevel::Files, SandboxNetwork::Host) => {
            format!("{level}; with the machine's network")
        }
    }
}

fn budget(pool: &Pool) -> String {
    if !pool.cost.enabled {
        return "no limit (cost_optimization.enabled is false)".to_owned();
    }
    let paid = |programmer: &&Programmer| programmer.llms.iter().any(|llm| !pool.is_free(llm));
    let most = pool
        .programmers
        .iter()
        .filter(paid)
        .map(|programmer| programmer.limits.max_cost)
        .max();
    let per_task = most.map_or_else(
        || "all LLMs are free".to_owned(),
        |most| format!("a task costs at most ${most}"),
    );
    format!(
        "${} a day, warning at ${}; {per_task}",
        pool.cost.max_daily_spend, pool.cost.alert_threshold
    )
}

fn agent(pool: &Pool) -> String {
    match &pool.agent.kind {
        AgentKind::Aider {
            program,
            edit_format,
        } => {
            format!("aider ({}), edit format {edit_format}", program.display())
        }
        AgentKind::Command { argv, env: _ } => format!("command: {}", argv.join(" ")),
        AgentKind::Noop => "noop".to_owned(),
    }
}

fn llm_text(llms: &[LlmReport]) -> String {
    let mut table = table(&["LLM", "state", "next step"]);
    for report in llms {
        table.add_row([
            report.llm.to_string(),
            report.finding.word().to_owned(),
            report.next_step(),
        ]);
    }
    let good = llms.iter().filter(|report| report.is_ok()).count();
    format!(
        "\n{}{good} of {} LLMs are available.\n",
        lines(table),
        llms.len()
    )
}
