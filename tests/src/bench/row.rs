//! The result of a benchmark: a row for each value that it has measured.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

/// Which values of a measure are good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Better {
    Higher,
    Lower,
}

/// Whether the programs had everything at hand when the measurement began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Start {
    /// Nothing was prepared.
    Cold,
    /// An earlier task or a server has prepared what the task needs.
    Warm,
}

impl Start {
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Cold => "cold",
            Self::Warm => "warm",
        }
    }
}

/// A measured quantity. The measures of a group have one unit: they share a column of the table and a
/// plot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measure {
    /// For example `latency`.
    pub group: Cow<'static, str>,
    /// For example `p50`; empty when the group has one measure.
    pub name: Cow<'static, str>,
    /// For example `ms`.
    pub unit: Cow<'static, str>,
    pub better: Better,
}

impl Measure {
    /// A measure whose smaller values are better.
    #[must_use]
    pub const fn lower(group: &'static str, name: &'static str, unit: &'static str) -> Self {
        Self::new(group, name, unit, Better::Lower)
    }

    /// A measure whose larger values are better.
    #[must_use]
    pub const fn higher(group: &'static str, name: &'static str, unit: &'static str) -> Self {
        Self::new(group, name, unit, Better::Higher)
    }

    const fn new(
        group: &'static str,
        name: &'static str,
        unit: &'static str,
        better: Better,
    ) -> Self {
        Self {
            group: Cow::Borrowed(group),
            name: Cow::Borrowed(name),
            unit: Cow::Borrowed(unit),
            better,
        }
    }

    /// For example `latency p50, ms`.
    #[must_use]
    pub fn title(&self) -> String {
        let Self {
            group, name, unit, ..
        } = self;
        match name.is_empty() {
            true => format!("{group}, {unit}"),
            false => format!("{group} {name}, {unit}"),
        }
    }
}

/// The system under measurement, and how it started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// For example `one worker process`.
    pub name: Cow<'static, str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<Start>,
}

impl Case {
    #[must_use]
    pub const fn new(name: &'static str) -> Self {
        Self {
            name: Cow::Borrowed(name),
            start: None,
        }
    }

    #[must_use]
    pub const fn cold(name: &'static str) -> Self {
        Self {
            name: Cow::Borrowed(name),
            start: Some(Start::Cold),
        }
    }

    #[must_use]
    pub const fn warm(name: &'static str) -> Self {
        Self {
            name: Cow::Borrowed(name),
            start: Some(Start::Warm),
        }
    }

    /// For example `ten runs of aider, cold`.
    #[must_use]
    pub fn title(&self) -> String {
        match self.start {
            Some(start) => format!("{}, {}", self.name, start.word()),
            None => self.name.to_string(),
        }
    }
}

/// One value of one round.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    pub case: Case,
    pub measure: Measure,
    pub value: f64,
}

impl Row {
    #[must_use]
    pub const fn new(case: Case, measure: Measure, value: f64) -> Self {
        Self {
            case,
            measure,
            value,
        }
    }
}
