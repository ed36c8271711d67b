//! The next turn of an LLM with tools: calls of the agent's own tools that make the scripted edits,
//! then the text. Pure.
//!
//! It remembers nothing: the conversation shows how many rounds of calls are done.

use serde_json::{Value, json};

use super::answer::{Answer, Behave, Edit, TokenUsage, UsageReport};
use super::render::{text, tokens};
use super::script::ChatRequest;

const DONE: &str = "Done.";

/// A request of an agent with tools.
#[derive(Debug, Clone, Default)]
pub(super) struct Conversation {
    pub(super) request: ChatRequest,
    /// Names of the tools that the agent offers.
    pub(super) tools: Vec<String>,
    /// The number of earlier answers that called tools.
    pub(super) rounds: usize,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Call {
    pub(super) name: &'static str,
    pub(super) arguments: Value,
}

/// One answer.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Turn {
    pub(super) text: String,
    pub(super) calls: Vec<Call>,
    /// Whether the text was cut at the output limit.
    pub(super) cut: bool,
    pub(super) usage: Option<TokenUsage>,
}

impl Turn {
    pub(super) fn new(conversation: &Conversation, answer: &Answer) -> Self {
        let (mut text, mut calls) = next(conversation, answer);
        let cut = answer.behave == Some(Behave::Length);
        if cut {
            text = text.chars().take(text.chars().count() / 2).collect();
        }
        if answer.behave == Some(Behave::Empty) {
            text.clear();
        }
        if cut || answer.behave == Some(Behave::Empty) {
            calls.clear();
        }
        let said = text.chars().count()
            + calls
                .iter()
                .map(|call| call.arguments.to_string().len())
                .sum::<usize>();
        let usage = match answer.usage {
            Some(UsageReport::Unreported) => None,
            Some(UsageReport::Tokens(tokens)) => Some(tokens),
            None => Some(TokenUsage {
                input_tokens: tokens(conversation.request.prompt_chars),
                cached_input_tokens: 0,
                output_tokens: tokens(said),
            }),
        };
        Self {
            text,
            calls,
            cut,
            usage,
        }
    }
}

fn next(conversation: &Conversation, answer: &Answer) -> (String, Vec<Call>) {
    let say = answer.say.clone();
    if answer.edits.is_empty() {
        return (say.unwrap_or_default(), Vec::new());
    }
    match rounds(&conversation.tools, &answer.edits) {
        None => (text(answer), Vec::new()),
        Some(mut rounds) if conversation.rounds < rounds.len() => {
            (String::new(), rounds.swap_remove(conversation.rounds))
        }
        Some(_) => (say.unwrap_or_else(|| DONE.to_owned()), Vec::new()),
    }
}

/// The calls that make the edits, round by round; None if the agent has no tool for them.
fn rounds(tools: &[String], edits: &[Edit]) -> Option<Vec<Vec<Call>>> {
    let has = |name: &str| tools.iter().any(|tool| tool == name);
    let patch = || format!("apply_patch <<'SCRIPTED'\n{}SCRIPTED\n", patch(edits));
    let one = |name, arguments| Some(vec![vec![Call { name, arguments }]]);
    if has("exec_command") {
        return one("exec_command", json!({"cmd": patch()}));
    }
    if has("shell_command") {
        return one("shell_command", json!({"command": patch()}));
    }
    if has("shell") {
        return one("shell", json!({"command": ["bash", "-lc", patch()]}));
    }
    if !has("Edit") || !has("Read") {
        return None;
    }
    // Claude edits only files that it has read.
    let reads = edits.iter().filter(|edit| !edit.search.is_empty());
    let reads: Vec<Call> = reads
        .map(|edit| Call {
            name: "Read",
            arguments: json!({"file_path": edit.file}),
        })
        .collect();
    let edits = edits
        .iter()
        .map(|edit| edit_of_claude(edit, has("Write")))
        .collect();
    Some(
        [reads, edits]
            .into_iter()
            .filter(|round: &Vec<Call>| !round.is_empty())
            .collect(),
    )
}

fn edit_of_claude(edit: &Edit, can_write: bool) -> Call {
    if !edit.search.is_empty() {
        let arguments =
            json!({"file_path": edit.file, "old_string": edit.search, "new_string": edit.replace});
        return Call {
            name: "Edit",
            arguments,
        };
    }
    if can_write {
        return Call {
            name: "Write",
            arguments: json!({"file_path": edit.file, "content": edit.replace}),
        };
    }
    Call {
        name: "Edit",
        arguments: json!({"file_path": edit.file, "old_string": "", "new_string": edit.replace}),
    }
}

