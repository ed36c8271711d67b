//! Chooses the answer to a request. Pure: the same requests in the same order get the same answers.

use std::collections::HashMap;

use serde_json::Value;

use super::answer::{Answer, AnswersFile, Rule, ScriptError, parse_file, parse_line};

const NO_ANSWER: &str = "There is no scripted answer for this prompt, so I change nothing.";
const MARK: &str = "SCRIPT:";
/// The most lists of successive answers that are remembered; with more, all begin again.
const MAX_TAKEN: usize = 10_000;

/// The parts of a chat-completions request that decide its answer.
#[derive(Debug, Clone, Default)]
pub(super) struct ChatRequest {
    pub(super) model: String,
    pub(super) stream: bool,
    pub(super) include_usage: bool,
    /// The texts of the user's messages, oldest first.
    pub(super) user_messages: Vec<String>,
    /// The characters of all messages.
    pub(super) prompt_chars: usize,
}

impl ChatRequest {
    pub(super) fn read(body: &Value) -> Self {
        let messages = body["messages"]
            .as_array()
            .map(Vec::as_slice)
            .unwrap_or_default();
        let of_user = |message: &&Value| message["role"] == "user";
        Self {
            model: body["model"].as_str().unwrap_or_default().to_owned(),
            stream: body["stream"] == true,
            include_usage: body["stream_options"]["include_usage"] == true,
            user_messages: messages
                .iter()
                .filter(of_user)
                .map(|message| text(&message["content"]))
                .collect(),
            prompt_chars: messages
                .iter()
                .map(|message| text(&message["content"]).chars().count())
                .sum(),
        }
    }
}

/// The content of a message is a text, or a list of parts some of which are texts.
pub(super) fn text(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts
            .iter()
            .filter_map(|part| part["text"].as_str())
            .collect::<Vec<_>>()
            .join("\n"),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => String::new(),
    }
}

/// Answers, rules, and each key's position in each list of successive answers.
#[derive(Debug, Default)]
pub struct Script {
    file: AnswersFile,
    rules: Vec<Rule>,
    taken: HashMap<(String, String), usize>,
}

impl Script {
    /// # Errors
    /// [`ScriptError`] when the text is not a valid answers file.
    pub fn from_yaml(yaml: &str) -> Result<Self, ScriptError> {
        Ok(Self {
            file: parse_file(yaml)?,
            ..Self::default()
        })
    }

    pub fn set_rules(&mut self, rules: Vec<Rule>) {
        self.rules = rules;
    }

    pub(super) fn models(&self) -> &[String] {
        &self.file.models
    }

    pub(super) fn serves(&self, model: &str) -> bool {
        self.file.models.is_empty() || self.file.models.iter().any(|served| served == model)
    }

    fn rule_for(&self, request: &ChatRequest) -> Option<&Rule> {
        self.rules.iter().find(|rule| {
            let for_prompt = |part: &String| {
                request
                    .user_messages
                    .iter()
                    .any(|message| message.contains(part))
            };
            (rule.model == "*" || request.model.contains(&rule.model))
                && rule.prompt.as_ref().is_none_or(for_prompt)
        })
    }

    /// Whether the request waits until the rules are replaced.
    pub(super) fn holds(&self, request: &ChatRequest) -> bool {
        self.rule_for(request).is_some_and(|rule| rule.hold)
    }

    /// The answer to a request: the rules, the newest `SCRIPT:` line and the file are merged in
    /// this order until the answer is complete. `key` tells the successive answers of one client
    /// from another's.
    pub(super) fn answer(
        &mut self,
        key: &str,
        request: &ChatRequest,
    ) -> Result<Answer, ScriptError> {
        let mut answer = self
            .rule_for(request)
            .map(|rule| rule.answer.clone())
            .unwrap_or_default();
        if !answer.is_complete()
            && let Some(line) = request
                .user_messages
                .iter()
                .rev()
                .find_map(|message| script_line(message))
        {
            answer = answer.over(self.next_of_line(key, line)?);
        }
        if !answer.is_complete()
            && let Some(last) = request.user_messages.last()
            && let Some(found) = self
                .file
                .answers
                .iter()
                .find(|answer| last.contains(&answer.when))
        {
            answer = answer.over(found.answer.clone());
        }
        if !answer.is_complete() {
            answer = answer.over(Answer {
                say: Some(NO_ANSWER.to_owned()),
                ..Answer::default()
            });
        }
        Ok(answer)
    }

