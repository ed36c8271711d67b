use serde_json::json;

use super::*;

pub(in crate::watch) fn task(id: &str, status: &str, at: u64) -> TaskView {
    let ended =
        (status != "queued" && status != "running").then_some(pool_core::time::Timestamp(at));
    serde_json::from_value(json!({
        "id": id, "status": status, "route": "fast", "labels": {"run_id": "7"}, "submitted_at": "2026-01-31T12:00:00Z",
        "attempts": 1, "programmer": null, "attempt": null, "started_at": null, "finished_at": ended, "cost_usd": null,
        "llm": null, "error": null
    }))
    .expect("a task")
}

fn told(news: Vec<WatchEvent>) -> Vec<String> {
    let line = |news: WatchEvent| match news {
        WatchEvent::Dispatcher { state, .. } => format!("{state:?}"),
        WatchEvent::Programmer { programmer } => programmer.agent,
        WatchEvent::Breaker { breaker } => breaker.llm.to_string(),
        WatchEvent::Task { task } => format!("{} {}", task.id, task.status),
    };
    news.into_iter().map(line).collect()
}

fn hear(follow: &mut Follow, heard: FeedMessage) -> Vec<String> {
    told(follow.hear(heard).expect("it goes on"))
}

#[test]
fn what_was_missed_in_a_break_is_told_once() {
    let mut follow = Follow::new(WatchFilter::default());
    assert_eq!(
        hear(&mut follow, FeedMessage::Connected),
        ["Connected"],
        "it begins"
    );
    let first = FeedMessage::Listed(vec![task("old", "failed", 1), task("a", "running", 0)]);
    assert_eq!(
        hear(&mut follow, first),
        ["a running"],
        "a task that had ended before is not news"
    );
    assert_eq!(
        hear(&mut follow, FeedMessage::Lost("gone".to_owned())),
        ["Lost"],
        "a lost connection is reported"
    );
    assert!(
        hear(&mut follow, FeedMessage::Lost("gone".to_owned())).is_empty(),
        "is reported once"
    );
    hear(&mut follow, FeedMessage::Connected);
    let again = || {
        FeedMessage::Listed(vec![
            task("b", "succeeded", 3),
            task("a", "succeeded", 2),
            task("old", "failed", 1),
        ])
    };
    assert_eq!(
        hear(&mut follow, again()),
        ["a succeeded", "b succeeded"],
        "the changes during the break, in order"
    );
    assert!(hear(&mut follow, again()).is_empty(), "and not again");
    let late = FeedMessage::Tasks(vec![task("b", "running", 0)]);
    assert!(
        hear(&mut follow, late).is_empty(),
        "an event older than the list is ignored"
    );
    assert!(
        !follow.is_over() && follow.all_succeeded().is_none(),
        "no task is awaited"
    );
}

#[test]
fn tasks_that_are_followed_end_it_and_decide_how() {
    let filter = WatchFilter {
        label: Some("run_id=7".parse().expect("a label")),
        ..WatchFilter::default()
    };
    let mut follow = Follow::new(filter.clone());
    assert!(!follow.is_over(), "nothing is known yet");
    hear(
        &mut follow,
        FeedMessage::Listed(vec![task("a", "succeeded", 1), task("b", "running", 0)]),
    );
    assert!(!follow.is_over(), "one is open");
    let other = TaskView {
        labels: BTreeMap::new(),
        ..task("other", "failed", 2)
    };
    assert!(
        hear(&mut follow, FeedMessage::Tasks(vec![other])).is_empty(),
        "a task of another run is not followed"
    );
    hear(
        &mut follow,
        FeedMessage::Tasks(vec![task("b", "succeeded", 3)]),
    );
    assert_eq!(
        (follow.is_over(), follow.all_succeeded()),
        (true, Some(true)),
        "all have succeeded"
    );
    hear(
        &mut follow,
        FeedMessage::Tasks(vec![task("c", "failed", 4)]),
    );
    assert_eq!(
        (follow.is_over(), follow.all_succeeded()),
        (true, Some(false)),
        "one has failed"
    );
    let nothing = Follow::new(filter).hear(FeedMessage::Listed(Vec::new()));
    assert!(
        nothing.is_err_and(|error| error.to_string().contains("run_id=7")),
        "a label that no task has"
    );
}

#[test]
fn a_programmer_that_the_pool_does_not_have_is_not_waited_for() {
    let live = || FeedMessage::State(Box::new(super::super::render::tests::live(2)));
    let follow = |id: &str| {
        let id = pool_core::id::ProgrammerId::new(id).expect("an id");
        Follow::new(WatchFilter {
            programmer: Some(id),
            ..WatchFilter::default()
        })
    };
    assert_eq!(
        hear(&mut follow("002"), live()),
        ["Prog-002"],
        "a programmer of the pool"
    );
    let said = follow("099")
        .hear(live())
        .map(told)
        .map_err(|error| error.to_string());
    assert_eq!(
        said,
        Err("no programmer 099 in the pool; it has 001, 002".to_owned())
    );
}
