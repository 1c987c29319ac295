"""Histories for the tests of evaluation: written by hand, or MovieLens-100K where it lies."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from shared.histories import PrivateHistories

MOVIELENS = Path(__file__).parents[3] / "shared" / "data" / "ml-100k" / "ml-100k.inter"

MakeHistories = Callable[..., PrivateHistories]


@pytest.fixture
def make_histories() -> MakeHistories:
    """Histories from rows of items, with times 0, 1, 2, ... in a row unless given."""

    def make(
        rows: Sequence[Sequence[int]], times: Sequence[Sequence[float]] | None = None
    ) -> PrivateHistories:
        clock = times if times is not None else [range(len(row)) for row in rows]
        lengths = [len(row) for row in rows]
        return PrivateHistories(
            user_ids=tuple(f"user-{place}" for place in range(len(rows))),
            offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            items=np.array([item for row in rows for item in row], dtype=np.int64),
            times=np.array([time for row in clock for time in row], dtype=np.float64),
        )

    return make


@pytest.fixture(scope="session")
def movielens() -> tuple[PrivateHistories, int]:
    """MovieLens-100K with equal times in the order of the file, and the size of its catalogue.

    The reference figures were measured in that order. It matters: 44% of the users have their last
    two interactions at one time, and identifiers in this data set go with popularity.
    """
    if not MOVIELENS.exists():
        pytest.skip("MovieLens-100K is not beside the repository (shared/data/ml-100k)")
    table = np.loadtxt(MOVIELENS, skiprows=1, delimiter="\t")
    user_ids, user = np.unique(table[:, 0].astype(np.int64), return_inverse=True)
    item_ids, item = np.unique(table[:, 1].astype(np.int64), return_inverse=True)
    order = np.lexsort((np.arange(len(table)), table[:, 3], user))
    histories = PrivateHistories(
        user_ids=tuple(str(identifier) for identifier in user_ids),
        offsets=np.concatenate([[0], np.cumsum(np.bincount(user))]).astype(np.int64),
        items=item[order].astype(np.int64),
        times=table[order, 3],
    )
    return histories, len(item_ids)
