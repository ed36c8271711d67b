//! The line of every key in the pool file.
//!
//! The YAML deserialiser gives lines for syntax errors only. A mistake that is found after reading (an unknown provider, two
//! equal ports) must name its line too. So the file is parsed a second time, only for the lines.

use std::fmt;

use saphyr_parser::{Event, Parser, ScanError};

/// A place in the pool file: keys and list indices from the top.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct At(Vec<Step>);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    Key(String),
    Index(usize),
}

impl At {
    pub(super) fn top(key: &str) -> Self {
        Self::default().key(key)
    }

    #[must_use]
    pub(super) fn key(&self, key: impl Into<String>) -> Self {
        self.then(Step::Key(key.into()))
    }

    #[must_use]
    pub(super) fn index(&self, index: usize) -> Self {
        self.then(Step::Index(index))
    }

    fn then(&self, step: Step) -> Self {
        Self(self.0.iter().cloned().chain([step]).collect())
    }

    pub(super) fn steps(&self) -> &[Step] {
        &self.0
    }

    /// Whether one of the two contains the other.
    pub(super) fn overlaps(&self, other: &Self) -> bool {
        self.0.iter().zip(&other.0).all(|(a, b)| a == b)
    }
}

impl From<&serde_path_to_error::Path> for At {
    /// Up to the first segment without a name, such as a key that is not a text.
    fn from(path: &serde_path_to_error::Path) -> Self {
        use serde_path_to_error::Segment;
        let steps = path.iter().map_while(|segment| match segment {
            Segment::Seq { index } => Some(Step::Index(*index)),
            Segment::Map { key } => Some(Step::Key(key.clone())),
            Segment::Enum { .. } | Segment::Unknown => None,
        });
        Self(steps.collect())
    }
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, step) in self.0.iter().enumerate() {
            match step {
                Step::Index(index) => write!(f, "[{index}]")?,
                Step::Key(key) if position == 0 => f.write_str(key)?,
                Step::Key(key) => write!(f, ".{key}")?,
            }
        }
        Ok(())
    }
}

/// The places of one document. An aliased value has the place of its alias.
#[derive(Debug, Clone, Default)]
pub(super) struct Tree {
    line: usize,
    children: Vec<Child>,
}

#[derive(Debug, Clone)]
struct Child {
    /// As written: list elements keep their index when others are removed.
    step: Step,
    line: usize,
    tree: Tree,
}

impl Tree {
    /// Finds the places in a text.
    ///
    /// # Errors
    /// The first syntax error.
    pub(super) fn parse(text: &str) -> Result<Self, ScanError> {
        let mut open: Vec<Open> = vec![Open::list(1)];
        for event in Parser::new_from_str(text) {
            let (event, span) = event?;
            let line = span.start.line();
            match event {
                Event::SequenceStart(..) => open.push(Open::list(line)),
                Event::MappingStart(..) => open.push(Open::map(line)),
                Event::Scalar(text, ..) => add(
                    &mut open,
                    Tree {
                        line,
                        children: Vec::new(),
                    },
                    Some(&text),
                ),
                Event::Alias(_) => add(
                    &mut open,
                    Tree {
                        line,
                        children: Vec::new(),
                    },
                    None,
                ),
                Event::SequenceEnd | Event::MappingEnd => {
                    if let Some(done) = open.pop() {
                        add(&mut open, done.tree, None);
                    }
                }
                Event::Nothing
                | Event::StreamStart
                | Event::StreamEnd
                | Event::DocumentStart(_)
                | Event::DocumentEnd => {}
            }
        }
        let documents = open
            .into_iter()
            .next()
            .map(|root| root.tree.children)
            .unwrap_or_default();
        Ok(documents
            .into_iter()
            .next()
            .map(|first| first.tree)
            .unwrap_or_default())
    }

    /// The line of this place; if the file does not have it, that of its nearest parent.
    pub(super) fn line_of(&self, at: &At) -> usize {
        self.walk(at).last().map_or(self.line, |child| child.line)
    }

    pub(super) fn has(&self, at: &At) -> bool {
        self.walk(at).count() == at.steps().len()
    }

    /// How many entries this place has.
    pub(super) fn len_of(&self, at: &At) -> usize {
        if self.has(at) {
            self.walk(at)
                .last()
                .map_or(0, |child| child.tree.children.len())
        } else {
            0
        }
    }

    /// The path from the top to this place, as far as the file has it.
    fn walk<'a>(&'a self, at: &'a At) -> impl Iterator<Item = &'a Child> {
        let mut tree = self;
        at.steps().iter().map_while(move |step| {
            let child = tree.children.get(tree.position(step)?)?;
            tree = &child.tree;
            Some(child)
        })
    }

