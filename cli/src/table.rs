//! Tables for the terminal: one style for every command.
//!
//! Texts of tasks, agents and dead letters may contain any bytes; no control sequence of theirs
//! reaches the terminal.

use anstream::ColorChoice;
use comfy_table::{
    CellAlignment, Color, ColumnConstraint, ContentArrangement, LineStyle, TableStyle, Width,
};
use pool_api::events::Tone;
use pool_api::tasks::Stage;

/// The last column shrinks on a narrow terminal, down to this width, or to its longest word.
const LAST: u16 = 24;
/// A longer word breaks in the middle; ids are shorter.
const WORD: u16 = 40;
/// The least width of a folded column.
const FOLDED: u16 = 12;
/// Blanks between two columns.
const GAP: u16 = 2;
/// One line below the header and nothing else.
const STYLE: TableStyle =
    TableStyle::new().header_separator(LineStyle::none().fill('─').junction('─'));

/// The tone of a task's state.
pub(crate) fn task_tone(status: Stage) -> Tone {
    match status {
        Stage::Succeeded => Tone::Good,
        Stage::Running => Tone::Active,
        Stage::Queued | Stage::Cancelled => Tone::Neutral,
        Stage::Failed | Stage::Rejected | Stage::Expired => Tone::Bad,
    }
}

/// One cell. Control characters are replaced.
pub(crate) struct Cell {
    text: String,
    tone: Tone,
}

impl Cell {
    pub(crate) fn toned(text: &str, tone: Tone) -> Self {
        Self {
            text: plain(text),
            tone,
        }
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::toned(&text, Tone::Neutral)
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::toned(text, Tone::Neutral)
    }
}

/// A table under construction.
pub(crate) struct Rows {
    table: comfy_table::Table,
    /// Columns to drop on a narrow terminal, in this order.
    spare: &'static [usize],
    /// The column that folds after that.
    folds: Option<usize>,
    /// The width of the longest word in the last column.
    word: u16,
}

impl Rows {
    pub(crate) fn add_row<C: Into<Cell>>(&mut self, cells: impl IntoIterator<Item = C>) {
        let colors = colors();
        let cells: Vec<Cell> = cells.into_iter().map(Into::into).collect();
        cells
            .last()
            .iter()
            .for_each(|cell| self.hold_word(&cell.text));
        let cell = |Cell { text, tone }| {
            let cell = comfy_table::Cell::new(text);
            match color(tone).filter(|_| colors) {
                Some(color) => cell.fg(color),
                None => cell,
            }
        };
        self.table.add_row(cells.into_iter().map(cell));
    }

