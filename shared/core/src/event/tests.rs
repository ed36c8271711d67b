use serde_json::Value;

use super::*;
use crate::id::{ProgrammerId, Token};
use crate::money::MicroUsd;
use crate::result::Usage;

fn batch_of(event: Event) -> EventBatch {
    EventBatch {
        v: 1,
        emitter: EmitterId::from_u128(1),
        first: 0,
        at_ms: 1_767_323_045_678,
        events: vec![event],
    }
}

/// The file was written by the version before events had families.
#[test]
fn each_kind_of_event_is_read_from_an_older_log_and_written_back_unchanged() {
    let mut kinds = std::collections::BTreeSet::new();
    for line in include_str!("recorded.jsonl").lines() {
        let event: Event = serde_json::from_str(line).expect("an event");
        assert_ne!(event, Event::Pool(PoolEvent::Unknown), "known: {line}");
        let written = serde_json::to_string(&event).expect("an event is written");
        let value = |text: &str| serde_json::from_str::<Value>(text).expect("JSON");
        if let Event::Task(TaskEvent::Stated(_)) = event {
            // The fields of a snapshot have another order.
            assert_eq!(value(&written), value(line), "the same values");
        } else {
            assert_eq!(written, line, "the same bytes");
        }
        let reordered: Event = serde_json::from_value(value(line)).expect("an event");
        assert_eq!(reordered, event, "the kind may stand anywhere");
        kinds.insert(value(line)["kind"].to_string());
    }
    assert_eq!(kinds.len(), 22, "all kinds: {kinds:?}");
}

#[test]
fn what_a_newer_version_wrote_is_skipped_and_still_counted() {
    let body = br#"{"v":2,"emitter":"00000000-0000-0000-0000-000000000007","first":3,"at_ms":9,"colour":1,
        "events":[{"kind":"tick"},{"kind":"sung","song":1},{"kind":"published","task":5},{"kind":"published","task":"t","generation":1,"x":2}]}"#;
    let batch = EventBatch::from_json(body).expect("a readable frame");
    let published = TaskPublished {
        task: TaskId::new("t").expect("an id"),
        generation: 1,
    };
    let unknown = || Event::Pool(PoolEvent::Unknown);
    assert_eq!(
        batch.events,
        [
            Event::Pool(PoolEvent::Tick),
            unknown(),
            unknown(),
            published.into()
        ],
        "known events are read, others keep their place"
    );
}

#[test]
fn a_started_event_is_well_under_a_kilobyte() {
    let batch = batch_of(Event::from(TaskStarted {
        task: TaskId::new("t".repeat(64)).expect("an id"),
        attempt: AttemptId::from_u128(u128::MAX),
        programmer: ProgrammerId::new("001").expect("an id"),
        token: Token {
            generation: 1,
            count: 2,
        },
        route: "fast.local".to_owned(),
        body_hash: "0".repeat(32),
    }));
    let bytes = batch.to_json();
    assert!(bytes.len() < 512, "{} bytes", bytes.len());
    assert_eq!(
        EventBatch::from_json(&bytes).ok(),
        Some(batch),
        "reads back"
    );
}

#[test]
fn the_cause_of_a_release_is_read_back_and_older_versions_know_two() {
    for (cause, fields) in [
        (ReleaseCause::Stopped, ""),
        (ReleaseCause::NoLlm, r#","no_llm":true"#),
        (ReleaseCause::NoSandbox, r#","no_sandbox":true"#),
    ] {
        let attempt = AttemptId::from_u128(1);
        let released = TaskReleased {
            task: TaskId::new("t").expect("an id"),
            attempt,
            cause,
        };
        let written = serde_json::to_string(&released).expect("JSON");
        assert_eq!(
            written,
            format!(r#"{{"task":"t","attempt":"{attempt}"{fields}}}"#)
        );
        assert_eq!(
            serde_json::from_str(&written).ok(),
            Some(released),
            "{cause:?}"
        );
    }
}

#[test]
fn what_was_used_is_read_back_and_an_older_version_says_less() {
    let usage = Usage {
        calls: 2,
        output_tokens: 7,
        cost_usd: MicroUsd(5),
        ..Usage::default()
    };
    let batch = batch_of(Event::from(TaskUsed {
        task: TaskId::new("t").expect("an id"),
        attempt: AttemptId::from_u128(1),
        spent: Spent::of(usage),
        so_far: true,
    }));
    assert_eq!(
        EventBatch::from_json(&batch.to_json()).ok(),
        Some(batch),
        "reads back"
    );
    let old: Spent =
        serde_json::from_str(r#"{"cost_usd": "0.10", "tokens": 7}"#).expect("an older version's");
    assert_eq!(
        old,
        Spent {
            cost_usd: MicroUsd(100_000),
            tokens: 7,
            ..Spent::default()
        },
        "the sums"
    );
}