    /// The last of successive answers repeats without end.
    fn next_of_line(&mut self, key: &str, line: &str) -> Result<Answer, ScriptError> {
        let mut answers = parse_line(line)?;
        if self.taken.len() >= MAX_TAKEN {
            self.taken.clear();
        }
        let taken = self
            .taken
            .entry((key.to_owned(), line.to_owned()))
            .or_default();
        let index = (*taken).min(answers.len() - 1);
        *taken += 1;
        Ok(answers.swap_remove(index))
    }
}

fn script_line(message: &str) -> Option<&str> {
    message
        .lines()
        .find_map(|line| line.split_once(MARK))
        .map(|(_, json)| json.trim())
}

#[cfg(test)]
mod tests {
    use super::super::answer::{Behave, Edit, Fail, TokenUsage, UsageReport, parse_rules};
    use super::*;
    use std::time::Duration;

    const FILE: &str = r#"
answers:
  - when: "fix add"
    say: "Fixed."
    edits: [{file: calc.py, search: "a - b", replace: "a + b"}]
    usage: {input_tokens: 100, cached_input_tokens: 40, output_tokens: 7}
  - {when: "slow", say: "At last.", delay_ms: 250, usage: none}
  - {when: "", say: "Anything else."}
"#;

    fn ask(script: &mut Script, key: &str, prompts: &[&str]) -> Answer {
        let user_messages = prompts.iter().map(|&prompt| prompt.to_owned()).collect();
        let request = ChatRequest {
            model: "sample-7b".into(),
            user_messages,
            ..ChatRequest::default()
        };
        script.answer(key, &request).expect("a valid script")
    }

    fn script() -> Script {
        Script::from_yaml(FILE).expect("a valid file")
    }

    #[test]
    fn the_first_answer_whose_text_is_in_the_last_user_message_wins() {
        let answer = ask(&mut script(), "k", &["slow", "please fix add, slow"]);
        assert_eq!(
            answer.say.as_deref(),
            Some("Fixed."),
            "the first match, in the last message"
        );
        let edit = Edit {
            file: "calc.py".into(),
            search: "a - b".into(),
            replace: "a + b".into(),
        };
        assert_eq!(answer.edits, [edit], "its edit");
        let usage = TokenUsage {
            input_tokens: 100,
            cached_input_tokens: 40,
            output_tokens: 7,
        };
        assert_eq!(answer.usage, Some(UsageReport::Tokens(usage)), "its usage");
        let answer = ask(&mut script(), "k", &["fix add", "slow"]);
        assert_eq!(
            answer.delay,
            Some(Duration::from_millis(250)),
            "earlier messages do not count"
        );
        assert_eq!(
            answer.usage,
            Some(UsageReport::Unreported),
            "`usage: none` reports none"
        );
    }

    #[test]
    fn a_script_line_in_any_user_message_wins_over_the_file() {
        let prompt =
            "Task:\nfix add\nSCRIPT: {\"fail\": {\"status\": 429, \"retry_after_s\": 3}}\nThanks.";
        let fail = Fail {
            status: 429,
            retry_after_s: Some(3),
            ..Fail::default()
        };
        assert_eq!(
            ask(&mut script(), "k", &[prompt]).fail,
            Some(fail.clone()),
            "in the last message"
        );
        assert_eq!(
            ask(&mut script(), "k", &[prompt, "reflect"]).fail,
            Some(fail),
            "in an earlier one"
        );
    }

    #[test]
    fn successive_answers_are_counted_for_each_key_and_the_last_one_stays() {
        let mut script = script();
        let prompt = r#"SCRIPT: [{"fail": {"status": 500}}, {"say": "better"}]"#;
        let mut statuses = |key| {
            ask(&mut script, key, &[prompt])
                .fail
                .map(|fail| fail.status)
        };
        assert_eq!(
            [statuses("a"), statuses("a"), statuses("a")],
            [Some(500), None, None],
            "one key's answers"
        );
        assert_eq!(statuses("b"), Some(500), "another key begins at the first");
    }

