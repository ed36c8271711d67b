use super::*;

fn ids(ids: &[&str]) -> BTreeSet<String> {
    ids.iter().map(|id| (*id).to_owned()).collect()
}

fn answer(task: &str, attempt: &str, body: &str) -> Answer {
    Answer { task: task.to_owned(), attempt: Some(attempt.to_owned()), body: body.as_bytes().to_vec() }
}

fn outcome(task: &str, attempt: &str) -> Outcome {
    Outcome { task: task.to_owned(), attempt: Some(attempt.to_owned()) }
}

/// Two tasks, both done; the second has a reply queue.
fn good() -> Evidence {
    Evidence {
        submitted: ids(&["a", "b"]),
        confirmed: ids(&["a", "b"]),
        wants_reply: ids(&["b"]),
        replies: vec![answer("b", "2", "y")],
        history: vec![answer("a", "1", "x"), answer("b", "2", "y")],
        starts: vec!["a".to_owned(), "b".to_owned()],
        outcomes: vec![outcome("a", "1"), outcome("b", "2")],
        left: vec![],
    }
}

#[test]
fn a_run_in_which_nothing_happened_is_clean() {
    let report = judge(&good());
    assert!(report.is_clean(), "{report}");
    assert_eq!((report.tasks, report.repeated_starts, report.repeated_replies), (2, 0, 0), "{report}");
}

#[test]
fn a_confirmed_task_without_a_result_is_lost() {
    let mut evidence = good();
    evidence.history.remove(0);
    assert_eq!(judge(&evidence).lost, ids(&["a"]), "it is not in the history");
    let mut evidence = good();
    evidence.replies.clear();
    assert_eq!(judge(&evidence).lost, ids(&["b"]), "it is in the history, but its submitter waits");
}

#[test]
fn a_task_that_nobody_was_told_yes_for_may_be_missing_or_done() {
    let mut evidence = good();
    evidence.submitted.extend(["c".to_owned(), "d".to_owned()]);
    evidence.history.push(answer("d", "3", "z"));
    evidence.outcomes.push(outcome("d", "3"));
    assert!(judge(&evidence).is_clean(), "neither breaks a promise");
}

#[test]
fn two_results_that_differ_are_seen_wherever_they_are() {
    let mut evidence = good();
    evidence.replies.push(answer("b", "2", "other"));
    assert_eq!(judge(&evidence).different, ids(&["b"]), "at the reply queue");
    let mut evidence = good();
    evidence.history[0] = answer("a", "9", "x");
    assert_eq!(judge(&evidence).different, ids(&["a"]), "of an attempt that the log does not name");
}

#[test]
fn the_same_result_twice_is_a_repetition() {
    let mut evidence = good();
    evidence.replies.push(answer("b", "2", "y"));
    evidence.starts.push("a".to_owned());
    let report = judge(&evidence);
    assert!(report.is_clean(), "{report}");
    assert_eq!((report.repeated_starts, report.repeated_replies), (1, 1), "{report}");
}

#[test]
fn a_result_for_nothing_is_invented() {
    let mut evidence = good();
    evidence.history.push(answer("ghost", "4", "boo"));
    assert_eq!(judge(&evidence).invented, ids(&["ghost"]), "nobody submitted it");
}

#[test]
fn a_confirmed_task_without_an_outcome_is_unfinished() {
    let mut evidence = good();
    evidence.outcomes.remove(1);
    assert_eq!(judge(&evidence).unfinished, ids(&["b"]), "the log does not know how it ended");
}

#[test]
fn every_message_that_is_left_must_be_accounted_for() {
    let left = |queue: &str, task: &str, body: &str| {
        let left = Left { queue: queue.to_owned(), task: Some(task.to_owned()), body: body.as_bytes().to_vec() };
        judge(&Evidence { left: vec![left], ..good() }).stray
    };
    assert_eq!(left("tasks.any", "a", "{}"), ids(&["a in tasks.any"]), "a task that waits");
    assert_eq!(left("results", "a", "x"), ids(&[]), "the result that was delivered");
    assert_eq!(left("results", "a", "other"), ids(&["a in results"]), "another result");
    assert_eq!(left("pool.dead", "a", "{}"), ids(&[]), "its submitter was told");
    assert_eq!(left("pool.dead", "c", "{}"), ids(&["c in pool.dead"]), "nobody was told");
}
