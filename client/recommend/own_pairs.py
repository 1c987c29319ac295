"""An organisation's own co-occurrence beside the federation's, for its own users' lists.

It has no noise, the federation never learns of it, and it is no part of the guarantee: a list made
with it depends on what other users of the same organisation had, and who sees many lists may learn
of them. It is off unless the organisation turns it on in ``agent.toml``; no run can.
"""

from dataclasses import replace

import numpy as np

from shared.config import StatisticsSection
from shared.histories import PrivateHistories
from shared.scoring import Scorer
from shared.statistics import (
    AUTO_RANGE,
    Floats,
    Ints,
    Statistics,
    cooccurrence_blocks,
    popularity_blocks,
    transition_matrix,
    triangle_size,
)


def with_own_pairs(scorer: Scorer, histories: PrivateHistories) -> Scorer:
    """The same scorer with the organisation's own pairs in its G, by ``config.personalisation``.

    Own sums are taken as many times as makes them as large as the federation's over the items that
    its G covers: as if all others were like this organisation.

    Args:
        scorer: with what the federation delivered, and nothing else.
        histories: of the organisation. Private; what comes out depends on all of them.
    """
    options, delivered = scorer.config.personalisation, scorer.statistics
    popularity, own, triangle = own_sums(
        histories, len(scorer.vectors), options.least_users, scorer.config.statistics
    )
    there = popularity[delivered.top].sum()
    released = np.exp(delivered.log_popularity[delivered.top]).sum()
    times = max(1.0, float(released / there)) if there else 1.0
    transition = exact_transition(
        times * triangle, times * popularity[own], scorer.config.statistics
    )
    top = np.union1d(delivered.top, own)
    joined = np.zeros((len(top), len(top)))
    for places, part, weight in (
        (delivered.top, delivered.transition, 1.0),
        (own, transition, options.own_cooccurrence),
    ):
        at = np.searchsorted(top, places)
        joined[np.ix_(at, at)] += weight * part
    statistics = Statistics(delivered.log_popularity, top, joined)
    # How much the other parts weigh stays what the released statistics say of them.
    return replace(scorer, statistics=statistics, weights=scorer.blend())


def own_sums(
    histories: PrivateHistories, items: int, least_users: int, options: StatisticsSection
) -> tuple[Floats, Ints, Floats]:
    """P and G of some histories, without noise. Private.

    Args:
        histories: of one organisation.
        items: of its catalogue.
        least_users: pairs that fewer users had do not count.
        options: how pairs are counted.

    Returns:
        ``[items]`` P; ``[K]`` items had by ``least_users``, at most ``AUTO_RANGE[1]``, most users
        first; ``[K (K - 1) / 2]`` G over them.
    """
    popularity, users = np.zeros(items), np.zeros(items, dtype=np.int64)
    for _, places, values in popularity_blocks(histories):
        popularity += np.bincount(places, weights=values, minlength=items)
        users += np.bincount(places, minlength=items)
    order = np.argsort(-users, kind="stable")[: AUTO_RANGE[1]]
    top = order[users[order] >= least_users].astype(np.int64)
    cells = triangle_size(len(top))
    sums, had_by = np.zeros(cells), np.zeros(cells, dtype=np.int64)
    for _, places, values in cooccurrence_blocks(histories, top, options):
        sums += np.bincount(places, weights=values, minlength=cells)
        had_by += np.bincount(places, minlength=cells)
    return popularity, top, np.where(had_by >= least_users, sums, 0.0)


def exact_transition(triangle: Floats, popularity: Floats, options: StatisticsSection) -> Floats:
    """``transition_matrix`` of sums without noise, of which there is nothing to cut off."""
    whole = options.model_copy(update={"rank": 0})
    return transition_matrix(triangle, popularity, 0.0, 0.0, whole)
