"""How well ratings are predicted: the head against means, on the held-out item of every user."""

from collections.abc import Sequence

import numpy as np

from shared.config import Config
from shared.ratings import (
    Floats,
    RatingErrors,
    mean_ratings,
    overall_mean,
    predicted_ratings,
    rating_errors,
)
from shared.scoring import Ints, Scorer, Scores
from shared.splits import NO_TARGET, Split
from shared.user_model import rating_scale
from simulations.baselines.biased_mf import biased_mf
from simulations.federate import Outcome, outcome_scorer
from simulations.records import RatingRecord
from simulations.world import World

LABELS = {
    "global_mean": "Mean of all ratings",
    "user_mean": "The user's own mean",
    "biased_mf": "Biased matrix factorisation",
    "rating_head": "Rating head",
}
# Bounds memory.
RESAMPLES_AT_ONCE = 100


def rating_lines(
    world: World, config: Config, runs: Sequence[tuple[Outcome, Config]]
) -> list[RatingRecord]:
    """Errors on the test split: both means, matrix factorisation and every federation's head.

    Nothing where no held-out item has a rating. The global mean is of all that may be learnt from;
    the factorisation learns items from that, all ratings pooled. What is known of a user is all
    before the target, for that user's mean, the factorisation and the head alike, so that what
    stands between the mean and the head is the head.

    Args:
        world: data and splits.
        config: of the run.
        runs: finished federations, each with its configuration.
    """
    part = world.test
    rating = np.full(len(part.target), np.nan) if part.rating is None else part.rating
    users = np.flatnonzero((part.target != NO_TARGET) & np.isfinite(rating))
    if not len(users):
        return []
    scale, given = rating_scale(config.model), rating[users]
    means = mean_ratings(part.history.select(users), scale)
    overall = np.full(len(users), overall_mean(part.train, scale))
    own = rating_errors(means, given, scale)
    factorised = biased_mf(
        part.train, part.history.select(users), part.target[users], world.items, scale
    )
    made = [
        _record("global_mean", rating_errors(overall, given, scale)),
        _record("user_mean", own),
        _record("biased_mf", rating_errors(factorised, given, scale)),
    ]
    for outcome, run_config in runs:
        if outcome.adapter is None:
            continue
        predicted = _predicted(outcome_scorer(world, run_config, outcome), part, users, means)
        errors = rating_errors(predicted, given, scale)
        samples, seed = config.evaluation.bootstrap_samples, config.run.seed
        low, high = rmse_interval(errors, own, samples, seed)
        epsilon = outcome.plan.epsilon
        found = {
            "epsilon": epsilon,
            "noise": outcome.plan.noise.value,
            "aggregation": outcome.plan.aggregation.value,
            "low": low,
            "high": high,
            "private": epsilon is not None and run_config.privacy.noise_seed < 0,
        }
        made.append(_record("rating_head", errors).model_copy(update=found))
    return made


def _record(method: str, errors: RatingErrors) -> RatingRecord:
    return RatingRecord(
        method=method,
        label=LABELS[method],
        epsilon=None,
        noise="none",
        users=len(errors),
        rmse=errors.rmse,
        mae=errors.mae,
        private=False,
    )


def _predicted(scorer: Scorer, part: Split, users: Ints, means: Floats) -> Scores:
    """What the delivered head predicts for each user's own target, ``[users] float32``."""
    assert scorer.adapter is not None
    items, column = np.unique(part.target[users], return_inverse=True)
    found = predicted_ratings(
        scorer.adapter,
        rating_scale(scorer.config.model),
        means,
        scorer.vectors,
        scorer.statistics.log_popularity,
        items,
    )
    return np.asarray(found[np.arange(len(users)), column], dtype=np.float32)


def rmse_interval(a: RatingErrors, b: RatingErrors, samples: int, seed: int) -> tuple[float, float]:
    """95% percentile interval of RMSE ``a`` minus ``b``, by resampling users with both errors."""
    squares = np.stack([a.differences**2, b.differences**2])
    generator = np.random.default_rng(seed)
    drawn: list[float] = []
    for start in range(0, samples, RESAMPLES_AT_ONCE):
        rows = min(RESAMPLES_AT_ONCE, samples - start)
        chosen = generator.integers(len(a), size=(rows, len(a)))
        roots = np.sqrt(squares[:, chosen].mean(axis=2))
        drawn.extend(roots[0] - roots[1])
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(low), float(high)
