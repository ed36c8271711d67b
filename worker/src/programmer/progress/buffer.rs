//! Output that was printed and not published yet, cut into pieces. Pure.
//!
//! If there is too much, the newest part is kept. So a gap is always before a piece, and the end of
//! an attempt is never missing.

use std::collections::VecDeque;

/// The most bytes of one piece, and of one attempt before its end.
const PIECE_BYTES: usize = 16 * 1024;
const ATTEMPT_BYTES: usize = 512 * 1024;

#[derive(Debug, Default)]
pub(super) struct Buffer {
    /// One part for each agent or check that printed, in order. Only the last one grows.
    parts: VecDeque<OutputPart>,
    /// Bytes of all parts.
    waiting: usize,
    /// Bytes of the whole attempt.
    sent: usize,
    /// The limit was reached and reported: nothing more is published before the end.
    silent: bool,
}

#[derive(Debug, Default)]
struct OutputPart {
    check: Option<String>,
    bytes: Vec<u8>,
    /// Bytes that were dropped between the last piece and this one.
    skipped: u64,
    /// A check that has not been reported yet. It is reported even before it prints anything.
    untold: bool,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) check: Option<String>,
    pub(super) skipped: u64,
    pub(super) text: String,
    /// The last piece before the end.
    pub(super) silent: bool,
}

impl Buffer {
    pub(super) fn begin(&mut self, check: Option<String>) {
        self.parts.push_back(OutputPart {
            untold: check.is_some(),
            check,
            ..OutputPart::default()
        });
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        let Some(part) = self.parts.back_mut() else {
            return;
        };
        part.bytes.extend_from_slice(bytes);
        self.waiting += bytes.len();
        for part in &mut self.parts {
            let surplus = self
                .waiting
                .saturating_sub(PIECE_BYTES)
                .min(part.bytes.len());
            part.skip(surplus);
            self.waiting -= surplus;
        }
    }

    /// Counts this many bytes as dropped.
    pub(super) fn lose(&mut self, bytes: u64) {
        if let Some(part) = self.parts.back_mut() {
            part.skipped += bytes;
        }
    }

    /// Takes the pieces to publish: whole lines if there are any, and always whole characters.
    pub(super) fn take(&mut self, end: bool) -> Vec<Piece> {
        if self.silent && !end {
            return Vec::new();
        }
        let (mut pieces, before) = (Vec::new(), self.waiting);
        while let Some(mut part) = self.parts.pop_front() {
            let goes_on = self.parts.is_empty() && !end;
            pieces.extend(part.take(!goes_on));
            if goes_on {
                self.parts.push_front(part);
                break;
            }
        }
        self.waiting = self.parts.iter().map(|part| part.bytes.len()).sum();
        self.sent += before - self.waiting;
        self.silent = self.sent >= ATTEMPT_BYTES;
        if let Some(last) = pieces.last_mut() {
            last.silent = self.silent && !end;
        }
        pieces
    }
}

impl OutputPart {
    fn skip(&mut self, bytes: usize) {
        self.bytes.drain(..bytes);
        self.skipped += bytes as u64;
    }

    fn take(&mut self, end: bool) -> Option<Piece> {
        if self.skipped > 0 {
            self.skip(cut_off(&self.bytes));
        }
        let whole = match (end, self.bytes.iter().rposition(|byte| *byte == b'\n')) {
            (false, Some(line)) => line + 1,
            (true, _) | (false, None) => whole_characters(&self.bytes, end),
        };
        let rest = self.bytes.split_off(whole);
        let taken = std::mem::replace(&mut self.bytes, rest);
        if taken.is_empty() && !self.untold && !(end && self.skipped > 0) {
            return None;
        }
        self.untold = false;
        let text = String::from_utf8_lossy(&taken).into_owned();
        Some(Piece {
            check: self.check.clone(),
            skipped: std::mem::take(&mut self.skipped),
            text,
            silent: false,
        })
    }
}

/// The length of a line, or of a character, whose beginning was dropped.
fn cut_off(bytes: &[u8]) -> usize {
    let line = bytes
        .iter()
        .position(|byte| *byte == b'\n')
        .map(|at| at + 1)
        .filter(|at| *at < bytes.len());
    line.unwrap_or_else(|| {
        bytes
            .iter()
            .take_while(|byte| **byte & 0xc0 == 0x80)
            .count()
    })
}

