//! The task message: the job that a submitter wants done, checked where it enters the pool.
//!
//! It is JSON of at most [`MAX_BODY_BYTES`]; unknown fields are refused. [`TaskMessage::parse`] is the only
//! way in, so a message that exists has passed every check that needs no pool file.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::id::{Capability, TaskId};
use crate::money::MicroUsd;
use crate::object::{Object, object, objects};
use crate::patterns::PathPattern;
use crate::source::{GitRef, RelativePath, Repository};
use crate::time::Timestamp;
use crate::wrong::told;

/// The largest task message that is accepted, in bytes.
pub const MAX_BODY_BYTES: usize = 1024 * 1024;
/// The most capabilities that a task may require and a programmer may offer. Every subset of an offer
/// becomes a binding, so 8 are 256 bindings.
pub const MAX_CAPABILITIES: usize = 8;
const MAX_LABELS: usize = 16;
const MAX_LABEL_CHARS: usize = 128;
const MAX_FILES: usize = 256;
const MAX_CHECKS: usize = 32;
const MAX_PROTECTED: usize = 64;
/// The most tries of a check.
pub const MAX_TRIES: u32 = 5;
const MAX_TIMEOUT_S: u64 = 24 * 60 * 60;

/// One coding job, as it travels to `pool.tasks` and as `POST /tasks` takes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TaskMessage {
    /// Version of this format.
    #[serde(default = "version_1")]
    #[schemars(range(min = 1, max = 1))]
    pub version: u32,
    /// Made by the dispatcher when absent; needed when publishing straight to `pool.tasks` (or set `message_id`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<TaskId>,
    /// The job for the agent, in plain words.
    #[schemars(length(min = 1))]
    pub instruction: String,
    /// A path below a configured root, or an `https://` or `ssh://` URL.
    pub repository: Repository,
    /// Branch, tag or commit to start from; default: the repository's default branch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<GitRef>,
    /// Files for the agent to edit, relative to the repository; at most 256.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<RelativePath>,
    /// The capabilities that the programmer must offer, at most 8; empty: any programmer.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub capabilities: BTreeSet<Capability>,
    /// Commands that must exit with status 0 in the worktree for the task to succeed; at most 32.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "objects"
    )]
    pub acceptance: Vec<AcceptanceCheck>,
    /// Files that the agent may not change, as patterns such as `tests/**`; at most 64. They are added to those of the pool
    /// file.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub protect: Vec<PathPattern>,
    /// Limits of this task that are stricter than those of the pool file.
    #[serde(
        default,
        skip_serializing_if = "Limits::is_empty",
        deserialize_with = "object"
    )]
    pub limits: Limits,
    /// Whether the task overtakes others in its queue.
    #[serde(default)]
    pub priority: Priority,
    /// Keys and values to find the task by and to group reports by, for example `run_id`; at most 16.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The finished task that this one repeats.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_of: Option<TaskId>,
}

fn version_1() -> u32 {
    1
}

/// A command that decides whether the task has succeeded. It runs without a shell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AcceptanceCheck {
    /// Names the check in the result; 1 to 128 bytes.
    pub name: String,
    /// The program and its arguments.
    #[schemars(length(min = 1))]
    pub run: Vec<String>,
    /// Seconds after which the check is stopped and counts as failed; default: the pool file's `acceptance.timeout_s`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 86400))]
    pub timeout_s: Option<u64>,
    /// The result that the check must have on the base commit. It is tried there before an LLM is asked.
    #[serde(default, skip_serializing_if = "Before::is_any")]
    pub before: Before,
    /// Files that are laid over the checkout for this check alone: path and content. The agent does not see them, and they
    /// are in no patch.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub overlay: BTreeMap<RelativePath, String>,
    /// How often the check may be tried until it passes, for a check that is known as flaky.
    #[serde(default = "one_try", skip_serializing_if = "is_one_try")]
    #[schemars(range(min = 1, max = 5))]
    pub tries: u32,
}

