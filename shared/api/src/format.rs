//! Formats counts, durations and times for people: one form for the command line, the report and
//! `why`. JSON and CSV have all digits.

use std::fmt::Display;

use pool_core::money::MicroUsd;
use pool_core::time::Timestamp;

const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// `1 task`, `2 tasks`.
pub fn counted<N: Copy + Display + TryInto<u64>>(count: N, one: &str, many: &str) -> String {
    let is_one = count.try_into().is_ok_and(|count| count == 1);
    format!("{count} {}", if is_one { one } else { many })
}

/// The milliseconds between two moments.
pub fn millis(from: Timestamp, to: Timestamp) -> u64 {
    to.0.saturating_sub(from.0)
}

/// Tokens in short: `9999`, `10.9k`, `12.3M`.
pub fn tokens(count: u64) -> String {
    let in_units = |unit: u64, name| {
        let tenths = count.saturating_add(unit / 20) / (unit / 10);
        format!("{}.{}{name}", tenths / 10, tenths % 10)
    };
    match count {
        0..10_000 => count.to_string(),
        10_000..999_950 => in_units(1_000, "k"),
        999_950.. => in_units(1_000_000, "M"),
    }
}

/// Dollars with four decimals, and two from 100 on: `$0.0082`, `$0.0100`, `$123.46`. All decimals
/// below a hundredth of a cent.
pub fn dollars(amount: MicroUsd) -> String {
    let rounded = |places: u8| {
        let (unit, one) = (
            10u64.pow(u32::from(6 - places)),
            10u64.pow(u32::from(places)),
        );
        let units = amount.0.saturating_add(unit / 2) / unit;
        format!(
            "${}.{:0width$}",
            units / one,
            units % one,
            width = usize::from(places)
        )
    };
    match amount.0 {
        0 => "$0".to_owned(),
        1..100 => rounded(6),
        100..100_000_000 => rounded(4),
        100_000_000.. => rounded(2),
    }
}

/// A duration, rounded: `950 ms`, `31.6 s`, `1 min 06 s`, `2 h 05 min`, `1 d 03 h`.
pub fn duration(ms: u64) -> String {
    let tenths = ms.saturating_add(50) / 100;
    match (ms, tenths) {
        (0..1_000, _) => format!("{ms} ms"),
        (_, 0..600) => format!("{}.{} s", tenths / 10, tenths % 10),
        (_, 600..) => age(ms),
    }
}

/// A running duration: without tenths of a second, which would only flicker.
pub fn age(ms: u64) -> String {
    let seconds = ms.saturating_add(500) / 1000;
    let minutes = seconds.saturating_add(30) / 60;
    let hours = minutes.saturating_add(30) / 60;
    match (seconds, minutes) {
        (0..60, _) => format!("{seconds} s"),
        (60..3_600, _) => format!("{} min {:02} s", seconds / 60, seconds % 60),
        (_, 0..1_440) => format!("{} h {:02} min", minutes / 60, minutes % 60),
        (_, 1_440..) => format!("{} d {:02} h", hours / 24, hours % 24),
    }
}

/// A moment in short: `12:05 UTC`, with seconds if they are not 0, and with the date if it is far
/// off.
pub fn clock(at: Timestamp, now: Timestamp) -> String {
    let text = at.to_string();
    let (Some(date), Some(time)) = (text.get(..10), text.get(11..19)) else {
        return text;
    };
    let time = time.strip_suffix(":00").unwrap_or(time);
    let soon = at >= now && at.0 - now.0 < DAY_MS;
    let today = now.to_string().starts_with(date);
    if soon || today {
        format!("{time} UTC")
    } else {
        format!("{date} {time} UTC")
    }
}

/// A moment with its date, in minutes: `2026-01-31 12:05 UTC`.
pub fn date_and_time(at: Timestamp) -> String {
    let text = at.to_string();
    match (text.get(..10), text.get(11..16)) {
        (Some(date), Some(time)) => format!("{date} {time} UTC"),
        (_, _) => text,
    }
}

/// Shortens the full timestamps in a sentence.
pub fn with_clocks(text: &str, now: Timestamp) -> String {
    let word = |word: &str| {
        let bare = word.trim_end_matches([',', ';', '.', ')']);
        match bare.parse::<Timestamp>() {
            Ok(at) => format!("{}{}", clock(at, now), &word[bare.len()..]),
            Err(_) => word.to_owned(),
        }
    };
    text.split(' ').map(word).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_rounded_and_have_two_units_at_most() {
        for (ms, text) in [
            (0, "0 ms"),
            (950, "950 ms"),
            (1_000, "1.0 s"),
            (31_580, "31.6 s"),
            (59_949, "59.9 s"),
            (59_950, "1 min 00 s"),
            (66_499, "1 min 06 s"),
            (3_599_500, "1 h 00 min"),
            (7_500_000, "2 h 05 min"),
            (86_399_000, "1 d 00 h"),
            (97_200_000, "1 d 03 h"),
        ] {
            assert_eq!(duration(ms), text, "{ms} ms");
        }
        assert_eq!(age(5_400), "5 s", "without tenths");
    }

    #[test]
    fn tokens_are_rounded() {
        for (count, text) in [
            (9_999, "9999"),
            (10_915, "10.9k"),
            (999_949, "999.9k"),
            (999_950, "1.0M"),
            (12_345_678, "12.3M"),
        ] {
            assert_eq!(tokens(count), text, "{count} tokens");
        }
    }

    #[test]
    fn money_has_one_form_with_enough_digits() {
        for (micro, text) in [
            (0, "$0"),
            (7, "$0.000007"),
            (8_249, "$0.0082"),
            (10_000, "$0.0100"),
            (12_345_678, "$12.3457"),
            (123_456_789, "$123.46"),
        ] {
            assert_eq!(dollars(MicroUsd(micro)), text, "{micro} millionths");
        }
    }

    #[test]
    fn moments_in_a_sentence_become_short() {
        let now = "2026-01-31T12:00:00Z".parse().expect("a time");
        let text =
            "paused since 2026-01-31T11:59:07.120Z; since 2026-01-30T10:00:00.000Z, version 1.2";
        assert_eq!(
            with_clocks(text, now),
            "paused since 11:59:07 UTC; since 2026-01-30 10:00 UTC, version 1.2"
        );
    }
}
