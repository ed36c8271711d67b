//! Section `agent`: the program that edits code.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::checks::Checks;
use super::paths::resolve;
use super::position::At;
use super::providers::is_variable;
use super::{Agent, AgentKind, LastEvent, wording};

/// aider's names for the formats in which the LLM writes an edit.
const EDIT_FORMATS: [&str; 6] = [
    "diff",
    "whole",
    "diff-fenced",
    "udiff",
    "udiff-simple",
    "patch",
];
/// The placeholders of a command template.
const PLACEHOLDERS: [&str; 7] = [
    "prompt",
    "prompt_file",
    "files",
    "worktree",
    "base_url",
    "token",
    "model",
];

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(inline)]
pub(super) struct RawAgent {
    /// The kind of agent.
    kind: RawKind,
    /// For kind aider: the executable. A bare name is looked up in PATH; a relative path starts from this file's directory.
    program: String,
    /// For kind aider: the format in which the LLM writes its edits: diff, whole, diff-fenced, udiff, udiff-simple or patch.
    edit_format: String,
    /// For kind command: the program and its arguments, without a shell. {prompt} {prompt_file} {files} {worktree}
    /// {base_url} {token} {model} are filled in.
    command: Vec<String>,
    /// For kind command: further environment variables. The same placeholders are filled in. Never write a key here.
    env: BTreeMap<String, String>,
    /// Seconds of silence after which the agent is stopped: it has printed nothing, has no open LLM call, and its processes
    /// have used less than 5 % of a core. If it has changed something by then, it counts as finished, unless its last answer
    /// or `done_when` says otherwise.
    #[schemars(range(min = 1, max = 86400))]
    no_output_timeout_s: u64,
    /// For kind command: the last event that the agent prints. It is a text within a line, or a JSON object whose fields a
    /// JSON line must have. The worker stops the agent 10 s after it, and judges the change as if the agent had ended by
    /// itself. If an LLM call begins in these 10 s, the agent continues.
    done_when: Option<String>,
    /// Environment variables of the worker that the agent may see. Never name a key here. Variables that name a
    /// repository (`GIT_DIR`, `GIT_WORK_TREE`, …) are not passed on.
    env_allow: Vec<String>,
    /// Whether a process that has already imported the agent's modules starts its runs. It needs a sandbox of level
    /// strict without the machine's network, and an agent in Python: aider, or a command with `warm_modules`. A run that
    /// cannot start this way starts as usual.
    warm: RawWarm,
    /// For kind command: Python modules that are imported once for all runs. The command must be a Python program, or
    /// `python` with a program or `-m`. Name modules that do nothing but define things when they are imported.
    warm_modules: Vec<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
enum RawWarm {
    /// Starts agents in Python warm where it can.
    Auto,
    /// Each run starts its own interpreter.
    Off,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
enum RawKind {
    /// aider, as `program`.
    Aider,
    /// Any other agent, as `command`.
    Command,
    /// Does nothing, for measuring the pool.
    Noop,
}

impl Default for RawAgent {
    fn default() -> Self {
        Self {
            kind: RawKind::Aider,
            program: "aider".to_owned(),
            edit_format: "diff".to_owned(),
            command: Vec::new(),
            env: BTreeMap::new(),
            no_output_timeout_s: 120,
            done_when: None,
            env_allow: Vec::new(),
            warm: RawWarm::Auto,
            warm_modules: Vec::new(),
        }
    }
}

impl RawAgent {
    pub(super) fn check(self, base: &Path, checks: &mut Checks) -> Agent {
        let at = At::top("agent");
        check_variables(&at.key("env_allow"), &self.env_allow, checks);
        let no_output_timeout =
            checks.seconds(&at.key("no_output_timeout_s"), self.no_output_timeout_s);
        let done_when = self.done_when.map(LastEvent::new);
        if done_when.as_ref().is_some_and(LastEvent::is_empty) {
            checks.mistake(
                &at.key("done_when"),
                "matches every line: write a text of the last line that the agent prints",
            );
        }
        let given = [
            ("command", !self.command.is_empty()),
            ("env", !self.env.is_empty()),
            ("done_when", done_when.is_some()),
            ("warm_modules", !self.warm_modules.is_empty()),
        ];
        for (key, given) in given {
            if self.kind != RawKind::Command && given {
                checks.mistake(
                    &at.key(key),
                    "is used by `kind: command` only: set the kind, or remove it",
                );
            }
        }
        let kind = match self.kind {
            RawKind::Aider => {
                check_aider(&at, &self.program, &self.edit_format, checks);
                AgentKind::Aider {
                    program: program(base, &self.program),
                    edit_format: self.edit_format,
                }
            }
            RawKind::Command => {
                check_env(&at.key("env"), &self.env, checks);
                let argv = command(base, self.command, &at.key("command"), checks);
                AgentKind::Command {
                    argv,
                    env: self.env.into_iter().collect(),
                }
            }
            RawKind::Noop => AgentKind::Noop,
        };
        Agent {
            kind,
            no_output_timeout,
            done_when,
            env_allow: self.env_allow,
            warm: self.warm == RawWarm::Auto,
            warm_modules: self.warm_modules,
        }
    }
}

fn check_aider(at: &At, program: &str, edit_format: &str, checks: &mut Checks) {
    if program.is_empty() {
        checks.mistake(
            &at.key("program"),
            "is empty: write `aider`, or the path of the aider executable",
        );
    }
    if !EDIT_FORMATS.contains(&edit_format) {
        let hint = wording::suggestion(edit_format, &EDIT_FORMATS);
        checks.mistake(
            &at.key("edit_format"),
            format!("{edit_format:?} is not valid: {hint}"),
        );
    }
}

fn command(base: &Path, mut argv: Vec<String>, at: &At, checks: &mut Checks) -> Vec<String> {
    match argv.first_mut() {
        Some(first) if !first.is_empty() => {
            *first = program(base, first).to_string_lossy().into_owned()
        }
        Some(_) | None => {
            checks.mistake(
                at,
                "is missing: `kind: command` needs a list of a program and its arguments",
            );
        }
    }
    for (index, word) in argv.iter().enumerate() {
        check_placeholders(&at.index(index), word, checks);
    }
    argv
}

pub(super) fn check_env(at: &At, env: &BTreeMap<String, String>, checks: &mut Checks) {
    for (name, value) in env {
        if !is_variable(name) {
            checks.mistake(
                &at.key(name),
                "is not a name of an environment variable: write for example LANG",
            );
        }
        check_placeholders(&at.key(name), value, checks);
    }
}

fn check_placeholders(at: &At, text: &str, checks: &mut Checks) {
    for name in braced(text).filter(|name| !PLACEHOLDERS.contains(name)) {
        // The command may use other braces itself; only a probable typing error is reported.
        if let Some(meant) = wording::did_you_mean(name, PLACEHOLDERS) {
            checks.mistake(
                at,
                format!("{{{name}}} is not filled in: did you mean {{{meant}}}?"),
            );
        }
    }
}

/// The words in braces.
fn braced(text: &str) -> impl Iterator<Item = &str> {
    text.split('{')
        .skip(1)
        .filter_map(|rest| rest.split_once('}'))
        .map(|(name, _)| name)
}

/// A bare name stays as it is, for PATH; every other path becomes absolute.
fn program(base: &Path, text: &str) -> PathBuf {
    if text.contains('/') {
        resolve(base, text)
    } else {
        PathBuf::from(text)
    }
}

fn check_variables(at: &At, names: &[String], checks: &mut Checks) {
    for (index, name) in names.iter().enumerate() {
        if !is_variable(name) {
            let problem = format!(
                "{name:?} is not a name of an environment variable: write for example LANG"
            );
            checks.mistake(&at.index(index), problem);
        }
    }
}
