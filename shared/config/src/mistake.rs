//! A mistake in the pool file, in words for its author: the line, the key, the mistake and the correction.

use std::fmt;
use std::path::PathBuf;

use serde::Serialize;

/// A mistake in the pool file or in a variable that overrides it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Mistake {
    /// The pool file.
    pub file: PathBuf,
    /// Counted from 1; None when the mistake has no line (the file cannot be read, or a variable is wrong).
    pub line: Option<usize>,
    /// `programmers[1].primary_llm`; empty for the file as a whole.
    pub key: String,
    /// The mistake and the correction: lowercase, without a full stop.
    pub problem: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if !self.key.is_empty() {
            write!(f, ": {}", self.key)?;
        }
        write!(f, ": {}", self.problem)
    }
}

/// All mistakes of a pool file, at least one, in the order of their lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistakes(Vec<Mistake>);

impl Mistakes {
    pub(super) fn new(mut mistakes: Vec<Mistake>) -> Self {
        mistakes.sort_by_key(|mistake| mistake.line);
        Self(mistakes)
    }

    /// The mistakes, in the order of their lines.
    pub fn all(&self) -> &[Mistake] {
        &self.0
    }
}

impl std::error::Error for Mistakes {}

impl fmt::Display for Mistakes {
    /// One mistake per line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, mistake) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}{mistake}")?;
        }
        Ok(())
    }
}
