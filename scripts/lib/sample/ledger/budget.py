"""What may be spent, and what of it is left."""


def monthly_allowance(cents_per_year):
    return cents_per_year // 12


def left_this_year(cents_per_year, spent, month):
    """What is left of the months so far, so that nothing is borrowed from later ones."""
    return cents_per_year // 12 * month - spent


def months_covered(savings, cents_per_year):
    """For how many whole months the savings last."""
    return savings // (cents_per_year // 12)
