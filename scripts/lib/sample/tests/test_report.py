import unittest
from datetime import date

from ledger.entry import Entry
from ledger.report import calc, month_total, months


def entry(day, cents, category="food"):
    return Entry(date.fromisoformat(day), cents, category)


class Report(unittest.TestCase):
    def test_totals_by_category(self):
        entries = [entry("2026-01-05", 100), entry("2026-01-06", 50), entry("2026-01-07", 7, "rent")]
        self.assertEqual(calc(entries), {"food": 150, "rent": 7})

    def test_a_month_ends_before_the_first_of_the_next(self):
        entries = [entry("2026-01-31", 100), entry("2026-02-01", 1)]
        self.assertEqual(month_total(entries, 2026, 1), 100)

    def test_december_is_a_month_too(self):
        entries = [entry("2025-12-31", 100), entry("2026-01-01", 1)]
        self.assertEqual(month_total(entries, 2025, 12), 100)

    def test_months_are_in_order(self):
        entries = [entry("2026-02-01", 1), entry("2025-11-30", 1), entry("2026-02-03", 1)]
        self.assertEqual(months(entries), [(2025, 11), (2026, 2)])


if __name__ == "__main__":
    unittest.main()
