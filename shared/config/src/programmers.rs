//! Sections `programmers` and `capability_routing`: the programmers and the capabilities that they offer.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::checks::{Checks, MAX_SECONDS, SectionChecks};
use super::defaults::RawDefaults;
use super::position::At;
use super::{JobLimits, Programmer, wording};
use pool_core::id::{Capability, LlmName, ProgrammerId};
use pool_core::money::MicroUsd;
use pool_core::task::MAX_CAPABILITIES;

/// Ports of the programmers 001 to 049: 6150 + number.
const PORT_BASE: u16 = 6150;
const NUMBERED: std::ops::RangeInclusive<u16> = 1..=49;

#[derive(Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(title = "programmer", inline)]
pub(super) struct RawProgrammer {
    /// Its id, in quotes: "001". Tables and pages show it as Prog-001.
    #[schemars(required)]
    id: Option<ProgrammerId>,
    /// The port of its `GET /health`. Default: 6150 + id for "001" to "049", otherwise 0 (any free port).
    port: Option<u16>,
    /// The LLM that it uses first: provider/model.
    #[schemars(required)]
    primary_llm: Option<LlmName>,
    /// The LLM that it uses when the primary one is not available, or a list of LLMs in order.
    backup_llm: Option<OneOrMore>,
    /// The capabilities that it offers, at most 8. A task names the ones that it requires.
    #[schemars(length(max = 8))]
    capabilities: BTreeSet<Capability>,
    /// Overrides `defaults`: seconds for one attempt at a task.
    #[schemars(range(min = 1, max = 86400))]
    timeout_s: Option<u64>,
    /// Overrides `defaults`: input and output tokens for one task.
    #[schemars(range(min = 1))]
    max_tokens_per_job: Option<u64>,
    /// Overrides `defaults`: US dollars for one task.
    max_cost_per_job_usd: Option<MicroUsd>,
    /// Overrides `defaults`: seconds for one run of the agent.
    #[schemars(range(min = 1, max = 86400))]
    max_duration_per_job_s: Option<u64>,
    /// Overrides `defaults`: tokens that fit into the context of its LLMs.
    #[schemars(range(min = 1))]
    context_limit: Option<u64>,
    /// Overrides `defaults`: whether the change is committed.
    auto_commit: Option<bool>,
    /// Overrides `defaults`: runs of the agent for one attempt.
    max_fix_iterations: Option<u32>,
}

/// One LLM, or a list of them.
enum OneOrMore {
    One(LlmName),
    More(Vec<LlmName>),
}

impl Serialize for OneOrMore {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::One(llm) => llm.serialize(serializer),
            Self::More(llms) => llms.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for OneOrMore {
    /// Written by hand, because an untagged enum loses the place and the reason of a mistake.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneOrMoreVisitor;
        impl<'de> de::Visitor<'de> for OneOrMoreVisitor {
            type Value = OneOrMore;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("provider/model, or a list of them")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<OneOrMore, E> {
                LlmName::new(text).map(OneOrMore::One).map_err(E::custom)
            }
            fn visit_seq<A: de::SeqAccess<'de>>(self, list: A) -> Result<OneOrMore, A::Error> {
                Deserialize::deserialize(de::value::SeqAccessDeserializer::new(list))
                    .map(OneOrMore::More)
            }
        }
        deserializer.deserialize_any(OneOrMoreVisitor)
    }
}

impl JsonSchema for OneOrMore {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "OneOrMore".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let (one, more) = (
            LlmName::json_schema(generator),
            Vec::<LlmName>::json_schema(generator),
        );
        json_schema!({"anyOf": [one, more]})
    }
}

/// A programmer and its place in the file.
pub(super) struct Listed {
    pub(super) programmer: Programmer,
    pub(super) at: At,
    /// The places of its LLMs, in the same order.
    pub(super) llms_at: Vec<At>,
}

