use super::*;

pub(in crate::bench) const BASE: Case = Case::new("bare loop");
pub(in crate::bench) const POOL: Case = Case::warm("pool");
pub(in crate::bench) const RATE: Measure = Measure::higher("throughput", "", "tasks/s");
pub(in crate::bench) const P50: Measure = Measure::lower("latency", "p50", "ms");
const P99: Measure = Measure::lower("latency", "p99", "ms");
/// Tasks per second of the base and of the pool in each round.
const ROUNDS: [(f64, f64); 3] = [(3000.0, 1500.0), (4000.0, 1400.0), (2000.0, 1000.0)];

/// Three rounds of two cases.
pub(in crate::bench) fn record() -> Record {
    let rows = ROUNDS.into_iter().flat_map(|(base, pool)| {
        [
            Row::new(BASE, RATE, base),
            Row::new(POOL, RATE, pool),
            Row::new(POOL, P50, 5.3),
            Row::new(POOL, P99, 7.7),
        ]
    });
    Record {
        benchmark: "queue".to_owned(),
        measured: "2026-01-31T12:00:00Z".parse().expect("a time"),
        commit: Commit {
            id: "0123456789abcdef".to_owned(),
            modified: false,
        },
        machine: Machine {
            processor: "a processor".to_owned(),
            cores: 2,
            memory_mb: 8000,
            kernel: "6.1".to_owned(),
            file_system: "ext4".to_owned(),
        },
        broker: Some("RabbitMQ 3.10.8".to_owned()),
        load_average: Load {
            before: 0.5,
            after: 3.25,
        },
        settings: Settings::from([("tasks".to_owned(), "5000".to_owned())]),
        base: Some(BASE),
        series: collect(rows).expect("numbers"),
    }
}

#[test]
fn the_rows_of_all_rounds_become_series_in_their_order() {
    let record = record();
    assert_eq!(record.cases(), [&BASE, &POOL], "cases");
    assert_eq!(record.groups(), ["throughput", "latency"], "groups");
    assert_eq!(record.measures("latency"), [&P50, &P99], "measures");
    let rate = record.find(&POOL, &RATE).expect("it was measured");
    assert_eq!(rate.rounds, [1500.0, 1400.0, 1000.0], "each round's value");
    assert!((rate.median - 1400.0).abs() < 1e-9, "the one in the middle");
    assert_eq!(record.find(&BASE, &P50), None, "it was not measured");
}

#[test]
fn what_is_no_number_is_no_result() {
    for value in [f64::NAN, f64::INFINITY] {
        let refused = collect([Row::new(POOL, P50, value)]).expect_err("no number");
        assert!(
            refused
                .to_string()
                .contains("latency p50, ms of pool, warm"),
            "the value is named: {refused}"
        );
    }
}

#[test]
fn a_case_is_compared_with_the_base_round_by_round() {
    let record = record();
    let relative = |case: Case, measure: Measure| {
        record.relative(record.find(&case, &measure).expect("a series"))
    };
    assert_eq!(
        relative(POOL, RATE),
        Some(vec![0.5, 0.35, 0.5]),
        "both were disturbed in the third round"
    );
    assert_eq!(relative(BASE, RATE), None, "the base itself");
    assert_eq!(relative(POOL, P50), None, "the base has no latency");
}

#[test]
fn a_file_gives_back_the_record_and_refuses_what_it_does_not_know() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("new/queue.json");
    record().write(&file).expect("a file");
    assert_eq!(Record::read(&file).expect("a record"), record());
    let text = std::fs::read_to_string(&file).expect("a text");
    assert!(text.contains("\"start\": \"warm\""), "labels: {text}");
    std::fs::write(&file, text.replace("\"commit\"", "\"comit\"")).expect("a file");
    let refused = Record::read(&file).expect_err("a wrong field");
    assert!(
        format!("{refused:#}").contains("comit"),
        "the field is named: {refused:#}"
    );
}
