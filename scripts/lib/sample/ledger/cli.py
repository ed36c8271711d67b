"""The command line: `python3 -m ledger COMMAND FILE`."""

import argparse
import sys

from ledger.entry import parse_lines
from ledger.money import format_amount
from ledger.report import calc, month_total, months
from ledger.text import table


def build_parser():
    parser = argparse.ArgumentParser(prog="ledger", description="A small expense ledger.")
    commands = parser.add_subparsers(dest="command", required=True)
    total = commands.add_parser("total", help="totals by category")
    total.add_argument("file")
    by_month = commands.add_parser("months", help="totals by month")
    by_month.add_argument("file")
    return parser


def read(path):
    with open(path, encoding="utf-8") as file:
        return parse_lines(file)


def print_totals(arguments):
    totals = calc(read(arguments.file))
    print(table([(category, format_amount(cents)) for category, cents in sorted(totals.items())]))


def print_months(arguments):
    entries = read(arguments.file)
    rows = [(f"{year}-{month:02d}", format_amount(month_total(entries, year, month))) for year, month in months(entries)]
    print(table(rows))


def main(argv):
    arguments = build_parser().parse_args(argv)
    try:
        {"total": print_totals, "months": print_months}[arguments.command](arguments)
    except (OSError, ValueError) as error:
        print(f"ledger: {error}", file=sys.stderr)
        return 1
    return 0
