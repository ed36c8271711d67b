//! The command line of the manager: `dispatcher serve`, and the commands that ask it.

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
