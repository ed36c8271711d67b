use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use pool_api::status::NoHeartbeat;
use pool_config::{Env, load};
use pool_core::event::{Event, TaskFinished, TaskStarted, TaskSubmitted};
use pool_core::id::{AttemptId, Token};
use pool_core::money::MicroUsd;
use pool_core::result::Status;
use pool_core::state::PoolState;
use pool_core::time::Timestamp;

use super::*;

const COUNT: u64 = 300;

fn id(n: u64) -> TaskId {
    TaskId::new(format!("t-{n:03}")).expect("an id")
}

/// Tasks that were submitted one after another; every third has failed.
fn fold() -> PoolState {
    let mut fold = PoolState::new();
    for n in 0..COUNT {
        let (body_hash, route) = (String::new(), "fast".to_owned());
        let at = Timestamp(1_000 + n);
        let submitted = TaskSubmitted {
            task: id(n),
            body_hash,
            route,
            deadline_ms: None,
        };
        fold.append(at, Event::from(submitted));
        if n % 3 == 0 {
            let (llm, cost_usd, error) = (None, MicroUsd::ZERO, None);
            let finished = TaskFinished {
                task: id(n),
                attempt: None,
                status: Status::Failed,
                llm,
                cost_usd,
                error,
            };
            fold.append(at, Event::from(finished));
        }
    }
    fold
}

fn listed(filter: &Filter) -> (usize, Vec<TaskId>) {
    let pool = load(Path::new("../config/trial.yaml"), &Env::of_process())
        .expect("the pool file of the trial");
    let (total, found) = filter.of_log(
        &pool,
        &fold(),
        &Snapshot::empty(NoHeartbeat::NotYet(Duration::ZERO)),
    );
    (total, newest(found, filter))
}

fn label_of(text: &str) -> Label {
    Label::try_from(text.to_owned()).expect("a key and a value")
}

#[test]
fn a_label_without_a_value_is_refused_by_name() {
    let refused = Label::try_from("foo".to_owned()).expect_err("it has no value");
    assert!(refused.contains("\"foo\" is not key=value"), "{refused}");
}

#[test]
fn a_label_is_found_by_its_text_whatever_signs_its_key_has() {
    let labels = BTreeMap::from([
        ("a:b".to_owned(), "c".to_owned()),
        ("x=y".to_owned(), "1:2".to_owned()),
    ]);
    for (text, fits) in [
        ("a:b=c", true),
        ("a:b:c", true),
        ("a:b=", true),
        ("a:b=d", false),
        ("a=b", false),
        ("x=y=1:2", true),
        ("x=y:", true),
        ("x=y", false),
    ] {
        assert_eq!(label_of(text).is_among(&labels), fits, "{text}");
    }
}

#[test]
fn a_task_whose_programmer_is_not_heard_of_any_more_is_queued_again() {
    let (mut fold, programmer) = (fold(), ProgrammerId::new("006").expect("an id"));
    let (attempt, token) = (
        AttemptId::from_u128(1),
        Token {
            generation: 0,
            count: 0,
        },
    );
    let (route, body_hash) = ("fast".to_owned(), String::new());
    let started = Event::from(TaskStarted {
        task: id(1),
        attempt,
        programmer,
        token,
        route,
        body_hash,
    });
    fold.append(Timestamp(9_000), started);
    let pool = load(Path::new("../config/trial.yaml"), &Env::of_process())
        .expect("the pool file of the trial");
    let unheard = [
        NoHeartbeat::NotYet(Duration::ZERO),
        NoHeartbeat::Silent {
            since: Timestamp(1),
        },
    ];
    let count = |status, complete| {
        let heard = Snapshot::empty(unheard[usize::from(complete)]);
        Filter {
            status: Some(status),
            ..Filter::default()
        }
        .of_log(&pool, &fold, &heard)
        .0
    };
    assert_eq!(
        (count(Stage::Running, false), count(Stage::Queued, false)),
        (1, 199),
        "it may be there"
    );
    assert_eq!(
        (count(Stage::Running, true), count(Stage::Queued, true)),
        (0, 200),
        "it is down"
    );
}

#[test]
fn a_list_is_the_newest_that_match_and_counts_all_of_them() {
    let filter = Filter {
        limit: Some(3),
        ..Filter::default()
    };
    assert_eq!(
        listed(&filter),
        (300, vec![id(299), id(298), id(297)]),
        "the newest"
    );
    let filter = Filter {
        offset: Some(298),
        ..filter
    };
    assert_eq!(listed(&filter), (300, vec![id(1), id(0)]), "the end of it");
    let filter = Filter {
        status: Some(Stage::Failed),
        limit: Some(2),
        offset: Some(1),
        ..Filter::default()
    };
    assert_eq!(
        listed(&filter),
        (100, vec![id(294), id(291)]),
        "of those that match"
    );
    let filter = Filter {
        text: Some("t-29".to_owned()),
        limit: Some(1),
        ..Filter::default()
    };
    assert_eq!(
        listed(&filter).0,
        300,
        "words are matched afterwards, so no task is left out before"
    );
}

#[test]
fn words_are_found_in_ids_summaries_and_labels() {
    let labels = [("run_id".to_owned(), "Seven".to_owned())].into();
    let entry = IndexEntry {
        summary: "Rename Parse".to_owned(),
        labels,
        ..IndexEntry::default()
    };
    let found = |filter: &Filter| filter.of_words(&id(1), Some(&entry));
    for text in ["t-001", "rename", "run_id=seven"] {
        assert!(
            found(&Filter {
                text: Some(text.to_owned()),
                ..Filter::default()
            }),
            "{text}"
        );
    }
    for (label, fits) in [
        ("run_id=Seven", true),
        ("run_id=", true),
        ("run_id=Eight", false),
        ("other=Seven", false),
    ] {
        assert_eq!(
            found(&Filter {
                label: Some(label_of(label)),
                ..Filter::default()
            }),
            fits,
            "{label}"
        );
    }
    assert!(
        !Filter {
            label: Some(label_of("run_id=")),
            ..Filter::default()
        }
        .of_words(&id(1), None),
        "the history has no entry"
    );
}
