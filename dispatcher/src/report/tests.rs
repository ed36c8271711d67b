use std::collections::BTreeMap;
use std::sync::Arc;

use pool_core::id::{AttemptId, LlmName, ProgrammerId};
use pool_core::money::MicroUsd;
use pool_core::result::{ErrorKind, LlmUsage, ResultMessage, Status, TaskFailure, Timings, Usage};
use pool_core::state::Outcome;
use pool_core::time::Timestamp;

use super::tally::{FinishedTask, report};
use super::*;
use crate::history::record::ResultSummary;
use pool_api::report::{By, Group, Percentiles, Report, Since};

const FREE: &str = "ollama/qwen";
const PAID: &str = "anthropic/claude";

fn llm(name: &str) -> LlmName {
    LlmName::new(name).expect("an LLM")
}

fn used(
    name: &str,
    (calls, failed_calls): (u64, u64),
    tokens: (u64, u64),
    micro_usd: u64,
) -> LlmUsage {
    let (input_tokens, output_tokens) = tokens;
    let cost_usd = MicroUsd(micro_usd);
    LlmUsage {
        calls,
        failed_calls,
        input_tokens,
        output_tokens,
        cost_usd,
        ..LlmUsage::none(llm(name))
    }
}

/// A task that ended, with its usage as the worker sums it up.
fn ended(at: u64, status: Status, name: &str, run_ms: u64, by_llm: Vec<LlmUsage>) -> FinishedTask {
    let (mut usage, cost) = (
        Usage::default(),
        by_llm.iter().map(|usage| usage.cost_usd).sum(),
    );
    for one in &by_llm {
        usage.calls += one.calls;
        usage.failed_calls += one.failed_calls;
        usage.input_tokens += one.input_tokens;
        usage.output_tokens += one.output_tokens;
    }
    let usage = Usage {
        cost_usd: cost,
        by_llm,
        ..usage
    };
    let programmer = ProgrammerId::new(if name == FREE { "001" } else { "006" }).ok();
    let record = ResultSummary {
        programmer: programmer.clone(),
        llm: Some(llm(name)),
        used_backup: false,
        usage,
        timings: Timings {
            queued_ms: Some(run_ms / 10),
            run_ms,
            llm_ms: 0,
            acceptance_ms: 0,
        },
    };
    let error = (status == Status::Failed).then_some(ErrorKind::AcceptanceFailed);
    let (attempt, at, llm) = (
        Some(AttemptId::from_u128(1)),
        Timestamp(at),
        Some(llm(name)),
    );
    let outcome = Outcome {
        attempt,
        status,
        cost,
        at,
        started_at: None,
        programmer,
        llm,
        error,
    };
    let labels = BTreeMap::from([(
        "run_id".to_owned(),
        if at.0 < 50 { "a" } else { "b" }.to_owned(),
    )]);
    FinishedTask {
        outcome,
        attempts: 1,
        route: "any".to_owned(),
        labels,
        record: Some(Arc::new(record)),
    }
}

/// Six tasks of two LLMs, and one that was cancelled before a programmer took it.
fn sample() -> Vec<FinishedTask> {
    use Status::{Failed, Succeeded};
    let mut second_try = ended(
        20,
        Succeeded,
        FREE,
        2000,
        vec![used(FREE, (2, 0), (200, 20), 0)],
    );
    second_try.attempts = 2;
    let by_both = vec![
        used(FREE, (3, 3), (0, 0), 0),
        used(PAID, (2, 0), (1000, 100), 30_000),
    ];
    let mut moved_on = ended(50, Succeeded, PAID, 9000, by_both);
    moved_on
        .record
        .iter_mut()
        .for_each(|record| Arc::make_mut(record).used_backup = true);
    let mut cancelled = ended(70, Status::Cancelled, FREE, 0, vec![]);
    cancelled.outcome = Outcome {
        attempt: None,
        programmer: None,
        llm: None,
        ..cancelled.outcome
    };
    cancelled.outcome.error = Some(ErrorKind::Cancelled);
    cancelled.record = None;
    vec![
        ended(
            10,
            Succeeded,
            FREE,
            1000,
            vec![used(FREE, (1, 0), (100, 10), 0)],
        ),
        second_try,
        ended(
            30,
            Failed,
            FREE,
            3000,
            vec![used(FREE, (3, 1), (300, 30), 0)],
        ),
        ended(
            40,
            Succeeded,
            PAID,
            4000,
            vec![used(PAID, (1, 0), (500, 50), 10_000)],
        ),
        moved_on,
        ended(
            60,
            Failed,
            PAID,
            6000,
            vec![used(PAID, (1, 0), (500, 50), 10_001)],
        ),
        cancelled,
    ]
}

