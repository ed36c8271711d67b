//! The pool as a picture for the terminal, readable from 80 columns on.

use std::fmt::Write as _;
use std::path::Path;

use comfy_table::presets::UTF8_HORIZONTAL_ONLY;
use comfy_table::{CellAlignment, ContentArrangement, Table};
use pool_shared::config::{AgentKind, Pool, Programmer, SandboxLevel, config_hash};
use pool_shared::id::{LlmName, ProgrammerId};
use pool_shared::routing::{Route, Routes};

use crate::llm_probe::LlmReport;

/// For output that goes to no terminal.
const COLUMNS: u16 = 100;
/// How many routing keys of a queue are named.
const NAMED_KEYS: usize = 4;

pub(super) fn pool(file: &Path, pool: &Pool, routes: &Routes, llms: Option<&[LlmReport]>) -> String {
    let mut text = format!(
        "{}: good. {} programmers, {} routes, configuration {}\n\n",
        file.display(),
        pool.programmers.len(),
        routes.all().len(),
        &config_hash(pool)[..8]
    );
    text.push_str(&lines(&programmers(pool)));
    text.push_str(&lines(&route_table(routes)));
    text.push_str(&settings(pool));
    match llms {
        Some(llms) => text.push_str(&llm_text(llms)),
        None => text.push_str("\nNext: `dispatcher check --llms` asks whether every key and model exists.\n"),
    }
    text
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_HORIZONTAL_ONLY).set_content_arrangement(ContentArrangement::Dynamic).set_header(header);
    if table.width().is_none() {
        table.set_width(COLUMNS);
    }
    table
}

/// Without the blanks that fill the last column.
fn lines(table: &Table) -> String {
    let lines = table.to_string();
    let trimmed: Vec<&str> = lines.lines().map(str::trim_end).collect();
    format!("{}\n\n", trimmed.join("\n"))
}

fn programmers(pool: &Pool) -> Table {
    let mut table = table(&["Id", "Port", "LLMs, primary first", "$/Mtok in", "out", "Capabilities"]);
    for programmer in &pool.programmers {
        let each = |show: &dyn Fn(&LlmName) -> String| programmer.llms.iter().map(show).collect::<Vec<_>>().join("\n");
        let capabilities: Vec<&str> = programmer.capabilities.iter().map(|c| c.as_str()).collect();
        table.add_row([
            programmer.id.to_string(),
            if programmer.port == 0 { "any".to_owned() } else { programmer.port.to_string() },
            each(&|llm| llm.to_string()),
            each(&|llm| price(pool, llm, |price| price.input)),
            each(&|llm| price(pool, llm, |price| price.output)),
            capabilities.join(", "),
        ]);
    }
    for column in [1, 3, 4] {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

fn price(pool: &Pool, llm: &LlmName, part: fn(&pool_shared::config::Price) -> pool_shared::money::MicroUsd) -> String {
    match pool.prices.get(llm).filter(|_| !pool.is_free(llm)) {
        Some(price) => part(price).to_string(),
        None => "free".to_owned(),
    }
}

fn route_table(routes: &Routes) -> Table {
    let mut table = table(&["Queue", "Served by", "Keys", "Tasks that require"]);
    for route in routes.all() {
        let served_by = format!("{} ({})", ranges(route.eligible.iter()), route.eligible.len());
        table.add_row([route.queue(), served_by, route.keys.len().to_string(), named_keys(route)]);
    }
    if let Some(column) = table.column_mut(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// The shortest keys first: they say best what the queue is for.
fn named_keys(route: &Route) -> String {
    let mut keys: Vec<&str> = route.keys.iter().map(String::as_str).collect();
    keys.sort_by_key(|key| (key.matches('.').count(), *key));
    let more = keys.len().saturating_sub(NAMED_KEYS);
    keys.truncate(NAMED_KEYS);
    let named = keys.iter().map(|key| key.replace('.', "+").replace("any", "nothing")).collect::<Vec<_>>().join(", ");
    if more == 0 { named } else { format!("{named}, {more} more") }
}

/// `001-005, 009`: neighbours in the number are drawn together.
pub(super) fn ranges<'a>(ids: impl Iterator<Item = &'a ProgrammerId>) -> String {
    let mut runs: Vec<(&ProgrammerId, &ProgrammerId)> = Vec::new();
    for id in ids {
        match runs.last_mut() {
            Some((_, last)) if follows(last, id) => *last = id,
            Some(_) | None => runs.push((id, id)),
        }
    }
    let show = |(first, last): &(&ProgrammerId, &ProgrammerId)| {
        if first == last { first.to_string() } else { format!("{first}-{last}") }
    };
    runs.iter().map(show).collect::<Vec<_>>().join(", ")
}

fn follows(last: &ProgrammerId, id: &ProgrammerId) -> bool {
    let number = |id: &ProgrammerId| id.as_str().parse::<u32>().ok();
    let same_width = last.as_str().len() == id.as_str().len();
    same_width && number(last).and_then(|n| n.checked_add(1)).is_some_and(|next| number(id) == Some(next))
}

fn settings(pool: &Pool) -> String {
    let roots: Vec<String> = pool.workspace.roots.iter().map(|root| root.display().to_string()).collect();
    let repositories = if roots.is_empty() { "https and ssh URLs only".to_owned() } else { roots.join(", ") };
    let sandbox = match pool.sandbox.level {
        SandboxLevel::Strict => "strict",
        SandboxLevel::Files => "files",
        SandboxLevel::Off => "off",
    };
    let mut text = String::new();
    for (name, value) in [
        ("Budget", budget(pool)),
        ("Agent", agent(pool)),
        ("Work in", pool.workspace.dir.display().to_string()),
        ("Repositories", repositories),
        ("Sandbox", sandbox.to_owned()),
        ("API", format!("http://{}", pool.dispatcher.listen)),
    ] {
        // Writing to a String does not fail.
        let _ = writeln!(text, " {name:<13} {value}");
    }
    text
}

fn budget(pool: &Pool) -> String {
    if !pool.cost.enabled {
        return "no limit (cost_optimization.enabled is false)".to_owned();
    }
    let paid = |programmer: &&Programmer| programmer.llms.iter().any(|llm| !pool.is_free(llm));
    let most = pool.programmers.iter().filter(paid).map(|programmer| programmer.limits.max_cost).max();
    let per_task = most.map_or_else(|| "all LLMs are free".to_owned(), |most| format!("one task at most ${most}"));
    format!("${} a day, warning from ${}; {per_task}", pool.cost.max_daily_spend, pool.cost.alert_threshold)
}

fn agent(pool: &Pool) -> String {
    match &pool.agent.kind {
        AgentKind::Aider { program, edit_format } => {
            format!("aider ({}), edit format {edit_format}", program.display())
        }
        AgentKind::Command { argv } => format!("command: {}", argv.join(" ")),
        AgentKind::Noop => "noop".to_owned(),
    }
}

fn llm_text(llms: &[LlmReport]) -> String {
    let mut table = table(&["LLM", "State", "Next step"]);
    for report in llms {
        table.add_row([report.llm.to_string(), report.finding.word().to_owned(), report.next_step()]);
    }
    let good = llms.iter().filter(|report| report.is_ok()).count();
    format!("\n{}{good} of {} LLMs are available.\n", lines(&table), llms.len())
}
