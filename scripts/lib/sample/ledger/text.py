"""Text in columns, for terminals."""

import re
import textwrap


def pad(text, width):
    return text[:width].ljust(width)


def shorten(text, width):
    if len(text) <= width:
        return text
    return text[: width - 1] + "…"


def slug(text):
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def _wrap_old(text, width):
    # replaced by shorten()
    lines = []
    while text:
        lines.append(text[:width])
        text = text[width:]
    return lines


def _join_wrapped(lines):
    return textwrap.fill(" ".join(lines))


def table(rows):
    widths = [max(len(cell) for cell in column) for column in zip(*rows)]
    return "\n".join("  ".join(pad(cell, width) for cell, width in zip(row, widths)).rstrip() for row in rows)
