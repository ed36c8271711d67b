//! The step after each way in which a run can end.

use std::collections::BTreeMap;

use pool_core::task::Before;

use super::*;

const TWO: AttemptBounds = AttemptBounds { llms: 2, runs: 3 };
const ONE: AttemptBounds = AttemptBounds { llms: 1, runs: 3 };

const USELESS: [ErrorKind; 5] = [
    ErrorKind::EditNotApplied,
    ErrorKind::NoChange,
    ErrorKind::LlmEmpty,
    ErrorKind::LlmOutputLimit,
    ErrorKind::LlmBadAnswer,
];

fn failure(kind: ErrorKind) -> TaskFailure {
    TaskFailure::new(kind, format!("it was {}", kind.as_str()))
}

fn run(first_llm: usize, answered_by: Option<usize>, end: RunEnd) -> Run {
    Run {
        first_llm,
        answered_by,
        cut: Vec::new(),
        end,
    }
}

fn failed(llm: usize, kind: ErrorKind) -> Run {
    run(llm, Some(llm), RunEnd::Failed(failure(kind)))
}

fn check_failed(llm: usize) -> Run {
    let repair = "repair it".to_owned();
    run(
        llm,
        Some(llm),
        RunEnd::CheckFailed {
            failure: failure(ErrorKind::AcceptanceFailed),
            repair,
        },
    )
}

#[test]
fn what_passed_is_done_and_an_outage_or_a_missing_sandbox_hands_back() {
    assert_eq!(
        next_run(&[run(0, Some(0), RunEnd::Passed)], TWO),
        NextRun::Done,
        "at once"
    );
    let left = failure(ErrorKind::LlmTimeout);
    for before in [
        vec![],
        vec![failed(0, ErrorKind::NoChange)],
        vec![check_failed(0)],
    ] {
        let mut history = before.clone();
        history.push(run(0, None, RunEnd::NoLlmLeft(left.clone())));
        assert_eq!(
            next_run(&history, TWO),
            NextRun::HandBack(left.clone()),
            "whatever came before: {before:?}"
        );
        let mut history = before;
        history.push(failed(0, ErrorKind::Sandbox));
        assert_eq!(
            next_run(&history, TWO),
            NextRun::HandBack(failure(ErrorKind::Sandbox)),
            "a machine without a sandbox says nothing about the task"
        );
    }
}

#[test]
fn an_answer_of_no_use_goes_to_the_next_llm_and_to_each_once() {
    for kind in USELESS {
        let mut history = vec![failed(0, kind)];
        assert_eq!(
            next_run(&history, TWO),
            NextRun::Again { first_llm: 1 },
            "{kind:?}: the backup begins"
        );
        history.push(failed(1, kind));
        assert_eq!(
            next_run(&history, TWO),
            NextRun::Fail(failure(kind)),
            "{kind:?}: both had their turn"
        );
    }
    let three = AttemptBounds { llms: 3, runs: 9 };
    let mut history = vec![failed(0, ErrorKind::NoChange)];
    let mut order = Vec::new();
    while let NextRun::Again { first_llm } = next_run(&history, three) {
        order.push(first_llm);
        history.push(failed(first_llm, ErrorKind::NoChange));
    }
    assert_eq!(order, [1, 2], "in order");
}

#[test]
fn who_answered_counts_and_not_only_who_was_asked_first() {
    let moved_on = run(0, Some(1), RunEnd::Failed(failure(ErrorKind::NoChange)));
    let expected = NextRun::Again { first_llm: 2 };
    let moved_on = [moved_on];
    assert_eq!(
        next_run(&moved_on, AttemptBounds { llms: 3, runs: 3 }),
        expected,
        "the backup has already given a useless answer"
    );
    let fail = NextRun::Fail(failure(ErrorKind::NoChange));
    let then = [moved_on[0].clone(), failed(2, ErrorKind::NoChange)];
    assert_eq!(
        next_run(&then, AttemptBounds { llms: 3, runs: 9 }),
        fail,
        "and it does not begin a run either"
    );
    assert_eq!(
        next_run(&moved_on, TWO),
        fail,
        "the primary was down, the backup has answered: both had their turn"
    );
}

