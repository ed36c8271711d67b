//! `pool budget` shows today's spending; `pool budget set` sets a new limit for today.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::process::ExitCode;

use pool_api::budget::{BudgetStatus, LimitPeriod, NewLimit};
use pool_api::format::clock;
use pool_core::money::MicroUsd;
use pool_telemetry::clock::wall_clock;

use crate::output::OutputArgs;
use crate::table::{lines, table};

#[derive(Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Examples:\n  pool budget\n  pool budget set --limit 60 --today"
)]
pub(super) struct BudgetArgs {
    #[command(subcommand)]
    change: Option<BudgetCommand>,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, clap::Subcommand)]
enum BudgetCommand {
    /// Set a new limit for today
    #[command(after_help = "Example:\n  pool budget set --limit 7.50 --today")]
    Set {
        /// US dollars, for example 60 or 7.50
        #[arg(long, value_name = "USD")]
        limit: MicroUsd,
        /// Apply until the day ends in the time zone of the budget. For a lasting change, set
        /// cost_optimization.max_daily_spend_usd in the pool file and restart the dispatcher
        #[arg(long, required = true)]
        today: bool,
        #[command(flatten)]
        output: OutputArgs,
    },
}

pub(super) async fn run(args: BudgetArgs) -> anyhow::Result<ExitCode> {
    let (status, output): (BudgetStatus, OutputArgs) = match args.change {
        None => (args.output.client()?.get("/budget").await?, args.output),
        Some(BudgetCommand::Set {
            limit,
            today: _,
            output,
        }) => {
            let body = NewLimit {
                limit_usd: limit,
                span: LimitPeriod::Today,
            };
            (output.client()?.post("/budget", &body).await?, output)
        }
    };
    output.print(&status, text)
}

fn text(budget: &BudgetStatus) -> String {
    let mut day = table(&["day", "limit", "spent", "reserved", "left", "ends"]);
    let or_any = |amount: Option<MicroUsd>, any: &str| {
        amount.map_or(any.to_owned(), |amount| format!("${amount}"))
    };
    let limit = or_any(budget.max_daily_spend_usd, "none");
    day.add_row([
        budget.day.clone().unwrap_or_default(),
        if budget.set_for_today {
            format!("{limit} (set for today)")
        } else {
            limit
        },
        format!("${}", budget.spent_usd),
        format!("${}", budget.reserved_usd),
        or_any(budget.left_usd, "any"),
        budget.day_ends.map_or(String::new(), |ends| {
            let zone = Some(&budget.time_zone).filter(|zone| *zone != "UTC");
            format!(
                "{}{}",
                clock(ends, wall_clock()),
                zone.map_or(String::new(), |zone| format!(" ({zone})"))
            )
        }),
    ]);
    let mut notes: Vec<String> = budget
        .warnings
        .iter()
        .map(|warning| format!("warning: {warning}\n"))
        .collect();
    if budget.alert {
        notes.push(format!(
            "warning: spending has reached the alert threshold of ${}\n",
            budget.alert_threshold_usd
        ));
    }
    if budget.lost_usd > MicroUsd::ZERO {
        let lost = budget.lost_usd;
        notes.push(format!(
            "the amount spent includes ${lost} that lost workers had reserved; their real cost is unknown\n"
        ));
    }
    let notes = notes.concat();
    format!(
        "{}{}{}{notes}",
        lines(day),
        amounts("LLM", &budget.by_llm),
        amounts("programmer", &budget.by_programmer)
    )
}

/// The amounts spent today, largest first.
fn amounts<K: Display + Ord>(what: &str, by: &BTreeMap<K, MicroUsd>) -> String {
    let mut rows: Vec<(&K, &MicroUsd)> = by.iter().collect();
    rows.sort_by(|a, b| b.1.cmp(a.1));
    let mut table = table(&[what, "spent"]);
    for (name, amount) in &rows {
        table.add_row([name.to_string(), format!("${amount}")]);
    }
    if rows.is_empty() {
        String::new()
    } else {
        lines(table)
    }
}
