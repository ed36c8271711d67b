use std::path::Path;

use pool_shared::config::{Env, load};
use pool_shared::event::{Batch, Decision, EmitterId};
use pool_shared::fold::Fold;

use super::*;

const COUNT: u64 = 300;

fn id(n: u64) -> TaskId {
    TaskId::new(format!("t-{n:03}")).expect("an id")
}

/// Tasks that were submitted one after another; every third has failed.
fn fold() -> Fold {
    let (mut fold, emitter, mut first) = (Fold::new(), EmitterId::new(), 0);
    for n in 0..COUNT {
        let (body_hash, route) = (String::new(), "fast".to_owned());
        let mut events = vec![Decision::Submitted { task: id(n), body_hash, route, deadline_ms: None }];
        if n % 3 == 0 {
            let (llm, cost_usd, error) = (None, MicroUsd::ZERO, None);
            events.push(Decision::Finished {
                task: id(n),
                attempt: None,
                status: Status::Failed,
                llm,
                cost_usd,
                error,
            });
        }
        let count = events.len() as u64;
        fold.apply(&Batch { v: 1, emitter, first, at_ms: 1_000 + n, events }, |_, _, _| ());
        first += count;
    }
    fold
}

fn listed(filter: &Filter) -> (usize, Vec<TaskId>) {
    let pool = load(Path::new("../config/trial.yaml"), &Env::of_process()).expect("the pool file of the trial");
    let (total, found) = filter.of_log(&pool, &fold().tasks);
    (total, newest(found, filter))
}

#[test]
fn a_list_is_the_newest_that_match_and_counts_all_of_them() {
    let filter = Filter { limit: Some(3), ..Filter::default() };
    assert_eq!(listed(&filter), (300, vec![id(299), id(298), id(297)]), "the newest");
    let filter = Filter { offset: Some(298), ..filter };
    assert_eq!(listed(&filter), (300, vec![id(1), id(0)]), "the end of it");
    let filter = Filter { status: Some(Stage::Failed), limit: Some(2), offset: Some(1), ..Filter::default() };
    assert_eq!(listed(&filter), (100, vec![id(294), id(291)]), "of those that match");
    let filter = Filter { text: Some("t-29".to_owned()), limit: Some(1), ..Filter::default() };
    assert_eq!(listed(&filter).0, 300, "words are asked for afterwards: none is left out before");
}

#[test]
fn words_are_found_in_ids_summaries_and_labels() {
    let labels = [("run_id".to_owned(), "Seven".to_owned())].into();
    let entry = Entry { summary: "Rename Parse".to_owned(), labels, ..Entry::default() };
    let found = |filter: &Filter| filter.of_words(&id(1), Some(&entry));
    for text in ["t-001", "rename", "run_id=seven"] {
        assert!(found(&Filter { text: Some(text.to_owned()), ..Filter::default() }), "{text}");
    }
    for (label, fits) in [("run_id=Seven", true), ("run_id", true), ("run_id=Eight", false), ("other=Seven", false)] {
        assert_eq!(found(&Filter { label: Some(label.to_owned()), ..Filter::default() }), fits, "{label}");
    }
    assert!(
        !Filter { label: Some("run_id".to_owned()), ..Filter::default() }.of_words(&id(1), None),
        "nothing is known"
    );
}
