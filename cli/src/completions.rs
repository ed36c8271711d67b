//! `pool completions`: for the shells that people use.

use std::process::ExitCode;

use clap::CommandFactory as _;
use clap_complete::{Shell, generate};

use super::{Arguments, print};

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    pool completions bash >~/.local/share/bash-completion/completions/dispatcher\n  \
    pool completions zsh >~/.zfunc/_dispatcher\n  \
    pool completions fish >~/.config/fish/completions/dispatcher.fish")]
pub(super) struct CompletionsArgs {
    shell: Shell,
}

pub(super) fn run(args: &CompletionsArgs) -> ExitCode {
    let mut script = Vec::new();
    generate(args.shell, &mut Arguments::command(), "pool", &mut script);
    print(&String::from_utf8_lossy(&script))
}
