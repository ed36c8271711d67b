//! Tables for the terminal: one look for every command.

use comfy_table::presets::UTF8_HORIZONTAL_ONLY;
use comfy_table::{ContentArrangement, Table};

/// For output that goes to no terminal.
const COLUMNS: u16 = 100;

/// An empty table with this header, as wide as the terminal.
pub(crate) fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_HORIZONTAL_ONLY).set_content_arrangement(ContentArrangement::Dynamic).set_header(header);
    if table.width().is_none() {
        table.set_width(COLUMNS);
    }
    table
}

/// Without the blanks that fill the last column; a blank line follows.
pub(crate) fn lines(table: &Table) -> String {
    let lines = table.to_string();
    let trimmed: Vec<&str> = lines.lines().map(str::trim_end).collect();
    format!("{}\n\n", trimmed.join("\n"))
}
