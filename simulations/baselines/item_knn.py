"""The item-kNN baseline: items that the same users had, near the last few of a history."""

import numpy as np
import numpy.typing as npt
from scipy import sparse

from shared.histories import PrivateHistories
from shared.metrics import Scorer
from simulations.baselines.matrices import interaction_matrix, recency_matrix


def item_similarity(
    train: PrivateHistories, items: int, shrinkage: float, neighbours: int | None
) -> sparse.csr_array:
    """Shrunk cosine similarity of items over users, ``[items, items] float64``, zero diagonal.

    ``s_ij = n_ij / (sqrt(n_i n_j) + shrinkage)`` with n_i the users who had item i and n_ij those
    who had both (Sarwar et al. 2001, section 3.1.1, for the cosine; the shrinkage discounts pairs
    seen with few users, after Bell and Koren 2007, section 4.1).
    ``neighbours`` keeps that many largest similarities in a row, the first in the catalogue among
    equals; None keeps all.
    """
    matrix = interaction_matrix(train, items)
    users_of = np.asarray(matrix.sum(axis=0))
    pairs = (matrix.T @ matrix).tocoo()
    row, column = pairs.coords
    value = pairs.data / (np.sqrt(users_of[row] * users_of[column]) + shrinkage)
    off_diagonal = row != column
    row, column, value = row[off_diagonal], column[off_diagonal], value[off_diagonal]
    if neighbours is not None:
        order = np.lexsort((column, -value, row))
        row, column, value = row[order], column[order], value[order]
        place_in_row = np.arange(len(row)) - np.searchsorted(row, row)
        near = place_in_row < neighbours
        row, column, value = row[near], column[near], value[near]
    return sparse.csr_array((value, (row, column)), shape=(items, items))


def item_knn(
    train: PrivateHistories,
    history: PrivateHistories,
    items: int,
    last: int = 5,
    shrinkage: float = 2.0,
    neighbours: int | None = None,
) -> Scorer:
    """Score of an item: its similarities to the last items of the user's history, summed.

    Args:
        train: what the similarities are counted from.
        history: what is read when scoring; rows are the users that the scorer is asked for.
        items: size of the catalogue.
        last: how many of the newest interactions are read.
        shrinkage: see ``item_similarity``.
        neighbours: see ``item_similarity``.
    """
    similarity = item_similarity(train, items, shrinkage, neighbours)

    def score(users: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        read = recency_matrix(history, users, items, last=last)
        scores: npt.NDArray[np.float32] = (read @ similarity).toarray().astype(np.float32)
        return scores

    return score
