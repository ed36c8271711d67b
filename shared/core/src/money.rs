//! Money: exact integers, in millionths of a US dollar. No amount is ever calculated as a float.

use std::fmt;
use std::ops::{Add, AddAssign};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

const MICRO: u64 = 1_000_000;

/// An amount in millionths of a US dollar. Sums saturate instead of wrapping around.
///
/// On the wire it is a decimal string (`"2.50"`). A JSON or YAML number with at most 6 decimal
/// places is accepted too.
///
/// ```
/// use pool_core::money::MicroUsd;
///
/// let price: MicroUsd = "2.5".parse()?;
/// assert_eq!(price, MicroUsd(2_500_000));
/// assert_eq!(price.to_string(), "2.50", "at least two decimal places");
/// assert_eq!(MicroUsd(125).to_string(), "0.000125");
/// assert!("0.0000001".parse::<MicroUsd>().is_err(), "more than six decimal places");
/// # Ok::<(), pool_core::money::InvalidAmount>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct MicroUsd(pub u64);

/// A text that is not a decimal number of dollars with at most six decimal places.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an amount: write dollars with at most 6 places, for example 2.50")]
pub struct InvalidAmount(pub String);

impl MicroUsd {
    /// No money.
    pub const ZERO: Self = Self(0);

    /// The cost of `tokens` at this price per million tokens. It is rounded up, so that many small
    /// calls cannot pass a limit.
    ///
    /// ```
    /// use pool_core::money::MicroUsd;
    ///
    /// let price = MicroUsd(150_000); // $0.15 per million tokens
    /// assert_eq!(price.per_mtok(1), MicroUsd(1), "0.15 micro-dollars are charged as one");
    /// ```
    #[must_use]
    pub fn per_mtok(self, tokens: u64) -> Self {
        let product = u128::from(self.0) * u128::from(tokens);
        Self(u64::try_from(product.div_ceil(u128::from(MICRO))).unwrap_or(u64::MAX))
    }

    /// The difference; [`Self::ZERO`] when `other` is larger.
    #[must_use]
    pub fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl Add for MicroUsd {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl AddAssign for MicroUsd {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl std::iter::Sum for MicroUsd {
    fn sum<I: Iterator<Item = Self>>(amounts: I) -> Self {
        amounts.fold(Self::ZERO, Add::add)
    }
}

impl fmt::Display for MicroUsd {
    /// Dollars with at least two decimal places and no further trailing zeros: `0.00`, `2.50`, `0.000125`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = format!("{:06}", self.0 % MICRO);
        let places = digits.trim_end_matches('0').len().max(2);
        f.pad(&format!("{}.{}", self.0 / MICRO, &digits[..places]))
    }
}

impl FromStr for MicroUsd {
    type Err = InvalidAmount;
    fn from_str(text: &str) -> Result<Self, InvalidAmount> {
        let invalid = || InvalidAmount(text.to_owned());
        let (whole, places) = text.split_once('.').unwrap_or((text, "0"));
        let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        if !digits(whole) || !digits(places) || places.len() > 6 {
            return Err(invalid());
        }
        let whole: u64 = whole.parse().map_err(|_| invalid())?;
        let micro: u64 = format!("{places:0<6}").parse().map_err(|_| invalid())?;
        whole
            .checked_mul(MICRO)
            .and_then(|w| w.checked_add(micro))
            .map(Self)
            .ok_or_else(invalid)
    }
}

impl Serialize for MicroUsd {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

struct AmountVisitor;

impl serde::de::Visitor<'_> for AmountVisitor {
    type Value = MicroUsd;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("dollars with at most 6 places, for example 2.50")
    }
    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<MicroUsd, E> {
        text.parse().map_err(E::custom)
    }
    fn visit_u64<E: serde::de::Error>(self, dollars: u64) -> Result<MicroUsd, E> {
        self.visit_str(&dollars.to_string())
    }
    fn visit_i64<E: serde::de::Error>(self, dollars: i64) -> Result<MicroUsd, E> {
        self.visit_str(&dollars.to_string())
    }
    /// The parser has made a float of the number. Its shortest decimal form is the text that was written.
    fn visit_f64<E: serde::de::Error>(self, dollars: f64) -> Result<MicroUsd, E> {
        self.visit_str(&dollars.to_string())
    }
}

impl<'de> Deserialize<'de> for MicroUsd {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AmountVisitor)
    }
}

crate::id::inline_schema!(MicroUsd, "Usd", {
    "description": "US dollars, at most 6 places",
    "anyOf": [
        {"type": "number", "minimum": 0},
        {"type": "string", "pattern": "^[0-9]+(\\.[0-9]{1,6})?$"}
    ]
});

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn amounts_read_as_written_and_print_as_read() {
        for (text, micro, printed) in [
            ("2.50", 2_500_000, "2.50"),
            ("0", 0, "0.00"),
            ("0.000001", 1, "0.000001"),
            ("50", 50_000_000, "50.00"),
        ] {
            let amount: MicroUsd = text.parse().expect("a valid amount");
            assert_eq!(
                (amount.0, amount.to_string().as_str()),
                (micro, printed),
                "amount {text}"
            );
        }
        for bad in [
            "",
            "-1",
            "1e3",
            "0.0000001",
            ".5",
            "5.",
            "1,5",
            "99999999999999999999",
        ] {
            assert!(bad.parse::<MicroUsd>().is_err(), "{bad:?} must be refused");
        }
    }

    #[test]
    fn a_fraction_of_a_micro_dollar_is_charged_in_full() {
        assert_eq!(
            MicroUsd(150_000).per_mtok(1),
            MicroUsd(1),
            "0.15 micro-dollars round up"
        );
        assert_eq!(
            MicroUsd(3_000_000).per_mtok(123_456),
            MicroUsd(370_368),
            "3 $/Mtok"
        );
    }

    proptest! {
        #[test]
        fn display_and_parse_are_inverse(micro in any::<u64>()) {
            prop_assert_eq!(MicroUsd(micro).to_string().parse::<MicroUsd>().ok(), Some(MicroUsd(micro)));
        }

        #[test]
        fn a_number_with_six_places_is_read_exactly(micro in 0u64..1_000_000_000_000) {
            let text = MicroUsd(micro).to_string();
            let read: MicroUsd = serde_json::from_str(&text).expect("a JSON number");
            prop_assert_eq!(read, MicroUsd(micro));
        }
    }
}
