//! The parameters of a report: the period and the grouping.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use pool_core::time::Timestamp;

/// The beginning of the period.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Since {
    Ago(Duration),
    At(Timestamp),
    /// From the beginning of the log.
    All,
}

impl Default for Since {
    fn default() -> Self {
        Self::Ago(Duration::from_secs(7 * 24 * 3600))
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a period; expected for example 7d, 24h, 90m, 2026-01-31T00:00:00Z, or all")]
pub struct InvalidSince(String);

impl FromStr for Since {
    type Err = InvalidSince;
    fn from_str(text: &str) -> Result<Self, InvalidSince> {
        if text == "all" {
            return Ok(Self::All);
        }
        if let Ok(at) = text.parse() {
            return Ok(Self::At(at));
        }
        let invalid = || InvalidSince(text.to_owned());
        let units = [('d', 86400), ('h', 3600), ('m', 60), ('s', 1)];
        let of_unit = |(unit, seconds): (char, u64)| Some((text.strip_suffix(unit)?, seconds));
        let (number, seconds) = units.into_iter().find_map(of_unit).ok_or_else(invalid)?;
        let number: u64 = number.parse().map_err(|_| invalid())?;
        Ok(Self::Ago(Duration::from_secs(
            number.checked_mul(seconds).ok_or_else(invalid)?,
        )))
    }
}

impl Since {
    pub fn at(self, now: Timestamp) -> Timestamp {
        match self {
            Self::Ago(span) => Timestamp(
                now.0
                    .saturating_sub(u64::try_from(span.as_millis()).unwrap_or(u64::MAX)),
            ),
            Self::At(at) => at,
            Self::All => Timestamp(0),
        }
    }
}

/// The grouping of a report.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum By {
    #[default]
    Llm,
    Programmer,
    Route,
    Label(String),
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot group by {0:?}; expected llm, programmer, route or label:<key>")]
pub struct InvalidBy(String);

impl FromStr for By {
    type Err = InvalidBy;
    fn from_str(text: &str) -> Result<Self, InvalidBy> {
        match (text, text.strip_prefix("label:")) {
            ("llm", _) => Ok(Self::Llm),
            ("programmer", _) => Ok(Self::Programmer),
            ("route", _) => Ok(Self::Route),
            (_, Some(key)) if !key.is_empty() => Ok(Self::Label(key.to_owned())),
            (_, Some(_) | None) => Err(InvalidBy(text.to_owned())),
        }
    }
}

impl fmt::Display for By {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Llm => f.write_str("llm"),
            Self::Programmer => f.write_str("programmer"),
            Self::Route => f.write_str("route"),
            Self::Label(key) => write!(f, "label:{key}"),
        }
    }
}
