//! Two records of one benchmark: what changed by more than the noise of their rounds.

use std::fmt::Write as _;

use super::format::number;
use super::record::{Record, Series};
use super::row::Better;
use super::statistics::{Spread, median, ratio};

/// With fewer rounds, separate ranges say little: three and three are separate by chance once in
/// ten times.
const ENOUGH_ROUNDS: usize = 3;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Better,
    Worse,
    /// The ranges of the rounds overlap.
    WithinNoise,
    /// Too few rounds to know the noise.
    TooFewRounds,
}

/// How one measure of one case has changed.
#[derive(Debug, PartialEq)]
pub struct Change {
    pub case: String,
    pub measure: String,
    pub before: f64,
    pub after: f64,
    /// After as a part of before.
    pub ratio: Option<f64>,
    pub verdict: Verdict,
}

#[derive(Debug, PartialEq)]
pub struct Comparison {
    pub changes: Vec<Change>,
    /// The reasons why the two are hard to compare.
    pub warnings: Vec<String>,
}

/// Compares what both have measured. Values relative to the base are compared too: they do not
/// change with the speed of the machine.
#[must_use]
pub fn compare(before: &Record, after: &Record) -> Comparison {
    let mut changes = Vec::new();
    let mut warnings = differences(before, after);
    for new in &after.series {
        let title = new.measure.title();
        let Some(old) = before.find(&new.case, &new.measure) else {
            warnings.push(format!("only after: {title} of {}", new.case.title()));
            continue;
        };
        changes.push(change(new, title, &old.rounds, &new.rounds));
        if let (Some(old), Some(relative)) = (before.relative(old), after.relative(new)) {
            let title = format!("{} relative to the base", new.measure.title());
            changes.push(change(new, title, &old, &relative));
        }
    }
    for old in &before.series {
        if after.find(&old.case, &old.measure).is_none() {
            let title = old.measure.title();
            warnings.push(format!("only before: {title} of {}", old.case.title()));
        }
    }
    Comparison { changes, warnings }
}

fn change(series: &Series, measure: String, before: &[f64], after: &[f64]) -> Change {
    let [old, new] = [before, after].map(|rounds| median(rounds).unwrap_or_default());
    Change {
        case: series.case.title(),
        measure,
        before: old,
        after: new,
        ratio: ratio(new, old),
        verdict: verdict(before, after, series.measure.better),
    }
}

fn verdict(before: &[f64], after: &[f64], better: Better) -> Verdict {
    if before.len().min(after.len()) < ENOUGH_ROUNDS {
        return Verdict::TooFewRounds;
    }
    let (Some(old), Some(new)) = (Spread::of(before), Spread::of(after)) else {
        return Verdict::TooFewRounds;
    };
    match (old.overlaps(new), better) {
        (true, _) => Verdict::WithinNoise,
        (false, Better::Higher) if new.least > old.most => Verdict::Better,
        (false, Better::Lower) if new.most < old.least => Verdict::Better,
        (false, Better::Higher | Better::Lower) => Verdict::Worse,
    }
}

fn differences(before: &Record, after: &Record) -> Vec<String> {
    let machine = |record: &Record| {
        let machine = &record.machine;
        format!("{} cores, {}", machine.cores, machine.processor)
    };
    let facts = [
        (
            "benchmark",
            before.benchmark.clone(),
            after.benchmark.clone(),
        ),
        ("machine", machine(before), machine(after)),
        (
            "broker",
            before.broker.clone().unwrap_or_default(),
            after.broker.clone().unwrap_or_default(),
        ),
        (
            "choice of settings",
            format!("{:?}", before.settings),
            format!("{:?}", after.settings),
        ),
    ];
    facts
        .into_iter()
        .filter(|(_, before, after)| before != after)
        .map(|(fact, before, after)| format!("another {fact}: {before:?} before, {after:?} after"))
        .collect()
}

impl Verdict {
    fn words(self) -> &'static str {
        match self {
            Self::Better => "better",
            Self::Worse => "worse",
            Self::WithinNoise => "within noise",
            Self::TooFewRounds => "too few rounds",
        }
    }
}

impl Comparison {
    /// The warnings, then a table in Markdown.
    #[must_use]
    pub fn markdown(&self) -> String {
        let mut text = String::new();
        for warning in &self.warnings {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "- {warning}");
        }
        text.push_str(
            "\n| case | measure | before | after | ratio | |\n|---|---|---|---|---|---|\n",
        );
        for change in &self.changes {
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} | {} | {} |",
                change.case,
                change.measure,
                number(change.before),
                number(change.after),
                change.ratio.map_or("–".to_owned(), number),
                change.verdict.words(),
            );
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::record::tests::{POOL, RATE, record};

    #[test]
    fn a_difference_counts_when_the_rounds_do_not_overlap() {
        let before = [10.0, 12.0, 11.0];
        for (after, better, expected) in [
            (
                &[12.0, 14.0, 13.0][..],
                Better::Higher,
                Verdict::WithinNoise,
            ),
            (&[13.0, 14.0, 13.0], Better::Higher, Verdict::Better),
            (&[13.0, 14.0, 13.0], Better::Lower, Verdict::Worse),
            (&[8.0, 9.0, 9.0], Better::Higher, Verdict::Worse),
            (&[8.0, 9.0, 9.0], Better::Lower, Verdict::Better),
            (&[8.0, 9.0], Better::Lower, Verdict::TooFewRounds),
            (&[], Better::Lower, Verdict::TooFewRounds),
        ] {
            assert_eq!(
                verdict(&before, after, better),
                expected,
                "{after:?} {better:?}"
            );
        }
    }

    #[test]
    fn a_slower_machine_changes_the_speed_and_not_the_relation_to_the_base() {
        let before = record();
        let mut after = record();
        for series in &mut after.series {
            series.rounds.iter_mut().for_each(|value| *value /= 10.0);
        }
        let comparison = compare(&before, &after);
        let of = |measure: &str| {
            let found = comparison
                .changes
                .iter()
                .find(|change| change.case == POOL.title() && change.measure == measure);
            let change = found.unwrap_or_else(|| panic!("{measure} is compared"));
            (change.ratio.map(number), change.verdict)
        };
        assert_eq!(of(&RATE.title()), (Some("0.10".into()), Verdict::Worse));
        assert_eq!(
            of("throughput, tasks/s relative to the base"),
            (Some("1.00".into()), Verdict::WithinNoise)
        );
        assert_eq!(
            comparison.warnings, [""; 0],
            "the same settings and machine"
        );
    }

    #[test]
    fn what_cannot_be_compared_is_named() {
        let before = record();
        let mut after = record();
        after.machine.cores = 4;
        after.broker = Some("RabbitMQ 4.2.0".to_owned());
        after.settings.insert("tasks".into(), "10".into());
        after
            .series
            .retain(|series| series.case != POOL || series.measure != RATE);
        let text = compare(&before, &after).markdown();
        for expected in [
            "another machine: \"2 cores, a processor\" before, \"4 cores, a processor\" after",
            "another broker: \"RabbitMQ 3.10.8\" before, \"RabbitMQ 4.2.0\" after",
            "another choice of settings",
            "only before: throughput, tasks/s of pool, warm",
        ] {
            assert!(text.contains(expected), "{expected}: {text}");
        }
    }
}
