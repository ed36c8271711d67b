//! Output of limited size: the first and the last bytes are kept.

use std::collections::VecDeque;

/// The beginning is kept because it names versions, models and the first mistake.
const HEAD_BYTES: usize = 16 * 1024;

/// Standard output and standard error of a command, merged. If there is too much, the middle is
/// missing.
#[derive(Debug, Clone)]
pub struct CommandOutput {
    head: Vec<u8>,
    tail: VecDeque<u8>,
    head_limit: usize,
    tail_limit: usize,
    total_bytes: u64,
}

impl CommandOutput {
    /// Keeps at most `limit_bytes`.
    pub fn new(limit_bytes: usize) -> Self {
        let head_limit = HEAD_BYTES.min(limit_bytes / 2);
        let tail_limit = limit_bytes - head_limit;
        Self {
            head: Vec::new(),
            tail: VecDeque::new(),
            head_limit,
            tail_limit,
            total_bytes: 0,
        }
    }

    pub fn push(&mut self, bytes: &[u8]) {
        self.total_bytes += bytes.len() as u64;
        let (head, rest) = bytes.split_at(bytes.len().min(self.head_limit - self.head.len()));
        self.head.extend_from_slice(head);
        let newest = &rest[rest.len().saturating_sub(self.tail_limit)..];
        let surplus = (self.tail.len() + newest.len()).saturating_sub(self.tail_limit);
        self.tail.drain(..surplus);
        self.tail.extend(newest);
    }

    /// The number of bytes that the command printed, including those that were dropped.
    pub fn total_bytes(&self) -> u64 {
        self.total_bytes
    }

    pub fn kept_bytes(&self) -> u64 {
        (self.head.len() + self.tail.len()) as u64
    }

    /// The kept output, as text. A line says how much is missing in the middle.
    pub fn text(&self) -> String {
        let (first, second) = self.tail.as_slices();
        let kept = self.kept_bytes();
        let mut bytes = self.head.clone();
        if self.total_bytes > kept {
            bytes.extend_from_slice(
                format!("\n[… {} bytes left out …]\n", self.total_bytes - kept).as_bytes(),
            );
        }
        bytes.extend_from_slice(first);
        bytes.extend_from_slice(second);
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The last `limit_bytes` as text, starting at the beginning of a line if possible.
    pub fn tail(&self, limit_bytes: usize) -> String {
        let text = self.text();
        if text.len() <= limit_bytes {
            return text;
        }
        let mut start = text.len() - limit_bytes;
        while !text.is_char_boundary(start) {
            start += 1;
        }
        let tail = &text[start..];
        tail.split_once('\n')
            .map_or(
                tail,
                |(_, lines)| if lines.is_empty() { tail } else { lines },
            )
            .to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_and_the_last_bytes_are_kept() {
        let mut output = CommandOutput::new(64 * 1024);
        output.push(b"first line\n");
        for _ in 0..10_000 {
            output.push(b"0123456789abcdef\n");
        }
        output.push(b"last line\n");
        let text = output.text();
        assert!(text.starts_with("first line\n"), "the beginning is there");
        assert!(text.ends_with("last line\n"), "the end is there");
        assert!(text.contains("bytes left out"), "the gap is reported");
        assert!(
            text.len() < 65 * 1024,
            "the kept text has {} bytes",
            text.len()
        );
        assert_eq!(output.total_bytes(), 170_021, "everything is counted");
    }

    #[test]
    fn one_huge_piece_is_cut_like_many_small_ones() {
        let mut output = CommandOutput::new(10);
        output.push(b"abcdefghijklmnopqrstuvwxyz");
        assert_eq!(
            output.text(),
            "abcde\n[… 16 bytes left out …]\nvwxyz",
            "five from each end"
        );
    }

    #[test]
    fn a_tail_begins_at_a_line_and_never_splits_a_character() {
        let mut output = CommandOutput::new(1000);
        output.push("one\ntwo\nthree\näöü\n".as_bytes());
        assert_eq!(output.tail(11), "äöü\n", "the last whole lines");
        assert_eq!(
            output.tail(1000),
            "one\ntwo\nthree\näöü\n",
            "all of a short one"
        );
    }
}
