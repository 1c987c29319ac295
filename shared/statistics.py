"""The two one-shot statistics, popularity P and co-occurrence G: rows of users, and their use.

Each user contributes one row of L2 norm at most 1 to each statistic, so one Gaussian mechanism with
sensitivity 1 gives user-level differential privacy (add or remove one user). Noisy co-occurrence
for recommendation goes back to McSherry and Mironov (KDD 2009). Everything after the noise is
post-processing and free.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shared.config import StatisticsSection
from shared.grid import grid_spacing
from shared.histories import PrivateHistories

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

# Below 1 by more than the rounding of a float64 sum of squares, so that the bound is exact.
UNIT = 1.0 - 1e-12
# Rows lie on this grid, so that a float64 sum of up to four million of them is exact: sums that
# round would move by more than one user's row when that user goes (2 ** -30 of the sensitivity, the
# grid of discrete noise too).
SPACING = grid_spacing(1.0)
USERS_PER_BLOCK = 4096
AUTO_DEVIATIONS = 4.0
AUTO_RANGE = (100, 400)


def popularity_rows(histories: PrivateHistories) -> tuple[Ints, Ints, Floats]:
    """The sparse rows of P: ``1 / sqrt(distinct items)`` at each item that a user has.

    Returns:
        ``(users, items, values)``, one entry per distinct pair; every user's L2 norm is at most 1.
    """
    owner = np.repeat(np.arange(len(histories)), histories.lengths)
    width = int(histories.items.max(initial=0)) + 1
    pairs = np.unique(owner * width + histories.items)
    users, items = pairs // width, pairs % width
    distinct = np.bincount(users, minlength=len(histories))
    return users, items, _on_grid(UNIT / np.sqrt(distinct[users]))


def popularity_sum(histories: PrivateHistories, items: int) -> Floats:
    """Sum of all users' rows of P, ``[items] float64``. Private until noised."""
    _, places, values = popularity_rows(histories)
    return np.bincount(places, weights=values, minlength=items).astype(np.float64)


def triangle_size(k: int) -> int:
    """Cells of the upper triangle of a ``k`` by ``k`` matrix, without its diagonal."""
    return k * (k - 1) // 2


def cooccurrence_rows(
    histories: PrivateHistories, top: Ints, options: StatisticsSection
) -> tuple[Ints, Ints, Floats]:
    """The sparse rows of G over the items ``top``, in the order of that array.

    A history is first restricted to ``top``; then each unordered pair of different items up to
    ``pair_window`` steps apart adds ``pair_decay ** (distance - 1)`` to its cell, and the row is
    scaled to norm 1. Restricting first concentrates a user's norm on what survives.

    Returns:
        ``(users, cells, values)``; cells number the upper triangle row by row.
    """
    place = np.full(int(max(histories.items.max(initial=0), top.max(initial=0))) + 1, -1)
    place[top] = np.arange(len(top))
    parts = [
        _block_rows(histories, place, len(top), options, start)
        for start in range(0, len(histories), USERS_PER_BLOCK)
    ]
    users, cells, values = zip(*parts, strict=True) if parts else ((), (), ())
    empty = [np.empty(0, dtype=np.int64)]
    return (
        np.concatenate([*empty, *users]),
        np.concatenate([*empty, *cells]),
        np.concatenate([np.empty(0), *values]),
    )


def cooccurrence_sum(histories: PrivateHistories, top: Ints, options: StatisticsSection) -> Floats:
    """Sum of all users' rows of G, ``[K * (K - 1) / 2] float64``. Private until noised."""
    _, cells, values = cooccurrence_rows(histories, top, options)
    size = triangle_size(len(top))
    return np.bincount(cells, weights=values, minlength=size).astype(np.float64)


@dataclass(frozen=True)
class Statistics:
    """What the server makes of the noisy sums and hands back; public after the release.

    Attributes:
        log_popularity: ``[items] float64``, the prior and the first part of the score.
        top: ``[K] int64`` places in the catalogue of the items that G covers; may be empty.
        transition: ``[K, K] float64`` post-processed G.
    """

    log_popularity: Floats
    top: Ints
    transition: Floats


def log_popularity(noisy: Floats, deviation: Floats | float) -> Floats:
    """``log(max(noisy P, 0) + max(0.3, sP))``; ``deviation`` is sP, that of the noise."""
    return np.asarray(np.log(np.maximum(noisy, 0.0) + np.maximum(0.3, deviation)))


