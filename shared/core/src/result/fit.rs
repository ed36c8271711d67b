//! Cuts a result so that it always fits into one message of the broker. Pure.
//!
//! Each list and each text has its own limit, and together they stay below [`MAX_RESULT_BYTES`]. A broker with a lower limit
//! (`max_message_size`) gets a smaller result. Names of files are left out first, then everything that exists elsewhere too,
//! and last a patch that exists nowhere else. Fields of the result tell what is missing.

use super::{ErrorKind, ResultMessage, Status, TaskFailure};

/// The most bytes of a result. By default RabbitMQ accepts messages of 16 MiB from 4.0 on, and of 128 MiB before.
pub const MAX_RESULT_BYTES: usize = 12 * 1024 * 1024;

/// More than the properties of a result need, in case a broker counts them too.
const PROPERTIES_BYTES: usize = 4096;

/// The limit for the next attempt after a broker with the limit `takes` refused `refused` bytes. It is always lower than
/// `refused`.
pub fn lower_limit(refused: usize, takes: usize) -> usize {
    takes.saturating_sub(PROPERTIES_BYTES).min(refused / 4 * 3)
}

/// Limits in bytes of JSON, where one byte of a text can become six.
#[derive(Debug, Clone, Copy)]
struct Caps {
    files: usize,
    files_bytes: usize,
    /// The limit of each text.
    text_bytes: usize,
}

const USUAL: Caps = Caps {
    files: 10_000,
    files_bytes: 1024 * 1024,
    text_bytes: 32 * 1024,
};
const SMALL: Caps = Caps {
    files: 1_000,
    files_bytes: 64 * 1024,
    text_bytes: 1024,
};
const LEAST: Caps = Caps {
    files: 0,
    files_bytes: 0,
    text_bytes: 256,
};

impl ResultMessage {
    /// Cuts the result until its JSON has at most `limit` bytes, or only the essentials are left: status, error, commit,
    /// usage. Gives that JSON.
    ///
    /// A success without a commit becomes a failure, [`ErrorKind::PatchTooLarge`], when its patch is left out.
    pub fn fit(&mut self, limit: usize) -> Vec<u8> {
        self.cut(USUAL);
        let steps: [fn(&mut Self); 5] = if self.commit.is_some() {
            [
                |r| r.cut(SMALL),
                Self::leave_out_patch,
                Self::leave_out_task,
                |r| r.cut(LEAST),
                Self::leave_out_checks,
            ]
        } else {
            [
                |r| r.cut(SMALL),
                Self::leave_out_task,
                |r| r.cut(LEAST),
                Self::leave_out_checks,
                Self::leave_out_patch,
            ]
        };
        for step in steps {
            let json = self.to_json();
            if json.len() <= limit {
                return json;
            }
            step(self);
        }
        self.to_json()
    }

    fn cut(&mut self, caps: Caps) {
        let all = self.files_changed.len();
        let sizes = self.files_changed.iter().scan(0_usize, |sum, name| {
            *sum += json_bytes(name) + 1;
            Some(*sum)
        });
        let kept = sizes
            .take(caps.files)
            .take_while(|sum| *sum <= caps.files_bytes)
            .count();
        self.files_changed_total = self.files_changed_total.max(all as u64);
        self.files_changed.truncate(kept);
        self.files_changed_truncated |= kept < all;
        let texts = self
            .acceptance
            .iter_mut()
            .map(|check| &mut check.output_tail);
        let texts = texts.chain([&mut self.log_tail]);
        for text in texts {
            self.texts_truncated |= keep_end(text, caps.text_bytes);
        }
        if let Some(error) = &mut self.error {
            self.texts_truncated |= keep_beginning(&mut error.message, caps.text_bytes);
        }
    }

    fn leave_out_patch(&mut self) {
        if self.patch.take().is_none() {
            return;
        }
        self.patch_truncated = true;
        if self.status == Status::Succeeded && self.commit.is_none() {
            self.status = Status::Failed;
            let message = "the patch does not fit into a message of the broker (its `max_message_size`), and \
                           `auto_commit: false` allows no commit: set auto_commit to true, or split the task";
            self.error = Some(TaskFailure::new(ErrorKind::PatchTooLarge, message));
        }
    }

    fn leave_out_task(&mut self) {
        self.texts_truncated |= self.task.take().is_some();
    }

    fn leave_out_checks(&mut self) {
        self.texts_truncated |= !self.acceptance.is_empty() || !self.sandbox.hints.is_empty();
        self.acceptance.clear();
        self.sandbox.hints.clear();
    }
}

/// The length of a text in JSON, with its quotes.
fn json_bytes(text: &str) -> usize {
    // A string always serialises.
    serde_json::to_string(text).map_or(0, |json| json.len())
}

/// The mark in place of a part that was cut.
const GAP: &str = "[…]";

/// The length in bytes of the longest run of characters whose JSON, with quotes and [`GAP`], has at most `limit` bytes.
fn fitting(characters: impl Iterator<Item = char>, limit: usize) -> usize {
    let mut buffer = [0; 4];
    let mut left = limit.saturating_sub(GAP.len() + 2);
    let mut bytes = 0;
    for character in characters {
        let Some(rest) = left.checked_sub(json_bytes(character.encode_utf8(&mut buffer)) - 2)
        else {
            break;
        };
        left = rest;
        bytes += character.len_utf8();
    }
    bytes
}

/// Keeps the end of the text; true when something was cut.
fn keep_end(text: &mut String, limit: usize) -> bool {
    if json_bytes(text) <= limit {
        return false;
    }
    let kept = fitting(text.chars().rev(), limit);
    text.replace_range(..text.len() - kept, GAP);
    true
}

/// Keeps the beginning of the text; true when something was cut.
fn keep_beginning(text: &mut String, limit: usize) -> bool {
    if json_bytes(text) <= limit {
        return false;
    }
    text.truncate(fitting(text.chars(), limit));
    text.push_str(GAP);
    true
}

#[cfg(test)]
#[path = "fit_tests.rs"]
mod tests;
