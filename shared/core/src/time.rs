//! Time as a value. Pure code takes a [`Timestamp`] as an argument and reads no clock.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Milliseconds since 1970-01-01 UTC. As text and JSON it is RFC 3339 in UTC with three decimal
/// places: `2026-01-02T03:04:05.678Z`.
///
/// ```
/// use std::time::Duration;
/// use pool_core::time::Timestamp;
///
/// let noon: Timestamp = "2026-01-31T12:00:00Z".parse()?;
/// let later = noon.plus(Duration::from_millis(1500));
/// assert_eq!(later.to_string(), "2026-01-31T12:00:01.500Z");
/// assert_eq!(later.since(noon), Duration::from_millis(1500));
/// assert_eq!(noon.since(later), Duration::ZERO, "never negative");
/// # Ok::<(), pool_core::time::InvalidTime>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(pub u64);

/// A text that is not an RFC 3339 time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a time: write RFC 3339, for example 2026-01-31T18:00:00Z")]
pub struct InvalidTime(pub String);

impl Timestamp {
    /// The time from `earlier` to `self`; zero when `self` is not later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// The moment `duration` later.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        Self(
            self.0
                .saturating_add(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)),
        )
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match i64::try_from(self.0)
            .ok()
            .and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok())
        {
            Some(time) => write!(f, "{time:.3}"),
            None => write!(f, "{} ms after 1970", self.0),
        }
    }
}

impl FromStr for Timestamp {
    type Err = InvalidTime;
    fn from_str(text: &str) -> Result<Self, InvalidTime> {
        let time: jiff::Timestamp = text.parse().map_err(|_| InvalidTime(text.to_owned()))?;
        u64::try_from(time.as_millisecond())
            .map(Self)
            .map_err(|_| InvalidTime(text.to_owned()))
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text: Cow<'_, str> = Deserialize::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

crate::id::inline_schema!(Timestamp, "Time", {"type": "string", "format": "date-time"});

/// A time as a number in JSON: milliseconds since 1970.
pub(crate) mod millis {
    use super::{Deserialize, Deserializer, Serializer, Timestamp};

    pub(crate) fn serialize<S: Serializer>(at: &Timestamp, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(at.0)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Timestamp, D::Error> {
        u64::deserialize(from).map(Timestamp)
    }
}

/// The same for a time that may be missing.
pub(crate) mod optional_millis {
    use super::{Deserialize, Deserializer, Serialize, Serializer, Timestamp};

    pub(crate) fn serialize<S: Serializer>(
        at: &Option<Timestamp>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        at.map(|at| at.0).serialize(to)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<Timestamp>, D::Error> {
        Option::<u64>::deserialize(from).map(|at| at.map(Timestamp))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_read_and_print_as_rfc_3339() {
        let time: Timestamp = "2026-01-02T03:04:05.678Z".parse().expect("a valid time");
        assert_eq!(
            time,
            Timestamp(1_767_323_045_678),
            "milliseconds since 1970"
        );
        assert_eq!(time.to_string(), "2026-01-02T03:04:05.678Z", "printed");
        assert!(
            "tomorrow".parse::<Timestamp>().is_err(),
            "no natural language"
        );
    }
}