#[test]
fn an_llm_that_gave_half_an_answer_within_a_call_is_not_asked_again() {
    let half = |first_llm, llms| Run {
        cut: llms,
        ..run(
            first_llm,
            None,
            RunEnd::Failed(failure(ErrorKind::LlmBadAnswer)),
        )
    };
    let fail = NextRun::Fail(failure(ErrorKind::LlmBadAnswer));
    assert_eq!(
        next_run(&[half(0, vec![0, 1])], TWO),
        fail,
        "the call went to both LLMs and cost twice already"
    );
    let three = AttemptBounds { llms: 3, runs: 3 };
    assert_eq!(
        next_run(&[half(0, vec![0, 1])], three),
        NextRun::Again { first_llm: 2 },
        "the third was not asked"
    );
}

#[test]
fn a_lone_llm_gets_a_second_chance_only_for_an_edit_that_did_not_fit() {
    for kind in USELESS {
        let tried = kind == ErrorKind::EditNotApplied;
        let expected = if tried {
            NextRun::Again { first_llm: 0 }
        } else {
            NextRun::Fail(failure(kind))
        };
        assert_eq!(next_run(&[failed(0, kind)], ONE), expected, "{kind:?}");
    }
    let twice = [
        failed(0, ErrorKind::EditNotApplied),
        failed(0, ErrorKind::EditNotApplied),
    ];
    assert_eq!(
        next_run(&twice, ONE),
        NextRun::Fail(failure(ErrorKind::EditNotApplied)),
        "one more, not two"
    );
}

#[test]
fn a_failed_check_is_repaired_as_long_as_there_are_runs() {
    let mut history = vec![check_failed(0)];
    let repair = NextRun::Repair {
        prompt: "repair it".to_owned(),
    };
    assert_eq!(next_run(&history, ONE), repair, "the first repair");
    history.push(check_failed(0));
    assert_eq!(next_run(&history, ONE), repair, "the second");
    history.push(check_failed(0));
    let end = NextRun::Fail(failure(ErrorKind::AcceptanceFailed));
    assert_eq!(next_run(&history, ONE), end, "three runs are all there are");
    assert_eq!(
        next_run(&[check_failed(0)], AttemptBounds { llms: 2, runs: 1 }),
        end,
        "no repair with a single run"
    );
    assert_eq!(
        next_run(
            &[failed(0, ErrorKind::NoChange)],
            AttemptBounds { llms: 2, runs: 1 }
        ),
        NextRun::Fail(failure(ErrorKind::NoChange)),
        "and no other run either"
    );
}

#[test]
fn a_repair_that_came_to_nothing_leaves_the_failed_check() {
    let history = [check_failed(0), failed(0, ErrorKind::NoChange)];
    assert_eq!(
        next_run(&history, TWO),
        NextRun::Again { first_llm: 1 },
        "another LLM may do better, from the start"
    );
    let NextRun::Fail(verdict) = next_run(&history, ONE) else {
        panic!("there is no other LLM")
    };
    assert_eq!(
        verdict.kind,
        ErrorKind::AcceptanceFailed,
        "what is wrong is the check"
    );
    assert!(
        verdict
            .message
            .ends_with("the run to repair it failed: it was no_change"),
        "{}",
        verdict.message
    );
    let NextRun::Fail(verdict) =
        next_run(&[check_failed(0), failed(0, ErrorKind::AgentSilent)], TWO)
    else {
        panic!("an agent that is silent once is silent again")
    };
    assert_eq!(
        verdict.kind,
        ErrorKind::AcceptanceFailed,
        "it had finished, and changed nothing more"
    );
    let history = [check_failed(0), failed(0, ErrorKind::AgentCrashed)];
    assert_eq!(
        next_run(&history, TWO),
        NextRun::Fail(failure(ErrorKind::AgentCrashed)),
        "a crash is reported as one"
    );
}

