"""Sums over entries."""

from datetime import date


def calc(entries):
    """Cents by category."""
    totals = {}
    for entry in entries:
        totals[entry.category] = totals.get(entry.category, 0) + entry.cents
    return totals


def month_range(year, month):
    """The first day of a month and the first day of the next one."""
    return date(year, month, 1), date(year, month + 1, 1)


def month_total(entries, year, month):
    """Cents of the entries of one month."""
    first, after = month_range(year, month)
    return sum(entry.cents for entry in entries if first <= entry.day < after)


def months(entries):
    """The (year, month) pairs that have entries, in order."""
    return sorted({(entry.day.year, entry.day.month) for entry in entries})
