"""The EASE baseline: a linear item-to-item model in closed form, over fading histories."""

import numpy as np
import numpy.typing as npt

from shared.histories import PrivateHistories
from shared.metrics import Scorer
from simulations.baselines.matrices import interaction_matrix, recency_matrix


def ease_weights(train: PrivateHistories, items: int, l2: float) -> npt.NDArray[np.float64]:
    """Item-to-item weights B with a zero diagonal, ``[items, items] float64``.

    B minimises ``|X - X B|^2 + l2 |B|^2`` subject to ``diag(B) = 0``, with X the binary user-item
    matrix: with ``P = (X'X + l2 I)^-1``, ``B_ij = -P_ij / P_jj`` off the diagonal (Steck,
    "Embarrassingly shallow autoencoders for sparse data", WWW 2019, equation 8). Takes memory for
    about three dense matrices of ``items * items`` float64 and time cubic in ``items``: meant for
    catalogues of up to some 20,000 items.
    """
    matrix = interaction_matrix(train, items)
    gram = (matrix.T @ matrix).toarray()
    gram[np.diag_indices(items)] += l2
    inverse = np.linalg.inv(gram)
    weights: npt.NDArray[np.float64] = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0.0)
    return weights


def ease(
    train: PrivateHistories,
    history: PrivateHistories,
    items: int,
    l2: float = 300.0,
    decay: float = 0.9,
) -> Scorer:
    """Score of an item: the user's history, faded by ``decay`` a step back, times EASE's weights.

    Args:
        train: what the weights are learnt from.
        history: what is read when scoring; rows are the users that the scorer is asked for.
        items: size of the catalogue.
        l2: ridge penalty, above 0.
        decay: weight of a history item relative to the next newer one; 1 is EASE as published.
    """
    weights = ease_weights(train, items, l2).astype(np.float32)

    def score(users: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        read = recency_matrix(history, users, items, decay).astype(np.float32)
        scores: npt.NDArray[np.float32] = read @ weights
        return scores

    return score
