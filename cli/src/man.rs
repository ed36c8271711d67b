//! `pool man` writes the manual pages, one for each command.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::CommandFactory as _;

use super::Arguments;
use crate::output::print;

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  pool man ~/.local/share/man/man1")]
pub(super) struct ManArgs {
    /// The directory for the pages; it is made if it does not exist
    directory: PathBuf,
}

pub(super) fn run(args: &ManArgs) -> anyhow::Result<ExitCode> {
    let directory = &args.directory;
    write(directory).with_context(|| {
        let directory = directory.display();
        format!("failed to write manual pages to {directory}")
    })?;
    let directory = directory.display();
    Ok(print(&format!(
        "the manual pages are in {directory}; `man -l {directory}/pool.1` shows the first\n"
    )))
}

/// Writes `pool.1`, `pool-submit.1` and so on.
fn write(directory: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(directory)?;
    clap_mangen::generate_to(Arguments::command(), directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page_with_its_name_and_examples() {
        let directory = tempfile::TempDir::new().expect("a directory");
        write(directory.path()).expect("pages");
        let read = |name: &str| {
            let file = directory.path().join(name);
            std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{name}: {error}"))
        };
        let files = std::fs::read_dir(directory.path()).expect("pages").count();
        assert!(files > 25, "one for each command: {files}");
        for (name, parts) in [
            (
                "pool.1",
                &[
                    ".TH pool 1",
                    ".SH NAME",
                    ".SH SYNOPSIS",
                    "pool\\-submit(1)",
                    "POOL_URL",
                ][..],
            ),
            ("pool-submit.1", &[".TH pool-submit 1", "\\-\\-dry\\-run"]),
            ("pool-dead-retry.1", &[".SH OPTIONS", "pool dead retry"]),
        ] {
            let page = read(name);
            for part in parts {
                assert!(page.contains(part), "{name} has {part:?}:\n{page}");
            }
            let strange = page.lines().find(|line| {
                line.starts_with('.') && !line.chars().nth(1).is_some_and(char::is_alphabetic)
            });
            assert_eq!(strange, None, "every request of {name} is one of roff");
        }
    }
}
