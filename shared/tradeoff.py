"""What epsilon means to an attacker: how many users it can find at a given rate of false alarms.

A membership test between two neighbouring data sets obeys, at every epsilon, both inequalities of
Dong, Roth and Su (2022, proposition 2.5); delta(epsilon) comes from the privacy loss distribution
of the whole composition, so that the least bound over all epsilons holds for every attack.
"""

from collections.abc import Iterable
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from shared.accounting import (
    COARSE_DISCRETISATION,
    SMALLEST_DELTA,
    Event,
    Events,
    discretisation_of,
    epsilon_coarse,
    merged,
    privacy_losses,
    without_guarantee,
)
from shared.errors import PrivacyError

EPSILONS = 4001
# Far above every epsilon that still has a guarantee.
LARGEST_EPSILON = 200.0


def best_true_positive_rate(events: Iterable[Event], false_positive_rate: float) -> float:
    """Upper bound of the true-positive rate of every membership attack on these events.

    The attacker sees all releases and knows everything but whether the one user took part.

    Args:
        events: composed.
        false_positive_rate: share of absent users it takes for present, in [0, 1].

    Raises:
        PrivacyError: if the rate is no probability.
    """
    if not 0.0 <= false_positive_rate <= 1.0:
        raise PrivacyError(
            f"false-positive rate {false_positive_rate:g}: it must lie between 0 and 1"
        )
    composed = merged(events)
    if without_guarantee(composed):
        return 1.0
    if not composed:
        return false_positive_rate
    epsilons, deltas = _curve(composed)
    one_way = np.exp(epsilons) * false_positive_rate + deltas
    other_way = 1.0 - np.exp(-epsilons) * (1.0 - deltas - false_positive_rate)
    return float(min(one_way.min(), other_way.min(), 1.0))


@lru_cache(maxsize=16)
def _curve(composed: Events) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Epsilons and their deltas; every finite set bounds the attack, a dense one closely."""
    top = min(epsilon_coarse(composed, SMALLEST_DELTA), LARGEST_EPSILON)
    epsilons = np.linspace(0.0, top, EPSILONS)
    losses = privacy_losses(composed, discretisation_of(composed, COARSE_DISCRETISATION))
    return epsilons, np.asarray(losses.get_delta_for_epsilon(epsilons))