fn one_try() -> u32 {
    1
}

// Serde passes a reference.
fn is_one_try(tries: &u32) -> bool {
    *tries == 1
}

/// The result that a check must have on the base commit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Before {
    /// It fails: the change is to make it pass.
    Fails,
    /// It passes: the change must not break it.
    Passes,
    /// It is not tried on the base.
    #[default]
    Any,
}

impl Before {
    // Serde passes a reference.
    fn is_any(&self) -> bool {
        *self == Self::Any
    }
}

/// Limits of one task.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Seconds for one attempt at the task; can lower the pool file's `timeout_s`, not raise it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 86400))]
    pub timeout_s: Option<u64>,
    /// Dollars for all attempts together; can lower the pool file's `max_cost_per_job_usd`, not raise it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_cost_usd: Option<MicroUsd>,
    /// The task expires if it has not been started by this moment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Timestamp>,
}

impl Limits {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// `timeout_s` as a duration.
    pub fn timeout(&self) -> Option<Duration> {
        self.timeout_s.map(Duration::from_secs)
    }
}

/// The place of a task in its queue.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    /// In the order of submission.
    #[default]
    Normal,
    /// Before tasks of normal priority; two of three deliveries, so that normal tasks go on.
    High,
}

impl Priority {
    /// The AMQP property `priority`. A quorum queue takes 5 and more for high; without the property a
    /// message has 4.
    pub const fn for_broker(self) -> Option<u8> {
        match self {
            Self::Normal => None,
            Self::High => Some(9),
        }
    }
}

/// Why a task message was refused. The text is for the submitter: it names the field and the mistake.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TaskError {
    /// The message has this many bytes, more than [`MAX_BODY_BYTES`].
    #[error("the message has {0} bytes; at most {MAX_BODY_BYTES} are accepted")]
    TooLarge(usize),
    /// A field is missing, unknown or wrong.
    #[error("{path}: {problem}")]
    Field {
        /// `limits.timeout_s`, `files[1]`; `message` for the message as a whole.
        path: String,
        /// The mistake, in words that follow the path.
        problem: String,
    },
}

impl TaskError {
    fn field(path: impl Into<String>, problem: impl fmt::Display) -> Self {
        Self::Field {
            path: path.into(),
            problem: problem.to_string(),
        }
    }
}

impl TaskMessage {
    /// Reads one message of at most [`MAX_BODY_BYTES`] bytes. `now` decides whether its deadline has passed.
    ///
    /// # Errors
    /// [`TaskError`] with the path of the first wrong field.
    ///
    /// ```
    /// use pool_core::{task::TaskMessage, time::Timestamp};
    ///
    /// let task = br#"{"instruction": "add a test", "repository": "app", "capabilities": ["fast"]}"#;
    /// assert!(TaskMessage::parse(task, Timestamp(0)).is_ok());
    ///
    /// let typo = br#"{"instruction": "add a test", "repository": "app", "limits": {"timeout_s": 0}}"#;
    /// let error = TaskMessage::parse(typo, Timestamp(0)).unwrap_err();
    /// assert_eq!(error.to_string(), "limits.timeout_s: 0 is not between 1 and 86400 seconds");
    /// ```
    pub fn parse(body: &[u8], now: Timestamp) -> Result<Self, TaskError> {
        if body.len() > MAX_BODY_BYTES {
            return Err(TaskError::TooLarge(body.len()));
        }
        let mut reader = serde_json::Deserializer::from_slice(body);
        let Object(message) = serde_path_to_error::deserialize::<_, Object<Self>>(&mut reader)
            .map_err(|error| {
                let (path, problem) = told(&error.path().to_string(), error.inner(), body);
                TaskError::field(path, problem)
            })?;
        reader.end().map_err(|_| {
            TaskError::field("message", "holds more than one JSON object; send one")
        })?;
        message.checked(now)
    }

