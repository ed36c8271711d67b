//! Collects mistakes while the sections are checked, so that all of them are reported together.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::mistake::{Mistake, Mistakes};
use super::position::{At, Tree};

/// The longest duration that any key accepts, in seconds: one day.
pub(super) const MAX_SECONDS: u64 = 24 * 60 * 60;

pub(super) struct Checks {
    file: PathBuf,
    tree: Tree,
    /// Places, as written, that could not be read. No further mistake is reported there.
    broken: Vec<At>,
    mistakes: Vec<Mistake>,
}

impl Checks {
    pub(super) fn new(file: &Path, tree: Tree) -> Self {
        Self {
            file: file.to_owned(),
            tree,
            broken: Vec::new(),
            mistakes: Vec::new(),
        }
    }

    /// Reports a mistake, unless this place has one already.
    pub(super) fn mistake(&mut self, at: &At, problem: impl Display) {
        if !self.is_broken(at) {
            self.push(
                Some(self.tree.line_of(at)),
                self.tree.as_written(at).to_string(),
                problem,
            );
        }
    }

    /// Reports a mistake that has no line in the file.
    pub(super) fn elsewhere(&mut self, key: &str, problem: impl Display) {
        self.push(None, key.to_owned(), problem);
    }

    pub(super) fn at_line(&mut self, line: usize, key: &At, problem: impl Display) {
        self.push(Some(line), key.to_string(), problem);
    }

    fn push(&mut self, line: Option<usize>, key: String, problem: impl Display) {
        self.mistakes.push(Mistake {
            file: self.file.clone(),
            line,
            key,
            problem: problem.to_string(),
        });
    }

    /// Reports a place that cannot be read and removes it, so that the rest can be read.
    pub(super) fn broken(&mut self, at: &At, problem: impl Display) {
        self.mistake(at, problem);
        self.broken.push(self.tree.as_written(at));
        self.tree.remove(at);
    }

    /// Whether this place or a part of it could not be read. Then nothing that depends on its value can be checked.
    pub(super) fn is_broken(&self, at: &At) -> bool {
        let at = self.tree.as_written(at);
        self.broken.iter().any(|broken| broken.overlaps(&at))
    }

    /// How many entries the file has at this place.
    pub(super) fn entries(&self, at: &At) -> usize {
        self.tree.len_of(at)
    }

    /// Whether the file has this place.
    pub(super) fn has(&self, at: &At) -> bool {
        self.tree.has(at)
    }

    pub(super) fn line_of(&self, at: &At) -> usize {
        self.tree.line_of(at)
    }

    /// A duration of 1 second to one day.
    pub(super) fn seconds(&mut self, at: &At, seconds: u64) -> Duration {
        self.within(at, seconds, 1..=MAX_SECONDS, "seconds");
        Duration::from_secs(seconds)
    }

    /// A duration of 1 minute to one day.
    pub(super) fn minutes(&mut self, at: &At, minutes: u64) -> Duration {
        self.within(at, minutes, 1..=MAX_SECONDS / 60, "minutes");
        Duration::from_secs(minutes.saturating_mul(60))
    }

    /// Reports a number outside its range. `unit` is the noun after the number.
    pub(super) fn within(&mut self, at: &At, value: u64, range: RangeInclusive<u64>, unit: &str) {
        if range.contains(&value) {
            return;
        }
        let (least, most) = range.into_inner();
        if most == u64::MAX {
            self.mistake(
                at,
                format!("{value} is too small: write at least {least} {unit}"),
            );
        } else {
            self.mistake(
                at,
                format!("{value} is out of range: write {least} to {most} {unit}"),
            );
        }
    }

    /// A section of the file, or a part of one, to check its keys.
    pub(super) fn section(&mut self, at: At) -> SectionChecks<'_> {
        SectionChecks { at, checks: self }
    }

    /// The mistakes found, if any.
    pub(super) fn into_mistakes(self) -> Option<Mistakes> {
        if self.mistakes.is_empty() {
            None
        } else {
            Some(Mistakes::new(self.mistakes))
        }
    }
}

/// A section of the file, or a part of one. Each key is checked as [`Checks`] checks a place.
pub(super) struct SectionChecks<'a> {
    at: At,
    checks: &'a mut Checks,
}

impl SectionChecks<'_> {
    pub(super) fn mistake(&mut self, key: &str, problem: impl Display) {
        self.checks.mistake(&self.at.key(key), problem);
    }

    pub(super) fn is_broken(&self, key: &str) -> bool {
        self.checks.is_broken(&self.at.key(key))
    }

    pub(super) fn seconds(&mut self, key: &str, seconds: u64) -> Duration {
        self.checks.seconds(&self.at.key(key), seconds)
    }

    pub(super) fn minutes(&mut self, key: &str, minutes: u64) -> Duration {
        self.checks.minutes(&self.at.key(key), minutes)
    }

    pub(super) fn within(
        &mut self,
        key: &str,
        value: impl Into<u64>,
        range: RangeInclusive<u64>,
        unit: &str,
    ) {
        self.checks
            .within(&self.at.key(key), value.into(), range, unit);
    }
}
