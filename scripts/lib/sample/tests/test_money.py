import unittest

from ledger.money import format_amount, parse_amount, split_evenly


class Money(unittest.TestCase):
    def test_amounts_are_read_as_cents(self):
        for text, cents in [("12.50", 1250), ("7", 700), ("0.05", 5), ("-3.20", -320), (" 1.5 ", 150)]:
            self.assertEqual(parse_amount(text), cents, text)

    def test_cents_are_written_as_amounts(self):
        for cents, text in [(1250, "12.50"), (5, "0.05"), (-320, "-3.20"), (0, "0.00")]:
            self.assertEqual(format_amount(cents), text)

    def test_no_cent_gets_lost_in_a_split(self):
        self.assertEqual(split_evenly(100, 3), [34, 33, 33])


if __name__ == "__main__":
    unittest.main()