    /// Makes the checks that the types of the fields do not make.
    ///
    /// # Errors
    /// [`TaskError::Field`] for the first wrong field.
    pub fn checked(self, now: Timestamp) -> Result<Self, TaskError> {
        let checks = [
            self.check_identity(),
            self.check_sizes(),
            self.check_acceptance(),
            self.check_limits(now),
            self.check_labels(),
        ];
        checks.into_iter().collect::<Result<(), TaskError>>()?;
        Ok(self)
    }

    fn check_identity(&self) -> Result<(), TaskError> {
        if self.version != 1 {
            return refuse(
                "version",
                format!("version {} is not known; this pool reads 1", self.version),
            );
        }
        if self.instruction.trim().is_empty() {
            return refuse("instruction", "must not be empty; describe the job");
        }
        if self.instruction.contains('\0') {
            return refuse("instruction", "must not contain a NUL character");
        }
        Ok(())
    }

    fn check_sizes(&self) -> Result<(), TaskError> {
        let too_many = |path: &str, count: usize, most: usize| {
            if count > most {
                return refuse(
                    path,
                    format!("{count} are given; at most {most} are accepted"),
                );
            }
            Ok(())
        };
        too_many("capabilities", self.capabilities.len(), MAX_CAPABILITIES)?;
        too_many("files", self.files.len(), MAX_FILES)?;
        too_many("acceptance", self.acceptance.len(), MAX_CHECKS)?;
        too_many("protect", self.protect.len(), MAX_PROTECTED)?;
        too_many("labels", self.labels.len(), MAX_LABELS)
    }

    fn check_acceptance(&self) -> Result<(), TaskError> {
        for (index, check) in self.acceptance.iter().enumerate() {
            let path = |key: &str| format!("acceptance[{index}].{key}");
            if check.name.trim().is_empty() || check.name.len() > MAX_LABEL_CHARS {
                return refuse(path("name"), "must be 1 to 128 characters");
            }
            if check.run.first().is_none_or(String::is_empty) {
                return refuse(path("run"), "must be a list whose first item is a program");
            }
            if check.run.iter().any(|word| word.contains('\0')) {
                return refuse(path("run"), "must not contain a NUL character");
            }
            check_seconds(&path("timeout_s"), check.timeout_s)?;
            if !(1..=MAX_TRIES).contains(&check.tries) {
                let problem = format!("{} is not between 1 and {MAX_TRIES}", check.tries);
                return refuse(path("tries"), problem);
            }
            if let Some((file, below)) = file_as_directory(&check.overlay) {
                let problem = format!("{file} cannot be a file, because {below} is below it");
                return refuse(path("overlay"), problem);
            }
        }
        Ok(())
    }

    fn check_limits(&self, now: Timestamp) -> Result<(), TaskError> {
        check_seconds("limits.timeout_s", self.limits.timeout_s)?;
        match self.limits.deadline {
            Some(deadline) if deadline <= now => refuse(
                "limits.deadline",
                format!("{deadline} has already passed; it is {now}"),
            ),
            Some(_) | None => Ok(()),
        }
    }

    fn check_labels(&self) -> Result<(), TaskError> {
        for (key, value) in &self.labels {
            if key.is_empty() || key.len() > MAX_LABEL_CHARS || value.len() > MAX_LABEL_CHARS {
                return refuse(
                    format!("labels.{}", key.chars().take(40).collect::<String>()),
                    "keys are 1 to 128 and values 0 to 128 bytes long",
                );
            }
        }
        Ok(())
    }
}

fn refuse(path: impl Into<String>, problem: impl fmt::Display) -> Result<(), TaskError> {
    Err(TaskError::field(path, problem))
}

/// A path of the overlay that would have to be a file and a directory, and a path below it.
fn file_as_directory(
    overlay: &BTreeMap<RelativePath, String>,
) -> Option<(&RelativePath, &RelativePath)> {
    overlay.keys().find_map(|below| {
        let mut above = Path::new(below.as_str()).ancestors().skip(1);
        let file = above.find_map(|path| {
            let path = RelativePath::new(path.to_str()?).ok()?;
            overlay.get_key_value(&path)
        })?;
        Some((file.0, below))
    })
}

