"""The popularity baseline: everybody is recommended what most people had."""

import numpy as np
import numpy.typing as npt

from shared.histories import PrivateHistories
from shared.metrics import Scorer


def popularity_counts(train: PrivateHistories, items: int) -> npt.NDArray[np.int64]:
    """Interactions per item, ``[items] int64``."""
    return np.bincount(train.items, minlength=items).astype(np.int64)


def popularity(train: PrivateHistories, items: int) -> Scorer:
    """Score of an item: its interactions in ``train``, the same for every user."""
    scores = popularity_counts(train, items).astype(np.float32)

    def score(users: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        return np.broadcast_to(scores, (len(users), items))

    return score
