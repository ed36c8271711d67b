use proptest::prelude::*;

use super::*;

fn body(text: &str) -> RequestBody {
    RequestBody::read(text.as_bytes()).expect("a JSON object").0
}

fn set(value: &str) -> FieldEdit {
    FieldEdit::Set(value.to_owned())
}

#[test]
fn what_does_not_change_stays_byte_for_byte() {
    let text = "\n { \"z\" : 1.50,\t\"b\":[ 1 ,2], \"big\":123456789012345678901234567890,\"\\u0061\":\"\\u00e9\\/\"} \r\n";
    assert_eq!(body(text).with(&FieldEdits::new()), text, "nothing changes");
    let same = FieldEdits::from([("b", set("[ 1 ,2]"))]);
    assert_eq!(
        body(text).with(&same),
        text,
        "a member that has its value already"
    );
    let changed = FieldEdits::from([("b", set("3")), ("new", set("true"))]);
    let expected = text
        .replace("[ 1 ,2]", "3")
        .replace("\"} \r", "\",\"new\":true} \r");
    assert_eq!(
        body(text).with(&changed),
        expected,
        "one member, and one more at the end"
    );
}

#[test]
fn members_are_taken_out_with_one_comma_wherever_they_stand() {
    let text = r#"{"a":1, "b":2 ,"c":3}"#;
    for (out, expected) in [
        (vec!["a"], r#"{"b":2 ,"c":3}"#),
        (vec!["b"], r#"{"a":1 ,"c":3}"#),
        (vec!["c"], r#"{"a":1, "b":2}"#),
        (vec!["a", "b"], r#"{"c":3}"#),
        (vec!["a", "b", "c"], "{}"),
        (vec!["other"], text),
    ] {
        let changes = out.iter().map(|name| (*name, FieldEdit::Remove)).collect();
        assert_eq!(body(text).with(&changes), expected, "without {out:?}");
    }
    let all = FieldEdits::from([
        ("a", FieldEdit::Remove),
        ("b", FieldEdit::Remove),
        ("c", FieldEdit::Remove),
        ("d", set("4")),
    ]);
    assert_eq!(
        body(text).with(&all),
        r#"{"d":4}"#,
        "another value for all of them"
    );
    assert_eq!(
        body("{ }").with(&FieldEdits::from([("d", set("4"))])),
        r#"{"d":4 }"#,
        "in an empty object"
    );
}

#[test]
fn a_name_that_is_written_with_escapes_is_found() {
    let body = body(r#"{"mod\u0065l":"dear"}"#);
    assert_eq!(body.literal("model"), Some(r#""dear""#), "it is the model");
    assert_eq!(
        body.with(&FieldEdits::from([("model", set("1"))])),
        r#"{"mod\u0065l":1}"#,
        "and is changed in its place"
    );
}

#[test]
fn what_two_parsers_may_read_differently_is_refused() {
    for (text, part) in [
        (r#"{"n":1,"n":2}"#, "`n` twice"),
        (r#"{"n":1,"\u006e":2}"#, "`n` twice"),
        (
            r#"{"a":[{"type":"text","x":0,"type":"image"}]}"#,
            "`type` twice",
        ),
        ("\u{feff}{}", "not a JSON object"),
        ("{} {}", "not a JSON object"),
        ("{\"a\":1,}", "not a JSON object"),
        ("{\"a\":NaN}", "not a JSON object"),
        ("[]", "not a JSON object"),
        ("\"x\"", "not a JSON object"),
    ] {
        let message = RequestBody::read(text.as_bytes())
            .expect_err(text)
            .to_string();
        assert!(
            message.contains(part),
            "{text} gave {message:?}, without {part:?}"
        );
    }
    assert!(RequestBody::read(b"{\"a\":\"\xff\"}").is_err(), "no UTF-8");
    assert!(
        RequestBody::read(&[b"{\"a\":".as_slice(), &vec![b'['; 100_000]].concat()).is_err(),
        "endless nesting"
    );
}

#[test]
fn a_known_name_in_other_letters_is_found() {
    for (text, found) in [
        (r#"{"model":1,"Model":2}"#, Some("Model")),
        (r#"{"MAX_TOKENS":1}"#, Some("MAX_TOKENS")),
        ("{\"max_to\u{212a}ens\":1}", Some("max_to\u{212a}ens")),
        ("{\"\u{17f}tream\":1}", Some("\u{17f}tream")),
        (r#"{"model":1,"topK":2,"Stop":3}"#, None),
    ] {
        let known = |name: &str| ["model", "max_tokens", "stream"].contains(&name);
        assert_eq!(body(text).look_alike(known), found, "{text}");
    }
}

proptest! {
    #[test]
    fn an_edited_body_is_the_edited_object(
        fields in proptest::collection::btree_map("[a-e]", "[ -~]{0,8}", 0..5), out in "[a-e]", other in "[a-e]",
    ) {
        let object: Map<String, Value> = fields.into_iter().map(|(name, text)| (name, text.into())).collect();
        let names = ["a", "b", "c", "d", "e"];
        let find = |name: &str| *names.iter().find(|known| **known == name).expect("a name");
        let changes = FieldEdits::from([(find(&out), FieldEdit::Remove), (find(&other), set("7"))]);
        let edited = body(&Value::Object(object.clone()).to_string()).with(&changes);
        let mut expected = object;
        expected.remove(&out);
        expected.insert(other, 7.into());
        let edited: Value = serde_json::from_str(&edited).expect("still JSON");
        prop_assert_eq!(edited, Value::Object(expected));
    }
}
