//! The decision table, row by row, and the rules that always hold.

use std::time::Duration;

use agent_sandbox::{Exceeded, RunLimit};
use pool_core::id::LlmName;
use pool_core::money::MicroUsd;
use proptest::prelude::*;

use super::*;
use crate::sandbox::warm::StartKind;
use crate::sandbox::{CommandOutput, Denials};
use llm_gateway::class::{Cap, Cut};
use llm_gateway::permits::{Unavailable, UnavailableReason};

fn aider() -> AgentKind {
    AgentKind::Aider {
        program: "aider".into(),
        edit_format: "diff".to_owned(),
    }
}

fn command() -> AgentKind {
    AgentKind::Command {
        env: Vec::new(),
        argv: vec!["agent".to_owned()],
    }
}

fn run(exit: Exit, evidence: AgentEvidence) -> AgentRun {
    AgentRun {
        may_live: false,
        exit,
        output: CommandOutput::new(0),
        evidence,
        duration: Duration::from_secs(7),
        start: StartKind::Usual,
        denials: Denials::default(),
    }
}

fn limit() -> Exceeded {
    Exceeded {
        limit: RunLimit::Disk,
        used: 2,
        allowed: 1,
    }
}

fn call(class: CallClass) -> CallRecord {
    CallRecord {
        llm: LlmName::new("p/m").expect("an LLM"),
        class,
        status: None,
        message: String::new(),
        finish_reason: Some("stop".to_owned()),
        empty: false,
        input_tokens: 10,
        cached_input_tokens: 0,
        output_tokens: 10,
        estimated: false,
        cost: MicroUsd::ZERO,
        prompt_cut: false,
        duration: Duration::from_secs(1),
    }
}

fn record(calls: Vec<CallRecord>) -> RunRecord {
    RunRecord {
        calls,
        ..RunRecord::default()
    }
}

fn ok() -> RunRecord {
    record(vec![call(CallClass::Ok)])
}

/// Evidence of a run that went well in all respects.
fn good() -> AiderEvidence {
    AiderEvidence {
        launched: true,
        asked: 1,
        answered: true,
        output_tokens: Some(29),
        applied: true,
        ..AiderEvidence::default()
    }
}

fn kind(result: &Result<Edit, TaskFailure>) -> Result<Edit, ErrorKind> {
    result
        .as_ref()
        .map(|edit| *edit)
        .map_err(|failure| failure.kind)
}

fn failures() -> Vec<(CallClass, ErrorKind)> {
    let every = [
        CallClass::Ok,
        CallClass::RateLimited {
            retry_after: Some(Duration::from_secs(3)),
        },
        CallClass::RateLimited { retry_after: None },
        CallClass::Timeout,
        CallClass::UNAVAILABLE,
        CallClass::ModelUnavailable,
        CallClass::Auth,
        CallClass::ContextTooLong,
        CallClass::BadRequest,
        CallClass::BadAnswer,
        CallClass::Cut(Cut::OutputLimit),
        CallClass::Cut(Cut::TaskLimit(Cap::Tokens)),
        CallClass::Cut(Cut::Filtered),
        CallClass::Cut(Cut::Unfinished),
        CallClass::Refused(Cap::Tokens),
        CallClass::Refused(Cap::Cost),
    ];
    let expected = |class: &CallClass| match class {
        CallClass::Ok => None,
        CallClass::RateLimited { .. } => Some(ErrorKind::LlmRateLimited),
        CallClass::Timeout => Some(ErrorKind::LlmTimeout),
        CallClass::Unavailable { .. } => Some(ErrorKind::LlmUnavailable),
        CallClass::ModelUnavailable => Some(ErrorKind::LlmModelUnavailable),
        CallClass::Auth => Some(ErrorKind::LlmAuth),
        CallClass::ContextTooLong => Some(ErrorKind::LlmContextTooLong),
        CallClass::BadRequest => Some(ErrorKind::LlmBadRequest),
        CallClass::BadAnswer => Some(ErrorKind::LlmBadAnswer),
        CallClass::Cut(Cut::OutputLimit) => Some(ErrorKind::LlmOutputLimit),
        CallClass::Cut(Cut::Filtered | Cut::Unfinished) => Some(ErrorKind::LlmBadAnswer),
        CallClass::Cut(Cut::TaskLimit(_)) | CallClass::Refused(_) => Some(ErrorKind::TokenLimit),
    };
    every
        .into_iter()
        .filter_map(|class| expected(&class).map(|kind| (class, kind)))
        .collect()
}

