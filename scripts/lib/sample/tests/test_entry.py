import unittest
from datetime import date

from ledger.entry import Entry, format_line, parse_line, parse_lines


class Entries(unittest.TestCase):
    def test_a_line_becomes_an_entry_and_a_line_again(self):
        line = "2026-01-05;12.50;food;lunch; with Ada"
        entry = parse_line(line)
        self.assertEqual(entry, Entry(date(2026, 1, 5), 1250, "food", "lunch; with Ada"))
        self.assertEqual(format_line(entry), line)

    def test_comments_and_empty_lines_are_skipped(self):
        self.assertEqual(len(parse_lines(["# head", "", "2026-01-05;1;food;\n"])), 1)


if __name__ == "__main__":
    unittest.main()