    pub(crate) fn align_right(&mut self, columns: &[usize]) {
        for &column in columns {
            if let Some(column) = self.table.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
    }

    /// Columns to drop on a narrow terminal, the first one first. JSON and piped output have them
    /// all.
    pub(crate) fn spare(&mut self, columns: &'static [usize]) {
        self.spare = columns;
    }

    /// The column that folds anywhere if dropping columns is not enough.
    pub(crate) fn folds(&mut self, column: usize) {
        self.folds = Some(column);
    }

    fn hold_word(&mut self, text: &str) {
        let longest = text
            .split_whitespace()
            .map(|word| word.chars().count())
            .max()
            .unwrap_or_default();
        self.word = self.word.max(u16::try_from(longest).unwrap_or(u16::MAX));
    }

    /// For [`ContentArrangement::Dynamic`].
    fn keep_whole(&mut self) {
        let mut widths = self.table.column_max_content_widths();
        let end = widths.len().saturating_sub(1);
        if let Some(last) = widths.last_mut() {
            *last = self.word.min(WORD).max((*last).min(LAST));
        }
        let (hidden, over) = self.too_much(&widths);
        for (index, (column, width)) in self.table.column_iter_mut().zip(widths).enumerate() {
            // Widths include the padding.
            column.set_padding((0, 1));
            column.set_constraint(match index {
                _ if hidden.contains(&index) => ColumnConstraint::Hidden,
                _ if index == end => ColumnConstraint::LowerBoundary(Width::Fixed(width + 1)),
                _ if over > 0 && self.folds == Some(index) => ColumnConstraint::Absolute(
                    Width::Fixed(width.saturating_sub(over).max(FOLDED) + 1),
                ),
                _ => ColumnConstraint::ContentWidth,
            });
        }
    }

    /// The spare columns that must go, and by how much the table is still too wide.
    fn too_much(&self, widths: &[u16]) -> (&'static [usize], u16) {
        let is_dynamic = matches!(
            self.table.content_arrangement(),
            ContentArrangement::Dynamic
        );
        let Some(room) = self.table.width().filter(|_| is_dynamic) else {
            return (&[], 0);
        };
        let over = |hidden: &[usize]| {
            let seen = widths
                .iter()
                .enumerate()
                .filter(|(index, _)| !hidden.contains(index));
            seen.fold(0u16, |sum, (_, width)| sum.saturating_add(width + GAP))
                .saturating_sub(room + 1)
        };
        let hidden = (0..self.spare.len())
            .map(|count| &self.spare[..count])
            .find(|hidden| over(hidden) == 0);
        let hidden = hidden.unwrap_or(self.spare);
        (hidden, over(hidden))
    }
}

/// The text of a cell that may be empty.
pub(crate) fn or_blank(value: Option<impl ToString>) -> String {
    value.map_or(String::new(), |value| value.to_string())
}

/// Decides by `--color`, `NO_COLOR` and the kind of standard output, in this order.
fn colors() -> bool {
    anstream::AutoStream::choice(&std::io::stdout()) != ColorChoice::Never
}

fn color(tone: Tone) -> Option<Color> {
    match tone {
        Tone::Neutral => None,
        Tone::Good => Some(Color::Green),
        Tone::Active => Some(Color::Cyan),
        Tone::Warning => Some(Color::Yellow),
        Tone::Bad => Some(Color::Red),
    }
}

/// Replaces control characters that a terminal would obey.
pub(crate) fn plain(text: &str) -> String {
    let is_harmless = |character: char| !character.is_control() || matches!(character, '\n' | '\t');
    text.chars()
        .map(|character| {
            if is_harmless(character) {
                character
            } else {
                char::REPLACEMENT_CHARACTER
            }
        })
        .collect()
}

/// An empty table with this header. The last column holds free text: it breaks into lines on a
/// narrow terminal. Numbers, times and names never break. Without a terminal nothing breaks: a row
/// is a line.
pub(crate) fn table(header: &[&str]) -> Rows {
    let mut table = comfy_table::Table::new();
    table.load_style(STYLE).set_header(header);
    let is_terminal = table.width().is_some();
    table.set_content_arrangement(match is_terminal {
        true => ContentArrangement::Dynamic,
        false => ContentArrangement::Disabled,
    });
    if colors() {
        table.enforce_styling();
    }
    let mut rows = Rows {
        table,
        spare: &[],
        folds: None,
        word: 0,
    };
    header.last().iter().for_each(|name| rows.hold_word(name));
    rows
}

/// Renders with narrow gaps and without blanks at line ends; a blank line follows.
pub(crate) fn lines(mut rows: Rows) -> String {
    rows.keep_whole();
    let lines = rows.table.to_string();
    let trimmed: Vec<&str> = lines.lines().map(str::trim_end).collect();
    format!("{}\n\n", trimmed.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn on_a_narrow_terminal_only_the_last_column_breaks() {
        let mut rows = table(&["id", "cost", "error"]);
        rows.table
            .set_content_arrangement(ContentArrangement::Dynamic)
            .set_width(50);
        rows.add_row([
            "t-019b2c6de0c97d3a8f0c2b7f5e3a1d44",
            "$0.0646",
            "the checks failed, and these are their words",
        ]);
        let text = lines(rows);
        assert!(
            text.contains("t-019b2c6de0c97d3a8f0c2b7f5e3a1d44  $0.0646  the checks failed"),
            "a row:\n{text}"
        );
        assert!(
            text.lines().count() > 4,
            "the words continue below:\n{text}"
        );
        let mut rows = table(&["id", "words"]);
        rows.table
            .set_content_arrangement(ContentArrangement::Disabled);
        rows.add_row(["a", &"word ".repeat(60)]);
        assert_eq!(
            lines(rows).trim_end().lines().count(),
            3,
            "without a terminal a row is a line"
        );
    }

    /// Six columns on a terminal of this width.
    fn at(width: u16, last: &str) -> String {
        let mut rows = table(&["id", "state", "LLM", "from", "bytes", "doing"]);
        rows.table
            .set_content_arrangement(ContentArrangement::Dynamic)
            .set_width(width);
        rows.spare(&[4, 3]);
        rows.folds(2);
        rows.add_row([
            "Prog-001",
            "busy",
            "anthropic/claude",
            "pool.tasks (key \"fast\")",
            "1234",
            last,
        ]);
        lines(rows)
    }

    #[test]
    fn spare_columns_go_one_after_the_other_where_there_is_no_room() {
        let words = "t-019b2c6de0c97d3a8f0c2b7f5e3a1d44 for 2 min 05 s";
        let header = |width| {
            at(width, words)
                .lines()
                .next()
                .unwrap_or_default()
                .split_whitespace()
                .collect::<Vec<_>>()
                .join(" ")
        };
        assert_eq!(
            header(140),
            "id state LLM from bytes doing",
            "all have room"
        );
        assert_eq!(
            header(100),
            "id state LLM from doing",
            "the first spare column is dropped"
        );
        assert_eq!(header(80), "id state LLM doing", "and the second");
        let text = at(80, words);
        assert!(
            text.contains("t-019b2c6de0c97d3a8f0c2b7f5e3a1d44"),
            "an id is never broken:\n{text}"
        );
        let widest = text.lines().map(|line| line.chars().count()).max();
        assert!(widest <= Some(80), "{widest:?} columns:\n{text}");
        let text = at(67, words);
        assert!(
            text.contains("t-019b2c6de0c97d3a8f0c2b7f5e3a1d44") && text.contains("anthropic/"),
            "the LLM folds:\n{text}"
        );
        assert!(
            text.lines().all(|line| line.chars().count() <= 67),
            "into the remaining width:\n{text}"
        );
    }

    #[test]
    fn the_header_of_an_empty_last_column_is_whole() {
        let text = at(60, "");
        assert!(
            text.lines()
                .next()
                .is_some_and(|line| line.ends_with("doing")),
            "{text}"
        );
    }

    #[test]
    fn no_text_of_others_moves_the_cursor() {
        let mut rows = table(&["reason"]);
        rows.add_row(["\u{1b}[2Jgone\u{7}\u{9b}1A"]);
        let text = lines(rows);
        assert!(
            text.contains("\u{fffd}[2Jgone"),
            "the text itself is there: {text:?}"
        );
        assert!(
            !text.chars().any(|c| c.is_control() && c != '\n'),
            "without its control sequences: {text:?}"
        );
    }
}
