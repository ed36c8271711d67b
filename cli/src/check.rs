//! `pool check`: lists the mistakes of the pool file, or shows the pool as tables. With
//! `--llms` it also checks that every provider accepts its key and has its models. Needs no broker.

mod table;
mod warnings;

pub(crate) use table::ranges;

use std::path::PathBuf;
use std::process::ExitCode;

use pool_config::{Env, Mistakes, load};
use pool_core::config_hash::config_hash;
use pool_core::pool::Pool;
use pool_core::price::UtcDay;
use pool_core::routing::Routes;
use pool_telemetry::clock::wall_clock;
use serde_json::{Value, json};

use crate::llm_probe::{self, LlmReport};
use crate::output::{Format, FormatArgs, print};

/// Check the pool file, or show the pool and its routes
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit status: 0 no problems; 1 an LLM is not available (--llms); 2 the pool file has mistakes.\n\nExamples:\n  \
    pool check --pool config/pool.yaml\n  \
    pool check --llms"
)]
pub(crate) struct CheckArgs {
    #[command(flatten)]
    pub(crate) file: PoolFileArgs,
    /// Ask every provider whether the key and the models exist (exit status 1 if one does not)
    #[arg(long)]
    pub(crate) llms: bool,
    #[command(flatten)]
    pub(crate) output: FormatArgs,
}

/// The pool file of a command that reads one itself.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct PoolFileArgs {
    /// The pool file
    #[arg(long, env = "POOL_FILE", default_value = "config/pool.yaml")]
    pub(crate) pool: PathBuf,
}

/// The result of the check: the exit status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CheckResult {
    Good,
    /// The file is valid, but an LLM is not available.
    LlmsMissing,
    Mistakes,
}

impl From<CheckResult> for ExitCode {
    fn from(result: CheckResult) -> Self {
        match result {
            CheckResult::Good => Self::SUCCESS,
            CheckResult::LlmsMissing => Self::from(1),
            CheckResult::Mistakes => Self::from(2),
        }
    }
}

/// Runs the whole command: reads the file, prints to stdout.
pub(crate) async fn run(args: CheckArgs) -> ExitCode {
    let (result, text) = report(&args, &Env::of_process()).await;
    let printed = print(&text);
    if result == CheckResult::Good {
        printed
    } else {
        result.into()
    }
}

async fn report(args: &CheckArgs, env: &Env) -> (CheckResult, String) {
    let pool = match load(&args.file.pool, env) {
        Ok(pool) => pool,
        Err(mistakes) => {
            return (
                CheckResult::Mistakes,
                mistakes_text(&mistakes, args.output.format != Format::Table),
            );
        }
    };
    let llms = if args.llms {
        Some(llm_probe::probe(&pool, env, llm_probe::TIMEOUT).await)
    } else {
        None
    };
    let missing = llms.iter().flatten().any(|llm| !llm.is_ok());
    let result = if missing {
        CheckResult::LlmsMissing
    } else {
        CheckResult::Good
    };
    let routes = Routes::new(&pool.capabilities());
    let today = UtcDay::of(wall_clock());
    let answer = pool_json(&pool, &routes, llms.as_deref(), today);
    let text = |_: &Value| table::pool(&args.file.pool, &pool, &routes, llms.as_deref(), today);
    match args.output.format.rendered(&answer, text) {
        Ok(text) => (result, text),
        Err(error) => (CheckResult::Mistakes, format!("{error:#}\n")),
    }
}

fn mistakes_text(mistakes: &Mistakes, as_json: bool) -> String {
    if as_json {
        return format!("{:#}\n", json!({"mistakes": mistakes.all()}));
    }
    let count = match mistakes.all().len() {
        1 => "1 mistake".to_owned(),
        many => format!("{many} mistakes"),
    };
    format!("{mistakes}\n\n{count}; nothing was started\n")
}

fn pool_json(pool: &Pool, routes: &Routes, llms: Option<&[LlmReport]>, today: UtcDay) -> Value {
    let programmers = pool.programmers.iter().map(|programmer| {
        let llms = programmer
            .llms
            .iter()
            .map(|llm| json!({"llm": llm, "free": pool.is_free(llm)}));
        json!({
            "id": programmer.id,
            "port": programmer.port,
            "llms": llms.collect::<Vec<_>>(),
            "capabilities": programmer.capabilities,
        })
    });
    let routes = routes.all().iter().map(
        |route| json!({"queue": route.queue(), "keys": route.keys, "programmers": route.eligible}),
    );
    let mut whole = json!({
        "file": pool.file,
        "config_hash": config_hash(pool),
        "programmers": programmers.collect::<Vec<_>>(),
        "routes": routes.collect::<Vec<_>>(),
        "warnings": warnings::of(pool, today),
        "sandbox": {"level": pool.sandbox.level, "network": pool.sandbox.network},
    });
    if let Some(llms) = llms {
        whole["llms"] = llms.iter().map(llm_json).collect();
    }
    whole
}

fn llm_json(report: &LlmReport) -> Value {
    json!({"llm": report.llm, "state": report.finding.word(), "next_step": report.next_step()})
}

#[cfg(test)]
mod tests;
