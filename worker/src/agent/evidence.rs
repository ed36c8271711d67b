//! Evidence about a run from aider's log of events and its output.
//!
//! Aider itself writes the log, which says when an LLM was asked and when it answered. The output
//! is weaker evidence, because a model can print the same words. The gateway's record counts more
//! than both.

use pool_core::result::ErrorKind;
use serde::Deserialize;

use crate::sandbox::CommandOutput;

const APPLIED: &str = "Applied edit to ";
const REFUSED: &str = "did not conform to the edit format";
const TOKEN_LIMIT: &str = "has hit a token limit";
const EMPTY: &str = "Empty response received from LLM";

/// How an LLM failed, as aider prints it. The last match in the output counts.
const LLM_ERRORS: [(&str, ErrorKind); 9] = [
    ("AuthenticationError", ErrorKind::LlmAuth),
    ("NotFoundError", ErrorKind::LlmModelUnavailable),
    ("RateLimitError", ErrorKind::LlmRateLimited),
    ("InternalServerError", ErrorKind::LlmUnavailable),
    ("ServiceUnavailable", ErrorKind::LlmUnavailable),
    ("APIConnectionError", ErrorKind::LlmUnavailable),
    ("litellm.Timeout", ErrorKind::LlmTimeout),
    ("BadRequestError", ErrorKind::LlmBadRequest),
    (TOKEN_LIMIT, ErrorKind::LlmOutputLimit),
];

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AiderEvidence {
    /// Aider has read its options and started.
    pub launched: bool,
    /// How often aider asked an LLM.
    pub asked: u32,
    /// The last question got an answer that aider could use.
    pub answered: bool,
    /// Aider failed to handle an answer.
    pub stumbled: bool,
    /// The output tokens of the last answer.
    pub output_tokens: Option<u64>,
    /// At least one edit was applied, or may have been, because that part of the output was not
    /// kept.
    pub applied: bool,
    /// An edit after the last applied one did not fit.
    pub refused: bool,
    pub token_limit: bool,
    pub empty: bool,
    pub llm_error: Option<ErrorKind>,
}

#[derive(Deserialize)]
struct AnalyticsEvent {
    event: String,
    #[serde(default)]
    properties: Properties,
}

#[derive(Default, Deserialize)]
struct Properties {
    completion_tokens: Option<u64>,
}

impl AiderEvidence {
    /// Reads the evidence from the log, which has one JSON object per line, and from the output.
    pub fn read(analytics: &str, output: &CommandOutput) -> Self {
        let mut evidence = Self::default();
        for event in analytics
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
        {
            evidence.take_event(&event);
        }
        let text = output.text();
        text.lines().for_each(|line| evidence.take_line(line));
        evidence.applied |= output.total_bytes() > output.kept_bytes();
        evidence
    }

    fn take_event(&mut self, event: &AnalyticsEvent) {
        match event.event.as_str() {
            "launched" => self.launched = true,
            "message_send_starting" => {
                self.asked += 1;
                self.answered = false;
            }
            "message_send" => {
                self.answered = true;
                self.output_tokens = event.properties.completion_tokens;
            }
            "message_send_exception" => self.stumbled = true,
            // Aider reports many more events than these.
            _other => {}
        }
    }

    fn take_line(&mut self, line: &str) {
        if line.starts_with(APPLIED) {
            self.applied = true;
            self.refused = false;
        }
        self.refused |= line.contains(REFUSED);
        self.token_limit |= line.contains(TOKEN_LIMIT);
        self.empty |= line.contains(EMPTY);
        if let Some((_, kind)) = LLM_ERRORS.iter().find(|(word, _)| line.contains(word)) {
            self.llm_error = Some(*kind);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(analytics: &str, printed: &str) -> AiderEvidence {
        let mut output = CommandOutput::new(1024);
        output.push(printed.as_bytes());
        AiderEvidence::read(analytics, &output)
    }

    #[test]
    fn the_log_tells_whether_the_last_question_was_answered() {
        let log = r#"{"event": "launched", "properties": {"x": 1}, "user_id": "0", "time": 1}
{"event": "message_send_starting", "properties": {}}
{"event": "message_send", "properties": {"prompt_tokens": 10, "completion_tokens": 29, "cost": 0.1}}
{"event": "something new", "properties": {"completion_tokens": "a text"}}
{"event": "message_send_starting", "prop"#;
        let evidence = read(log, "");
        assert!(
            evidence.launched && evidence.answered && !evidence.stumbled,
            "one whole question: {evidence:?}"
        );
        assert_eq!(
            (evidence.asked, evidence.output_tokens),
            (1, Some(29)),
            "a line that broke off does not count"
        );
        let evidence = read(
            &format!("{log}erties\": {{}}}}\n{{\"event\": \"message_send_exception\"}}"),
            "",
        );
        assert!(
            !evidence.answered && evidence.stumbled,
            "the second one had no answer: {evidence:?}"
        );
    }

    #[test]
    fn only_what_came_after_the_last_applied_edit_was_refused() {
        let refused = "The LLM did not conform to the edit format.\n";
        assert!(
            !read("", &format!("{refused}Applied edit to a.py\n")).refused,
            "it was mended"
        );
        assert!(
            read("", &format!("Applied edit to a.py\n{refused}")).refused,
            "it was not"
        );
        assert_eq!(
            read(
                "",
                "litellm.RateLimitError: x\nRetrying\nlitellm.APIConnectionError: y\n"
            )
            .llm_error,
            Some(ErrorKind::LlmUnavailable),
            "the last error counts"
        );
    }

    #[test]
    fn an_edit_may_have_been_applied_in_the_part_that_was_not_kept() {
        assert!(
            read("", &"x".repeat(2000)).applied,
            "the missing output may contain an edit"
        );
        assert!(!read("", "x").applied, "no output is missing");
    }
}
