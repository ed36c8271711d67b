import unittest

from ledger import stats


class Stats(unittest.TestCase):
    def test_the_mean_is_in_whole_cents(self):
        self.assertEqual(stats.mean([100, 101]), 100)

    def test_the_median_of_an_odd_number_of_amounts_is_the_middle_one(self):
        self.assertEqual(stats.median([900, 100, 200]), 200)

    def test_the_median_of_an_even_number_is_between_the_middle_two(self):
        self.assertEqual(stats.median([100, 400, 200, 1000]), 300)


if __name__ == "__main__":
    unittest.main()