#[test]
fn a_failed_last_call_decides_whatever_the_agent_says() {
    for (class, expected) in failures() {
        let record = record(vec![call(CallClass::Ok), call(class.clone())]);
        for changed in [false, true] {
            for status in [0, 1, 2, 3] {
                for (kind_of_agent, evidence) in [
                    (aider(), AgentEvidence::Aider(good())),
                    (command(), AgentEvidence::None),
                ] {
                    let result = judge(
                        &kind_of_agent,
                        &run(Exit::Status(status), evidence),
                        &record,
                        changed,
                    );
                    assert_eq!(
                        kind(&result),
                        Err(expected),
                        "{class:?}, status {status}, changed {changed}"
                    );
                }
            }
            for exit in [Exit::TimedOut, Exit::Silent, Exit::Done] {
                let result = judge(
                    &aider(),
                    &run(exit, AgentEvidence::Aider(good())),
                    &record,
                    changed,
                );
                assert_eq!(
                    kind(&result),
                    Err(expected),
                    "{class:?}, {exit:?}: the cause, not its consequence"
                );
            }
        }
    }
}

#[test]
fn a_call_that_failed_and_was_repeated_well_is_no_failure() {
    for (class, _) in failures() {
        let record = record(vec![call(class.clone()), call(CallClass::Ok)]);
        let result = judge(
            &aider(),
            &run(Exit::Status(0), AgentEvidence::Aider(good())),
            &record,
            true,
        );
        assert_eq!(kind(&result), Ok(Edit::Whole), "{class:?} was overcome");
    }
}

#[test]
fn how_the_worker_saw_a_run_end_comes_first() {
    let open = RunRecord {
        open_calls: 1,
        ..RunRecord::default()
    };
    for (exit, record, expected) in [
        (Exit::Cancelled, ok(), ErrorKind::Cancelled),
        (Exit::TimedOut, open.clone(), ErrorKind::LlmTimeout),
        (Exit::TimedOut, ok(), ErrorKind::AgentTimeout),
        (Exit::Silent, open, ErrorKind::AgentSilent),
        (Exit::Signal(9), ok(), ErrorKind::AgentCrashed),
        (Exit::Limit(limit()), ok(), ErrorKind::Limit),
    ] {
        for agent in [aider(), command(), AgentKind::Noop] {
            for changed in [false, true] {
                let result = judge(
                    &agent,
                    &run(exit, AgentEvidence::Aider(good())),
                    &record,
                    changed,
                );
                assert_eq!(kind(&result), Err(expected), "{agent:?}, {exit:?}");
            }
        }
    }
}

