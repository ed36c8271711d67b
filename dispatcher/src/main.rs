//! The manager of the pool.

mod check;
mod llm_probe;

use std::process::ExitCode;

use clap::Parser;

#[derive(Parser)]
enum Command {
    Check(check::CheckArgs),
    /// Prints a JSON Schema: pool, task or result.
    Schema {
        name: String,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    match Command::parse() {
        Command::Check(args) => check::run(args).await,
        Command::Schema { name } => match pool_shared::config::schema_named(&name) {
            Some(schema) => check::print(&pool_shared::config::schema_text(&schema)),
            None => ExitCode::FAILURE,
        },
    }
}
