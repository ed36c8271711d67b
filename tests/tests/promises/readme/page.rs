//! The README, the guide and some other pages of the book taken apart: blocks, the commands in them and in lines, the
//! requests.

use std::collections::BTreeMap;

use crate::support::machine::checkout;

/// The language and the text of a code block.
#[derive(Debug, Clone)]
pub(super) struct Block {
    pub(super) language: String,
    pub(super) text: String,
}

/// A command of a `console` block, and the output that the page shows.
#[derive(Debug, Clone)]
pub(super) struct Call {
    pub(super) command: String,
    pub(super) printed: String,
}

/// A request in a line, with the bodies and parameters beside it.
#[derive(Debug, Clone, Default)]
pub(super) struct Beside {
    pub(super) bodies: Vec<String>,
    pub(super) parameters: Vec<String>,
}

/// In the order in which a newcomer reads them.
const PAGES: [&str; 15] = [
    "README.md",
    "docs/guide/first-steps.md",
    "docs/guide/tasks-and-results.md",
    "docs/guide/submitting.md",
    "docs/guide/pool-file.md",
    "docs/guide/routing.md",
    "docs/guide/llms.md",
    "docs/guide/llm-failures.md",
    "docs/guide/money.md",
    "docs/guide/agents.md",
    "docs/guide/checks.md",
    "docs/operate/running.md",
    "docs/operate/dashboard.md",
    "docs/reference/command-line.md",
    "docs/reference/http-api.md",
];

const METHODS: [&str; 4] = ["GET", "POST", "DELETE", "PUT"];
const PROGRAMS: [&str; 9] = [
    "pool ",
    "dispatcher ",
    "worker ",
    "scripts/",
    "docker-compose ",
    "curl ",
    "git branch ",
    "ollama ",
    "source ",
];

pub(super) struct Page {
    pub(super) blocks: Vec<Block>,
    lines: Vec<String>,
}

impl Page {
    pub(super) fn read() -> Self {
        let read = |page: &str| std::fs::read_to_string(checkout().join(page)).expect(page);
        let text = PAGES.map(read).concat();
        let (mut blocks, mut lines, mut open) = (Vec::new(), Vec::new(), None::<Block>);
        for line in text.lines() {
            match (line.trim_start().strip_prefix("```"), open.take()) {
                (Some(_), Some(block)) => blocks.push(block),
                (Some(language), None) => {
                    open = Some(Block {
                        language: language.to_owned(),
                        text: String::new(),
                    })
                }
                (None, Some(mut block)) => {
                    block.text += &format!("{line}\n");
                    open = Some(block);
                }
                (None, None) => lines.push(line.to_owned()),
            }
        }
        assert!(open.is_none(), "every block has an end");
        Self { blocks, lines }
    }

    /// The first block of this language that holds these words.
    pub(super) fn block(&self, language: &str, words: &str) -> &Block {
        let found = self.blocks_with(language, words).next();
        found.unwrap_or_else(|| panic!("the pages have a block of {language} with {words:?}"))
    }

    /// Every block of this language that holds these words.
    pub(super) fn blocks_with(&self, language: &str, words: &str) -> impl Iterator<Item = &Block> {
        let has = move |block: &&Block| block.language == language && block.text.contains(words);
        self.blocks.iter().filter(has)
    }

    /// Every command of a `console` block with its output, and every line of a `sh` block.
    pub(super) fn calls(&self) -> Vec<Call> {
        let in_blocks = self
            .blocks
            .iter()
            .flat_map(|block| match block.language.as_str() {
                "console" => of_console(&block.text),
                "sh" => block
                    .text
                    .lines()
                    .map(|line| Call {
                        command: bare(line),
                        printed: String::new(),
                    })
                    .collect(),
                _ => Vec::new(),
            });
        in_blocks.collect()
    }

    /// The words between backticks in each line.
    fn inline(&self) -> impl Iterator<Item = Vec<String>> {
        let words = |line: &String| {
            line.split('`')
                .skip(1)
                .step_by(2)
                .map(|word| word.replace("\\|", "|"))
                .collect()
        };
        self.lines.iter().map(words)
    }

    /// The commands in lines. The name of a program alone does not count, unless it is a script.
    pub(super) fn commands_in_lines(&self) -> Vec<String> {
        let all = self.inline().flatten();
        all.filter(|word| PROGRAMS.iter().any(|program| word.starts_with(program)))
            .collect()
    }

    /// The requests in lines: method and path.
    pub(super) fn requests(&self) -> BTreeMap<(String, String), Beside> {
        let mut requests: BTreeMap<(String, String), Beside> = BTreeMap::new();
        for words in self.inline() {
            let (mut methods, mut these) = (Vec::new(), Vec::new());
            for word in &words {
                let (method, path) = word.split_once(' ').unwrap_or((word, ""));
                if METHODS.contains(&method) {
                    methods.push(method.to_owned());
                    if path.starts_with('/') {
                        these.extend(methods.drain(..).map(|method| (method, path.to_owned())));
                    }
                }
            }
            for request in these {
                let beside = requests.entry(request).or_default();
                beside
                    .bodies
                    .extend(words.iter().filter(|word| word.starts_with("{\"")).cloned());
                beside
                    .parameters
                    .extend(words.iter().filter(|word| word.starts_with('?')).cloned());
            }
        }
        requests
    }
}

/// `$ ` begins a command, which continues after a backslash at the end of a line or within quotes.
fn of_console(text: &str) -> Vec<Call> {
    let mut calls: Vec<Call> = Vec::new();
    let mut goes_on = false;
    for line in text.lines() {
        match (line.strip_prefix("$ "), calls.last_mut()) {
            (Some(command), _) => calls.push(Call {
                command: command.to_owned(),
                printed: String::new(),
            }),
            (None, Some(call)) if goes_on => call.command += &format!("\n{line}"),
            (None, Some(call)) => call.printed += &format!("{line}\n"),
            (None, None) => panic!("a block of console begins with a command: {text}"),
        }
        let command = calls.last().map_or("", |call| &call.command);
        goes_on = command.ends_with('\\') || shlex::split(command).is_none();
    }
    for call in &mut calls {
        call.command = if call.command.contains('\n') {
            call.command.clone()
        } else {
            bare(&call.command)
        };
    }
    calls
}

/// A line without the remark at its end.
fn bare(line: &str) -> String {
    line.split("  #")
        .next()
        .unwrap_or_default()
        .trim_end()
        .to_owned()
}