#[test]
fn an_agent_that_changed_something_and_fell_silent_has_finished_unless_it_was_about_to_go_on() {
    let ended = |reason: &str| {
        let mut call = call(CallClass::Ok);
        call.finish_reason = Some(reason.to_owned());
        record(vec![call])
    };
    let cut = record(vec![call(CallClass::Cut(Cut::OutputLimit))]);
    let (aiders, none) = (AgentEvidence::Aider(good()), AgentEvidence::None);
    let unapplied = AgentEvidence::Aider(AiderEvidence {
        applied: false,
        ..good()
    });
    let half = AgentEvidence::Aider(AiderEvidence {
        refused: true,
        ..good()
    });
    let silent = Err(ErrorKind::AgentSilent);
    for (what, agent, evidence, record, changed, expected) in [
        (
            "no LLM at all",
            command(),
            none.clone(),
            record(vec![]),
            true,
            Ok(Edit::Whole),
        ),
        (
            "a last answer",
            command(),
            none.clone(),
            ended("stop"),
            true,
            Ok(Edit::Whole),
        ),
        (
            "it was to run a tool",
            command(),
            none.clone(),
            ended("tool_calls"),
            true,
            Ok(Edit::Unfinished),
        ),
        (
            "the same with Anthropic",
            command(),
            none.clone(),
            ended("tool_use"),
            true,
            Ok(Edit::Unfinished),
        ),
        (
            "it says when it is done",
            command(),
            AgentEvidence::NoLastEvent,
            ended("stop"),
            true,
            Ok(Edit::Unfinished),
        ),
        ("no change", command(), none, ended("stop"), false, silent),
        (
            "aider's edit",
            aider(),
            aiders.clone(),
            ok(),
            true,
            Ok(Edit::Whole),
        ),
        ("aider's empty file", aider(), unapplied, ok(), true, silent),
        (
            "aider's half edit",
            aider(),
            half,
            ok(),
            true,
            Ok(Edit::Partial),
        ),
        (
            "a cut answer of aider's",
            aider(),
            aiders,
            cut,
            true,
            Err(ErrorKind::LlmOutputLimit),
        ),
    ] {
        let result = judge(&agent, &run(Exit::Silent, evidence), &record, changed);
        assert_eq!(kind(&result), expected, "{what}");
    }
}

#[test]
fn an_agent_that_said_that_it_is_done_is_judged_as_if_it_had_ended_by_itself() {
    for (record, changed, expected) in [
        (ok(), true, Ok(Edit::Whole)),
        (record(vec![]), true, Ok(Edit::Whole)),
        (ok(), false, Err(ErrorKind::NoChange)),
        (
            record(vec![call(CallClass::Timeout)]),
            true,
            Err(ErrorKind::LlmTimeout),
        ),
    ] {
        let result = judge(
            &command(),
            &run(Exit::Done, AgentEvidence::None),
            &record,
            changed,
        );
        assert_eq!(kind(&result), expected, "{record:?}, changed {changed}");
    }
}

/// One row of the table: aider's exit status, its evidence, and the gateway's record.
struct Row {
    name: &'static str,
    status: i32,
    evidence: AiderEvidence,
    record: RunRecord,
    changed: bool,
    expected: Result<Edit, ErrorKind>,
}

fn row(name: &'static str, expected: Result<Edit, ErrorKind>) -> Row {
    Row {
        name,
        status: 0,
        evidence: good(),
        record: ok(),
        changed: true,
        expected,
    }
}

fn rows_of_starting() -> Vec<Row> {
    let nothing = AiderEvidence::default;
    vec![
        Row {
            status: 2,
            evidence: nothing(),
            record: record(vec![]),
            ..row("bad option", Err(ErrorKind::AgentConfig))
        },
        Row {
            status: 1,
            ..row("status 1", Err(ErrorKind::AgentConfig))
        },
        Row {
            status: 3,
            ..row("another status", Err(ErrorKind::AgentFailed))
        },
        Row {
            evidence: nothing(),
            record: record(vec![]),
            ..row("never launched", Err(ErrorKind::AgentConfig))
        },
        Row {
            evidence: AiderEvidence {
                launched: true,
                ..nothing()
            },
            record: record(vec![]),
            ..row("asked nobody", Err(ErrorKind::AgentConfig))
        },
    ]
}

