use ratatui::Terminal;
use ratatui::backend::TestBackend;
use serde_json::{Value, json};

use super::super::WatchFilter;
use super::super::feed::FeedMessage;
use super::super::follow::tests::task;
use super::*;

fn programmer(id: usize) -> Value {
    json!({
        "id": format!("{id:03}"), "agent": format!("Prog-{id:03}"), "port": 6150 + id, "state": "busy", "reason": "working on t1",
        "shut": null, "task": "t1", "since": "2026-01-31T12:00:00Z", "worker": null, "primary_llm": "a/b", "backup_llm": null,
        "current_llm": "a/b", "using_backup": false, "circuit_open": false, "circuit": null, "failures": 0, "capabilities": []
    })
}

pub(in crate::watch) fn live(programmers: usize) -> Live {
    let budget = json!({
        "max_daily_spend_usd": "50", "alert_threshold_usd": "40", "set_for_today": false, "spent_usd": "1.5", "reserved_usd": "0",
        "left_usd": "48.5", "alert": false, "day": null, "day_ends": null, "time_zone": "UTC", "by_llm": {}, "by_programmer": {}
    });
    let route = json!({"queue": "tasks.fast", "name": "fast", "waiting": 3, "waiting_tasks": 3, "running": 1, "oldest_waiting": null, "programmers": ["001"]});
    serde_json::from_value(json!({
        "status": {
            "pool_size": programmers, "available": programmers, "unavailable": 0, "using_backup": 0, "total_queue_depth": 3,
            "open_tasks": 4, "budget": budget, "breakers": [], "routes": [route],
            "programmers": (1..=programmers).map(programmer).collect::<Vec<_>>(),
            "pauses": [{"target": {"what": "all"}, "pause": "pause", "since": "2026-01-31T12:00:00Z"}]
        },
        "counts": {"queued": 3, "running": 1, "succeeded": 12, "failed": 15, "rejected": 1}, "dead": null, "running": {"t1": "words \u{1b}[31m of a task"}
    }))
    .expect("a state")
}

/// The lines of the view.
fn seen(programmers: usize, (width, height): (u16, u16), scrolled: usize) -> Vec<String> {
    let mut follow = Follow::new(WatchFilter::default());
    for heard in [
        FeedMessage::Connected,
        FeedMessage::State(Box::new(live(programmers))),
        FeedMessage::Tasks(vec![task("done", "failed", 1)]),
    ] {
        follow.hear(heard).expect("it goes on");
    }
    let now = "2026-01-31T12:01:05Z".parse().expect("a time");
    let view = WatchView {
        url: "http://pool",
        follow: &follow,
        now,
        colors: true,
        scrolled,
    };
    let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a terminal");
    terminal.draw(|frame| render(frame, &view)).expect("a view");
    let buffer = terminal.backend().buffer();
    let line = |y| {
        (0..width)
            .map(|x| buffer[(x, y)].symbol())
            .collect::<String>()
            .trim_end()
            .to_owned()
    };
    (0..height).map(line).collect()
}

#[test]
fn it_shows_who_does_what_and_what_waits() {
    let lines = seen(2, (100, 30), 0);
    let text = lines.join("\n");
    for part in [
        "2 of 2 available",
        "12 succeeded · 15 failed, 1 rejected",
        "$1.50 of $50.00",
        "paused: the pool for 1 min 05 s",
        "done",
        "failed",
    ] {
        assert!(text.contains(part), "{part}:\n{text}");
    }
    let programmer = lines
        .iter()
        .find(|line| line.starts_with("Prog-001"))
        .expect("the first programmer");
    assert!(
        programmer.contains("busy") && programmer.contains("1 min 05 s"),
        "its state, and for how long: {programmer}"
    );
    assert!(
        programmer.contains("words \u{fffd}[31m of a task (t1)"),
        "the task's summary as plain text: {programmer}"
    );
    assert!(
        text.contains("fast        3"),
        "the number of waiting tasks:\n{text}"
    );
}

#[test]
fn what_does_not_fit_ends_with_a_sign_of_it() {
    let lines = seen(2, (60, 30), 0);
    let programmer = lines
        .iter()
        .find(|line| line.starts_with("Prog-001"))
        .expect("the first programmer");
    assert!(programmer.ends_with('…'), "it is cut: {programmer}");
    assert_eq!(programmer.chars().count(), 60, "at the edge: {programmer}");
}

#[test]
fn on_a_small_terminal_the_tasks_that_have_ended_are_still_there_and_programmers_scroll() {
    let lines = seen(40, (80, 24), 0);
    let text = lines.join("\n");
    assert!(
        text.contains("Prog-001")
            && !text.contains("Prog-040")
            && text.contains("finished    status"),
        "{text}"
    );
    assert!(text.contains("↓ 29 more"), "there are more below:\n{text}");
    assert!(
        !text.contains("tasks wait") && !text.contains("route "),
        "the routes are left out:\n{text}"
    );
    let text = seen(40, (80, 24), 39).join("\n");
    assert!(
        text.contains("Prog-040") && !text.contains("Prog-001"),
        "the last programmers:\n{text}"
    );
    assert!(!text.contains(" more"), "there are no more below:\n{text}");
    seen(40, (20, 5), 0);
}
