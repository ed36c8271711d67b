use super::*;
use crate::id::TaskId;
use crate::result::{CheckReport, Usage};
use crate::task::TaskMessage;
use crate::time::Timestamp;

/// A byte of it takes six in JSON.
const WORST: &str = "\u{1}";

/// As large as an agent and a task can make it, in the characters that grow most in JSON.
fn largest() -> ResultMessage {
    let task = format!(
        r#"{{"instruction": "{}", "repository": "app"}}"#,
        "x".repeat(1_000_000)
    );
    let failure = TaskFailure::new(ErrorKind::AcceptanceFailed, WORST.repeat(3_000_000));
    let mut result = ResultMessage::without_attempt(TaskId::new("t").ok(), Status::Failed, failure);
    let check = |n| CheckReport {
        name: format!("{n}{}", WORST.repeat(120)),
        exit_status: None,
        tries: 1,
        duration_ms: 1,
        output_tail: WORST.repeat(1_000_000),
    };
    result.acceptance = (0..32).map(check).collect();
    result.files_changed = (0..80_000)
        .map(|n| format!("{n:06}{}", WORST.repeat(249)))
        .collect();
    result.patch = Some(WORST.repeat(crate::result::MAX_PATCH_BYTES));
    result.log_tail = WORST.repeat(4096);
    result.sandbox.hints = vec![WORST.repeat(512); 8];
    result.task = TaskMessage::parse(task.as_bytes(), Timestamp(0))
        .ok()
        .map(Box::new);
    assert!(result.task.is_some(), "a task as large as they get");
    result
}

fn fitted(mut result: ResultMessage, limit: usize) -> ResultMessage {
    result.fit(limit);
    let bytes = result.to_json().len();
    assert!(bytes <= limit, "{bytes} bytes fit into {limit}");
    result
}

#[test]
fn whatever_was_produced_fits_and_says_what_is_missing() {
    let result = fitted(largest(), MAX_RESULT_BYTES);
    assert!(
        result.patch.is_some() && !result.patch_truncated,
        "the patch has a limit of its own: {result:?}"
    );
    assert!(result.task.is_some(), "the task too");
    assert!(
        result.files_changed_truncated && result.texts_truncated,
        "lists and texts were cut"
    );
    assert_eq!(result.files_changed_total, 80_000, "their number stays");
    assert!(
        !result.files_changed.is_empty() && result.files_changed[0].starts_with("000000"),
        "the first ones"
    );
    let message = result.error.expect("an error").message;
    assert!(
        message.starts_with(WORST) && message.ends_with(GAP),
        "the beginning of what went wrong"
    );
    assert!(
        result.acceptance[31].output_tail.starts_with(GAP),
        "the end of what a check has printed"
    );
}

#[test]
fn what_fits_stays_as_it_is() {
    let mut result = ResultMessage::cancelled(TaskId::new("t").expect("an id"), Usage::default());
    result.files_changed = vec!["a".to_owned(), "b".to_owned()];
    result.log_tail = "äöü\n".repeat(1000);
    let mut expected = result.clone();
    expected.files_changed_total = 2;
    assert_eq!(fitted(result, MAX_RESULT_BYTES), expected, "nothing is cut");
}

#[test]
fn a_lower_limit_takes_first_what_can_be_found_elsewhere() {
    let mut committed = largest();
    (committed.status, committed.error) = (Status::Succeeded, None);
    committed.commit = Some("0".repeat(40));
    let result = fitted(committed.clone(), 3_000_000);
    assert!(
        result.patch_truncated && result.patch.is_none(),
        "the patch is in the commit"
    );
    assert!(result.task.is_some(), "the task is nowhere else");
    assert_eq!(
        (result.status, &result.error),
        (Status::Succeeded, &None),
        "the change can be had"
    );
    for limit in [100_000, 10_000, 3_000] {
        let result = fitted(committed.clone(), limit);
        assert_eq!(
            (result.status, result.commit.is_some()),
            (Status::Succeeded, true),
            "{limit}: the essentials"
        );
        assert_eq!(
            result.files_changed_total, 80_000,
            "{limit}: how many files there are"
        );
    }
}

#[test]
fn a_success_whose_patch_is_all_there_is_does_not_outlive_its_patch() {
    let mut patched = largest();
    (patched.status, patched.error, patched.files_changed) = (Status::Succeeded, None, Vec::new());
    let result = fitted(patched.clone(), 7_000_000);
    assert_eq!(
        (result.status, result.patch.is_some()),
        (Status::Succeeded, true),
        "all else goes first"
    );
    let result = fitted(patched, 1_000_000);
    let kind = result.error.as_ref().map(|error| error.kind);
    assert_eq!(
        (result.status, kind),
        (Status::Failed, Some(ErrorKind::PatchTooLarge)),
        "{result:?}"
    );
    assert!(result.patch_truncated, "and it is said");
    let mut failed = largest();
    failed.fit(1_000_000);
    let kind = failed.error.as_ref().map(|error| error.kind);
    assert_eq!(
        kind,
        Some(ErrorKind::AcceptanceFailed),
        "another failure stays what it is"
    );
}

#[test]
fn a_text_is_cut_between_characters_to_what_it_takes_in_json() {
    let cut = |limit| {
        let (mut end, mut beginning) = ("äö\n€\"x".to_owned(), "äö\n€\"x".to_owned());
        assert!(
            keep_end(&mut end, limit) && keep_beginning(&mut beginning, limit),
            "{limit}"
        );
        assert!(
            json_bytes(&end) <= limit && json_bytes(&beginning) <= limit,
            "{end:?} {beginning:?}: {limit}"
        );
        (end, beginning)
    };
    assert_eq!(
        cut(7),
        ("[…]".to_owned(), "[…]".to_owned()),
        "no room for any of it"
    );
    assert_eq!(
        cut(11),
        ("[…]\"x".to_owned(), "äö[…]".to_owned()),
        "a quote takes two"
    );
}