    /// The same place with list indices as the file has them, also after [`Tree::remove`].
    pub(super) fn as_written(&self, at: &At) -> At {
        let mut tree = Some(self);
        let steps = at.steps().iter().map(|step| {
            let child = tree.and_then(|tree| tree.children.get(tree.position(step)?));
            tree = child.map(|child| &child.tree);
            child.map_or_else(|| step.clone(), |child| child.step.clone())
        });
        At(steps.collect())
    }

    /// Removes a place. Later elements of its list move up, but keep the index that messages show.
    pub(super) fn remove(&mut self, at: &At) {
        let Some((last, parents)) = at.steps().split_last() else {
            return;
        };
        let mut tree = self;
        for step in parents {
            let Some(position) = tree.position(step) else {
                return;
            };
            tree = &mut tree.children[position].tree;
        }
        if let Some(position) = tree.position(last) {
            tree.children.remove(position);
        }
    }

    /// Keys that one mapping has twice, with the line of the second.
    pub(super) fn duplicates(&self) -> Vec<(At, usize)> {
        let mut found = Vec::new();
        self.find_duplicates(&At::default(), &mut found);
        found
    }

    fn find_duplicates(&self, at: &At, found: &mut Vec<(At, usize)>) {
        for (index, child) in self.children.iter().enumerate() {
            let place = at.then(child.step.clone());
            if self.children[..index]
                .iter()
                .any(|earlier| earlier.step == child.step)
            {
                found.push((place.clone(), child.line));
            }
            child.tree.find_duplicates(&place, found);
        }
    }

    fn position(&self, step: &Step) -> Option<usize> {
        match step {
            Step::Index(index) => (*index < self.children.len()).then_some(*index),
            Step::Key(_) => self.children.iter().position(|child| child.step == *step),
        }
    }
}

/// A collection that is being read.
struct Open {
    tree: Tree,
    /// None for lists. In a mapping: the key that waits for its value, or `Some(None)` when a key comes next.
    key: Option<Option<(String, usize)>>,
}

impl Open {
    fn list(line: usize) -> Self {
        Self {
            tree: Tree {
                line,
                children: Vec::new(),
            },
            key: None,
        }
    }

    fn map(line: usize) -> Self {
        Self {
            key: Some(None),
            ..Self::list(line)
        }
    }
}

/// Adds a finished value to its parent. `text` is its text if it can be a key.
fn add(open: &mut [Open], tree: Tree, text: Option<&str>) {
    let Some(parent) = open.last_mut() else {
        return;
    };
    let child = match &mut parent.key {
        None => Child {
            step: Step::Index(parent.tree.children.len()),
            line: tree.line,
            tree,
        },
        Some(waiting) => match waiting.take() {
            Some((key, line)) => Child {
                step: Step::Key(key),
                line,
                tree,
            },
            None => {
                *waiting = Some((text.unwrap_or("?").to_owned(), tree.line));
                return;
            }
        },
    };
    parent.tree.children.push(child);
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "a: 1\nlist:\n  - {x: 1,\n     y: 2}\n  - second\n  - third\nb: &anchor\n  c: 3\nd: *anchor\n";

    fn item(index: usize) -> At {
        At::top("list").index(index)
    }

    #[test]
    fn every_place_has_its_line_and_an_absent_one_the_line_of_its_parent() {
        let tree = Tree::parse(TEXT).expect("a document");
        for (at, line) in [
            (At::top("a"), 1),
            (At::top("list"), 2),
            (item(0).key("y"), 4),
            (item(0).key("absent"), 3),
            (item(1), 5),
            (At::top("b").key("c"), 8),
            (At::top("d").key("c"), 9),
            (At::top("absent"), 1),
        ] {
            assert_eq!(tree.line_of(&at), line, "line of {at}");
        }
        assert_eq!(tree.len_of(&At::top("list")), 3, "elements of the list");
    }

    #[test]
    fn elements_keep_their_written_index_after_an_earlier_one_is_removed() {
        let mut tree = Tree::parse(TEXT).expect("a document");
        tree.remove(&item(0));
        assert_eq!(
            tree.as_written(&item(1)).to_string(),
            "list[2]",
            "the third element"
        );
        assert_eq!(tree.line_of(&item(1)), 6, "its line");
    }

    #[test]
    fn a_key_that_stands_twice_is_found_with_the_line_of_the_second() {
        let tree = Tree::parse("a: 1\nb:\n  c: 1\n  c: 2\n").expect("a document");
        let found: Vec<String> = tree
            .duplicates()
            .iter()
            .map(|(at, line)| format!("{at}:{line}"))
            .collect();
        assert_eq!(found, ["b.c:4"], "one duplicate");
    }
}