fn check_seconds(path: &str, seconds: Option<u64>) -> Result<(), TaskError> {
    match seconds {
        Some(s) if s == 0 || s > MAX_TIMEOUT_S => refuse(
            path,
            format!("{s} is not between 1 and {MAX_TIMEOUT_S} seconds"),
        ),
        Some(_) | None => Ok(()),
    }
}

/// A checked message that has an id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    /// The id, from the message or made by the dispatcher.
    pub id: TaskId,
    /// The message; its `id` has the same value.
    pub message: TaskMessage,
}

impl Task {
    /// Sets the `id` of the message.
    pub fn new(id: TaskId, mut message: TaskMessage) -> Self {
        message.id = Some(id.clone());
        Self { id, message }
    }

    /// The JSON that the dispatcher publishes.
    pub fn to_json(&self) -> Vec<u8> {
        // A struct of strings, numbers and maps with string keys always serialises.
        serde_json::to_vec(&self.message).unwrap_or_default()
    }

    /// Distinguishes a repeated submission from another task with the same id: the first 32 hexadecimal
    /// digits of the JSON's SHA-256.
    pub fn body_hash(&self) -> String {
        let digest = Sha256::digest(self.to_json());
        digest
            .iter()
            .take(16)
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_767_323_045_678);

    fn parse(json: &str) -> Result<TaskMessage, String> {
        TaskMessage::parse(json.as_bytes(), NOW).map_err(|error| error.to_string())
    }

