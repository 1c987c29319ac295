"""How far a likeness of items is borne out by the pairs that a federation has released.

Post-processing of what is public, so it costs no privacy: a base whose texts or whose layers rank
badly is told from a good one without asking anybody's history again. The comparison is that of the
Mantel test (Mantel, Cancer Research 1967), two matrices over the same items, with the
independence of the items as the expectation and its square as the weight of a cell.
"""

import numpy as np

from shared.config import StatisticsSection
from shared.encoder import Vectors
from shared.statistics import Floats, Statistics

# A likeness that explains no more than this counts nothing. Random likenesses of films reach 0.02,
# where G is mostly noise 0.05, and layers of SmolLM2 that read item vectors 0.04.
LEAST_LIFT = 0.04
SWEEPS = 3
# Likenesses that differ by less, beside their squares, do not differ.
ROUNDING = 1e-9


def pair_lift(statistics: Statistics, options: StatisticsSection, likeness: Vectors) -> float:
    """By what share pairs are more frequent for one standard deviation more of a likeness.

    In the released G, beside pairs of items that were chosen independently. What is about one item
    alone, such as its popularity, is taken out of the likeness before.

    Args:
        statistics: released.
        options: the powers of popularity that G was divided by.
        likeness: ``[K, K] float32`` of the items of G, larger for likelier pairs; may be lopsided.

    Returns:
        0.4 for a good sentence encoder on films, 0 for a likeness that says nothing; NaN where the
        released G holds no pairs, so that nothing can be told, and where a likeness is not finite:
        a broken model is not to be hidden by a weight of 0.
    """
    # The counts as they were released, which stand in for those that G was divided by: the noise's
    # share in them differs (``transition_matrix``, ``log_popularity``).
    count = np.exp(statistics.log_popularity[statistics.top])
    pairs = statistics.transition * count[:, None] ** options.row_power
    pairs *= count[None, :] ** options.column_power
    expected = np.outer(count, count)
    np.fill_diagonal(expected, 0.0)
    total = pairs.sum()
    if not total > 0.0 or not np.isfinite(likeness).all():
        return float("nan")
    expected *= total / expected.sum()
    weights = expected**2
    wide = likeness.astype(np.float64)
    differences = _without_margins(wide, weights)
    variance = (weights * differences**2).sum()
    if not variance > ROUNDING * (weights * wide**2).sum():
        return 0.0
    explained = ((pairs - expected) * expected * differences).sum()
    return float(explained / np.sqrt(variance * weights.sum()))


def borne_out(weight: float, lift: float, per_lift: float) -> float:
    """The weight that a part of the score gets.

    Args:
        weight: as configured, which is the most.
        lift: of the part's likenesses, by ``pair_lift``; NaN, where nothing can be told, gives the
            whole weight.
        per_lift: weight for each unit of lift above ``LEAST_LIFT``; 0: always the whole weight.
    """
    if not per_lift or np.isnan(lift):
        return weight
    return min(weight, per_lift * max(lift - LEAST_LIFT, 0.0))


def _without_margins(values: Floats, weights: Floats) -> Floats:
    """What is left of a matrix without the weighted means of its rows and columns."""
    rows, columns = weights.sum(axis=1), weights.sum(axis=0)
    left = values
    for _ in range(SWEEPS):
        left = left - ((weights * left).sum(axis=1) / rows)[:, None]
        left = left - ((weights * left).sum(axis=0) / columns)[None, :]
    return left
