//! `dispatcher completions` prints completion scripts for common shells.

use std::process::ExitCode;

use clap::CommandFactory as _;
use clap_complete::{Shell, generate};

use super::{Arguments, print};

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    dispatcher completions bash >~/.local/share/bash-completion/completions/dispatcher\n  \
    dispatcher completions zsh >~/.zfunc/_dispatcher\n  \
    dispatcher completions fish >~/.config/fish/completions/dispatcher.fish")]
pub(super) struct CompletionsArgs {
    shell: Shell,
}

pub(super) fn run(args: &CompletionsArgs) -> ExitCode {
    let mut script = Vec::new();
    generate(
        args.shell,
        &mut Arguments::command(),
        "dispatcher",
        &mut script,
    );
    print(&String::from_utf8_lossy(&script))
}