/// The edits in codex' own patch format.
fn patch(edits: &[Edit]) -> String {
    let mut patch = "*** Begin Patch\n".to_owned();
    for edit in edits {
        let marked = |mark: char, text: &str| {
            text.lines()
                .map(|line| format!("{mark}{line}\n"))
                .collect::<String>()
        };
        if edit.search.is_empty() {
            patch.push_str(&format!(
                "*** Add File: {}\n{}",
                edit.file,
                marked('+', &edit.replace)
            ));
        } else {
            let (old, new) = (marked('-', &edit.search), marked('+', &edit.replace));
            patch.push_str(&format!("*** Update File: {}\n@@\n{old}{new}", edit.file));
        }
    }
    patch + "*** End Patch\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edit(file: &str, search: &str, replace: &str) -> Edit {
        Edit {
            file: file.into(),
            search: search.into(),
            replace: replace.into(),
        }
    }

    fn turn(tools: &[&str], rounds: usize, answer: &Answer) -> Turn {
        let tools = tools.iter().map(ToString::to_string).collect();
        Turn::new(
            &Conversation {
                tools,
                rounds,
                ..Conversation::default()
            },
            answer,
        )
    }

    fn answer() -> Answer {
        Answer {
            edits: vec![
                edit("a.py", "x = 1", "x = 2"),
                edit("new/b.py", "", "y = 1\n"),
            ],
            ..Answer::default()
        }
    }

    #[test]
    fn codex_gets_one_patch_and_then_the_words() {
        let first = turn(&["exec_command", "write_stdin"], 0, &answer());
        let patch = "apply_patch <<'SCRIPTED'\n*** Begin Patch\n*** Update File: a.py\n@@\n-x = 1\n+x = 2\n\
            *** Add File: new/b.py\n+y = 1\n*** End Patch\nSCRIPTED\n";
        let calls = [Call {
            name: "exec_command",
            arguments: json!({"cmd": patch}),
        }];
        assert_eq!(
            (first.text.as_str(), first.calls.as_slice()),
            ("", calls.as_slice()),
            "both edits at once"
        );
        let second = turn(&["exec_command"], 1, &answer());
        assert_eq!(
            (second.text.as_str(), second.calls.len()),
            (DONE, 0),
            "the end"
        );
    }

    #[test]
    fn claude_reads_before_it_edits() {
        let names = |turn: &Turn| turn.calls.iter().map(|call| call.name).collect::<Vec<_>>();
        let tools = ["Bash", "Edit", "Read", "Write"];
        assert_eq!(
            names(&turn(&tools, 0, &answer())),
            ["Read"],
            "the file that is there"
        );
        assert_eq!(
            names(&turn(&tools, 1, &answer())),
            ["Edit", "Write"],
            "then both edits"
        );
        assert_eq!(
            turn(
                &tools,
                2,
                &Answer {
                    say: Some("x".into()),
                    ..answer()
                }
            )
            .text,
            "x",
            "then the words"
        );
        let only_new = Answer {
            edits: vec![edit("b.py", "", "y")],
            ..Answer::default()
        };
        assert_eq!(
            names(&turn(&tools, 0, &only_new)),
            ["Write"],
            "a new file needs no reading"
        );
        assert_eq!(
            names(&turn(&tools[..3], 0, &only_new)),
            ["Edit"],
            "without Write it is an edit of an empty text"
        );
    }

    #[test]
    fn without_a_tool_for_it_an_edit_is_text() {
        let turn = turn(&["get_weather"], 0, &answer());
        assert!(
            turn.calls.is_empty() && turn.text.contains("SEARCH"),
            "{turn:?}"
        );
    }

    #[test]
    fn an_answer_can_be_empty_or_cut() {
        let say = |behave| Answer {
            say: Some("abcdef".into()),
            behave: Some(behave),
            ..Answer::default()
        };
        let cut = turn(&[], 0, &say(Behave::Length));
        assert_eq!((cut.text.as_str(), cut.cut), ("abc", true), "half of it");
        assert_eq!(turn(&[], 0, &say(Behave::Empty)).text, "", "nothing");
        let empty = Answer {
            behave: Some(Behave::Empty),
            ..answer()
        };
        assert!(
            turn(&["exec_command"], 0, &empty).calls.is_empty(),
            "no calls either"
        );
    }
}
