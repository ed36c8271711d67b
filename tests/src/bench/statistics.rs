//! Medians, percentiles, ratios.

use std::time::Duration;

/// The middle of the values, or the mean of the two in the middle; None without values.
#[must_use]
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (below, above) = (sorted.len().checked_sub(1)? / 2, sorted.len() / 2);
    Some(f64::midpoint(*sorted.get(below)?, *sorted.get(above)?))
}

/// `value` as a part of `base`; None when there is nothing to divide by.
#[must_use]
pub fn ratio(value: f64, base: f64) -> Option<f64> {
    (base.abs() > f64::EPSILON).then(|| value / base)
}

/// The smallest and the largest of some values.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    pub least: f64,
    pub most: f64,
}

impl Spread {
    /// None without values.
    #[must_use]
    pub fn of(values: &[f64]) -> Option<Self> {
        Some(Self {
            least: values.iter().copied().reduce(f64::min)?,
            most: values.iter().copied().reduce(f64::max)?,
        })
    }

    #[must_use]
    pub fn overlaps(self, other: Self) -> bool {
        self.least <= other.most && other.least <= self.most
    }
}

/// The time within which `percent` of all values lie, in ms.
#[must_use]
pub fn percentile_ms(times: &[Duration], percent: usize) -> f64 {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    let index = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
    sorted
        .get(index)
        .map_or(0.0, |time| time.as_secs_f64() * 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_in_the_middle_whatever_the_outliers() {
        for (values, expected) in [
            (&[][..], None),
            (&[4.0], Some(4.0)),
            (&[3.0, 1.0], Some(2.0)),
            (&[3000.0, 1.0, 2000.0], Some(2000.0)),
            (&[9.0, -5.0, 1.0, 3.0], Some(2.0)),
        ] {
            assert_eq!(median(values), expected, "the median of {values:?}");
        }
    }

    #[test]
    fn a_ratio_needs_something_to_divide_by() {
        assert_eq!(ratio(3.0, 4.0), Some(0.75), "three of four");
        assert_eq!(ratio(3.0, 0.0), None, "nothing is a part of nothing");
    }

    #[test]
    fn ranges_overlap_when_they_share_a_value() {
        let of = |values: &[f64]| Spread::of(values).expect("values");
        let (low, middle, high) = (of(&[3.0, 1.0]), of(&[2.0, 4.0]), of(&[5.0, 6.0]));
        assert!(low.overlaps(middle) && middle.overlaps(low), "2 to 3");
        assert!(!low.overlaps(high) && !high.overlaps(low), "3 is below 5");
        assert!(low.overlaps(of(&[3.0])), "the end belongs to the range");
        assert_eq!(Spread::of(&[]), None, "no values have no range");
    }

    #[test]
    fn a_percentile_of_few_values_is_one_of_them() {
        let times: Vec<Duration> = (1..=200).map(Duration::from_millis).collect();
        assert!((percentile_ms(&times, 50) - 101.0).abs() < 1e-9, "p50");
        assert!((percentile_ms(&times, 99) - 199.0).abs() < 1e-9, "p99");
        assert!(percentile_ms(&[], 50).abs() < 1e-9, "nothing measured");
    }
}
