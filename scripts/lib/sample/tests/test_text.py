import unittest

from ledger.text import pad, shorten, slug, table


class Text(unittest.TestCase):
    def test_columns_line_up(self):
        self.assertEqual(table([("food", "1.00"), ("rent and tax", "2.00")]), "food          1.00\nrent and tax  2.00")

    def test_text_fits_its_width(self):
        self.assertEqual(pad("ab", 4), "ab  ")
        self.assertEqual(shorten("groceries", 5), "groc…")
        self.assertEqual(shorten("rent", 5), "rent")

    def test_a_slug_is_safe_in_a_file_name(self):
        self.assertEqual(slug("Rent & tax!"), "rent-tax")


if __name__ == "__main__":
    unittest.main()
