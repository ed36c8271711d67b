//! The command line of the manager: `dispatcher serve`, and the commands that ask it.

use std::process::ExitCode;

use clap::Parser;
use dispatcher::cli::Command;

/// The manager of a pool of programmers: takes coding tasks, hands them out over RabbitMQ, brings results back.
#[derive(Parser)]
#[command(name = "dispatcher", version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[tokio::main]
async fn main() -> ExitCode {
    let Arguments { command } = Arguments::parse();
    match command.run().await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_sound() {
        Arguments::command().debug_assert();
    }
}
