//! An agent for tests and for the chaos trial: it makes LLM calls through its gateway and changes a
//! file. Dozens of it run at once on two cores, so it has one thread that mostly sleeps, no runtime
//! and no HTTP library.

use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{Parser, ValueEnum};
use serde_json::{Value, json};

/// The limit of an answer; the gateway never takes longer.
const SILENCE: Duration = Duration::from_secs(600);

/// Makes calls one after the other. Ends with status 1 at the first that fails.
///
/// The user's message of call 2 of 3 is the text of the prompt file, and a line "call 2 of 3" after it.
#[derive(Parser)]
#[command(name = "calling-agent")]
struct Args {
    /// The address of the gateway, with `/v1`.
    #[arg(long)]
    base_url: String,
    #[arg(long, env = "POOL_TOKEN", hide_env_values = true)]
    token: String,
    #[arg(long)]
    model: String,
    #[arg(long)]
    prompt_file: PathBuf,
    #[arg(long, default_value_t = 1)]
    calls: u32,
    /// Pause between two calls.
    #[arg(long, default_value_t = 0)]
    pause_ms: u64,
    /// The API dialect of the calls.
    #[arg(long, value_enum, default_value_t = Dialect::Chat)]
    dialect: Dialect,
    /// The output limit that each call asks for; without it, none.
    #[arg(long)]
    max_tokens: Option<u64>,
    /// Make no further call once this file exists.
    #[arg(long)]
    stop_file: Option<PathBuf>,
    /// Append a line for each call to this file.
    #[arg(long, default_value = "calls.txt")]
    file: PathBuf,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Dialect {
    Chat,
    Responses,
    Messages,
}

impl Dialect {
    fn path(self) -> &'static str {
        match self {
            Self::Chat => "chat/completions",
            Self::Responses => "responses",
            Self::Messages => "messages",
        }
    }

    fn body(self, model: &str, prompt: &str) -> Value {
        let messages = json!([{"role": "user", "content": prompt}]);
        match self {
            Self::Chat => json!({"model": model, "messages": messages}),
            Self::Responses => json!({"model": model, "input": messages}),
            Self::Messages => json!({"model": model, "messages": messages, "max_tokens": 1000}),
        }
    }

    fn text(self, answer: &Value) -> Option<&str> {
        match self {
            Self::Chat => answer["choices"][0]["message"]["content"].as_str(),
            Self::Responses => answer["output"][0]["content"][0]["text"].as_str(),
            Self::Messages => answer["content"][0]["text"].as_str(),
        }
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tell(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> anyhow::Result<()> {
    let prompt = std::fs::read_to_string(&args.prompt_file).context("failed to read the prompt")?;
    let mut lines = String::new();
    for call in 1..=args.calls {
        if call > 1 {
            pause(Duration::from_millis(args.pause_ms));
            if args.stop_file.as_ref().is_some_and(|file| file.exists()) {
                break;
            }
        }
        let said = chat(args, &format!("{prompt}\ncall {call} of {}", args.calls))
            .with_context(|| format!("call {call}"))?;
        tell(&format!("call {call}: {said}"));
        writeln!(lines, "call {call}: {said}").context("failed to write the line of a call")?;
    }
    std::fs::write(&args.file, lines)
        .with_context(|| format!("failed to write {}", args.file.display()))
}

/// Makes one call; gives the text of the answer.
fn chat(args: &Args, prompt: &str) -> anyhow::Result<String> {
    let mut body = args.dialect.body(&args.model, prompt);
    if let Some(limit) = args.max_tokens {
        body["max_tokens"] = limit.into();
    }
    let (status, answer) = post(args, &body.to_string())?;
    if status != "200" {
        bail!("the gateway answered {status}: {answer}");
    }
    let answer: Value = serde_json::from_str(&answer).context("the answer is not JSON")?;
    let text = args
        .dialect
        .text(&answer)
        .context("the answer has no text")?;
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

/// Sends a request; gives the status and the body of the answer.
fn post(args: &Args, body: &str) -> anyhow::Result<(String, String)> {
    let Args {
        base_url,
        token,
        dialect,
        ..
    } = args;
    let (host, path) = base_url
        .strip_prefix("http://")
        .and_then(|rest| rest.split_once('/'))
        .with_context(|| {
            format!("{base_url} is not a gateway URL; expected http://host:port/v1")
        })?;
    let mut stream =
        TcpStream::connect(host).with_context(|| format!("failed to connect to {host}"))?;
    stream
        .set_read_timeout(Some(SILENCE))
        .context("failed to set a time limit")?;
    let head = format!(
        "POST /{path}/{} HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {token}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        dialect.path(),
        body.len()
    );
    stream
        .write_all((head + body).as_bytes())
        .context("failed to send the request")?;
    let mut answer = String::new();
    stream
        .read_to_string(&mut answer)
        .context("failed to read the answer")?;
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .context("the gateway closed the connection without an answer")?;
    let status = head.split(' ').nth(1).unwrap_or_default();
    Ok((status.to_owned(), body.to_owned()))
}

#[expect(
    clippy::disallowed_methods,
    reason = "this program is one thread and has no runtime"
)]
fn pause(time: Duration) {
    std::thread::sleep(time);
}

fn tell(line: &str) {
    // Fails if nobody reads stderr any more, which does not matter.
    let _ = writeln!(std::io::stdout(), "{line}");
}
