"""Ranking quality on the whole catalogue: ranks of the targets, metrics over users, comparison."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from shared.errors import DataError, ModelError
from shared.histories import PrivateHistories
from shared.splits import NO_TARGET, Split

Scorer = Callable[[npt.NDArray[np.int64]], npt.NDArray[np.float32]]
"""From places of users ``[block] int64`` to scores of all items ``[block, items] float32``."""

Metric = Literal["hr", "ndcg", "mrr", "precision", "recall", "f1", "accuracy"]

BOOTSTRAP_CHUNK = 1 << 22
MOST_USERS = 512
SCORES_PER_BLOCK = 1 << 24


@dataclass(frozen=True)
class Evaluation:
    """Ranks of the targets and the recommended lists of the evaluated users. Private.

    There is one relevant item per user, and it is ranked among the whole catalogue: no sampled
    negatives (Krichene and Rendle, "On sampled metrics for item recommendation", KDD 2020).
    Metrics are means over users; a mean over no users (an empty ``slice``) is NaN.

    Attributes:
        ranks: ``[evaluated] float64`` rank of the target, from 1; ties share their mean rank.
        users: ``[evaluated] int64`` rows of the split.
        targets: ``[evaluated] int64`` places in the catalogue.
        top: ``[evaluated, min(cutoff, items)] int64`` recommended items, best first, equal scores
            in the order of the catalogue; -1 where a user has fewer candidates.
        items: size of the catalogue.
        cutoff: k of the metrics at k.
    """

    ranks: npt.NDArray[np.float64]
    users: npt.NDArray[np.int64]
    targets: npt.NDArray[np.int64]
    top: npt.NDArray[np.int64]
    items: int
    cutoff: int

    def __len__(self) -> int:
        """Number of evaluated users."""
        return len(self.ranks)

    def per_user(self, metric: Metric) -> npt.NDArray[np.float64]:
        """A metric's value for every evaluated user, ``[evaluated] float64``.

        With r the (possibly fractional) rank, k the cut-off and hit = (r <= k):

        - ``hr``, ``recall``: hit, the same with one relevant item;
        - ``ndcg``: hit / log2(r + 1) (Järvelin and Kekäläinen 2002; the ideal list has gain 1);
        - ``mrr``: 1 / r, over the whole ranking, without a cut-off;
        - ``precision``: hit / k;
        - ``f1``: hit * 2 / (k + 1), the harmonic mean of precision and recall;
        - ``accuracy``: (r <= 1), the target alone at the top.
        """
        hit = (self.ranks <= self.cutoff).astype(np.float64)
        values: dict[Metric, npt.NDArray[np.float64]] = {
            "hr": hit,
            "recall": hit,
            "ndcg": hit / np.log2(self.ranks + 1),
            "mrr": 1 / self.ranks,
            "precision": hit / self.cutoff,
            "f1": hit * 2 / (self.cutoff + 1),
            "accuracy": (self.ranks <= 1).astype(np.float64),
        }
        return values[metric]

    def mean(self, metric: Metric) -> float:
        """Mean of a metric over the evaluated users; NaN for no users."""
        return float(self.per_user(metric).mean()) if len(self) else float("nan")

    def standard_error(self, metric: Metric) -> float:
        """Standard error of ``mean`` over users (n - 1 in the variance); NaN below two users."""
        if len(self) < 2:
            return float("nan")
        return float(self.per_user(metric).std(ddof=1) / np.sqrt(len(self)))

    @property
    def hr(self) -> float:
        """Share of users whose target is in the first k."""
        return self.mean("hr")

    @property
    def ndcg(self) -> float:
        """Normalised discounted cumulative gain at k."""
        return self.mean("ndcg")

    @property
    def mrr(self) -> float:
        """Mean reciprocal rank over the whole ranking."""
        return self.mean("mrr")

    @property
    def precision(self) -> float:
        """Share of the k recommended items that are the target."""
        return self.mean("precision")

    @property
    def recall(self) -> float:
        """Share of relevant items in the first k; equals ``hr`` with one target."""
        return self.mean("recall")

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall at k, per user."""
        return self.mean("f1")

    @property
    def accuracy(self) -> float:
        """Share of users whose target is ranked first, alone."""
        return self.mean("accuracy")

    @property
    def coverage(self) -> float:
        """Share of the catalogue that is in at least one user's first k."""
        return len(np.unique(self.top[self.top >= 0])) / self.items

    def novelty(self, popularity: npt.NDArray[np.int64]) -> float:
        """Mean self-information of the recommended items, in bits (Zhou et al. 2010).

        Each recommended item gives -log2 of its share of all interactions. An item without any
        counts as had once, since its information would be infinite.

        Args:
            popularity: ``[items] int64`` interactions per item, in what was learnt from.

        Raises:
            DataError: if there is not one count per item, or no interaction at all.
        """
        if popularity.shape != (self.items,) or popularity.sum() <= 0:
            raise DataError(
                f"novelty: found popularity of shape {popularity.shape}, sum {popularity.sum()}; "
                f"expected a count for each of the {self.items} items with a sum above 0"
            )
        bits = np.log2(popularity.sum()) - np.log2(np.maximum(popularity, 1))
        recommended = self.top[self.top >= 0]
        return float(bits[recommended].mean()) if len(recommended) else float("nan")

    def slice(self, mask: npt.NDArray[np.bool_]) -> "Evaluation":
        """The users whose target is in ``mask`` (``[items] bool``), for example the cold items.

        Raises:
            DataError: if the mask does not have one entry per item.
        """
        if mask.shape != (self.items,):
            raise DataError(
                f"slice of an evaluation: found a mask of shape {mask.shape}; "
                f"expected one entry for each of the {self.items} items"
            )
        keep = mask[self.targets]
        return replace(
            self,
            ranks=self.ranks[keep],
            users=self.users[keep],
            targets=self.targets[keep],
            top=self.top[keep],
        )


