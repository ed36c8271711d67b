//! Aider, called in a way that neither the repository, nor the network, nor aider's own helpfulness
//! can disturb a run.
//!
//! Each option here prevents something that aider (0.86) does without it. Without them it applies
//! half of a broken stream, commits, asks for updates without end, fetches URLs in prompts, and
//! runs commands that a configuration file names. Options that look idle (`--load /dev/null`,
//! `--alias`) keep such a file from setting its own value.

use std::ffi::OsString;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt};
use pool_core::id::LlmName;
use pool_core::pool::Secret;
use pool_core::result::{ErrorKind, TaskFailure};
use pool_core::source::RelativePath;
use serde_json::json;

use super::evidence::AiderEvidence;
use super::hide::{Hidden, is_configuration};
use super::{AgentEvidence, AgentRun, CodingAgent, Job, launch_failure, program, server_env, set};
use crate::sandbox::warm::{Modules, WarmPart, WarmStart, python_of};
use crate::sandbox::{CommandAccess, SandboxLauncher, Watch};
use crate::workspace::{failure, make_directory, off_the_runtime, open_regular};

/// The most that is read of aider's log of events. That log is usually a few lines.
const ANALYTICS_LIMIT: u64 = 4 * 1024 * 1024;

/// The limit for the run that lists aider's modules.
const RECORD_WITHIN: Duration = Duration::from_secs(180);

const FLAGS: [&str; 27] = [
    "--yes-always",
    "--no-stream",
    "--no-pretty",
    "--no-fancy-input",
    "--no-check-update",
    "--no-show-release-notes",
    "--no-show-model-warnings",
    "--no-analytics",
    "--no-gitignore",
    "--no-auto-commits",
    "--no-dirty-commits",
    "--no-auto-lint",
    "--no-auto-test",
    "--no-detect-urls",
    "--no-suggest-shell-commands",
    "--disable-playwright",
    "--no-restore-chat-history",
    "--no-notifications",
    "--no-watch-files",
    "--no-copy-paste",
    "--no-dry-run",
    "--no-gui",
    "--verify-ssl",
    "--chat-history-file=/dev/null",
    "--input-history-file=/dev/null",
    "--env-file=/dev/null",
    "--map-tokens=0",
];

/// Options whose only purpose is that a configuration file of the repository cannot set them.
const SHADOWS: [&str; 9] = [
    "--set-env=AIDER_WRAPPED=1",
    "--api-key=wrapped=1",
    "--lint-cmd=python: true",
    "--test-cmd=true",
    "--load=/dev/null",
    "--read=/dev/null",
    "--alias=unused:unused",
    "--commit-prompt=x",
    "--encoding=utf-8",
];

#[derive(Clone)]
pub(super) struct Aider {
    pub(super) program: PathBuf,
    pub(super) edit_format: String,
    /// Whether a fork server may start it.
    pub(super) is_warm: bool,
}

/// The files of one run, in the scratch directory.
const PROMPT: &str = "prompt.txt";
const SETTINGS: &str = "pin.yml";
const METADATA: &str = "meta.json";
const ANALYTICS: &str = "analytics.jsonl";
const LLM_HISTORY: &str = "llm.log";

impl Aider {
    async fn prepare(&self, job: &Job) -> Result<(), TaskFailure> {
        job.write_files(&[
            // Empty, so that the log of an earlier run is not taken for this one's.
            (ANALYTICS, String::new()),
            (LLM_HISTORY, String::new()),
            // Aider would run a message that begins with `/` or `!` as a command.
            (PROMPT, format!("Task:\n{}", job.prompt)),
            (SETTINGS, self.settings(job)),
            (METADATA, metadata(job)),
        ])
        .await
    }

    /// The model settings, in JSON, which is also YAML. The last file that names a model wins, so a
    /// repository's file cannot redirect calls.
    fn settings(&self, job: &Job) -> String {
        let gateway =
            json!({"max_retries": 0, "api_base": job.base_url, "api_key": job.token.expose()});
        json!([
            {"name": "aider/extra_params", "extra_params": gateway},
            {"name": model(job), "edit_format": self.edit_format},
        ])
        .to_string()
    }

