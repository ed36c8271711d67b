//! Quotes paths as git does, for its patches, its lists of directories and its attributes.

/// A path in double quotes, with the escapes of C. Everything but printable ASCII is escaped.
pub(super) fn quoted(path: &[u8]) -> String {
    let mut text = String::from("\"");
    for byte in path {
        match byte {
            b'\x07' => text.push_str("\\a"),
            b'\x08' => text.push_str("\\b"),
            b'\t' => text.push_str("\\t"),
            b'\n' => text.push_str("\\n"),
            b'\x0b' => text.push_str("\\v"),
            b'\x0c' => text.push_str("\\f"),
            b'\r' => text.push_str("\\r"),
            b'"' | b'\\' => text.extend(['\\', char::from(*byte)]),
            b' '..=b'~' => text.push(char::from(*byte)),
            other => text.push_str(&format!("\\{other:03o}")),
        }
    }
    text.push('"');
    text
}

/// A path as git shows it: quoted only if a character needs it.
pub(super) fn shown(path: &[u8]) -> String {
    let text = quoted(path);
    if text.len() == path.len() + 2 {
        text.trim_matches('"').to_owned()
    } else {
        text
    }
}

/// A pattern for an attributes file that matches exactly this path.
pub(super) fn attribute_pattern(path: &[u8]) -> String {
    let mut pattern = b"/".to_vec();
    for byte in path {
        if b"*?[\\".contains(byte) {
            pattern.push(b'\\');
        }
        pattern.push(*byte);
    }
    quoted(&pattern)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_quoted_as_git_quotes_them() {
        for (path, expected) in [
            (&b"plain name"[..], "plain name"),
            (b"a\tb", r#""a\tb""#),
            (b"say \"hi\"", r#""say \"hi\"""#),
            (b"caf\xc3\xa9", r#""caf\303\251""#),
            (b"\x01\x7f", r#""\001\177""#),
            (b"\"", r#""\"""#),
        ] {
            assert_eq!(shown(path), expected, "{path:?}");
        }
        assert_eq!(
            attribute_pattern(b"a*[b] \\c"),
            r#""/a\\*\\[b] \\\\c""#,
            "what means something in a pattern is escaped, and then quoted"
        );
    }
}