@dataclass(frozen=True)
class Difference:
    """Mean of a metric in one evaluation minus another, over the same users.

    Attributes:
        mean: the difference of the means.
        low: lower end of the 95% percentile interval.
        high: upper end.
        p_value: two-sided, for "there is no difference".
    """

    mean: float
    low: float
    high: float
    p_value: float


def evaluate(
    score_block: Scorer, split: Split, items: int, cutoff: int = 10, block: int = 0
) -> Evaluation:
    """Rank the target of every user who has one among all items not in the user's history.

    Scores are asked for ``block`` users at a time, so memory is a few times ``block * items``
    scores. Scores that are linear in an item's vector are ranked many times as fast by
    ``shared.ranking``.

    Args:
        score_block: scores for rows of ``split``; higher is better.
        split: who is evaluated, on which target, after which history.
        items: size of the catalogue.
        cutoff: k of the metrics at k.
        block: users scored at once; 0: as many as have some 16 million scores, at most 512.

    Raises:
        DataError: if no user has a target.
        ModelError: if scores have the wrong shape or are not finite; names the user.
    """
    users = evaluated_users(split)
    block = block or max(1, min(MOST_USERS, SCORES_PER_BLOCK // items))
    rank_parts, top_parts = [], []
    for start in range(0, len(users), block):
        part = users[start : start + block]
        scores = np.asarray(score_block(part))
        history = split.history.select(part)
        _check_scores(scores, history.user_ids, items)
        masked = _candidates_only(scores, history, split.target[part])
        rank_parts.append(_mean_ranks(masked, split.target[part]))
        top_parts.append(_top(masked, min(cutoff, items)))
    return Evaluation(
        ranks=np.concatenate(rank_parts),
        users=users,
        targets=split.target[users],
        top=np.concatenate(top_parts),
        items=items,
        cutoff=cutoff,
    )


def evaluated_users(split: Split) -> npt.NDArray[np.int64]:
    """Places of the users who have a target.

    Raises:
        DataError: if there are none.
    """
    users = np.flatnonzero(split.target != NO_TARGET)
    if not len(users):
        raise DataError(
            f"evaluation: none of the {len(split.target)} users has a target in this part; "
            "expected at least one. Give longer histories or another evaluation.protocol"
        )
    return users


def ranks(
    scores: npt.NDArray[np.float32], history: PrivateHistories, targets: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """Rank of each user's target among the items not in the user's history, from 1.

    The rank is 1 + (candidates with a better score) + (other candidates with the same score) / 2:
    ties share their mean rank, so a constant score earns what chance earns and no more. The target
    is a candidate even where the history contains it.

    Args:
        scores: ``[users, items] float32``, higher is better.
        history: what each of these users has had already.
        targets: ``[users] int64`` places in the catalogue.

    Returns:
        ``[users] float64``.

    Raises:
        ModelError: if a score is not finite; names the user.
    """
    _check_scores(scores, history.user_ids, scores.shape[-1])
    return _mean_ranks(_candidates_only(scores, history, targets), targets)


def paired_bootstrap(
    a: Evaluation, b: Evaluation, metric: Metric = "ndcg", samples: int = 1000, seed: int = 0
) -> Difference:
    """``bootstrap_over_draws`` of one draw each."""
    return bootstrap_over_draws([a], [b], metric, samples, seed)


def over_draws(draws: Sequence[Evaluation], metric: Metric) -> npt.NDArray[np.float64]:
    """Each user's mean of a metric over draws of the same users, ``[evaluated] float64``."""
    return np.asarray(np.mean([draw.per_user(metric) for draw in draws], axis=0))


def bootstrap_over_draws(
    a: Sequence[Evaluation],
    b: Sequence[Evaluation],
    metric: Metric = "ndcg",
    samples: int = 1000,
    seed: int = 0,
) -> Difference:
    """Difference of a metric (``a`` minus ``b``) with its interval, by resampling users.

    With several draws (of noise, of the partition) a user's value is the mean over them, so that
    what is resampled is how users differ, with what is left of the noise in their means.

    Users are drawn with replacement and keep both their values, so what makes a user easy or hard
    for both cancels out. The interval is the percentile interval (Efron and Tibshirani 1993,
    section 13.3); the p-value is the level at which that interval would just touch zero,
    2 * min(share of samples <= 0, share >= 0), with one sample added to each count so that it is
    never 0. It says how the difference varies over users, not over noise draws or seeds.

    Raises:
        DataError: if the evaluations are not of the same users, targets and cut-off, or are empty.
    """
    first = a[0]
    for other in (*a, *b):
        same = np.array_equal(first.users, other.users)
        same = same and np.array_equal(first.targets, other.targets)
        if not len(first) or not same or first.cutoff != other.cutoff:
            raise DataError(
                f"paired bootstrap: found {len(first)} users at cut-off {first.cutoff} and "
                f"{len(other)} users at cut-off {other.cutoff}; expected the same users and "
                "targets, at least one, and the same cut-off. Evaluate both on one split"
            )
    differences = over_draws(a, metric) - over_draws(b, metric)
    generator = np.random.default_rng(seed)
    means = np.empty(samples)
    chunk = max(1, BOOTSTRAP_CHUNK // len(differences))
    for start in range(0, samples, chunk):
        rows = min(chunk, samples - start)
        drawn = generator.integers(len(differences), size=(rows, len(differences)))
        means[start : start + rows] = differences[drawn].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    tail = min(np.count_nonzero(means <= 0), np.count_nonzero(means >= 0))
    return Difference(
        mean=float(differences.mean()),
        low=float(low),
        high=float(high),
        p_value=float(min(1.0, 2 * (tail + 1) / (samples + 1))),
    )


def _check_scores(scores: npt.NDArray[np.float32], user_ids: Sequence[str], items: int) -> None:
    if scores.shape != (len(user_ids), items):
        raise ModelError(
            f"scores of users {user_ids[0]!r} to {user_ids[-1]!r}: found shape {scores.shape}; "
            f"expected {(len(user_ids), items)}, one row per user and one column per item"
        )
    finite = np.isfinite(scores)
    if not finite.all():
        row, item = (int(place) for place in np.argwhere(~finite)[0])
        raise ModelError(
            f"score of user {user_ids[row]!r} for item {item} of the catalogue: found "
            f"{scores[row, item]}; expected a finite number. The model that produced it has "
            "diverged or was given broken input; do not use it"
        )


def _candidates_only(
    scores: npt.NDArray[np.float32], history: PrivateHistories, targets: npt.NDArray[np.int64]
) -> npt.NDArray[np.float32]:
    users = np.arange(len(history))
    masked = scores.copy()
    masked[np.repeat(users, history.lengths), history.items] = -np.inf
    masked[users, targets] = scores[users, targets]
    return masked


def _mean_ranks(
    masked: npt.NDArray[np.float32], targets: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    own = masked[np.arange(len(targets)), targets][:, None]
    better = np.count_nonzero(masked > own, axis=1)
    ties = np.count_nonzero(masked == own, axis=1)
    mean_ranks: npt.NDArray[np.float64] = 1.0 + better + (ties - 1) / 2
    return mean_ranks


def _top(masked: npt.NDArray[np.float32], count: int) -> npt.NDArray[np.int64]:
    items = masked.shape[1]
    bound = np.partition(masked, items - count, axis=1)[:, items - count, None]
    better = masked > bound
    equal = masked == bound
    wanted = count - better.sum(axis=1, keepdims=True)
    # argpartition picks among equal scores as it pleases; the first in the catalogue are taken.
    chosen = better | (equal & (np.cumsum(equal, axis=1) <= wanted))
    places = np.nonzero(chosen)[1].reshape(len(masked), count)
    values = np.take_along_axis(masked, places, axis=1)
    order = np.argsort(-values, axis=1, kind="stable")
    values = np.take_along_axis(values, order, axis=1)
    return np.where(np.isneginf(values), -1, np.take_along_axis(places, order, axis=1))
