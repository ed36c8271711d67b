//! Any program as an agent: a template of arguments, which is filled in word by word and never
//! passes through a shell.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use futures_util::future::{BoxFuture, FutureExt};
use pool_core::result::{ErrorKind, TaskFailure};

use super::{AgentEvidence, AgentRun, CodingAgent, Job, launch_failure, program, server_env, set};
use crate::sandbox::warm::{Modules, WarmPart, WarmStart, is_python, python_of};
use crate::sandbox::{Exit, SandboxLauncher, Watch};

/// The longest argument that Linux accepts (128 KiB with its closing zero).
const MAX_WORD_BYTES: usize = 128 * 1024 - 1;

const PROMPT: &str = "prompt.txt";

pub(super) struct CommandAgent {
    /// Program and arguments, with placeholders.
    pub(super) template: Vec<String>,
    /// Environment variables, with placeholders in their values.
    pub(super) env: Vec<(String, String)>,
    /// The modules that its fork server imports; empty: it has none.
    pub(super) modules: Vec<String>,
}

impl CommandAgent {
    /// A program in Python can be started warm, whether the command names it or its interpreter.
    fn warm_start_of(
        &self,
        argv: &[OsString],
        variables: &[(OsString, OsString)],
    ) -> Option<WarmStart> {
        let first = argv.first().map(PathBuf::from)?;
        let script = argv.get(1).map(PathBuf::from);
        let (interpreter, program) = if is_python(&first) {
            match script {
                Some(word) if word == Path::new("-m") => (first.clone(), first),
                Some(word) if word.is_file() => (first, word),
                Some(_) | None => return None,
            }
        } else {
            (python_of(&first)?, first)
        };
        if self.modules.is_empty() {
            return None;
        }
        Some(WarmStart {
            interpreter,
            program,
            env: self.server_env(variables),
            modules: Modules::Named(self.modules.clone()),
        })
    }

    /// Without the variables of the pool file that are another text in every run.
    fn server_env(&self, variables: &[(OsString, OsString)]) -> Vec<(OsString, OsString)> {
        let mut env = server_env(variables);
        for (name, value) in self.env.iter().filter(|(_, value)| !value.contains('{')) {
            set(&mut env, name, value);
        }
        env
    }
}

impl CodingAgent for CommandAgent {
    fn run<'a>(
        &'a self,
        job: &'a Job,
        sandbox: &'a SandboxLauncher,
        watch: &'a Watch,
    ) -> BoxFuture<'a, Result<AgentRun, TaskFailure>> {
        async move {
            job.write_files(&[(PROMPT, job.prompt.clone())]).await?;
            let prompt_file = job.scratch.join(PROMPT);
            let values = Values::new(job, &prompt_file);
            let mut argv = fill_in(&self.template, &values);
            if let Some(word) = argv.iter().find(|word| word.len() > MAX_WORD_BYTES) {
                return Err(too_long(word.len()));
            }
            find(&mut argv)?;
            let warm = self.warm_start_of(&argv, &job.env);
            let mut command = job.command(argv, env(job, &self.env, &values));
            command.warm = warm.map_or(WarmPart::None, WarmPart::Run);
            // Files that the pool file names belong to the agent.
            let named = self.template.iter().map(PathBuf::from);
            let files = named.filter(|path| path.is_absolute() && path.is_file());
            command.access.read.extend(files);
            let finished = sandbox
                .run(command, watch)
                .await
                .map_err(|error| launch_failure(&error))?;
            let evidence = match watch.last_words {
                Some(_) if finished.exit == Exit::Silent => AgentEvidence::NoLastEvent,
                Some(_) | None => AgentEvidence::None,
            };
            Ok(AgentRun::of(finished, evidence))
        }
        .boxed()
    }

    /// Placeholders among the first words name nothing yet, and then the first run starts the server.
    fn warm_start(&self, variables: &[(OsString, OsString)]) -> Option<WarmStart> {
        let mut argv: Vec<OsString> = self.template.iter().map(OsString::from).collect();
        find(&mut argv).ok()?;
        self.warm_start_of(&argv, variables)
    }
}

/// Replaces the program's name by its path.
fn find(argv: &mut [OsString]) -> Result<(), TaskFailure> {
    let mut nothing = OsString::new();
    let named = argv.first_mut().unwrap_or(&mut nothing);
    *named = program::find(Path::new(named), std::env::var_os("PATH"))?.into();
    Ok(())
}

fn too_long(bytes: usize) -> TaskFailure {
    let message = format!(
        "an argument of the agent would have {bytes} bytes, but {MAX_WORD_BYTES} is the limit: the instruction is too long \
         for {{prompt}}; use {{prompt_file}} in agent.command"
    );
    TaskFailure::new(ErrorKind::AgentConfig, message)
}