    fn argv(&self, program: PathBuf, job: &Job) -> Vec<OsString> {
        let model = model(job);
        let mut argv: Vec<OsString> = vec![program.into()];
        for option in ["--model", "--weak-model", "--editor-model"] {
            argv.extend([option.into(), model.clone().into()]);
        }
        argv.extend(FLAGS.map(OsString::from));
        argv.extend(SHADOWS.map(OsString::from));
        for (option, value) in [
            ("--message-file", PROMPT),
            ("--analytics-log", ANALYTICS),
            ("--llm-history-file", LLM_HISTORY),
            ("--model-settings-file", SETTINGS),
            ("--model-metadata-file", METADATA),
        ] {
            argv.extend([option.into(), job.scratch.join(value).into()]);
        }
        argv.push(format!("--edit-format={}", self.edit_format).into());
        // The gateway limits each call. A limit of aider's own would only make it repeat a call
        // that is being answered.
        argv.push(format!("--timeout={}", job.timeout.as_secs().max(1)).into());
        argv.push(format!("--openai-api-base={}", job.base_url).into());
        argv.extend(job.files.iter().map(|file| format!("--file={file}").into()));
        argv
    }
}

/// Warm starts.
impl Aider {
    fn find(&self) -> Result<PathBuf, TaskFailure> {
        program::find(&self.program, std::env::var_os("PATH"))
    }

    /// For the program that was found.
    fn warm_start_of(
        &self,
        program: &Path,
        variables: &[(OsString, OsString)],
    ) -> Option<WarmStart> {
        let interpreter = python_of(program).filter(|_| self.is_warm)?;
        let (aider, program) = (self.clone(), program.to_owned());
        let env = with_constants(server_env(variables));
        let variables = variables.to_vec();
        Some(WarmStart {
            interpreter,
            program: program.clone(),
            env,
            modules: Modules::Recorded(Arc::new(move |place: PathBuf, port: u16| {
                let job = made_up_job(&place, port, variables.clone());
                let (aider, program) = (aider.clone(), program.clone());
                let command = async move {
                    let job = job?;
                    aider.prepare(&job).await.map_err(|error| error.message)?;
                    Ok(job.command(aider.argv(program, &job), env_of(&job)))
                };
                command.boxed()
            })),
        })
    }
}

/// A job that nobody wants done. It shows which modules a run loads.
fn made_up_job(
    place: &Path,
    port: u16,
    variables: Vec<(OsString, OsString)>,
) -> Result<Job, String> {
    let [worktree, scratch, hidden] = ["tree", "scratch", "hidden"].map(|name| place.join(name));
    for directory in [&worktree, &scratch] {
        make_directory(directory).map_err(|error| error.to_string())?;
    }
    Ok(Job {
        access: CommandAccess {
            write: vec![scratch.clone()],
            ..CommandAccess::default()
        },
        worktree,
        scratch,
        hidden,
        prompt: "Change x to 2.".to_owned(),
        files: vec![RelativePath::new("a.py").map_err(|error| error.to_string())?],
        base_url: format!("http://127.0.0.1:{port}/v1"),
        token: Secret::new("none"),
        model: LlmName::new("recorded/model").map_err(|error| error.to_string())?,
        context_limit: 100_000,
        timeout: RECORD_WITHIN,
        no_output_timeout: RECORD_WITHIN,
        env: variables,
    })
}

