//! Tables for the terminal: one look for every command.
//!
//! Texts of others (tasks, agents, dead letters) come with whatever bytes they like: nothing of them reaches the terminal
//! as a control sequence.

use anstream::ColorChoice;
use comfy_table::{CellAlignment, Color, ColumnConstraint, ContentArrangement, LineStyle, TableStyle, Width};

/// The last column gives way on a narrow terminal, down to this.
const LAST: u16 = 24;
/// One line below the header and nothing else.
const STYLE: TableStyle = TableStyle::new().header_separator(LineStyle::none().fill('─').junction('─'));

/// How something is to be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tone {
    Plain,
    Good,
    Active,
    Warning,
    Bad,
}

impl Tone {
    /// Of the state of a task, by its word in the API.
    pub(crate) fn of_task(status: &str) -> Self {
        match status {
            "succeeded" => Self::Good,
            "running" => Self::Active,
            "queued" | "cancelled" => Self::Plain,
            _ => Self::Bad,
        }
    }
}

/// One cell. Texts become plain ones.
pub(crate) struct Cell {
    text: String,
    tone: Tone,
}

impl Cell {
    pub(crate) fn toned(text: &str, tone: Tone) -> Self {
        Self { text: plain(text), tone }
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::toned(&text, Tone::Plain)
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::toned(text, Tone::Plain)
    }
}

/// A table that is being filled.
pub(crate) struct Rows(comfy_table::Table);

impl Rows {
    pub(crate) fn add_row<C: Into<Cell>>(&mut self, cells: impl IntoIterator<Item = C>) {
        let colors = colors();
        let cell = |cell: C| {
            let Cell { text, tone } = cell.into();
            let cell = comfy_table::Cell::new(text);
            match color(tone).filter(|_| colors) {
                Some(color) => cell.fg(color),
                None => cell,
            }
        };
        self.0.add_row(cells.into_iter().map(cell));
    }

    pub(crate) fn align_right(&mut self, columns: &[usize]) {
        for &column in columns {
            if let Some(column) = self.0.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
    }
}

/// `--color`, `NO_COLOR` and what standard output is, in this order.
fn colors() -> bool {
    anstream::AutoStream::choice(&std::io::stdout()) != ColorChoice::Never
}

fn color(tone: Tone) -> Option<Color> {
    match tone {
        Tone::Plain => None,
        Tone::Good => Some(Color::Green),
        Tone::Active => Some(Color::Cyan),
        Tone::Warning => Some(Color::Yellow),
        Tone::Bad => Some(Color::Red),
    }
}

/// Without anything that a terminal would obey.
pub(crate) fn plain(text: &str) -> String {
    let is_harmless = |character: char| !character.is_control() || matches!(character, '\n' | '\t');
    text.chars().map(|character| if is_harmless(character) { character } else { char::REPLACEMENT_CHARACTER }).collect()
}

/// An empty table with this header. The last column is the one for free text: on a terminal that is too narrow it breaks
/// into lines. Numbers, times and names never do, and without a terminal nothing does: a line is a row.
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
    Rows(table)
}

/// For [`ContentArrangement::Dynamic`].
fn keep_whole(table: &mut comfy_table::Table) {
    let widths = table.column_max_content_widths();
    let last = widths.len().saturating_sub(1);
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_constraint(match index == last {
            true => ColumnConstraint::LowerBoundary(Width::Fixed(widths[index].min(LAST))),
            false => ColumnConstraint::ContentWidth,
        });
    }
}

/// Narrow gaps, and no blanks at the ends of lines; a blank line follows.
pub(crate) fn lines(Rows(mut table): Rows) -> String {
    keep_whole(&mut table);
    for column in table.column_iter_mut() {
        column.set_padding((0, 1));
    }
    let lines = table.to_string();
    let trimmed: Vec<&str> = lines.lines().map(str::trim_end).collect();
    format!("{}\n\n", trimmed.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn on_a_narrow_terminal_only_the_last_column_breaks() {
        let mut rows = table(&["id", "cost", "error"]);
        rows.0.set_content_arrangement(ContentArrangement::Dynamic).set_width(50);
        rows.add_row(["t-019b2c6de0c97d3a8f0c2b7f5e3a1d44", "$0.0646", "the checks failed, and these are their words"]);
        let text = lines(rows);
        assert!(text.contains("t-019b2c6de0c97d3a8f0c2b7f5e3a1d44  $0.0646  the checks failed"), "a row:\n{text}");
        assert!(text.lines().count() > 4, "the words go on below:\n{text}");
        let mut rows = table(&["id", "words"]);
        rows.0.set_content_arrangement(ContentArrangement::Disabled);
        rows.add_row(["a", &"word ".repeat(60)]);
        assert_eq!(lines(rows).trim_end().lines().count(), 3, "without a terminal a row is a line");
    }

    #[test]
    fn no_text_of_others_moves_the_cursor() {
        let mut rows = table(&["reason"]);
        rows.add_row(["\u{1b}[2Jgone\u{7}\u{9b}1A"]);
        let text = lines(rows);
        assert!(text.contains("\u{fffd}[2Jgone"), "what it says is there: {text:?}");
        assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "and nothing of it is obeyed: {text:?}");
    }
}
