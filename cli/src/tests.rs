//! Checks over the whole command line: every command has a valid example, and prints JSON where it
//! prints an answer.

use clap::{Command, CommandFactory as _, Parser as _};

use crate::Arguments;

/// Commands that print documents or nothing, so they need no `--format`.
const WITHOUT_FORMAT: [&str; 3] = ["schema", "completions", "man"];

/// Every leaf command with its full name.
fn leaves(command: &Command, words: &str, found: &mut Vec<(String, Command)>) {
    let below: Vec<&Command> = command
        .get_subcommands()
        .filter(|one| one.get_name() != "help")
        .collect();
    for one in &below {
        leaves(one, &format!("{words} {}", one.get_name()), found);
    }
    // `pool budget` prints an answer although it has subcommands; so do commands without
    // subcommands.
    if below.is_empty() || command.get_name() == "budget" {
        found.push((words.to_owned(), command.clone()));
    }
}

fn examples(command: &Command) -> Vec<String> {
    let help = command
        .get_after_help()
        .map(ToString::to_string)
        .unwrap_or_default();
    help.lines()
        .map(str::trim)
        .filter(|line| line.starts_with("pool "))
        .map(ToOwned::to_owned)
        .collect()
}

fn all() -> Vec<(String, Command)> {
    let (mut found, mut root) = (Vec::new(), Arguments::command());
    root.build();
    leaves(&root, "pool", &mut found);
    assert!(found.len() > 23, "all of them: {}", found.len());
    found
}

#[test]
fn the_command_line_is_sound() {
    Arguments::command().debug_assert();
}

#[test]
fn every_command_has_an_example_that_is_right() {
    let root = ("pool".to_owned(), Arguments::command());
    for (words, command) in all().into_iter().chain([root]) {
        let examples = examples(&command);
        assert!(
            examples.iter().any(|line| line.starts_with(&words)),
            "`{words} --help` has examples: {examples:?}"
        );
        for line in examples {
            let call = line.split(" >").next().unwrap_or_default();
            let call = shlex::split(call).unwrap_or_default();
            if let Err(error) = Arguments::try_parse_from(call) {
                panic!("`{words} --help` has an invalid example: {line}\n{error}");
            }
        }
    }
}

#[test]
fn every_answer_can_be_had_as_json() {
    for (words, command) in all() {
        let documents = WITHOUT_FORMAT
            .iter()
            .any(|name| command.get_name() == *name);
        let format = command
            .get_arguments()
            .find(|argument| argument.get_id() == "format");
        assert_ne!(documents, format.is_some(), "--format of `{words}`");
        let names = format
            .map(|format| format.get_possible_values())
            .unwrap_or_default();
        assert!(
            documents || names.iter().any(|value| value.matches("json", false)),
            "`{words} --format json`"
        );
    }
}

#[test]
fn the_command_that_an_empty_page_offers_is_right() {
    let page = include_str!("../../dispatcher/src/dashboard/page/tasks.js");
    let offered = page.split("h(\"code\", {}, \"pool submit").nth(1);
    let options = offered.and_then(|rest| rest.split('"').next());
    let line = format!("pool submit{}", options.expect("a command"));
    let words = shlex::split(&line).expect("as a shell reads it");
    if let Err(error) = Arguments::try_parse_from(words) {
        panic!("the page says {line}\n{error}");
    }
}
