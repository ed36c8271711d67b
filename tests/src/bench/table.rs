//! The table of a record in Markdown: a line for each case, a column for each group of measures.

use std::fmt::Write as _;

use super::format::number;
use super::record::Record;
use super::row::{Case, Measure};
use super::statistics::{Spread, median};

const NOTHING: &str = "–";

/// The whole table. A column of one measure has its least and its most value in parentheses.
#[must_use]
pub fn markdown(record: &Record) -> String {
    let mut text = String::new();
    let columns = columns(record);
    line(&mut text, &columns.iter().map(heading).collect::<Vec<_>>());
    line(&mut text, &vec!["---".to_owned(); columns.len()]);
    for case in record.cases() {
        let cells = columns.iter().map(|column| cell(record, case, column));
        line(&mut text, &cells.collect::<Vec<_>>());
    }
    text
}

enum Column<'a> {
    Case,
    /// All measures of a group.
    Group(&'a str, Vec<&'a Measure>),
    /// This measure as a part of the base's.
    Relative(&'a Case, &'a Measure),
}

fn columns(record: &Record) -> Vec<Column<'_>> {
    let mut columns = vec![Column::Case];
    for group in record.groups() {
        let measures = record.measures(group);
        let first = measures.first().copied();
        columns.push(Column::Group(group, measures));
        if let (2, Some(base), Some(first)) = (columns.len(), &record.base, first) {
            columns.push(Column::Relative(base, first));
        }
    }
    columns
}

fn heading(column: &Column<'_>) -> String {
    match column {
        Column::Case => String::new(),
        Column::Group(group, measures) => {
            let unit = measures.first().map_or("", |measure| &*measure.unit);
            let names: Vec<&str> = measures.iter().map(|measure| &*measure.name).collect();
            match names.as_slice() {
                [""] => format!("{group}, {unit}"),
                names => format!("{group}, {unit}: {}", names.join(" / ")),
            }
        }
        Column::Relative(base, _) => format!("relative to {}", base.title()),
    }
}

fn cell(record: &Record, case: &Case, column: &Column<'_>) -> String {
    match column {
        Column::Case => case.title(),
        Column::Group(_, measures) => values(record, case, measures),
        Column::Relative(base, _) if case == *base => number(1.0),
        Column::Relative(_, measure) => record
            .find(case, measure)
            .and_then(|series| median(&record.relative(series)?))
            .map_or(NOTHING.to_owned(), number),
    }
}

fn values(record: &Record, case: &Case, measures: &[&Measure]) -> String {
    let found = measures.iter().map(|measure| record.find(case, measure));
    match found.collect::<Vec<_>>().as_slice() {
        [Some(series)] => match Spread::of(&series.rounds) {
            Some(Spread { least, most }) if series.rounds.len() > 1 => {
                let [middle, least, most] = [series.median, least, most].map(number);
                format!("{middle} ({least}–{most})")
            }
            _ => number(series.median),
        },
        several if several.iter().all(Option::is_none) => NOTHING.to_owned(),
        several => {
            let cells = several
                .iter()
                .map(|series| series.map_or(NOTHING.to_owned(), |series| number(series.median)));
            cells.collect::<Vec<_>>().join(" / ")
        }
    }
}

fn line(text: &mut String, cells: &[String]) {
    // Writing to a String cannot fail.
    let _ = writeln!(text, "| {} |", cells.join(" | "));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::record::tests::{BASE, POOL, RATE, record};

    #[test]
    fn a_line_has_medians_ranges_and_its_relation_to_the_base() {
        assert_eq!(
            markdown(&record()),
            "|  | throughput, tasks/s | relative to bare loop | latency, ms: p50 / p99 |\n\
             | --- | --- | --- | --- |\n\
             | bare loop | 3,000 (2,000–4,000) | 1.00 | – |\n\
             | pool, warm | 1,400 (1,000–1,500) | 0.50 | 5.30 / 7.70 |\n"
        );
    }

    #[test]
    fn a_case_of_one_round_has_no_range() {
        let mut record = record();
        for series in &mut record.series {
            series.rounds.truncate(1);
            series.median = series.rounds[0];
        }
        let cell = |case| values(&record, case, &[&RATE]);
        assert_eq!((cell(&BASE), cell(&POOL)), ("3,000".into(), "1,500".into()));
    }
}