/// The programmers in the order of the file, with the capabilities that `capability_routing` adds.
pub(super) fn check(
    raw: Vec<RawProgrammer>,
    defaults: &RawDefaults,
    added: BTreeMap<Capability, Vec<ProgrammerId>>,
    checks: &mut Checks,
) -> Vec<Listed> {
    check_limits(checks.section(At::top("defaults")), &defaults.limits());
    let list = At::top("programmers");
    let entries = raw.len();
    let mut programmers: Vec<Listed> = Vec::new();
    for (index, entry) in raw.into_iter().enumerate() {
        if let Some(listed) = entry.check(list.index(index), defaults, checks) {
            check_unique(&listed, &programmers, checks);
            programmers.push(listed);
        }
    }
    let all_known = programmers.len() == entries;
    add_capabilities(added, &mut programmers, all_known, checks);
    for listed in &programmers {
        check_capability_count(listed, checks);
    }
    programmers
}

impl RawProgrammer {
    fn check(self, at: At, defaults: &RawDefaults, checks: &mut Checks) -> Option<Listed> {
        if self.id.is_none() {
            checks.mistake(
                &at.key("id"),
                "is missing: give every programmer an id in quotes, for example \"001\"",
            );
        }
        if self.primary_llm.is_none() {
            checks.mistake(
                &at.key("primary_llm"),
                "is missing: write provider/model, for example openai/gpt-4o-mini",
            );
        }
        let limits = self.limits(defaults);
        check_own_limits(checks.section(at.clone()), &self);
        let (llms, llms_at) = check_llms(&at, self.primary_llm, self.backup_llm, checks)
            .into_iter()
            .unzip();
        let id = self.id?;
        let port = check_port(&at.key("port"), &id, self.port, checks);
        let programmer = Programmer {
            id,
            port,
            llms,
            capabilities: self.capabilities,
            limits,
        };
        Some(Listed {
            programmer,
            at,
            llms_at,
        })
    }

    fn limits(&self, defaults: &RawDefaults) -> JobLimits {
        RawDefaults {
            timeout_s: self.timeout_s.unwrap_or(defaults.timeout_s),
            max_tokens_per_job: self
                .max_tokens_per_job
                .unwrap_or(defaults.max_tokens_per_job),
            max_cost_per_job_usd: self
                .max_cost_per_job_usd
                .unwrap_or(defaults.max_cost_per_job_usd),
            max_duration_per_job_s: self
                .max_duration_per_job_s
                .unwrap_or(defaults.max_duration_per_job_s),
            context_limit: self.context_limit.unwrap_or(defaults.context_limit),
            auto_commit: self.auto_commit.unwrap_or(defaults.auto_commit),
            max_fix_iterations: self
                .max_fix_iterations
                .unwrap_or(defaults.max_fix_iterations),
        }
        .limits()
    }
}

fn check_limits(mut section: SectionChecks<'_>, limits: &JobLimits) {
    section.seconds("timeout_s", limits.timeout.as_secs());
    section.seconds("max_duration_per_job_s", limits.agent_timeout.as_secs());
    section.within(
        "max_tokens_per_job",
        limits.max_tokens,
        1..=u64::MAX,
        "token",
    );
    section.within("context_limit", limits.context_limit, 1..=u64::MAX, "token");
}

/// Checks only values of the programmer itself: a mistake in `defaults` is reported there, once.
fn check_own_limits(mut section: SectionChecks<'_>, raw: &RawProgrammer) {
    for (key, value, most, unit) in [
        ("timeout_s", raw.timeout_s, MAX_SECONDS, "seconds"),
        (
            "max_duration_per_job_s",
            raw.max_duration_per_job_s,
            MAX_SECONDS,
            "seconds",
        ),
        (
            "max_tokens_per_job",
            raw.max_tokens_per_job,
            u64::MAX,
            "token",
        ),
        ("context_limit", raw.context_limit, u64::MAX, "token"),
    ] {
        if let Some(value) = value {
            section.within(key, value, 1..=most, unit);
        }
    }
}

/// 6150 + number for `001` to `049`.
fn numbered_port(id: &ProgrammerId) -> Option<u16> {
    let digits = id.as_str().bytes().all(|byte| byte.is_ascii_digit());
    let number = id
        .as_str()
        .parse()
        .ok()
        .filter(|number| digits && NUMBERED.contains(number))?;
    Some(PORT_BASE + number)
}

