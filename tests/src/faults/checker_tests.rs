use super::*;

fn ids(ids: &[&str]) -> BTreeSet<String> {
    ids.iter().map(|id| (*id).to_owned()).collect()
}

fn answer(task: &str, attempt: &str, body: &str) -> Answer {
    let (attempt, status) = (Some(attempt.to_owned()), Some(Status::Succeeded));
    Answer {
        task: task.to_owned(),
        attempt,
        status,
        body: body.as_bytes().to_vec(),
    }
}

fn outcome(task: &str, attempt: &str) -> Outcome {
    Outcome {
        task: task.to_owned(),
        attempt: Some(attempt.to_owned()),
        status: Status::Succeeded,
    }
}

/// Two tasks, both done. The second has a reply queue.
fn good() -> Evidence {
    Evidence {
        submitted: ids(&["a", "b"]),
        confirmed: ids(&["a", "b"]),
        wants_reply: ids(&["b"]),
        replies: vec![answer("b", "2", "y")],
        history: vec![answer("a", "1", "x"), answer("b", "2", "y")],
        starts: vec!["a".to_owned(), "b".to_owned()],
        outcomes: vec![outcome("a", "1"), outcome("b", "2")],
        ..Evidence::default()
    }
}

/// The second task was cancelled before a programmer claimed it.
fn cancelled() -> Evidence {
    let mut evidence = good();
    evidence.history.pop();
    evidence.replies[0] = Answer {
        attempt: None,
        status: Some(Status::Cancelled),
        ..answer("b", "", "c")
    };
    evidence.outcomes[1] = Outcome {
        task: "b".to_owned(),
        attempt: None,
        status: Status::Cancelled,
    };
    evidence
}

/// A third message is not a task: its submitter got an answer, and the message is kept.
fn with_no_task() -> Evidence {
    let mut evidence = good();
    evidence.submitted.insert("n".to_owned());
    evidence.no_tasks.insert("n".to_owned());
    evidence.replies.push(Answer {
        attempt: None,
        status: Some(Status::Rejected),
        ..answer("n", "", "n")
    });
    evidence.left.push(Left {
        queue: "pool.dead".to_owned(),
        task: Some("n".to_owned()),
        body: b"{".to_vec(),
    });
    evidence
}

#[test]
fn a_run_in_which_nothing_happened_is_clean() {
    let report = judge(&good());
    assert!(report.is_clean(), "{report}");
    assert_eq!(
        (
            report.tasks,
            report.repeated_starts,
            report.repeated_replies
        ),
        (2, 0, 0),
        "{report}"
    );
}

#[test]
fn a_confirmed_task_without_a_result_is_lost() {
    let mut evidence = good();
    evidence.history.remove(0);
    assert_eq!(
        judge(&evidence).lost,
        ids(&["a"]),
        "it is not in the history"
    );
    let mut evidence = good();
    evidence.replies.clear();
    assert_eq!(
        judge(&evidence).lost,
        ids(&["b"]),
        "it is in the history, but its submitter waits"
    );
}

#[test]
fn a_task_that_was_not_confirmed_may_be_missing_or_done() {
    let mut evidence = good();
    evidence.submitted.extend(["c".to_owned(), "d".to_owned()]);
    evidence.history.push(answer("d", "3", "z"));
    evidence.outcomes.push(outcome("d", "3"));
    assert!(
        judge(&evidence).is_clean(),
        "a task that was not confirmed may be missing or done"
    );
}

#[test]
fn two_results_that_differ_are_seen_wherever_they_are() {
    let mut evidence = good();
    evidence.replies.push(answer("b", "2", "other"));
    assert_eq!(
        judge(&evidence).different,
        ids(&["b"]),
        "at the reply queue"
    );
    let mut evidence = good();
    evidence.history[0] = answer("a", "9", "x");
    assert_eq!(
        judge(&evidence).different,
        ids(&["a"]),
        "of an attempt that the log does not name"
    );
}

#[test]
fn the_same_result_twice_is_a_repetition() {
    let mut evidence = good();
    evidence.replies.push(answer("b", "2", "y"));
    evidence.starts.push("a".to_owned());
    let report = judge(&evidence);
    assert!(report.is_clean(), "{report}");
    assert_eq!(
        (report.repeated_starts, report.repeated_replies),
        (1, 1),
        "{report}"
    );
}

#[test]
fn a_result_for_nothing_is_invented() {
    let mut evidence = good();
    evidence.history.push(answer("ghost", "4", "boo"));
    assert_eq!(
        judge(&evidence).invented,
        ids(&["ghost"]),
        "nobody submitted it"
    );
}

