//! The measured parts of docs/operate/performance.md: tables and plots of the files in
//! docs/operate/measured. `scripts/docs` writes them, and a test compares.
//!
//! A part stands between `<!-- measured NAME: GROUP, GROUP -->` and `<!-- end -->`. `NAME` is the file
//! without `.json`; each group gets a plot.

use std::path::{Path, PathBuf};

use anyhow::Context;

use super::format::slug;
use super::record::Record;
use super::{plot, table};

const PAGE: &str = "docs/operate/performance.md";
const MEASURED: &str = "docs/operate/measured";
const IMAGES: &str = "docs/images";
const BEGIN: &str = "<!-- measured ";
const BEGIN_ENDS: &str = " -->\n";
const END: &str = "<!-- end -->";

/// A generated file.
#[derive(Debug, PartialEq, Eq)]
pub struct Generated {
    pub path: PathBuf,
    pub text: String,
}

/// The page and its pictures, as they should be.
///
/// # Errors
/// When a file is missing or a part of the page is not closed.
pub fn generate(checkout: &Path) -> anyhow::Result<Vec<Generated>> {
    let page = checkout.join(PAGE);
    let there = std::fs::read_to_string(&page)
        .with_context(|| format!("failed to read {}", page.display()))?;
    let mut pictures = Vec::new();
    let text = replace_parts(&there, |name, groups| {
        let file = checkout.join(MEASURED).join(format!("{name}.json"));
        let record = Record::read(&file)?;
        for group in groups {
            pictures.push(Generated {
                path: checkout.join(IMAGES).join(picture(name, group)),
                text: plot::draw(&record, group)?,
            });
        }
        Ok(part(name, groups, &record))
    })?;
    let mut files = vec![Generated { path: page, text }];
    files.append(&mut pictures);
    Ok(files)
}

fn picture(name: &str, group: &str) -> String {
    format!("measured-{name}-{}.svg", slug(group))
}

fn part(name: &str, groups: &[&str], record: &Record) -> String {
    let mut text = format!("{}\n\n{}", caption(name, record), table::markdown(record));
    for group in groups {
        text.push_str(&format!(
            "\n![{group} of each case](../images/{})\n",
            picture(name, group)
        ));
    }
    text
}

fn caption(name: &str, record: &Record) -> String {
    let Record {
        measured,
        machine,
        load_average,
        ..
    } = record;
    let day: String = measured.to_string().chars().take(10).collect();
    let broker = record.broker.iter().map(|broker| format!(", {broker}"));
    let settings: Vec<String> = record
        .settings
        .iter()
        .map(|(name, value)| format!("{name} {value}"))
        .collect();
    format!(
        "Measured on {day} at commit `{}` ([`{name}.json`](measured/{name}.json)): {} cores of {}, {} MB of memory, Linux {}, {}{}.\n\
         Settings: {}. Load average: {:.1} before, {:.1} after. Values are medians of the rounds, with the least and the most in parentheses.",
        record.commit.short(),
        machine.cores,
        machine.processor,
        machine.memory_mb,
        machine.kernel,
        machine.file_system,
        broker.collect::<String>(),
        settings.join(", "),
        load_average.before,
        load_average.after,
    )
}

/// Writes each part of the page anew. `make` gets the name of the file and the groups.
fn replace_parts(
    page: &str,
    mut make: impl FnMut(&str, &[&str]) -> anyhow::Result<String>,
) -> anyhow::Result<String> {
    let mut text = String::new();
    let mut rest = page;
    while let Some((before, part)) = rest.split_once(BEGIN) {
        let (head, body) = part
            .split_once(BEGIN_ENDS)
            .with_context(|| format!("a line with {BEGIN:?} does not end with \" -->\""))?;
        let (_, after) = body
            .split_once(END)
            .with_context(|| format!("the part \"{BEGIN}{head} -->\" has no {END:?}"))?;
        let (name, groups) = head.split_once(':').unwrap_or((head, ""));
        let groups: Vec<&str> = groups
            .split(',')
            .map(str::trim)
            .filter(|group| !group.is_empty())
            .collect();
        let made = make(name.trim(), &groups)?;
        text.push_str(&format!("{before}{BEGIN}{head}{BEGIN_ENDS}\n{made}\n{END}"));
        rest = after;
    }
    text.push_str(rest);
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::record::tests::record;

    #[test]
    fn the_page_and_the_plots_are_made_from_the_measured_files() {
        let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        for file in generate(&checkout).expect("the measured files") {
            let there = std::fs::read_to_string(&file.path).unwrap_or_default();
            assert!(
                there == file.text,
                "{} differs from {MEASURED}: run scripts/docs",
                file.path.display()
            );
        }
    }

    #[test]
    fn every_part_is_replaced_and_the_rest_stays() {
        let page = "one\n<!-- measured queue: a, b c -->\nold\n<!-- end -->\ntwo\n<!-- measured x -->\n<!-- end -->\n";
        let mut seen = Vec::new();
        let text = replace_parts(page, |name, groups| {
            seen.push(format!("{name} {groups:?}"));
            Ok(format!("new {name}"))
        });
        let text = text.expect("a page");
        assert_eq!(
            text,
            "one\n<!-- measured queue: a, b c -->\n\nnew queue\n<!-- end -->\ntwo\n<!-- measured x -->\n\nnew x\n<!-- end -->\n"
        );
        assert_eq!(seen, ["queue [\"a\", \"b c\"]", "x []"], "names and groups");
        let again = replace_parts(&text, |name, _| Ok(format!("new {name}")));
        assert_eq!(again.expect("a page"), text, "twice is the same as once");
    }

    #[test]
    fn a_part_without_an_end_is_named() {
        let refused = replace_parts("<!-- measured queue -->\n", |_, _| Ok(String::new()));
        let refused = refused.expect_err("no end").to_string();
        assert!(refused.contains("measured queue"), "{refused}");
    }

    #[test]
    fn the_caption_says_where_and_what_was_measured() {
        let text = part("queue", &["latency"], &record());
        for expected in [
            "2026-01-31",
            "0123456789ab",
            "2 cores of a processor",
            "RabbitMQ 3.10.8",
            "tasks 5000",
            "0.5 before, 3.2 after",
            "(measured/queue.json)",
            "(../images/measured-queue-latency.svg)",
        ] {
            assert!(text.contains(expected), "{expected}: {text}");
        }
    }
}