def most_popular(noisy: Floats, deviation: Floats | float, options: StatisticsSection) -> Ints:
    """Places of the items that G will cover, largest noisy count first; ties by place.

    With ``top_items = 0`` these are the items that stand out of the noise, ``AUTO_DEVIATIONS``
    times sP, between ``AUTO_RANGE``: cells of items below that carry more noise than pairs.
    """
    order = np.argsort(-noisy, kind="stable").astype(np.int64)
    if options.top_items:
        return order[: options.top_items]
    clear = int((noisy > AUTO_DEVIATIONS * np.asarray(deviation)).sum())
    return order[: min(max(clear, AUTO_RANGE[0]), AUTO_RANGE[1])]


def symmetric(triangle: Floats, k: int) -> Floats:
    """The symmetric ``[k, k]`` matrix, zero on its diagonal, from its upper triangle."""
    matrix = np.zeros((k, k))
    matrix[np.triu_indices(k, 1)] = triangle
    return matrix + matrix.T


def transition_matrix(
    triangle: Floats,
    popularity: Floats,
    deviation: Floats | float,
    options: StatisticsSection,
) -> Floats:
    """Post-process a noisy G: truncate to ``rank``, divide by popularity, clear the diagonal.

    Args:
        triangle: ``[K (K - 1) / 2]`` noisy sums.
        popularity: ``[K]`` noisy P of the same items.
        deviation: sP.
        options: rank and powers.
    """
    k = len(popularity)
    values, vectors = np.linalg.eigh(symmetric(triangle, k))
    # The largest eigenvalues, not the largest in size: with an empty diagonal the negative end of
    # the spectrum is mostly noise (measured: NDCG@10 0.084 against 0.081 at epsilon 8).
    keep = np.argsort(-values)[: min(options.rank, k)]
    low_rank = (vectors[:, keep] * values[keep]) @ vectors[:, keep].T
    floor = np.maximum(popularity, np.maximum(2.0 * np.asarray(deviation), 1.0))
    result = low_rank / floor[:, None] ** options.row_power / floor[None, :] ** options.column_power
    np.fill_diagonal(result, 0.0)
    return np.asarray(result, dtype=np.float64)


def decayed_context(histories: PrivateHistories, users: Ints, top: Ints, decay: float) -> Floats:
    """Each user's history over ``top``, decayed per step back, ``[users, K] float64``."""
    place = np.full(int(max(histories.items.max(initial=0), top.max(initial=0))) + 1, -1)
    place[top] = np.arange(len(top))
    context = np.zeros((len(users), len(top)))
    for row, user in enumerate(users):
        where = place[histories.row(int(user))][::-1]
        weights = decay ** np.arange(len(where))
        np.add.at(context[row], where[where >= 0], weights[where >= 0])
    return context


def _block_rows(
    histories: PrivateHistories,
    place: Ints,
    k: int,
    options: StatisticsSection,
    start: int,
) -> tuple[Ints, Ints, Floats]:
    stop = min(start + USERS_PER_BLOCK, len(histories))
    begin, end = histories.offsets[start], histories.offsets[stop]
    where = place[histories.items[begin:end]]
    owner = np.repeat(np.arange(start, stop), histories.lengths[start:stop])[where >= 0]
    where = where[where >= 0]
    keys, weights = [], []
    longest = int(histories.lengths[start:stop].max(initial=0))
    for distance in range(1, max(2, min(options.pair_window, longest - 1) + 1)):
        same = owner[:-distance] == owner[distance:]
        first, second = where[:-distance][same], where[distance:][same]
        different = first != second
        low = np.minimum(first, second)[different]
        high = np.maximum(first, second)[different]
        cell = low * k - low * (low + 1) // 2 + (high - low - 1)
        keys.append(owner[:-distance][same][different] * triangle_size(k) + cell)
        weights.append(np.full(len(cell), options.pair_decay ** (distance - 1)))
    unique, index = np.unique(np.concatenate(keys), return_inverse=True)
    sums = np.bincount(index, weights=np.concatenate(weights), minlength=len(unique))
    users, cells = unique // triangle_size(k), unique % triangle_size(k)
    norms = np.sqrt(np.bincount(users, weights=sums**2, minlength=len(histories)))
    return users, cells, _on_grid(sums * UNIT / norms[users])


def _on_grid(values: Floats) -> Floats:
    """Rounded towards zero, so that no norm grows."""
    return np.asarray(np.trunc(values / SPACING) * SPACING)
