//! Numbers as people read them.

/// Three significant digits, more before the point, and commas between thousands: `1,358`, `31.5`,
/// `4.70`, `0.22`.
#[must_use]
pub fn number(value: f64) -> String {
    let places = match value.abs() {
        100.0.. => 0,
        10.0..100.0 => 1,
        _ => 2,
    };
    let text = format!("{value:.places$}");
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", text.as_str()),
    };
    let (whole, rest) = digits.split_at(digits.find('.').unwrap_or(digits.len()));
    format!("{sign}{}{rest}", with_commas(whole))
}

fn with_commas(digits: &str) -> String {
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// The first round number at or above `most`, for the end of a scale: 1, 2, 2.5 or 5, times a power
/// of ten.
#[must_use]
pub fn scale_end(most: f64) -> f64 {
    if most <= 0.0 {
        return 1.0;
    }
    let power = 10f64.powf(most.log10().floor());
    [1.0, 2.0, 2.5, 5.0, 10.0]
        .map(|step| step * power)
        .into_iter()
        .find(|end| *end >= most)
        .unwrap_or(10.0 * power)
}

/// A part of a file name: lower-case letters, digits and hyphens.
#[must_use]
pub fn slug(text: &str) -> String {
    let words = text.split(|letter: char| !letter.is_ascii_alphanumeric());
    let words: Vec<String> = words
        .filter(|word| !word.is_empty())
        .map(str::to_ascii_lowercase)
        .collect();
    words.join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_as_many_digits_as_people_read() {
        for (value, expected) in [
            (0.0, "0.00"),
            (0.224, "0.22"),
            (4.7, "4.70"),
            (31.49, "31.5"),
            (99.97, "100.0"),
            (577.6, "578"),
            (1358.2, "1,358"),
            (1_234_567.0, "1,234,567"),
            (-1358.0, "-1,358"),
        ] {
            assert_eq!(number(value), expected, "{value}");
        }
    }

    #[test]
    fn a_scale_ends_at_the_next_round_number() {
        for (most, expected) in [
            (0.0, 1.0),
            (1.0, 1.0),
            (1.1, 2.0),
            (2.2, 2.5),
            (3947.0, 5000.0),
            (5001.0, 10000.0),
            (0.031, 0.05),
        ] {
            assert!(
                (scale_end(most) - expected).abs() < 1e-9,
                "{most}: {}",
                scale_end(most)
            );
        }
    }

    #[test]
    fn a_title_becomes_a_part_of_a_file_name() {
        assert_eq!(slug("CPU per task, ms"), "cpu-per-task-ms");
    }
}
