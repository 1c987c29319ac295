"""The two one-shot statistics, popularity P and co-occurrence G: rows of users, and their use.

Each user contributes one row of L2 norm at most 1 to each statistic, so one Gaussian mechanism with
sensitivity 1 gives user-level differential privacy (add or remove one user). Noisy co-occurrence
for recommendation goes back to McSherry and Mironov (KDD 2009). Everything after the noise is
post-processing and free.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shared.config import StatisticsSection
from shared.grid import PLAIN_BITS, grid_spacing
from shared.histories import PrivateHistories

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Rows = tuple[Ints, Ints, Floats]
"""Sparse rows: ``(users, coordinates, values)``, one entry for each value that is not zero."""

# Below 1 by more than the rounding of a float64 sum of squares, so that the bound is exact.
UNIT = 1.0 - 1e-12
# Rows lie on this grid, so that a float64 sum of up to four million of them is exact: sums that
# round would move by more than one user's row when that user goes (2 ** -30 of the sensitivity, the
# grid of discrete noise too).
SPACING = grid_spacing(1.0, PLAIN_BITS)
# Bounds memory: a block's pairs, up to ``pair_window`` an interaction, are held together.
INTERACTIONS_PER_BLOCK = 2**17
# Chosen on validation items (docs/utility.md).
AUTO_DEVIATIONS = 4.0
AUTO_RANGE = (100, 2000)
EDGE = 0.9


def popularity_rows(histories: PrivateHistories) -> Rows:
    """The sparse rows of P: ``1 / sqrt(distinct items)`` at each item that a user has.

    Returns:
        ``(users, items, values)``, one entry per distinct pair; every user's L2 norm is at most 1.
    """
    return _together(popularity_blocks(histories))


def popularity_sum(histories: PrivateHistories, items: int) -> Floats:
    """Sum of all users' rows of P, ``[items] float64``. Private until noised."""
    return _summed(popularity_blocks(histories), items)


def triangle_size(k: int) -> int:
    """Cells of the upper triangle of a ``k`` by ``k`` matrix, without its diagonal."""
    return k * (k - 1) // 2


def cooccurrence_rows(histories: PrivateHistories, top: Ints, options: StatisticsSection) -> Rows:
    """The sparse rows of G over the items ``top``, in the order of that array.

    A history is first restricted to ``top``; then each unordered pair of different items up to
    ``pair_window`` steps apart adds ``pair_decay ** (distance - 1)`` to its cell, and the row is
    scaled to norm 1. Restricting first concentrates a user's norm on what survives.

    Returns:
        ``(users, cells, values)``; cells number the upper triangle row by row.
    """
    return _together(cooccurrence_blocks(histories, top, options))


def cooccurrence_sum(histories: PrivateHistories, top: Ints, options: StatisticsSection) -> Floats:
    """Sum of all users' rows of G, ``[K * (K - 1) / 2] float64``. Private until noised."""
    return _summed(cooccurrence_blocks(histories, top, options), triangle_size(len(top)))


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
    pair_deviation: float,
    options: StatisticsSection,
) -> Floats:
    """Post-process a noisy G: leave out noise, divide by popularity, clear the diagonal.

    The eigenvalues of noise alone fill ``-2 sG sqrt(K)`` to ``2 sG sqrt(K)`` (Wigner's semicircle);
    with ``rank = 0`` those above ``EDGE`` times the upper end are kept, which may be none, and
    without noise all.

    Args:
        triangle: ``[K (K - 1) / 2]`` noisy sums.
        popularity: ``[K]`` noisy P of the same items.
        deviation: sP.
        pair_deviation: sG, of the noise in each cell.
        options: rank and powers.
    """
    k = len(popularity)
    denoised = symmetric(triangle, k)
    if k and (options.rank or pair_deviation):
        values, vectors = np.linalg.eigh(denoised)
        # The largest eigenvalues, not the largest in size: with an empty diagonal the negative end
        # of the spectrum is mostly noise (measured: NDCG@10 0.084 against 0.081 at epsilon 8).
        clear = int((values > EDGE * 2.0 * pair_deviation * math.sqrt(k)).sum())
        keep = np.argsort(-values)[: options.rank or clear]
        denoised = (vectors[:, keep] * values[keep]) @ vectors[:, keep].T
    floor = np.maximum(popularity, np.maximum(2.0 * np.asarray(deviation), 1.0))
    result = denoised / floor[:, None] ** options.row_power / floor[None, :] ** options.column_power
    np.fill_diagonal(result, 0.0)
    return np.asarray(result, dtype=np.float64)