fn rows_of_answers() -> Vec<Row> {
    let unanswered = || AiderEvidence {
        answered: false,
        applied: false,
        ..good()
    };
    let with = |change: fn(&mut CallRecord)| {
        let mut call = call(CallClass::Ok);
        change(&mut call);
        record(vec![call])
    };
    vec![
        Row {
            evidence: AiderEvidence {
                stumbled: true,
                ..good()
            },
            ..row("stumbled", Err(ErrorKind::LlmBadAnswer))
        },
        Row {
            evidence: unanswered(),
            ..row("an edit, then no answer", Err(ErrorKind::LlmUnavailable))
        },
        Row {
            evidence: AiderEvidence {
                llm_error: Some(ErrorKind::LlmAuth),
                ..unanswered()
            },
            record: record(vec![]),
            ..row(
                "no answer, the gateway was not reached",
                Err(ErrorKind::LlmAuth),
            )
        },
        Row {
            record: with(|call| call.class = CallClass::Cut(Cut::OutputLimit)),
            ..row("cut answer", Err(ErrorKind::LlmOutputLimit))
        },
        Row {
            record: with(|call| call.empty = true),
            ..row("empty answer", Err(ErrorKind::LlmEmpty))
        },
        Row {
            evidence: AiderEvidence {
                output_tokens: Some(0),
                token_limit: true,
                ..good()
            },
            ..row("context exceeded", Err(ErrorKind::LlmContextTooLong))
        },
        Row {
            evidence: AiderEvidence {
                empty: true,
                ..good()
            },
            ..row("said empty", Err(ErrorKind::LlmEmpty))
        },
        Row {
            evidence: AiderEvidence {
                output_tokens: Some(1),
                ..good()
            },
            record: record(vec![]),
            ..row("one token, no record", Err(ErrorKind::LlmEmpty))
        },
        Row {
            evidence: AiderEvidence {
                output_tokens: Some(0),
                ..good()
            },
            ..row(
                "no usage reported, the gateway saw an answer",
                Ok(Edit::Whole),
            )
        },
    ]
}

fn rows_of_edits() -> Vec<Row> {
    let refused = || AiderEvidence {
        refused: true,
        ..good()
    };
    vec![
        Row {
            evidence: refused(),
            changed: false,
            ..row("no edit fits", Err(ErrorKind::EditNotApplied))
        },
        Row {
            changed: false,
            ..row("no change", Err(ErrorKind::NoChange))
        },
        Row {
            evidence: AiderEvidence {
                applied: false,
                ..good()
            },
            ..row("an empty file was made, no edit", Err(ErrorKind::NoChange))
        },
        Row {
            evidence: refused(),
            ..row("one edit fits, another does not", Ok(Edit::Partial))
        },
        row("edited", Ok(Edit::Whole)),
    ]
}

#[test]
fn the_table_for_aider() {
    for row in rows_of_starting()
        .into_iter()
        .chain(rows_of_answers())
        .chain(rows_of_edits())
    {
        let run = run(Exit::Status(row.status), AgentEvidence::Aider(row.evidence));
        let result = judge(&aider(), &run, &row.record, row.changed);
        assert_eq!(kind(&result), row.expected, "{}", row.name);
    }
}

#[test]
fn the_table_for_other_agents() {
    for (agent, status, record, changed, expected) in [
        (command(), 0, ok(), true, Ok(Edit::Whole)),
        (command(), 0, record(vec![]), true, Ok(Edit::Whole)),
        (command(), 0, ok(), false, Err(ErrorKind::NoChange)),
        (command(), 1, ok(), true, Err(ErrorKind::AgentFailed)),
        (AgentKind::Noop, 0, record(vec![]), false, Ok(Edit::Nothing)),
    ] {
        let result = judge(
            &agent,
            &run(Exit::Status(status), AgentEvidence::None),
            &record,
            changed,
        );
        assert_eq!(
            kind(&result),
            expected,
            "{agent:?}, status {status}, changed {changed}"
        );
    }
}

#[test]
fn a_message_names_the_llm_and_what_it_said() {
    let mut failed = call(CallClass::RateLimited {
        retry_after: Some(Duration::from_secs(3)),
    });
    (failed.status, failed.message) = (Some(429), "slow down".to_owned());
    let result = judge(
        &command(),
        &run(Exit::Status(0), AgentEvidence::None),
        &record(vec![failed]),
        true,
    );
    let expected = "the last call of p/m failed: rate limited, again in 3 s (HTTP 429): slow down";
    assert_eq!(
        result.expect_err("a failure").message,
        expected,
        "for people"
    );
}