#[test]
fn every_other_failure_ends_the_attempt() {
    for kind in [
        ErrorKind::Workspace,
        ErrorKind::ChangeRefused,
        ErrorKind::Policy,
        ErrorKind::CheckCannotStart,
        ErrorKind::CheckProvesNothing,
        ErrorKind::AgentConfig,
        ErrorKind::AgentTimeout,
        ErrorKind::AgentSilent,
        ErrorKind::AgentCrashed,
        ErrorKind::AgentFailed,
        ErrorKind::Limit,
        ErrorKind::LlmRateLimited,
        ErrorKind::LlmTimeout,
        ErrorKind::LlmUnavailable,
        ErrorKind::LlmModelUnavailable,
        ErrorKind::LlmAuth,
        ErrorKind::LlmContextTooLong,
        ErrorKind::LlmBadRequest,
        ErrorKind::TokenLimit,
        ErrorKind::Cancelled,
    ] {
        assert_eq!(
            next_run(&[failed(0, kind)], TWO),
            NextRun::Fail(failure(kind)),
            "{kind:?}"
        );
    }
}

fn check(name: &str, run: &[&str]) -> AcceptanceCheck {
    let run = run.iter().map(ToString::to_string).collect();
    AcceptanceCheck {
        name: name.to_owned(),
        run,
        timeout_s: None,
        before: Before::Any,
        overlay: BTreeMap::new(),
        tries: 1,
    }
}

fn report(name: &str, exit_status: Option<i32>, output: &str) -> CheckReport {
    CheckReport {
        name: name.to_owned(),
        exit_status,
        tries: 1,
        duration_ms: 1,
        output_tail: output.to_owned(),
    }
}

#[test]
fn a_repair_prompt_holds_the_task_and_what_the_failed_check_said() {
    let checks = [
        check("builds", &["make"]),
        check("adds", &["python3", "-c", "assert 1 == 2"]),
        check("lints", &["x"]),
    ];
    let reports = [
        report("builds", Some(0), "fine"),
        report("adds", Some(1), "AssertionError\n"),
        report("lints", None, ""),
    ];
    let prompt = repair_prompt("Fix add.", &checks, &reports);
    let expected = "Fix add.\n\nThe files already contain a change for this task, but the acceptance check \
                    \"adds\" failed.\nIts command: python3 -c \"assert 1 == 2\"\nIt exited with status 1. The end of its \
                    output:\n\nAssertionError\n\nThese failed as well: \"lints\".\nFix the code so that this check \
                    passes. Change the code, not the check.\n";
    assert_eq!(
        prompt, expected,
        "all that is needed and nothing of the checks that passed"
    );
    let prompt = repair_prompt("x", &checks[2..], &reports[2..]);
    assert!(prompt.contains("It did not exit by itself."), "{prompt}");
}

#[test]
fn a_repair_prompt_shows_no_output_of_a_check_with_hidden_files() {
    let mut hidden = check("hidden", &["python3", "t.py"]);
    let path = "t.py".parse().expect("a path");
    hidden
        .overlay
        .insert(path, "assert median([1]) == 1".to_owned());
    let said = "t.py: assert median([1]) == 1";
    let prompt = repair_prompt("x", &[hidden], &[report("hidden", Some(1), said)]);
    assert!(
        prompt.contains("It exited with status 1. Its output is not shown")
            && !prompt.contains("median"),
        "{prompt}"
    );
}

#[test]
fn of_much_output_a_repair_prompt_holds_the_end() {
    let output = format!("{}ä the reason", "ä".repeat(4096));
    let prompt = repair_prompt("x", &[check("a", &["a"])], &[report("a", Some(1), &output)]);
    assert!(prompt.contains("ä the reason\n"), "the end is there");
    assert!(prompt.len() < 4096 + 400, "{} bytes", prompt.len());
}

#[test]
fn a_forbidden_change_is_undone_by_a_repair_or_is_the_failure() {
    let refused = || {
        let failure = failure(ErrorKind::ProtectedChanged);
        let repair = "undo it".to_owned();
        run(0, Some(0), RunEnd::Refused { failure, repair })
    };
    let prompt = "undo it".to_owned();
    assert_eq!(
        next_run(&[refused()], ONE),
        NextRun::Repair { prompt },
        "told to undo it"
    );
    let last = [refused(), refused(), refused()];
    assert_eq!(
        next_run(&last, ONE),
        NextRun::Fail(failure(ErrorKind::ProtectedChanged)),
        "no run is left"
    );
    let NextRun::Fail(verdict) = next_run(&[refused(), failed(0, ErrorKind::NoChange)], ONE) else {
        panic!("a repair that did nothing ends it")
    };
    assert_eq!(
        verdict.kind,
        ErrorKind::ProtectedChanged,
        "the forbidden file is still changed"
    );
}