fn all(by: &By) -> Report {
    report(&sample(), by, Timestamp(0)..=Timestamp(100))
}

fn group<'a>(report: &'a Report, name: &str) -> &'a Group {
    let found = report.groups.iter().find(|group| group.name == name);
    found.unwrap_or_else(|| panic!("no {name} in {report:?}"))
}

#[test]
fn the_numbers_are_those_that_a_hand_computes() {
    let report = all(&By::Llm);
    let free = group(&report, FREE);
    assert_eq!(
        (free.tasks, free.succeeded, free.failed),
        (3, 2, 1),
        "a task belongs to the LLM that gave its last answer"
    );
    assert_eq!(free.success_rate, Some(2.0 / 3.0), "two of three");
    assert_eq!(
        free.first_attempt_rate,
        Some(1.0 / 3.0),
        "one of them needed a second attempt"
    );
    assert_eq!(
        free.duration_ms,
        Some(Percentiles {
            p50: 2000,
            p90: 3000,
            p99: 3000
        }),
        "of 1, 2 and 3 s"
    );
    assert_eq!(
        free.queued_ms,
        Some(Percentiles {
            p50: 200,
            p90: 300,
            p99: 300
        }),
        "a tenth of the run times"
    );
    assert_eq!(
        (free.calls, free.failed_calls),
        (9, 4),
        "including the task that another LLM finished"
    );
    assert_eq!(
        (free.input_tokens, free.output_tokens),
        (600, 60),
        "its tokens"
    );
    assert_eq!(free.cost_per_succeeded_usd, Some(MicroUsd(0)), "it is free");

    let paid = group(&report, PAID);
    assert_eq!(
        (paid.tasks, paid.succeeded, paid.failed, paid.failovers),
        (3, 2, 1, 1),
        "it finished one task for the other LLM"
    );
    assert_eq!(
        paid.cost_usd,
        MicroUsd(50_001),
        "the failed one is paid for too"
    );
    assert_eq!(
        paid.cost_per_succeeded_usd,
        Some(MicroUsd(25_001)),
        "for each success, rounded up"
    );
    assert_eq!(
        (paid.calls, paid.failed_calls, paid.input_tokens),
        (4, 0, 2000),
        "only its own"
    );
    assert_eq!(
        paid.failures,
        BTreeMap::from([(ErrorKind::AcceptanceFailed, 1)]),
        "by class"
    );

    assert_eq!(group(&report, "(none)").cancelled, 1, "no LLM was asked");
    let total = &report.total;
    assert_eq!(
        (total.tasks, total.succeeded, total.failed, total.cancelled),
        (7, 4, 2, 1),
        "all of them"
    );
    assert_eq!(
        total.success_rate,
        Some(4.0 / 6.0),
        "a cancelled one says nothing about LLMs"
    );
    assert_eq!(
        total.duration_ms,
        Some(Percentiles {
            p50: 3000,
            p90: 9000,
            p99: 9000
        }),
        "1, 2, 3, 4, 6 and 9 s"
    );
    assert_eq!(
        (total.calls, total.cost_usd),
        (13, MicroUsd(50_001)),
        "groups add up to it"
    );
    assert_eq!(report.without_details, 0, "a cancelled task has none");
}

