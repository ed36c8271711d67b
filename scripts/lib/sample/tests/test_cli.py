import contextlib
import io
import os
import tempfile
import unittest

from ledger.cli import main

LINES = "2026-01-05;12.50;food;lunch\n2026-02-09;48.00;travel;train\n"


class CommandLine(unittest.TestCase):
    def run_ledger(self, *arguments):
        with tempfile.TemporaryDirectory() as directory:
            path = os.path.join(directory, "ledger.txt")
            with open(path, "w", encoding="utf-8") as file:
                file.write(LINES)
            out = io.StringIO()
            with contextlib.redirect_stdout(out):
                status = main([*arguments, path])
        return status, out.getvalue()

    def test_totals_by_category(self):
        self.assertEqual(self.run_ledger("total"), (0, "food    12.50\ntravel  48.00\n"))

    def test_totals_by_month(self):
        self.assertEqual(self.run_ledger("months"), (0, "2026-01  12.50\n2026-02  48.00\n"))


if __name__ == "__main__":
    unittest.main()