impl CodingAgent for Aider {
    fn run<'a>(
        &'a self,
        job: &'a Job,
        sandbox: &'a SandboxLauncher,
        watch: &'a Watch,
    ) -> BoxFuture<'a, Result<AgentRun, TaskFailure>> {
        async move {
            let program = self.find()?;
            refuse_hidden_files(job)?;
            self.prepare(job).await?;
            let hidden = hide(job).await?;
            let warm = self.warm_start_of(&program, &job.env);
            let mut command = job.command(self.argv(program, job), env_of(job));
            command.warm = warm.map_or(WarmPart::None, WarmPart::Run);
            let finished = sandbox.run(command, watch).await;
            // This comes first, and also if aider did not start: the worktree must be whole again.
            put_back(hidden).await?;
            let finished = finished.map_err(|error| launch_failure(&error))?;
            let analytics = read_analytics(&job.scratch.join(ANALYTICS)).await;
            let evidence = AgentEvidence::Aider(AiderEvidence::read(&analytics, &finished.output));
            Ok(AgentRun::of(finished, evidence))
        }
        .boxed()
    }

    fn warm_start(&self, variables: &[(OsString, OsString)]) -> Option<WarmStart> {
        self.warm_start_of(&self.find().ok()?, variables)
    }
}

/// The model's name for aider. The gateway always speaks OpenAI's protocol to it.
fn model(job: &Job) -> String {
    format!("openai/{}", job.model)
}

/// An entry for exactly this name, because otherwise aider looks for prices on the network. The
/// gateway counts the money.
fn metadata(job: &Job) -> String {
    let entry = json!({
        "max_input_tokens": job.context_limit,
        "max_tokens": job.context_limit,
        "input_cost_per_token": 0,
        "output_cost_per_token": 0,
        "litellm_provider": "openai",
        "mode": "chat",
    });
    json!({ model(job): entry }).to_string()
}

/// Every user of the machine can read a command line. Aider takes the key from either variable, and
/// the first one wins over its configuration files.
fn env_of(job: &Job) -> Vec<(OsString, OsString)> {
    let mut env = with_constants(job.base_env());
    for name in ["AIDER_OPENAI_API_KEY", "OPENAI_API_KEY"] {
        set(&mut env, name, job.token.expose());
    }
    env
}

fn with_constants(mut env: Vec<(OsString, OsString)>) -> Vec<(OsString, OsString)> {
    for (name, value) in [
        ("COLUMNS", "10000"),
        ("BROWSER", "true"),
        ("PYTHON_DOTENV_DISABLED", "1"),
        ("LITELLM_LOCAL_MODEL_COST_MAP", "True"),
    ] {
        set(&mut env, name, value);
    }
    env
}

fn refuse_hidden_files(job: &Job) -> Result<(), TaskFailure> {
    let top = |file: &str| file.split('/').next().unwrap_or_default().to_owned();
    match job
        .files
        .iter()
        .find(|file| is_configuration(top(file.as_str()).as_bytes()))
    {
        Some(file) => {
            let message = format!(
                "{file} configures aider, so the worker hides it from aider: remove it from `files`"
            );
            Err(TaskFailure::new(ErrorKind::InvalidTask, message))
        }
        None => Ok(()),
    }
}

async fn hide(job: &Job) -> Result<Hidden, TaskFailure> {
    let (worktree, refuge) = (job.worktree.clone(), job.hidden.clone());
    off_the_runtime(move || Hidden::take(&worktree, &refuge))
        .await
        .map_err(|error| failure("cannot hide the agent's configuration files", error))
}

async fn put_back(hidden: Hidden) -> Result<(), TaskFailure> {
    off_the_runtime(move || hidden.put_back())
        .await
        .map_err(|error| failure("cannot put the agent's configuration files back", error))
}

/// Reads aider's log of events. A missing log counts as empty: then nothing was launched. A log
/// that breaks off is read up to there.
async fn read_analytics(file: &Path) -> String {
    let file = file.to_owned();
    let read = move || {
        let mut bytes = Vec::new();
        if let Some(log) = open_regular(&file)? {
            log.take(ANALYTICS_LIMIT).read_to_end(&mut bytes)?;
        }
        Ok(bytes)
    };
    String::from_utf8_lossy(&off_the_runtime(read).await.unwrap_or_default()).into_owned()
}