#[test]
fn percentiles_are_exact() {
    let tasks: Vec<FinishedTask> = (1..=200)
        .map(|n| {
            ended(
                n,
                Status::Succeeded,
                FREE,
                1000 * (201 - n),
                vec![used(FREE, (1, 0), (1, 1), 0)],
            )
        })
        .collect();
    let report = report(&tasks, &By::Llm, Timestamp(0)..=Timestamp(1000));
    let expected = Percentiles {
        p50: 100_000,
        p90: 180_000,
        p99: 198_000,
    };
    assert_eq!(
        report.total.duration_ms,
        Some(expected),
        "of 1 to 200 s: that many percent are not above"
    );
}

#[test]
fn tasks_are_put_together_by_what_is_asked_for() {
    let names = |by: &By| {
        all(by)
            .groups
            .iter()
            .map(|group| (group.name.clone(), group.tasks))
            .collect::<Vec<_>>()
    };
    let pairs = |pairs: &[(&str, u64)]| {
        pairs
            .iter()
            .map(|(name, n)| ((*name).to_owned(), *n))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        names(&By::Llm),
        pairs(&[(PAID, 3), (FREE, 3), ("(none)", 1)]),
        "most tasks first, then by name"
    );
    assert_eq!(
        names(&By::Programmer),
        pairs(&[("001", 3), ("006", 3), ("(none)", 1)]),
        "the programmer"
    );
    assert_eq!(names(&By::Route), pairs(&[("any", 7)]), "where it waited");
    assert_eq!(
        names(&By::Label("run_id".to_owned())),
        pairs(&[("a", 4), ("b", 3)]),
        "a label's values"
    );
    assert_eq!(
        names(&By::Label("other".to_owned())),
        pairs(&[("(none)", 7)]),
        "no task has the label"
    );
    let by_run = all(&By::Label("run_id".to_owned()));
    assert_eq!(
        (by_run.groups[1].calls, by_run.groups[1].cost_usd),
        (6, MicroUsd(40_001)),
        "with all that they used"
    );
}

#[test]
fn only_tasks_that_ended_in_the_time_asked_for_are_counted() {
    let some = report(&sample(), &By::Llm, Timestamp(20)..=Timestamp(40));
    assert_eq!(
        (some.total.tasks, some.groups.len()),
        (3, 2),
        "20, 30 and 40: both ends are included"
    );
    let now = Timestamp(1_000_000_000);
    for (text, at) in [
        ("7d", 395_200_000),
        ("24h", 913_600_000),
        ("90m", 994_600_000),
        ("1s", 999_999_000),
        ("all", 0),
    ] {
        assert_eq!(
            text.parse().map(|since: Since| since.at(now)),
            Ok(Timestamp(at)),
            "{text}"
        );
    }
    let at = "1970-01-01T00:00:01Z"
        .parse()
        .map(|since: Since| since.at(now));
    assert_eq!(at, Ok(Timestamp(1000)), "a time");
    for bad in [
        "",
        "7",
        "d",
        "-1d",
        "7w",
        "yesterday",
        "99999999999999999999d",
        "9999999999999999999d",
    ] {
        assert!(bad.parse::<Since>().is_err(), "{bad:?} is not a period");
    }
    assert!(
        ["label:", "llms", "label"]
            .iter()
            .all(|bad| bad.parse::<By>().is_err()),
        "nothing else to group by"
    );
    for by in ["llm", "programmer", "route", "label:run_id"] {
        assert_eq!(
            by.parse::<By>().map(|by| by.to_string()),
            Ok(by.to_owned()),
            "as it is written"
        );
    }
}

