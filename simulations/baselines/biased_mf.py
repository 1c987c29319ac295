"""The biased matrix factorisation baseline of rating prediction, by alternating least squares."""

import numpy as np
import numpy.typing as npt

from shared.histories import PrivateHistories
from shared.ratings import RatingScale, overall_mean

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

# Chosen on the validation items of MovieLens latest-small (docs/utility.md).
FACTORS = 16
PENALTY = 10.0
SWEEPS = 15


def biased_mf(
    train: PrivateHistories,
    history: PrivateHistories,
    target: Ints,
    items: int,
    scale: RatingScale,
    factors: int = FACTORS,
    penalty: float = PENALTY,
    sweeps: int = SWEEPS,
    seed: int = 0,
) -> npt.NDArray[np.float64]:
    """Predicted rating of one item for each user of ``history``, ``[users] float64``.

    ``mean + b_u + b_i + p_u . q_i`` (Koren, Bell and Volinsky, "Matrix factorization techniques for
    recommender systems", IEEE Computer 2009, equation 4) by least squares with an L2 penalty,
    users and items in turn; the mean stays fixed. Items are learnt from ``train``; each user's own
    numbers are then solved for once more from ``history``, as a user's mean is.

    Args:
        train: what may be learnt from; at least one rating.
        history: what is known of each user; rows are the users that are predicted for.
        target: ``[users]`` places of the items.
        items: size of the catalogue.
        scale: of ratings; predictions are clipped to it.
        factors: length of ``p_u`` and ``q_i``.
        penalty: weight of the squares of all biases and factors.
        sweeps: of users and items.
        seed: of the items' first factors.

    Raises:
        DataError: if there is no rating.
    """
    mean = overall_mean(train, scale)
    learnt = _rated(train, scale, mean)
    of_items = np.zeros((items, factors + 1))
    of_items[:, 1:] = 0.1 * np.random.default_rng(seed).standard_normal((items, factors))
    for _ in range(sweeps):
        of_users = _solved(learnt, len(train), of_items, penalty)
        of_items = _solved((learnt[1], learnt[0], learnt[2]), items, of_users, penalty)
    of_users = _solved(_rated(history, scale, mean), len(history), of_items, penalty)
    chosen = of_items[target]
    found = mean + of_users[:, 0] + chosen[:, 0] + (of_users[:, 1:] * chosen[:, 1:]).sum(axis=1)
    return np.asarray(np.clip(found, scale.low, scale.high))


def _rated(
    histories: PrivateHistories, scale: RatingScale, mean: float
) -> tuple[Ints, Ints, Floats]:
    """Users, items and ratings less the mean, where there are ratings."""
    owner = np.repeat(np.arange(len(histories)), histories.lengths)
    if histories.ratings is None:
        return owner[:0], owner[:0], np.zeros(0)
    known = np.isfinite(histories.ratings)
    values = np.clip(histories.ratings[known].astype(np.float64), scale.low, scale.high) - mean
    return owner[known], histories.items[known].astype(np.int64), values


def _solved(
    ratings: tuple[Ints, Ints, Floats], rows: int, others: Floats, penalty: float
) -> Floats:
    """Bias and factors of each row given those of the other side, ``[rows, factors + 1]``."""
    row, other, value = ratings
    order = np.argsort(row, kind="stable")
    row, other = row[order], other[order]
    rest = value[order] - others[other, 0]
    design = others[other].copy()
    design[:, 0] = 1.0
    width = others.shape[1]
    result, ridge = np.zeros((rows, width)), penalty * np.eye(width)
    ends = np.searchsorted(row, np.arange(rows + 1))
    for place in np.flatnonzero(np.diff(ends)):
        own = slice(ends[place], ends[place + 1])
        result[place] = np.linalg.solve(
            design[own].T @ design[own] + ridge, design[own].T @ rest[own]
        )
    return result
