//! The scripted LLM as a program: a provider for the trial run and for trying things by hand.

use std::io::Write as _;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Parser;
use pool_tests::scripted_llm::{Script, ScriptedLlm};

/// An OpenAI-compatible LLM on 127.0.0.1 that answers what a script says.
///
/// Answers come from the file, or from a line `SCRIPT: {json}` in the prompt, or from rules.
///
/// Rules are outages that are switched on and off while it runs: `PUT /script/rules` with a JSON list that replaces the
/// last one, `[]` for none. A rule names a `model` (a part of its name, or `*`) and, if only some prompts are meant, a
/// `prompt` (a part of it), and says what happens: `fail: {status, retry_after_s}`, `behave` (hang, drop, reset,
/// cut_stream, broken_json, no_choices, empty, length, context_too_long), `delay_ms`, `usage`, `say`, or `hold` (waits
/// for the next rules). `GET /script/requests` lists what was received; `?after=NUMBER` only what came later.
#[derive(Parser)]
#[command(name = "scripted-llm")]
struct Args {
    /// Port to listen on; 0 takes a free one.
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// Address to listen on; 0.0.0.0 in a container.
    #[arg(long, default_value_t = Ipv4Addr::LOCALHOST)]
    address: Ipv4Addr,
    /// Answers by prompt, YAML: `answers: [{when: TEXT, say: TEXT, edits: [{file, search, replace}], …}, …]`.
    #[arg(long)]
    answers: Option<PathBuf>,
    /// Written when it listens; holds the port.
    #[arg(long)]
    port_file: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let script = match &args.answers {
        None => Script::default(),
        Some(file) => {
            let yaml = std::fs::read_to_string(file)
                .with_context(|| format!("failed to read {}", file.display()))?;
            Script::from_yaml(&yaml).with_context(|| format!("failed to use {}", file.display()))?
        }
    };
    let llm = ScriptedLlm::start_on(script, (args.address, args.port).into())
        .await
        .with_context(|| format!("failed to listen on port {}", args.port))?;
    if let Some(file) = &args.port_file {
        write_whole(file, &format!("{}\n", llm.port()))
            .with_context(|| format!("failed to write {}", file.display()))?;
    }
    writeln!(std::io::stdout(), "listening on {}", llm.url())
        .context("failed to write to stdout")?;
    llm.wait().await;
    Ok(())
}

/// Whoever waits for the file must never read half of it.
fn write_whole(file: &Path, text: &str) -> std::io::Result<()> {
    let mut part = file.as_os_str().to_owned();
    part.push(".part");
    std::fs::write(&part, text)?;
    std::fs::rename(&part, file)
}