def decayed_context(histories: PrivateHistories, users: Ints, top: Ints, decay: float) -> Floats:
    """Each user's history over ``top``, decayed per step back, ``[users, K] float64``."""
    ends = histories.offsets[users + 1]
    lengths = ends - histories.offsets[users]
    owner = np.repeat(np.arange(len(users)), lengths)
    back = np.arange(len(owner)) - (np.cumsum(lengths) - lengths)[owner]
    had = histories.items[ends[owner] - 1 - back]
    where = _places(had, top)[had]
    inside = where >= 0
    weights = (decay ** np.arange(lengths.max(initial=0)))[back[inside]]
    cells = owner[inside] * len(top) + where[inside]
    sums = np.bincount(cells, weights=weights, minlength=len(users) * len(top))
    return sums.reshape(len(users), len(top)).astype(np.float64)


def _places(items: Ints, top: Ints) -> Ints:
    """Place in ``top`` of each item up to the greatest there is, or -1."""
    place = np.full(int(max(items.max(initial=0), top.max(initial=0))) + 1, -1)
    place[top] = np.arange(len(top))
    return place


def _together(blocks: Iterable[Rows]) -> Rows:
    empty = np.empty(0, dtype=np.int64)
    users, places, values = zip(*((empty, empty, np.empty(0)), *blocks), strict=True)
    return np.concatenate(users), np.concatenate(places), np.concatenate(values)


def _summed(blocks: Iterable[Rows], size: int) -> Floats:
    """Sum of rows; exact on the grid, so that it does not depend on the blocks."""
    total = np.zeros(size)
    for _, places, values in blocks:
        total += np.bincount(places, weights=values, minlength=size)
    return total


def popularity_blocks(histories: PrivateHistories) -> Iterator[Rows]:
    """``popularity_rows``, some users at a time."""
    for first, last in histories.blocks(INTERACTIONS_PER_BLOCK):
        held = histories.items[histories.offsets[first] : histories.offsets[last]]
        owner = np.repeat(np.arange(last - first), histories.lengths[first:last])
        width = int(held.max(initial=0)) + 1
        pairs = np.sort(owner * width + held)
        pairs = pairs[np.diff(pairs, prepend=-1) > 0]
        users, items = pairs // width, pairs % width
        distinct = np.bincount(users, minlength=last - first)
        yield users + first, items, _on_grid(UNIT / np.sqrt(distinct[users]))


def cooccurrence_blocks(
    histories: PrivateHistories, top: Ints, options: StatisticsSection
) -> Iterator[Rows]:
    """``cooccurrence_rows``, some users at a time."""
    k = len(top)
    place = _places(histories.items, top)
    for first, last in histories.blocks(INTERACTIONS_PER_BLOCK):
        where = place[histories.items[histories.offsets[first] : histories.offsets[last]]]
        lengths = histories.lengths[first:last]
        owner = np.repeat(np.arange(last - first), lengths)[where >= 0]
        where = where[where >= 0]
        keys, weights = [], []
        longest = int(lengths.max(initial=0))
        for distance in range(1, max(2, min(options.pair_window, longest - 1) + 1)):
            same = owner[:-distance] == owner[distance:]
            before, after = where[:-distance][same], where[distance:][same]
            different = before != after
            low = np.minimum(before, after)[different]
            high = np.maximum(before, after)[different]
            cell = low * k - low * (low + 1) // 2 + (high - low - 1)
            keys.append(owner[:-distance][same][different] * triangle_size(k) + cell)
            weights.append(np.full(len(cell), options.pair_decay ** (distance - 1)))
        unique, index = np.unique(np.concatenate(keys), return_inverse=True)
        sums = np.bincount(index, weights=np.concatenate(weights), minlength=len(unique))
        users, cells = unique // triangle_size(k), unique % triangle_size(k)
        norms = np.sqrt(np.bincount(users, weights=sums**2, minlength=last - first))
        yield users + first, cells, _on_grid(sums * UNIT / norms[users])


def _on_grid(values: Floats) -> Floats:
    """Rounded towards zero, so that no norm grows."""
    return np.asarray(np.trunc(values / SPACING) * SPACING)
