//! The scripted LLM as a program: a provider for the trial run and for trying things by hand.

use std::io::Write as _;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Parser;
use pool_tests::scripted_llm::{Script, ScriptedLlm};

/// An OpenAI-compatible LLM on 127.0.0.1 that answers from a script.
///
/// An answer comes from the file, from a line `SCRIPT: {json}` in the prompt, or from a rule.
///
/// Rules are outages that can be switched on and off while it runs: `PUT /script/rules` with a JSON
/// list replaces the rules, `[]` removes them. A rule has a `model` (a part of its name, or `*`)
/// and, to match only some prompts, a `prompt` (a part of it). It also has what happens: `fail:
/// {status, retry_after_s}`, `behave` (hang, drop, reset, cut_stream, broken_json, no_choices,
/// empty, length, context_too_long), `delay_ms`, `usage`, `say`, or `hold` (the request waits for
/// the next rules). `GET /script/requests` lists the received requests; `?after=NUMBER` only the
/// later ones.
#[derive(Parser)]
#[command(name = "scripted-llm")]
struct Args {
    /// Port to listen on; 0 chooses a free one.
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// Address to listen on; 0.0.0.0 in a container.
    #[arg(long, default_value_t = Ipv4Addr::LOCALHOST)]
    address: Ipv4Addr,
    /// Answers by prompt, a YAML file: `answers: [{when: TEXT, say: TEXT, edits: [{file, search,
    /// replace}], …}, …]`.
    #[arg(long)]
    answers: Option<PathBuf>,
    /// File to write the port to, once it listens.
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
            Script::from_yaml(&yaml)
                .with_context(|| format!("{} is not a valid answers file", file.display()))?
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

/// Renamed when complete, so that a reader never sees half of it.
fn write_whole(file: &Path, text: &str) -> std::io::Result<()> {
    let mut part = file.as_os_str().to_owned();
    part.push(".part");
    std::fs::write(&part, text)?;
    std::fs::rename(&part, file)
}