fn check_port(at: &At, id: &ProgrammerId, port: Option<u16>, checks: &mut Checks) -> u16 {
    let own = numbered_port(id);
    let Some(port) = port else {
        return own.unwrap_or(0);
    };
    let reserved = port
        .checked_sub(PORT_BASE)
        .filter(|number| NUMBERED.contains(number));
    match reserved {
        Some(number) if own != Some(port) => {
            let right = own.map_or_else(|| "0 (any free one)".to_owned(), |own| own.to_string());
            let problem = format!(
                "{port} is reserved for programmer {number:03}: write {right}, or another port"
            );
            checks.mistake(at, problem);
        }
        None if (1..1024).contains(&port) => {
            checks.mistake(
                at,
                format!(
                    "{port} needs root: write a port from 1024 to 65535, or 0 for any free one"
                ),
            );
        }
        Some(_) | None => {}
    }
    port
}

/// The primary LLM and the backups, each with its place.
fn check_llms(
    at: &At,
    primary: Option<LlmName>,
    backup: Option<OneOrMore>,
    checks: &mut Checks,
) -> Vec<(LlmName, At)> {
    let backup_at = at.key("backup_llm");
    let backups = match backup {
        None => Vec::new(),
        Some(OneOrMore::One(llm)) => vec![(llm, backup_at)],
        Some(OneOrMore::More(llms)) => llms
            .into_iter()
            .enumerate()
            .map(|(index, llm)| (llm, backup_at.index(index)))
            .collect(),
    };
    let primary = primary.map(|llm| (llm, at.key("primary_llm")));
    let is_primary = |llm: &LlmName| primary.as_ref().is_some_and(|(primary, _)| primary == llm);
    for (index, (llm, at)) in backups.iter().enumerate() {
        if is_primary(llm) {
            checks.mistake(
                at,
                format!("{llm} is already the primary LLM: write another LLM, or remove it"),
            );
        } else if backups[..index].iter().any(|(earlier, _)| earlier == llm) {
            checks.mistake(
                at,
                format!("{llm} is listed twice: write another LLM, or remove it"),
            );
        }
    }
    primary.into_iter().chain(backups).collect()
}

fn check_unique(listed: &Listed, earlier: &[Listed], checks: &mut Checks) {
    let (own, at) = (&listed.programmer, &listed.at);
    for other in earlier {
        let line = checks.line_of(&other.at);
        let other = &other.programmer;
        if other.id == own.id {
            let problem = format!(
                "\"{}\" is taken by the programmer in line {line}: ids are unique",
                other.id
            );
            return checks.mistake(&at.key("id"), problem);
        }
        if other.port == own.port && own.port != 0 {
            let problem = format!(
                "{} is the port of {} in line {line}: ports are unique",
                other.port, other.id
            );
            return checks.mistake(&at.key("port"), problem);
        }
    }
}

/// `all_known`: every programmer has an id, so that an id which is not among them is wrong.
fn add_capabilities(
    added: BTreeMap<Capability, Vec<ProgrammerId>>,
    programmers: &mut [Listed],
    all_known: bool,
    checks: &mut Checks,
) {
    let section = At::top("capability_routing");
    for (capability, ids) in added {
        for (index, id) in ids.into_iter().enumerate() {
            if let Some(listed) = programmers
                .iter_mut()
                .find(|listed| listed.programmer.id == id)
            {
                listed.programmer.capabilities.insert(capability.clone());
            } else if all_known {
                let known: Vec<&str> = programmers
                    .iter()
                    .map(|listed| listed.programmer.id.as_str())
                    .collect();
                let hint = wording::suggestion(id.as_str(), &known);
                let at = section.key(capability.as_str()).index(index);
                checks.mistake(
                    &at,
                    format!("programmer \"{id}\" is not in the list: {hint}"),
                );
            }
        }
    }
}

fn check_capability_count(listed: &Listed, checks: &mut Checks) {
    let count = listed.programmer.capabilities.len();
    if count > MAX_CAPABILITIES {
        let id = &listed.programmer.id;
        let problem = format!(
            "{id} offers {count}, capability_routing included: at most {MAX_CAPABILITIES} are possible"
        );
        checks.mistake(&listed.at.key("capabilities"), problem);
    }
}