    #[test]
    fn a_rule_comes_first_and_one_that_is_only_slow_keeps_the_answer() {
        let mut script = script();
        script.set_rules(
            parse_rules(br#"[{"model": "7b", "fail": {"status": 503}}]"#).expect("valid rules"),
        );
        assert_eq!(
            ask(&mut script, "k", &["fix add"])
                .fail
                .map(|fail| fail.status),
            Some(503),
            "an outage"
        );
        script.set_rules(
            parse_rules(br#"[{"model": "*", "delay_ms": 9, "behave": "length"}]"#)
                .expect("valid rules"),
        );
        let answer = ask(&mut script, "k", &["fix add"]);
        assert_eq!(
            (answer.say.as_deref(), answer.behave),
            (Some("Fixed."), Some(Behave::Length)),
            "cut, not replaced"
        );
        script.set_rules(
            parse_rules(br#"[{"model": "other", "fail": {"status": 503}}]"#).expect("valid rules"),
        );
        assert_eq!(
            ask(&mut script, "k", &["fix add"]).fail,
            None,
            "a rule for another model does nothing"
        );
    }

    #[test]
    fn a_rule_for_a_prompt_leaves_other_prompts_alone_and_the_first_fitting_rule_holds() {
        let mut script = script();
        let rules = br#"[{"model": "*", "prompt": "poison", "fail": {"status": 500}}, {"model": "7b", "hold": true}]"#;
        script.set_rules(parse_rules(rules).expect("valid rules"));
        let status =
            |script: &mut Script, prompts| ask(script, "k", prompts).fail.map(|fail| fail.status);
        assert_eq!(
            status(&mut script, &["poison", "again"]),
            Some(500),
            "a match in any user message"
        );
        assert_eq!(status(&mut script, &["fix add"]), None, "another prompt");
        let request = |prompt: &str| ChatRequest {
            model: "sample-7b".into(),
            user_messages: vec![prompt.to_owned()],
            ..ChatRequest::default()
        };
        assert!(
            !script.holds(&request("poison")),
            "the first rule that fits decides, also about waiting"
        );
        assert!(
            script.holds(&request("fix add")),
            "the second rule holds the other requests"
        );
    }

    #[test]
    fn mistakes_in_a_script_are_named() {
        for (yaml, part) in [
            ("answers: [{say: x}]", "answers[0] needs `when`"),
            ("answers: [{when: x, hold: true}]", "cannot have `hold`"),
            ("answers: [{when: x, sai: y}]", "sai"),
            ("answers: [{when: x, model: m}]", "cannot have `model`"),
        ] {
            let message = Script::from_yaml(yaml).expect_err("a mistake").to_string();
            assert!(
                message.contains(part),
                "{yaml:?} gave {message:?}, without {part:?}"
            );
        }
        for line in [
            "SCRIPT: {",
            "SCRIPT:",
            "SCRIPT: []",
            "SCRIPT: {\"behave\": \"dance\"}",
            "SCRIPT: {\"when\": \"x\"}",
        ] {
            let request = ChatRequest {
                user_messages: vec![line.into()],
                ..ChatRequest::default()
            };
            assert!(
                script().answer("k", &request).is_err(),
                "{line:?} must be refused"
            );
        }
    }

    #[test]
    fn without_a_fitting_answer_it_says_so_and_edits_nothing() {
        let answer = ask(&mut Script::default(), "k", &["do something"]);
        assert_eq!(
            answer.say.as_deref(),
            Some(NO_ANSWER),
            "the text of no answer"
        );
        assert!(answer.edits.is_empty(), "no edit");
    }

    #[test]
    fn content_in_parts_is_read_like_a_text() {
        let body = serde_json::json!({"model": "m", "stream": true, "messages": [
            {"role": "system", "content": "SCRIPT: {}"},
            {"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "image_url"}, {"type": "text", "text": "two"}]},
        ]});
        let request = ChatRequest::read(&body);
        assert_eq!(request.user_messages, ["one\ntwo"], "only the user's texts");
        assert!(request.stream, "a stream was asked for");
    }
}
