"""Biased matrix factorisation: least squares at every turn, and taste that means cannot tell."""

import numpy as np
import pytest

from shared.errors import DataError
from shared.histories import PrivateHistories
from shared.ratings import RatingScale
from simulations.baselines.biased_mf import biased_mf

SCALE = RatingScale(1.0, 5.0)


def rated(rows: list[list[tuple[int, float]]]) -> PrivateHistories:
    lengths = [len(row) for row in rows]
    pairs = [pair for row in rows for pair in row]
    return PrivateHistories(
        tuple(f"u{user}" for user in range(len(rows))),
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        np.array([item for item, _ in pairs], dtype=np.int64),
        np.arange(len(pairs), dtype=np.float64),
        np.array([rating for _, rating in pairs], dtype=np.float32),
    )


def test_without_factors_it_is_the_ridge_solution_of_both_biases() -> None:
    rows = [[(0, 5.0), (1, 3.0)], [(0, 4.0), (1, 1.0)], [(1, 2.0)]]
    histories = rated(rows)
    found = biased_mf(
        histories, histories, np.array([0, 0, 0]), 2, SCALE, factors=0, penalty=0.5, sweeps=300
    )
    # All biases at once: columns of the design are three users and two items.
    design = np.array(
        [[1, 0, 0, 1, 0], [1, 0, 0, 0, 1], [0, 1, 0, 1, 0], [0, 1, 0, 0, 1], [0, 0, 1, 0, 1]]
    )
    given = np.array([5.0, 3.0, 4.0, 1.0, 2.0])
    biases = np.linalg.solve(design.T @ design + 0.5 * np.eye(5), design.T @ (given - 3.0))
    assert found == pytest.approx(3.0 + biases[:3] + biases[3], abs=1e-6)


def test_factors_tell_tastes_that_biases_cannot() -> None:
    """Half of the users like even items, the others odd ones: all means are 3."""
    rows = [
        [(item, 5.0 if item % 2 == user % 2 else 1.0) for item in range(8) if item != user % 8]
        for user in range(24)
    ]
    histories, target = rated(rows), np.arange(24) % 8
    liked = biased_mf(histories, histories, target, 8, SCALE, factors=2, penalty=0.1)
    disliked = biased_mf(histories, histories, (target + 1) % 8, 8, SCALE, factors=2, penalty=0.1)
    assert liked.min() > 4.5
    assert disliked.max() < 1.5


def test_an_item_that_nobody_rated_is_the_users_own_level() -> None:
    histories = rated([[(0, 5.0), (1, 5.0)], [(0, 1.0), (1, 1.0)]])
    found = biased_mf(histories, histories, np.array([2, 2]), 3, SCALE, factors=0, penalty=1e-6)
    assert found == pytest.approx([5.0, 1.0], abs=1e-3)


def test_histories_without_ratings_are_refused() -> None:
    none = rated([[(0, np.nan)]])
    with pytest.raises(DataError, match="no training interaction has a rating"):
        biased_mf(none, none, np.array([0]), 1, SCALE)
