"""Figures that describe many entries at once."""


def mean(amounts):
    """The arithmetic mean in whole cents, rounded down."""
    return sum(amounts) // len(amounts)


def largest(entries, count=3):
    """The most expensive entries, the most expensive first."""
    return sorted(entries, key=lambda entry: entry.cents, reverse=True)[:count]