#[test]
fn of_an_old_task_the_outcome_counts_and_its_attempts_are_not_guessed() {
    let mut old = sample().swap_remove(3);
    (old.attempts, old.record) = (0, None);
    let report = report(&[old], &By::Llm, Timestamp(0)..=Timestamp(100));
    assert_eq!(
        (report.without_details, report.total.succeeded),
        (1, 1),
        "it reports missing details"
    );
    assert_eq!(
        report.total.cost_usd,
        MicroUsd(10_000),
        "the log knows the cost"
    );
    assert_eq!(
        (report.total.first_attempt_rate, report.total.duration_ms),
        (None, None),
        "attempts are not guessed"
    );
}

#[test]
fn a_record_is_read_from_the_result_as_it_is_on_the_wire() {
    let failure = TaskFailure::new(ErrorKind::NoChange, "nothing");
    let usage = Usage {
        calls: 2,
        by_llm: vec![used(PAID, (2, 1), (3, 4), 5)],
        ..Usage::default()
    };
    let timings = Timings {
        queued_ms: Some(1),
        run_ms: 2,
        llm_ms: 3,
        acceptance_ms: 4,
    };
    let result = ResultMessage {
        programmer: ProgrammerId::new("006").ok(),
        llm: Some(llm(PAID)),
        used_backup: true,
        usage: usage.clone(),
        timings: timings.clone(),
        patch: Some("a long \u{1F980} \"patch\"\n".repeat(1000)),
        ..ResultMessage::without_attempt(None, Status::Failed, failure)
    };
    let (programmer, llm, used_backup) = (result.programmer.clone(), result.llm.clone(), true);
    let expected = ResultSummary {
        programmer,
        llm,
        used_backup,
        usage,
        timings,
    };
    assert_eq!(
        ResultSummary::read(&result.to_json()),
        Some(expected),
        "the numbers, and nothing large"
    );
    assert_eq!(
        ResultSummary::read(b"no result"),
        None,
        "a body that is not a result has no record"
    );
}

/// A report whose group has an attack as its name.
fn hostile() -> Report {
    let mut tasks = sample();
    let name = "</title><script>alert(1)</script>\"' onload=x\n&lt;";
    tasks
        .iter_mut()
        .for_each(|task| task.labels = BTreeMap::from([("run_id".to_owned(), name.to_owned())]));
    tasks[0].labels = BTreeMap::from([(
        "run_id".to_owned(),
        "=HYPERLINK(\"http://evil\"),x".to_owned(),
    )]);
    report(
        &tasks,
        &By::Label("run_id".to_owned()),
        Timestamp(0)..=Timestamp(100),
    )
}

#[test]
fn the_csv_can_be_read_back_whatever_names_are_in_it() {
    let report = hostile();
    let text = csv::text(&report).expect("a text");
    let mut reader = ::csv::Reader::from_reader(text.as_bytes());
    let heads = reader.headers().expect("a header").clone();
    let rows: Vec<BTreeMap<String, String>> = reader
        .deserialize()
        .collect::<Result<_, _>>()
        .expect("rows");
    assert_eq!(
        (rows.len(), heads.len()),
        (3, 24),
        "a row a group, and the total"
    );
    assert_eq!(
        rows[0]["name"], report.groups[0].name,
        "quotes, commas and line ends are kept"
    );
    assert_eq!(
        rows[1]["name"], "'=HYPERLINK(\"http://evil\"),x",
        "no spreadsheet takes it for a formula"
    );
    let total = &rows[2];
    let some = [
        "name",
        "tasks",
        "success_rate",
        "duration_p90_ms",
        "cost_usd",
        "cost_per_succeeded_usd",
        "failures",
    ];
    assert_eq!(
        some.map(|column| total[column].as_str()),
        [
            "all",
            "7",
            "0.6667",
            "9000",
            "0.050001",
            "0.012501",
            "acceptance_failed=2 cancelled=1"
        ],
        "the numbers of the report"
    );
}

