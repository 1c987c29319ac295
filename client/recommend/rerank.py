"""Diversity: a list that is chosen by maximal marginal relevance."""

import numpy as np
import numpy.typing as npt

from shared.encoder import Vectors
from shared.scoring import Ints, Scores

POOL = 10


def pool_size(k: int, diversity: float) -> int:
    """How many best items a list of ``k`` is chosen from."""
    return k if diversity == 0.0 else max(100, POOL * k)


def diversified(
    places: Ints, scores: Scores, vectors: Vectors, k: int, diversity: float
) -> npt.NDArray[np.int64]:
    """Choose ``k`` of some items by maximal marginal relevance (Carbonell and Goldstein 1998).

    Each next item has the greatest ``(1 - diversity) * relevance - diversity * likeness``, where
    relevance is the score moved to [0, 1] over the items given, and likeness the greatest cosine
    with an item chosen before. The first is the best.

    Args:
        places: ``[n]`` items, best first.
        scores: ``[n]`` of them.
        vectors: ``[items, dim]`` unit rows.
        k: length of the list.
        diversity: in [0, 1]; 0 keeps the order.

    Returns:
        Indexes into ``places``, in the order of the list.
    """
    count = min(k, len(places))
    if diversity == 0.0 or count < 2:
        return np.arange(count)
    span = float(scores[0] - scores[-1])
    relevance = (scores - scores[-1]) / span if span > 0.0 else np.ones(len(places))
    rows = vectors[places]
    likeness = np.full(len(places), -np.inf)
    chosen = [0]
    while len(chosen) < count:
        likeness = np.maximum(likeness, rows @ rows[chosen[-1]])
        gain = (1.0 - diversity) * relevance - diversity * likeness
        gain[chosen] = -np.inf
        chosen.append(int(gain.argmax()))
    return np.array(chosen)
