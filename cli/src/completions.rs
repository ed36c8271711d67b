//! `pool completions` prints completion scripts for common shells.

use std::process::ExitCode;

use clap::CommandFactory as _;
use clap_complete::{Shell, generate};

use super::{Arguments, print};

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    pool completions bash >~/.local/share/bash-completion/completions/pool\n  \
    pool completions zsh >~/.zfunc/_pool\n  \
    pool completions fish >~/.config/fish/completions/pool.fish")]
pub(super) struct CompletionsArgs {
    shell: Shell,
}

pub(super) fn run(args: &CompletionsArgs) -> ExitCode {
    let mut script = Vec::new();
    generate(args.shell, &mut Arguments::command(), "pool", &mut script);
    print(&String::from_utf8_lossy(&script))
}