    #[test]
    fn the_smallest_task_is_an_instruction_and_a_repository() {
        let task =
            parse(r#"{"instruction": "add a test", "repository": "app"}"#).expect("a valid task");
        assert_eq!(
            (task.version, task.priority),
            (1, Priority::Normal),
            "defaults"
        );
    }

    #[test]
    fn a_wrong_value_is_told_without_a_place_in_the_json() {
        let wrong =
            parse(r#"{"instruction": "x", "repository": "../up"}"#).expect_err("out of the roots");
        assert!(
            !wrong.contains("column"),
            "a place in the JSON means nothing to the author of a field: {wrong}"
        );
        let cut = parse(r#"{"instruction": "x", "#).expect_err("cut off");
        assert!(cut.contains("line 1 column"), "where it breaks off: {cut}");
    }

    #[test]
    fn every_mistake_names_its_field() {
        for (json, field) in [
            (r#"{"repository": "app"}"#, "instruction"),
            (
                r#"{"instruction": "x", "repository": "app", "colour": 1}"#,
                "colour",
            ),
            (r#"{"instruction": 5, "repository": "app"}"#, "instruction"),
            (
                r#"{"instruction": "x", "repository": "ext::sh -c id"}"#,
                "repository",
            ),
            (
                r#"{"instruction": "x", "repository": "file:///etc"}"#,
                "repository",
            ),
            (
                r#"{"instruction": "x", "repository": "../up"}"#,
                "repository",
            ),
            (
                r#"{"instruction": "x", "repository": "https://u:p@h/x"}"#,
                "repository",
            ),
            (
                r#"{"instruction": "x", "repository": "ssh://-oProxyCommand=x/y"}"#,
                "repository",
            ),
            (
                r#"{"instruction": "x", "repository": "app", "base": "-x"}"#,
                "base",
            ),
            (
                r#"{"instruction": "x", "repository": "app", "files": ["../x"]}"#,
                "files[0]",
            ),
            (
                r#"{"instruction": "x", "repository": "app", "files": ["a", "-x"]}"#,
                "files[1]",
            ),
            (
                r#"{"instruction": "x", "repository": "app", "files": [".git/config"]}"#,
                "files[0]",
            ),
            (
                r#"{"instruction": "x", "repository": "app", "limits": {"timeout_s": -1}}"#,
                "limits.timeout_s",
            ),
            (
                r#"{"instruction": "x", "repository": "app", "limits": {"max_cost_usd": "-1"}}"#,
                "limits.max_cost_usd",
            ),
            (
                r#"{"instruction": "x", "repository": "app", "limits": {"deadline": "2020-01-01T00:00:00Z"}}"#,
                "deadline",
            ),
            (
                r#"{"instruction": "x", "repository": "app", "acceptance": [{"name": "a", "run": []}]}"#,
                "acceptance[0].run",
            ),
            (
                r#"{"instruction": "x", "repository": "app", "protect": ["/tests"]}"#,
                "protect[0]",
            ),
            (
                r#"{"instruction": "x", "repository": "app", "acceptance": [{"name": "a", "run": ["x"], "tries": 6}]}"#,
                "acceptance[0].tries: 6 is not between 1 and 5",
            ),
            (
                r#"{"instruction": "x", "repository": "app", "acceptance": [{"name": "a", "run": ["x"], "before": "breaks"}]}"#,
                "acceptance[0].before",
            ),
            (
                r#"{"instruction": "x", "repository": "app", "acceptance": [{"name": "a", "run": ["x"], "overlay": {"../x": ""}}]}"#,
                "acceptance[0].overlay",
            ),
            (
                r#"{"instruction": "x", "repository": "app", "acceptance": [{"name": "a", "run": ["x"], "overlay": {"a/.git/x": ""}}]}"#,
                "acceptance[0].overlay",
            ),
            (
                r#"{"instruction": "x", "repository": "app", "acceptance": [{"name": "a", "run": ["x"], "overlay": {"a": "", "a.b": "", "a/b/c": ""}}]}"#,
                "acceptance[0].overlay: a cannot be a file",
            ),
            (
                r#"{"instruction": "x", "repository": "app", "version": 2}"#,
                "version",
            ),
            (
                r#"{"instruction": "x", "repository": "app", "capabilities": ["a","b","c","d","e","f","g","h","i"]}"#,
                "capabilities",
            ),
            (r#"["x", "app"]"#, "an object"),
            (
                r#"{"instruction": "x", "repository": "app", "limits": [null, null]}"#,
                "limits",
            ),
            (
                r#"{"instruction": "x", "repository": "app", "acceptance": [["a", ["true"]]]}"#,
                "acceptance[0]",
            ),
            ("{", "message"),
        ] {
            let error = parse(json).expect_err("a mistake must be refused");
            assert!(
                error.contains(field),
                "the error for {json} must name {field}, but is: {error}"
            );
        }
    }

    #[test]
    fn fields_that_a_task_does_not_use_change_nothing_on_the_wire() {
        let old = r#"{"instruction": "x", "repository": "app", "acceptance": [{"name": "a", "run": ["x"]}]}"#;
        let spelled_out = r#"{"instruction": "x", "repository": "app", "protect": [], "acceptance":
            [{"name": "a", "run": ["x"], "before": "any", "overlay": {}, "tries": 1}]}"#;
        let json = |text: &str| {
            let task = Task::new(
                TaskId::new("t1").expect("an id"),
                parse(text).expect("a task"),
            );
            String::from_utf8(task.to_json()).expect("text")
        };
        assert_eq!(json(old), json(spelled_out), "defaults are left out");
        assert!(
            !json(old).contains("tries"),
            "an older process can read it: {}",
            json(old)
        );
    }

    #[test]
    fn the_hash_tells_bodies_apart_and_ignores_the_order_of_capabilities() {
        let task = |caps: &str| {
            let json =
                format!(r#"{{"instruction": "x", "repository": "app", "capabilities": {caps}}}"#);
            Task::new(
                TaskId::new("t1").expect("an id"),
                parse(&json).expect("a task"),
            )
        };
        assert_eq!(
            task(r#"["a","b"]"#).body_hash(),
            task(r#"["b","a"]"#).body_hash(),
            "a set has no order"
        );
        assert_ne!(
            task(r#"["a"]"#).body_hash(),
            task(r#"["b"]"#).body_hash(),
            "another body"
        );
    }
}
