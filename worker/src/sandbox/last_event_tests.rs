use proptest::prelude::*;

use super::*;

fn finder(event: &str) -> Finder {
    Finder::new(LastEvent::new(event))
}

fn finds(event: &str, printed: &str) -> bool {
    finder(event).push(printed.as_bytes())
}

const RESULT: &str = r#"{"type": "result"}"#;

#[test]
fn a_text_is_found_wherever_it_stands_in_a_line() {
    assert!(
        finds("turn.completed", "x\n{\"type\":\"turn.completed\"}\n"),
        "inside a line"
    );
    assert!(finds("All done", "All done"), "a line without an end");
    assert!(!finds("All done", "All\ndone"), "not over two lines");
    assert!(
        finds("All done", &format!("{}All done", "x".repeat(3_000_000))),
        "at the end of a very long line"
    );
}

#[test]
fn fields_are_found_in_a_json_object_of_their_own_line() {
    for printed in [
        "{\"type\":\"result\",\"subtype\":\"success\"}\n",
        "  { \"subtype\" : 1, \"type\" : \"result\" }\r\n",
        "{\"type\":\"result\"}",
    ] {
        assert!(finds(RESULT, printed), "{printed:?}");
    }
    for printed in [
        "{\"type\":\"assistant\",\"text\":\"{\\\"type\\\":\\\"result\\\"}\"}\n",
        "cat: {\"type\":\"result\"}\n",
        "{\"inner\":{\"type\":\"result\"}}\n",
        "{\"type\":\"result\"\n}\n",
        "[\"type\"]\n",
        "{\"type\":\"results\"}\n",
    ] {
        assert!(!finds(RESULT, printed), "{printed:?}");
    }
    let event = r#"{"type": "item", "item": {"kind": "end"}}"#;
    assert!(
        finds(
            event,
            "{\"type\":\"item\",\"item\":{\"kind\":\"end\",\"id\":7}}\n"
        ),
        "objects likewise"
    );
    assert!(
        !finds(event, "{\"type\":\"item\",\"item\":{\"kind\":\"begin\"}}\n"),
        "with their values"
    );
}

#[test]
fn a_long_event_is_read_and_a_longer_line_is_none_and_fills_no_memory() {
    let event = |length| {
        format!(
            "{{\"type\":\"result\",\"result\":\"{}\"}}\n",
            "x".repeat(length)
        )
    };
    assert!(finds(RESULT, &event(1_000_000)), "a long answer");
    let mut finder = finder(RESULT);
    assert!(
        !finder.push(event(5_000_000).as_bytes()),
        "a longer one is not kept"
    );
    assert!(
        finder.line.capacity() <= 2 * MAX_LINE_BYTES,
        "{} bytes",
        finder.line.capacity()
    );
    assert!(
        finder.push(event(10).as_bytes()),
        "the next line is read again"
    );
}

#[test]
fn colours_and_titles_are_no_part_of_a_line() {
    for printed in [
        "\u{1b}[1;32m{\"type\":\u{1b}[0m\"result\"}\u{1b}[0m\n",
        "\u{1b}]0;a title\u{7}{\"type\":\"result\"}\n",
        "\u{1b}]8;;http://x\u{1b}\\{\"type\":\"result\"}\n",
        "\u{1b}]a title without an end\n{\"type\":\"result\"}\n",
        "50 %\r\u{1b}[2K\u{1b}(B{\"type\":\"result\"}\n",
    ] {
        assert!(finds(RESULT, printed), "{printed:?}");
    }
}

proptest! {
    #[test]
    fn where_the_output_is_split_makes_no_difference(cuts in proptest::collection::vec(0_usize..80, 0..6)) {
        let printed = "first\n\u{1b}[1m{\"type\":\"resu\u{1b}[0mlt\",\"result\":\"äö\"}\nlast\n";
        for event in [RESULT, "result\",\"result"] {
            let mut finder = finder(event);
            let mut ends: Vec<usize> = cuts.iter().map(|cut| cut % printed.len()).chain([printed.len()]).collect();
            ends.sort_unstable();
            let mut begin = 0;
            let mut found = false;
            for end in ends {
                found |= finder.push(&printed.as_bytes()[begin..end]);
                begin = end;
            }
            prop_assert!(found, "{event} split at {cuts:?}");
        }
    }
}
