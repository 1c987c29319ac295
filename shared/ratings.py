"""Rating prediction: a small linear head beside the adapter, and what it is compared with.

A rating is the user's own mean plus a residual. The mean stays with the user: it is taken from the
user's own row and added back where the prediction is made. The head learns the residual, from what
an item is like (its text vector) and how popular it is (the log popularity that is released
already). Its weights start at zero, so that it predicts the user's mean until it has learnt
something. It does not read the user's state: on ml-100k the product of state and item vector, value
by value, gained nothing without noise, and under noise its weights cost more than they told
(validation RMSE 1.108 against 1.090 at epsilon 8, weight 10).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from shared.errors import DataError
from shared.histories import PrivateHistories

Floats = npt.NDArray[np.float64]
Arrays = Mapping[str, npt.NDArray[np.float32]]

HEAD = "rating_head."
WEIGHT, BIAS = f"{HEAD}linear.weight", f"{HEAD}linear.bias"
# Log popularity that varies by less over a catalogue says nothing.
LEAST_DEVIATION = 1e-9


@dataclass(frozen=True)
class RatingScale:
    """The public scale of ratings; values outside are clipped to it."""

    low: float
    high: float

    @property
    def middle(self) -> float:
        """What is predicted for a user without ratings."""
        return (self.low + self.high) / 2

    @property
    def half(self) -> float:
        """Residuals are counted in halves of the scale."""
        return (self.high - self.low) / 2


class RatingHead(nn.Module):
    """Predicts residuals of ratings, in halves of the scale.

    Args:
        dim: of item vectors.
        scale: of the ratings.
        weight: of the squared error beside the cross-entropy.
    """

    def __init__(self, dim: int, scale: RatingScale, weight: float) -> None:
        super().__init__()
        self.scale, self.weight = scale, weight
        self.linear = nn.Linear(dim + 1, 1)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, items: Tensor, popularity: Tensor) -> Tensor:
        """Residuals ``[rows, positions] float32``.

        Args:
            items: ``[rows, positions, dim]`` unit vectors of the rated items.
            popularity: ``[rows, positions]`` standardised log popularity of these items.
        """
        features = torch.cat([items.float(), popularity.float()[..., None]], dim=-1)
        found: Tensor = self.linear(features)
        return found[..., 0].float()

    def losses(
        self, items: Tensor, targets: Tensor, prior: Tensor, ratings: Tensor | None
    ) -> Tensor:
        """Mean squared error of each row over its rated next items, ``[rows] float32``.

        0 for a row without any. The row's own running mean is the only thing that it is measured
        against, so nothing in it depends on another row.

        Args:
            items: ``[items, dim]`` unit item vectors.
            targets: ``[rows, positions] int64`` the next item, or -1.
            prior: ``[items]`` log popularity.
            ratings: ``[rows, positions + 1]`` of the window's items, NaN where there is none; None
                where the data has none. The head runs all the same: its gradient is then zero.
        """
        following = targets.clamp(min=0)
        predicted = self(items[following], standardised(prior)[following])
        if ratings is None:
            ratings = torch.full_like(nn.functional.pad(predicted, (0, 1)), torch.nan)
        wanted, rated = residuals(ratings, self.scale)
        rated = rated & (targets >= 0)
        errors = torch.where(rated, predicted - wanted, torch.zeros_like(wanted)).square()
        return errors.sum(1) / rated.sum(1).clamp(min=1)


def residuals(ratings: Tensor, scale: RatingScale) -> tuple[Tensor, Tensor]:
    """Each next rating less the mean of the row's ratings before it, in halves of the scale.

    Args:
        ratings: ``[rows, positions + 1] float32``, NaN where there is none.
        scale: ratings outside are clipped to it; its middle stands in for a mean of none.

    Returns:
        ``[rows, positions] float32``, 0 where the next item has no rating, and whether it has one.
    """
    known = ratings.isfinite()
    clipped = torch.where(known, ratings.clamp(scale.low, scale.high), torch.zeros_like(ratings))
    count = known.cumsum(1)[:, :-1]
    mean = clipped.cumsum(1)[:, :-1] / count.clamp(min=1)
    mean = torch.where(count > 0, mean, torch.full_like(mean, scale.middle))
    rated = known[:, 1:]
    wanted = (clipped[:, 1:] - mean) / scale.half
    return torch.where(rated, wanted, torch.zeros_like(wanted)), rated


def standardised(log_popularity: Tensor) -> Tensor:
    """Log popularity with mean 0 and deviation 1 over the catalogue; zeros where it is constant."""
    shifted = log_popularity - log_popularity.mean()
    deviation = shifted.square().mean().sqrt()
    return torch.where(
        deviation > LEAST_DEVIATION,
        shifted / deviation.clamp(min=LEAST_DEVIATION),
        torch.zeros_like(shifted),
    )


def predicted_ratings(
    adapter: Arrays,
    scale: RatingScale,
    user_means: Floats,
    vectors: npt.NDArray[np.float32],
    log_popularity: Floats,
    places: npt.NDArray[np.int64],
) -> npt.NDArray[np.float32]:
    """Ratings that users would give to items, ``[users, places] float32``, within the scale.

    Args:
        adapter: delivered arrays, those of the head among them.
        scale: of the ratings.
        user_means: ``[users]`` by ``mean_ratings``.
        vectors: ``[items, dim]`` unit vectors of the whole catalogue.
        log_popularity: ``[items]`` as delivered.
        places: ``[places]`` items to predict for.
    """
    weight = adapter[WEIGHT][0].astype(np.float64)
    standing = standardised(torch.from_numpy(log_popularity)).numpy()[places]
    residual = vectors[places] @ weight[:-1] + standing * weight[-1] + float(adapter[BIAS][0])
    predicted = user_means[:, None] + scale.half * residual[None, :]
    return np.asarray(np.clip(predicted, scale.low, scale.high), dtype=np.float32)


def mean_ratings(histories: PrivateHistories, scale: RatingScale) -> Floats:
    """Each user's mean rating, ``[users] float64``; the scale's middle for a user without any."""
    total, count = _sums(histories, scale)
    return np.where(count > 0, total / np.maximum(count, 1), scale.middle)


def overall_mean(histories: PrivateHistories, scale: RatingScale) -> float:
    """Mean of all ratings. Exact, so only where one holds all data.

    Raises:
        DataError: if there is no rating.
    """
    total, count = _sums(histories, scale)
    if not count.sum():
        raise DataError("rating prediction: no training interaction has a rating")
    return float(total.sum() / count.sum())


def _sums(histories: PrivateHistories, scale: RatingScale) -> tuple[Floats, Floats]:
    """Sum and number of each user's ratings."""
    if histories.ratings is None:
        return np.zeros(len(histories)), np.zeros(len(histories))
    known = np.isfinite(histories.ratings)
    values = np.where(known, np.clip(histories.ratings, scale.low, scale.high), 0.0)
    owner = np.repeat(np.arange(len(histories)), histories.lengths)
    users = len(histories)
    return (
        np.asarray(np.bincount(owner, values, minlength=users), dtype=np.float64),
        np.asarray(np.bincount(owner, known.astype(np.float64), minlength=users), dtype=np.float64),
    )