#[test]
fn a_confirmed_task_without_an_outcome_is_unfinished() {
    let mut evidence = good();
    evidence.outcomes.remove(1);
    assert_eq!(
        judge(&evidence).unfinished,
        ids(&["b"]),
        "the log does not know how it ended"
    );
}

#[test]
fn every_message_that_is_left_must_be_accounted_for() {
    let left = |queue: &str, task: &str, body: &str| {
        let left = Left {
            queue: queue.to_owned(),
            task: Some(task.to_owned()),
            body: body.as_bytes().to_vec(),
        };
        judge(&Evidence {
            left: vec![left],
            ..good()
        })
        .stray
    };
    assert_eq!(
        left("tasks.any", "a", "{}"),
        ids(&["a in tasks.any"]),
        "a task that still waits is left over"
    );
    assert_eq!(
        left("results", "a", "x"),
        ids(&[]),
        "the delivered result may be left over"
    );
    assert_eq!(
        left("results", "a", "other"),
        ids(&["a in results"]),
        "another result"
    );
    assert_eq!(
        left("pool.dead", "a", "{}"),
        ids(&[]),
        "its submitter has an answer"
    );
    assert_eq!(
        left("pool.retries", "b", "{}"),
        ids(&[]),
        "its submitter has the result"
    );
    assert_eq!(
        left("pool.retries", "a", "{}"),
        ids(&["a in pool.retries"]),
        "its submitter has no answer"
    );
    assert_eq!(
        left("pool.dead", "c", "{}"),
        ids(&["c in pool.dead"]),
        "its submitter has no answer"
    );
}

#[test]
fn a_result_must_say_what_the_log_says() {
    let mut evidence = good();
    evidence.outcomes[0].status = Status::Failed;
    let report = judge(&evidence);
    let said = "a is failed in the log and succeeded in a result";
    assert_eq!(report.wrong_status, ids(&[said]), "in the history");
    assert!(
        !report.is_clean(),
        "a submitter got another status: {report}"
    );
    let mut evidence = good();
    evidence.replies[0].status = Some(Status::Cancelled);
    let said = "b is succeeded in the log and cancelled in a result";
    assert_eq!(
        judge(&evidence).wrong_status,
        ids(&[said]),
        "at the reply queue"
    );
    let mut evidence = good();
    evidence.history[0].status = None;
    let said = "a is succeeded in the log and unreadable in a result";
    assert_eq!(
        judge(&evidence).wrong_status,
        ids(&[said]),
        "an unreadable result has no status"
    );
}

#[test]
fn a_task_must_end_as_it_may() {
    let judged = |statuses: &[Status]| {
        let mut evidence = good();
        evidence.may_end.insert("a".to_owned(), statuses.to_vec());
        judge(&evidence).wrong_status
    };
    assert_eq!(
        judged(&[Status::Rejected]),
        ids(&["a is succeeded"]),
        "it may only be rejected"
    );
    assert_eq!(
        judged(&[Status::Cancelled, Status::Succeeded]),
        ids(&[]),
        "both are allowed"
    );
}

#[test]
fn a_task_that_was_cancelled_has_its_end_in_the_log_and_at_its_submitter() {
    let report = judge(&cancelled());
    assert!(
        report.is_clean(),
        "the history needs no result of it: {report}"
    );
    let mut untold = cancelled();
    untold.replies.clear();
    assert_eq!(judge(&untold).lost, ids(&["b"]), "its submitter waits");
    let mut expected = cancelled();
    expected
        .may_end
        .insert("b".to_owned(), vec![Status::Succeeded]);
    assert_eq!(
        judge(&expected).wrong_status,
        ids(&["b is cancelled"]),
        "it was not cancelled"
    );
}

#[test]
fn a_message_that_is_not_a_task_is_answered_and_kept() {
    let report = judge(&with_no_task());
    assert!(report.is_clean(), "it does not belong in the log: {report}");
    let mut untold = with_no_task();
    untold.replies.pop();
    assert_eq!(judge(&untold).lost, ids(&["n"]), "its submitter waits");
    let mut gone = with_no_task();
    gone.left.clear();
    let report = judge(&gone);
    assert_eq!(report.unkept, ids(&["n"]), "it is not in pool.dead");
    assert!(!report.is_clean(), "{report}");
    let mut done = with_no_task();
    done.may_end.insert("n".to_owned(), vec![Status::Rejected]);
    done.replies[1].status = Some(Status::Succeeded);
    assert_eq!(
        judge(&done).wrong_status,
        ids(&["n is succeeded"]),
        "it may only be rejected"
    );
}