/// The agent's environment: the gateway under our names, and under those that OpenAI's and
/// Anthropic's libraries read. The pool file's variables come last.
fn env(job: &Job, more: &[(String, String)], values: &Values<'_>) -> Vec<(OsString, OsString)> {
    let mut env = job.base_env();
    // Anthropic's libraries put `/v1` before the path themselves.
    let root_url = job.base_url.strip_suffix("/v1").unwrap_or(&job.base_url);
    for (name, value) in [
        ("POOL_BASE_URL", job.base_url.as_str()),
        ("POOL_TOKEN", job.token.expose()),
        ("POOL_MODEL", job.model.as_str()),
        ("OPENAI_BASE_URL", job.base_url.as_str()),
        ("OPENAI_API_KEY", job.token.expose()),
        ("ANTHROPIC_BASE_URL", root_url),
        ("ANTHROPIC_API_KEY", job.token.expose()),
    ] {
        env.push((name.into(), value.into()));
    }
    for (name, value) in more {
        set(&mut env, name, fill_in_word(value, values));
    }
    env
}

struct Values<'a> {
    words: [(&'static str, OsString); 6],
    files: Vec<&'a str>,
}

impl<'a> Values<'a> {
    fn new(job: &'a Job, prompt_file: &Path) -> Self {
        let words = [
            ("{prompt}", job.prompt.clone().into()),
            ("{prompt_file}", prompt_file.into()),
            ("{worktree}", job.worktree.clone().into()),
            ("{base_url}", job.base_url.clone().into()),
            ("{token}", job.token.expose().into()),
            ("{model}", job.model.as_str().into()),
        ];
        Self {
            words,
            files: job.files.iter().map(|file| file.as_str()).collect(),
        }
    }
}

/// Fills in a template. A word that is just `{files}` becomes one word for each file, or no word.
/// Inside a word, the files are joined with commas. Filled-in text is not searched for
/// placeholders.
fn fill_in(template: &[String], values: &Values<'_>) -> Vec<OsString> {
    let mut argv = Vec::new();
    for word in template {
        if word == "{files}" {
            argv.extend(values.files.iter().map(OsString::from));
        } else {
            argv.push(fill_in_word(word, values));
        }
    }
    argv
}

fn fill_in_word(word: &str, values: &Values<'_>) -> OsString {
    let mut filled = OsString::new();
    let mut rest = word;
    while let Some(at) = rest.find('{') {
        filled.push(&rest[..at]);
        rest = &rest[at..];
        let known = values.words.iter().find(|(name, _)| rest.starts_with(name));
        let length = if let Some((name, value)) = known {
            filled.push(value);
            name.len()
        } else if rest.starts_with("{files}") {
            filled.push(values.files.join(","));
            "{files}".len()
        } else {
            filled.push("{");
            1
        };
        rest = &rest[length..];
    }
    filled.push(rest);
    filled
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(template: &[&str], files: &[&str]) -> Vec<String> {
        let words = [
            ("{prompt}", "do {files}".into()),
            ("{prompt_file}", "/s/prompt.txt".into()),
            ("{worktree}", "/w".into()),
            ("{base_url}", "http://127.0.0.1:1/v1".into()),
            ("{token}", "secret".into()),
            ("{model}", "p/m".into()),
        ];
        let template: Vec<String> = template.iter().map(ToString::to_string).collect();
        let argv = fill_in(
            &template,
            &Values {
                words,
                files: files.to_vec(),
            },
        );
        argv.into_iter()
            .map(|word| word.into_string().expect("text"))
            .collect()
    }

    #[test]
    fn every_placeholder_is_filled_in_inside_of_words_too() {
        let template = [
            "x",
            "--prompt={prompt_file}",
            "{worktree}/a",
            "{base_url}",
            "{token}{model}",
            "Task: {prompt}",
        ];
        let expected = [
            "x",
            "--prompt=/s/prompt.txt",
            "/w/a",
            "http://127.0.0.1:1/v1",
            "secretp/m",
            "Task: do {files}",
        ];
        assert_eq!(filled(&template, &[]), expected, "each value in its place");
    }

    #[test]
    fn files_become_one_word_each_and_none_when_there_is_none() {
        assert_eq!(
            filled(&["x", "{files}", "y"], &["a b", "c"]),
            ["x", "a b", "c", "y"],
            "no shell splits them"
        );
        assert_eq!(
            filled(&["x", "{files}"], &[]),
            ["x"],
            "no word for no files"
        );
        assert_eq!(
            filled(&["--files={files}"], &["a", "b"]),
            ["--files=a,b"],
            "inside a word"
        );
    }

    #[test]
    fn what_was_filled_in_is_not_filled_in_again() {
        assert_eq!(
            filled(&["{files}", "f={files}"], &["{token}"]),
            ["{token}", "f={token}"],
            "a file name is data"
        );
        assert_eq!(
            filled(&["{\"a\": {model}}", "{", "{unknown}"], &[]),
            ["{\"a\": p/m}", "{", "{unknown}"],
            "other braces"
        );
    }
}
