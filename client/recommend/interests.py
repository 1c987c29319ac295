"""What a user's history says in words: themes from the items' attributes, and how they drift."""

import math

import numpy as np
import numpy.typing as npt

from client.recommend.attributes import Attributes
from client.recommend.query import Interests, Theme
from shared.scoring import Ints

# Weight of an interaction is this per step back: half after some 23.
DECAY = 0.97
MOST_PERIODS = 6
LEAST_PER_PERIOD = 5
MOST_THEMES = 8


def interests_of(
    row: Ints, times: npt.NDArray[np.float64], attributes: Attributes, items: int
) -> Interests:
    """Themes of one history.

    A theme is a term that the history has more often than the catalogue. Themes are ordered by
    weight times log lift, the part that a term has in the Kullback-Leibler divergence of the
    history from the catalogue.

    Args:
        row: ``[length]`` items in order of time. Private.
        times: ``[length]`` seconds since 1970.
        attributes: of the catalogue.
        items: size of the catalogue.
    """
    if not len(row):
        return Interests((), ())
    weights = DECAY ** np.arange(len(row))[::-1]
    weights /= weights.sum()
    has = {
        (column, term): np.zeros(len(row))
        for column in attributes.columns
        for place in set(row.tolist())
        for term in attributes.terms(column, place)
        if (column, term) in attributes.frequency
    }
    for step, place in enumerate(row.tolist()):
        for column in attributes.columns:
            for term in attributes.terms(column, place):
                if (column, term) in has:
                    has[column, term][step] = 1.0
    periods = np.array_split(
        np.arange(len(row)), max(1, min(MOST_PERIODS, len(row) // LEAST_PER_PERIOD))
    )
    themes = []
    for (column, term), indicator in has.items():
        weight = float(weights @ indicator)
        lift = weight / (attributes.frequency[column, term] / items)
        if lift > 1.0:
            shares = tuple(float(indicator[period].mean()) for period in periods)
            themes.append(Theme(term, column, weight, lift, shares))
    themes.sort(key=lambda theme: (-theme.weight * math.log(theme.lift), theme.name))
    return Interests(
        tuple((float(times[period[0]]), float(times[period[-1]])) for period in periods),
        tuple(themes[:MOST_THEMES]),
    )