@dataclass(frozen=True)
class RatingErrors:
    """Errors of predictions for one rated item of each user. Private.

    Attributes:
        differences: ``[rated users] float64`` predicted less given.
    """

    differences: Floats

    def __len__(self) -> int:
        """Number of rated users."""
        return len(self.differences)

    @property
    def rmse(self) -> float:
        """Root of the mean squared error, in units of the scale."""
        return float(np.sqrt((self.differences**2).mean()))

    @property
    def mae(self) -> float:
        """Mean absolute error, in units of the scale."""
        return float(np.abs(self.differences).mean())


def rating_errors(
    predicted: npt.NDArray[np.float32] | Floats, given: npt.NDArray[np.float32], scale: RatingScale
) -> RatingErrors:
    """Errors on the users whose item has a rating.

    Args:
        predicted: ``[users]``.
        given: ``[users]`` NaN where there is no rating; clipped to the scale like all others.
        scale: of the ratings.

    Raises:
        DataError: if there is no rating.
    """
    rated = np.isfinite(given)
    if not rated.any():
        raise DataError(
            f"rating prediction: none of the {len(given)} held-out interactions has a rating"
        )
    clipped = np.clip(given[rated].astype(np.float64), scale.low, scale.high)
    return RatingErrors(predicted[rated].astype(np.float64) - clipped)