#[test]
fn the_page_is_whole_in_itself_and_names_cannot_break_out_of_it() {
    for report in [
        hostile(),
        all(&By::Label("<img src=x>".to_owned())),
        all(&By::Llm),
    ] {
        let page = html::page(&report).expect("a page");
        let lower = page.to_lowercase();
        for bad in [
            "<script",
            "<img",
            "<link",
            "<iframe",
            "<object",
            "<use",
            "javascript:",
            "url(",
            "@import",
            "src=\"",
            "href",
        ] {
            assert!(!lower.contains(bad), "{bad} in {}", report.by);
        }
        let outside = lower
            .match_indices("http")
            .filter(|(at, _)| !lower[*at..].starts_with("http://www.w3.org/2000/svg"));
        let words = outside
            .filter(|(at, _)| !lower[..*at].ends_with("&quot;"))
            .count();
        assert_eq!(
            words, 0,
            "only the SVG namespace and the text of a name look like an address"
        );
        assert_eq!(
            page.matches("</title>").count(),
            1,
            "the name does not close the element"
        );
        assert_eq!(
            page.matches("<svg").count(),
            12,
            "three plots, each for a light and a dark page, broad and narrow"
        );
        assert_eq!(page.matches("</html>").count(), 1, "to its end");
    }
    let page = html::page(&hostile()).expect("a page");
    assert!(
        page.contains("&lt;/title&gt;&lt;script&gt;alert(1)&lt;/script&gt;"),
        "the name is shown as text"
    );
}

#[test]
fn a_page_without_tasks_says_so() {
    let page = html::page(&report(&[], &By::Llm, Timestamp(0)..=Timestamp(1))).expect("a page");
    assert!(page.contains("nothing to draw"), "instead of empty plots");
}

#[test]
fn who_is_beaten_in_both_is_not_worth_its_money() {
    let one = |name: &str, succeeded, failed, cost: Option<u64>| Group {
        name: name.to_owned(),
        succeeded,
        failed,
        success_rate: Some(f64::from(succeeded as u32) / f64::from((succeeded + failed) as u32)),
        cost_per_succeeded_usd: cost.map(MicroUsd),
        ..Group::default()
    };
    let groups = [
        one("free", 60, 40, Some(0)),
        one("cheap", 80, 20, Some(10)),
        one("dear and no better", 80, 20, Some(50)),
        one("best", 95, 5, Some(100)),
        one("worse than free", 50, 50, Some(0)),
        one("never", 0, 100, None),
    ];
    let names: Vec<&str> = html::worth_it(&groups.iter().collect::<Vec<_>>())
        .iter()
        .map(|g| g.name.as_str())
        .collect();
    assert_eq!(
        names,
        ["free", "cheap", "best"],
        "each of these is the best for its money"
    );
}

#[test]
fn two_with_the_same_point_have_one_label_with_both_numbers() {
    let one = |name: &str, cost| Group {
        name: name.to_owned(),
        succeeded: 8,
        failed: 2,
        success_rate: Some(0.8),
        cost_per_succeeded_usd: Some(MicroUsd(cost)),
        ..Group::default()
    };
    let groups = [one("a", 100), one("other", 50), one("b", 100)];
    let paper = plots::Paper {
        palette: plots::LIGHT,
        narrow: false,
    };
    let picture = plots::worth(&groups.iter().collect::<Vec<_>>(), paper).expect("a picture");
    let texts: Vec<&str> = picture
        .split("</text>")
        .filter_map(|text| text.rsplit('>').next())
        .map(str::trim)
        .collect();
    assert!(
        texts.contains(&"1, 3") && texts.contains(&"2"),
        "each point has its number: {texts:?}"
    );
}

#[test]
fn the_whiskers_are_wilsons_interval() {
    let (low, high) = plots::wilson(8, 10);
    assert!(
        (low - 0.4902).abs() < 0.0005 && (high - 0.9433).abs() < 0.0005,
        "8 of 10, by the table: {low} {high}"
    );
    let (low, high) = plots::wilson(0, 0);
    assert!(
        low < 1e-9 && high > 0.7,
        "without data the interval is wide: {low} {high}"
    );
}
