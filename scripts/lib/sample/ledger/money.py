"""Amounts are whole cents: binary fractions cannot hold 0.10."""


def parse_amount(text):
    whole, _, fraction = text.strip().partition(".")
    if len(fraction) > 2:
        raise ValueError(f"more than two decimal places: {text!r}")
    sign = -1 if whole.startswith("-") else 1
    return sign * (abs(int(whole)) * 100 + int(fraction.ljust(2, "0") or "0"))


def format_amount(cents):
    sign = "-" if cents < 0 else ""
    return f"{sign}{abs(cents) // 100}.{abs(cents) % 100:02d}"


def split_evenly(cents, people):
    share, rest = divmod(cents, people)
    return [share + 1] * rest + [share] * (people - rest)
