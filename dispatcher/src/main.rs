//! The binary `dispatcher`: the daemon `dispatcher serve`, and the operator's commands.

use std::process::ExitCode;

use dispatcher::cli::{Arguments, complain};

#[tokio::main]
async fn main() -> ExitCode {
    match Arguments::of_process().run().await {
        Ok(code) => code,
        Err(error) => {
            complain(&error);
            ExitCode::FAILURE
        }
    }
}
