"""Histories as sparse user-by-item matrices: who had what, and how long ago."""

import numpy as np
import numpy.typing as npt
from scipy import sparse

from shared.histories import PrivateHistories


def interaction_matrix(histories: PrivateHistories, items: int) -> sparse.csr_array:
    """1 where a user had an item at least once, ``[users, items] float64``."""
    rows = np.repeat(np.arange(len(histories)), histories.lengths)
    matrix = sparse.csr_array(
        (np.ones(len(rows)), (rows, histories.items)), shape=(len(histories), items)
    )
    matrix.sum_duplicates()
    matrix.data[:] = 1.0
    return matrix


def recency_matrix(
    histories: PrivateHistories,
    users: npt.NDArray[np.int64],
    items: int,
    decay: float = 1.0,
    last: int | None = None,
) -> sparse.csr_array:
    """Weights of some users' histories, ``[len(users), items] float64``.

    The newest item weighs 1, the one a step before it ``decay``, then ``decay ** 2`` and so on;
    weights of an item that occurs more than once add up.

    Args:
        histories: what is read when scoring.
        users: rows of ``histories``, ``[block] int64``.
        items: size of the catalogue.
        decay: weight of one step back.
        last: how many of the newest interactions count; None for all.
    """
    part = histories.select(users)
    rows = np.repeat(np.arange(len(part)), part.lengths)
    steps_back = part.offsets[1:][rows] - 1 - np.arange(len(rows))
    weights = decay ** steps_back.astype(np.float64)
    if last is not None:
        weights[steps_back >= last] = 0.0
    return sparse.csr_array((weights, (rows, part.items)), shape=(len(part), items))