/// The length without the first bytes of a character that is not complete yet.
fn whole_characters(bytes: &[u8], end: bool) -> usize {
    match std::str::from_utf8(bytes) {
        Err(error) if error.error_len().is_none() && !end => error.valid_up_to(),
        Ok(_) | Err(_) => bytes.len(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_agent() -> Buffer {
        let mut buffer = Buffer::default();
        buffer.begin(None);
        buffer
    }

    fn texts(pieces: Vec<Piece>) -> Vec<String> {
        pieces.into_iter().map(|piece| piece.text).collect()
    }

    #[test]
    fn pieces_are_whole_lines_and_characters() {
        let mut buffer = of_agent();
        assert!(buffer.take(false).is_empty(), "nothing yet");
        buffer.push(b"one\ntw");
        assert_eq!(texts(buffer.take(false)), ["one\n"], "a line");
        buffer.push("o ä".as_bytes().split_at(3).0);
        assert_eq!(
            texts(buffer.take(false)),
            ["two "],
            "a character is not split"
        );
        assert_eq!(
            texts(buffer.take(true)),
            ["\u{fffd}"],
            "at the end all that there is"
        );
    }

    #[test]
    fn each_piece_says_who_has_printed_it_and_a_check_is_told_of_before_it_prints() {
        let mut buffer = of_agent();
        buffer.push(b"edits, and no line end");
        buffer.begin(Some("tests".to_owned()));
        let piece = |check: Option<&str>, text: &str| Piece {
            check: check.map(ToOwned::to_owned),
            skipped: 0,
            text: text.to_owned(),
            silent: false,
        };
        let begun = [
            piece(None, "edits, and no line end"),
            piece(Some("tests"), ""),
        ];
        assert_eq!(
            buffer.take(false),
            begun,
            "all of the agent, and the check has begun"
        );
        assert!(buffer.take(false).is_empty(), "that is reported once");
        buffer.push(b"1 passed\n");
        buffer.begin(Some("lint".to_owned()));
        buffer.begin(None);
        buffer.push(b"again\n");
        let rest = [
            piece(Some("tests"), "1 passed\n"),
            piece(Some("lint"), ""),
            piece(None, "again\n"),
        ];
        assert_eq!(buffer.take(false), rest, "one after another");
    }

    #[test]
    fn of_a_burst_the_newest_whole_lines_are_told_and_the_gap_is_before_them() {
        let mut buffer = of_agent();
        let lines: Vec<String> = (1..=20_000)
            .map(|n| format!("line {n} of many\n"))
            .collect();
        let all = lines.concat();
        for part in all.as_bytes().chunks(1000) {
            buffer.push(part);
        }
        let [piece] = &buffer.take(false)[..] else {
            panic!("a piece")
        };
        assert!(
            piece.text.len() <= PIECE_BYTES && piece.text.starts_with("line "),
            "whole lines"
        );
        let before = usize::try_from(piece.skipped).expect("a length");
        assert_eq!(
            piece.text,
            all[before..],
            "they are the last ones, and the dropped ones come before them"
        );
        buffer.push(&[b'x'; PIECE_BYTES]);
        buffer.begin(Some("tests".to_owned()));
        buffer.push(&[b'y'; PIECE_BYTES]);
        let told: Vec<(u64, usize)> = buffer
            .take(true)
            .iter()
            .map(|piece| (piece.skipped, piece.text.len()))
            .collect();
        assert_eq!(
            told,
            [(PIECE_BYTES as u64, 0), (0, PIECE_BYTES)],
            "a gap is reported where it is"
        );
    }

    #[test]
    fn an_attempt_cannot_tell_without_end_says_so_and_its_end_is_told() {
        let mut buffer = of_agent();
        let (mut told, mut last_words, mut count) = (0, 0, 0);
        for _ in 0..100 {
            buffer.push(&[b'x'; PIECE_BYTES]);
            for piece in buffer.take(false) {
                told += piece.text.len();
                last_words += u32::from(piece.silent);
            }
            count += PIECE_BYTES;
        }
        assert_eq!(
            (told, last_words),
            (ATTEMPT_BYTES, 1),
            "it has a limit, and says once that it is reached"
        );
        buffer.push(b"\nFATAL: the real reason\n");
        let [piece] = &buffer.take(true)[..] else {
            panic!("a piece")
        };
        assert_eq!(
            piece.text, "FATAL: the real reason\n",
            "the end is published all the same"
        );
        assert_eq!(
            piece.skipped,
            (count - told + 1) as u64,
            "and the number of dropped bytes"
        );
        assert!(
            !piece.silent,
            "after the end there is nothing more to wait for"
        );
    }
}
