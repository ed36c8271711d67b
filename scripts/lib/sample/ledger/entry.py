"""One expense, and the line of text that it is written as."""

from dataclasses import dataclass
from datetime import date

from ledger.money import format_amount, parse_amount


@dataclass(frozen=True)
class Entry:
    day: date
    cents: int
    category: str
    note: str = ""


def parse_line(line):
    """The entry of a line `date;amount;category;note`."""
    day, amount, category, note = line.rstrip("\n").split(";", 3)
    return Entry(date.fromisoformat(day), parse_amount(amount), category.strip(), note.strip())


def format_line(entry):
    """The line of an entry; `parse_line` reads it back."""
    return f"{entry.day.isoformat()};{format_amount(entry.cents)};{entry.category};{entry.note}"


def parse_lines(lines):
    """The entries of a file; empty lines and comments are skipped."""
    entries = []
    for line in lines:
        if line.strip() and not line.startswith("#"):
            entries.append(parse_line(line))
    return entries