fn any_evidence() -> impl Strategy<Value = AiderEvidence> {
    let words = any::<[bool; 6]>();
    (
        words,
        any::<bool>(),
        0..3_u32,
        proptest::option::of(0..3_u64),
    )
        .prop_map(|(flags, empty, asked, output_tokens)| {
            let [launched, answered, stumbled, applied, refused, token_limit] = flags;
            let llm_error = token_limit.then_some(ErrorKind::LlmOutputLimit);
            AiderEvidence {
                launched,
                asked,
                answered,
                stumbled,
                output_tokens,
                applied,
                refused,
                token_limit,
                empty,
                llm_error,
            }
        })
}

proptest! {
    #[test]
    fn aider_succeeds_only_with_a_change_an_answer_and_status_0(
        evidence in any_evidence(), status in 0..4_i32, changed: bool, failed in 0..16_usize,
    ) {
        let class = failures().get(failed).map_or(CallClass::Ok, |(class, _)| class.clone());
        let result = judge(&aider(), &run(Exit::Status(status), AgentEvidence::Aider(evidence.clone())),
            &record(vec![call(class.clone())]), changed);
        if result.is_ok() {
            let sound = changed && status == 0 && class == CallClass::Ok && evidence.answered && !evidence.stumbled;
            prop_assert!(sound, "a success without evidence: {evidence:?}");
        }
    }
}

#[test]
fn a_run_for_which_no_llm_was_left_has_the_class_of_the_last_one_and_names_all() {
    let name = |llm: &str| LlmName::new(llm).expect("an LLM");
    let shut = |reason| {
        NotAnswered::Unavailable(Unavailable {
            reason,
            detail: "until 12:05".to_owned(),
        })
    };
    let failed = |class| NotAnswered::Failed(class);
    let exit = |exit| run(exit, AgentEvidence::None);
    for (llms, calls, expected, part) in [
        (
            vec![
                (name("p/a"), failed(CallClass::Auth)),
                (name("p/m"), failed(CallClass::Timeout)),
            ],
            vec![call(CallClass::Auth), call(CallClass::Timeout)],
            ErrorKind::LlmTimeout,
            "no LLM is left (p/a: auth; p/m: timeout); the last call of p/m failed: timed out",
        ),
        (
            vec![
                (name("p/m"), failed(CallClass::Timeout)),
                (name("p/b"), shut(UnavailableReason::Budget)),
            ],
            vec![call(CallClass::Timeout)],
            ErrorKind::LlmTimeout,
            "p/b: budget (until 12:05)",
        ),
        (
            vec![(name("p/m"), shut(UnavailableReason::Breaker))],
            vec![call(CallClass::Ok)],
            ErrorKind::LlmUnavailable,
            "no LLM is left (p/m: breaker (until 12:05))",
        ),
        (
            vec![(name("p/m"), failed(CallClass::Timeout))],
            vec![call(CallClass::Timeout)],
            ErrorKind::LlmTimeout,
            "the last call of p/m failed: timed out",
        ),
    ] {
        let record = RunRecord {
            calls,
            open_calls: 0,
            no_llm_left: Some(NoLlmLeft { llms }),
        };
        for kind in [command(), aider()] {
            let failure =
                judge(&kind, &exit(Exit::Status(0)), &record, true).expect_err("no success");
            assert_eq!(failure.kind, expected, "{record:?}");
            assert!(
                failure.message.contains(part),
                "{part:?} is in {:?}",
                failure.message
            );
        }
        for (how, left) in [
            (Exit::Status(0), true),
            (Exit::Status(1), true),
            (Exit::TimedOut, true),
            (Exit::Silent, true),
            (Exit::Done, true),
            (Exit::Signal(11), false),
            (Exit::Limit(limit()), false),
            (Exit::Cancelled, false),
        ] {
            let run = exit(how);
            assert_eq!(no_llm_left(&run, &record).is_some(), left, "{how:?}");
            let is_llms = judge(&command(), &run, &record, true)
                .expect_err("no success")
                .kind
                == expected;
            assert_eq!(is_llms, left, "{how:?}: and the judgement says the same");
        }
    }
    assert_eq!(
        no_llm_left(&exit(Exit::Status(0)), &ok()),
        None,
        "with an answer one was left"
    );
}
