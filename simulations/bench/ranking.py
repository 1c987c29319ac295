"""``tacit bench ranking``: full ranking in blocks, against whole rows of scores.

Catalogue, histories and what a user model would say are made up; the sizes count. Every run is a
process of its own, so that its peak memory is its own.
"""

import hashlib
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np

from shared.config import Config
from shared.devices import choose_runtime
from shared.histories import PrivateHistories
from shared.metrics import Evaluation, evaluate
from shared.ranking import evaluate_targets
from shared.scoring import Blend, Ints, Scorer, Scores, Targets
from shared.splits import Split, leave_one_out
from shared.statistics import Statistics
from simulations.bench.memory import watched
from simulations.bench.passes import Passes

Way = Literal["blocks", "rows", "rows, float64"]

COVERED, HISTORY = 400, 30
# Rows of scores of more users and items take minutes and much memory.
MOST_SCORES_IN_ROWS = 400_000_000
USERS_OF_A_PASS = 256
SEED = 0


@dataclass(frozen=True)
class RankingRow:
    """One way to rank the targets of all users.

    Attributes:
        way: ``blocks``; ``rows``, whole rows of float32 products; ``rows, float64``, the same in
            float64, which the blocks must equal.
        users, items: how many.
        seconds: median over repeats, without the user model's pass over the histories.
        users_per_s: by that.
        peak_mb: most memory of the process beside what it held before it ranked.
        ranks_like_blocks: share of the users whose rank and list are those of the blocks.
        hr10, ndcg10, mrr, coverage, novelty: what came out.
    """

    way: Way
    users: int
    items: int
    seconds: float
    users_per_s: float
    peak_mb: float
    ranks_like_blocks: float
    hr10: float
    ndcg10: float
    mrr: float
    coverage: float
    novelty: float


@dataclass(frozen=True)
class PassTimes:
    """What else users cost, seconds for all of them, scaled up from ``sample`` of them.

    Attributes:
        forward_s: the user model reads their histories, once.
        epoch_s: a private step over all of them.
        sample: users that were timed.
    """

    forward_s: float
    epoch_s: float
    sample: int


def measure(
    config: Config,
    users: int = 10_000,
    items: int = 10_000,
    repeats: int = 3,
    told: Callable[[str], None] = lambda _: None,
) -> tuple[list[RankingRow], PassTimes]:
    """Rank in every way in turn, and time a pass of the user model and a private step.

    Args:
        config: base, model, fusion and threads.
        users: that have a target.
        items: size of the catalogue.
        repeats: of each way; whole rows run only up to ``MOST_SCORES_IN_ROWS`` scores.
        told: is told what runs next.
    """
    small = users * items <= MOST_SCORES_IN_ROWS
    ways: list[Way] = ["blocks", "rows", "rows, float64"] if small else ["blocks"]
    runs: dict[Way, list[_Run]] = {way: [] for way in ways}
    for repeat in range(repeats):
        for way in ways:
            told(f"Ranking {users:,} users by {way}, {repeat + 1} of {repeats}")
            runs[way].append(_alone(config, users, items, way))
    told("Timing a pass and a private step")
    passes = time_passes(config, users, items, repeats)
    blocks = runs["blocks"][0]
    return [_row(way, users, items, found, blocks) for way, found in runs.items()], passes


def time_passes(config: Config, users: int, items: int, repeats: int) -> PassTimes:
    """Time a pass and a private step of some users, and scale them up to all.

    Args:
        config: base, model and training.
        users: how many there are.
        items: size of the catalogue.
        repeats: of each, in turn; medians count.
    """
    passes = Passes(config, min(users, USERS_OF_A_PASS), items)
    times = [(passes.scoring_s(), passes.step_s()) for _ in range(repeats + 1)][1:]
    forward_s, step_s = (statistics.median(kind) for kind in zip(*times, strict=True))
    scale = users / passes.users
    return PassTimes(forward_s * scale, step_s * scale, passes.users)


@dataclass(frozen=True)
class _Run:
    seconds: float
    peak_mb: float
    users: tuple[bytes, ...]
    figures: tuple[float, float, float, float, float]


def _alone(config: Config, users: int, items: int, way: Way) -> _Run:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_run, config, users, items, way).result()


def _run(config: Config, users: int, items: int, way: Way) -> _Run:
    choose_runtime("cpu", "float32", config.run.threads)
    made = _Made(config, users, items, 384)
    with watched() as peak:
        before_mb = peak.anonymous_mb
        started = time.perf_counter()
        found = made.evaluated(way)
        seconds = time.perf_counter() - started
    popularity = np.bincount(made.part.train.items, minlength=items)
    return _Run(
        seconds,
        peak.anonymous_mb - before_mb,
        tuple(_digests(found)),
        (found.hr, found.ndcg, found.mrr, found.coverage, found.novelty(popularity)),
    )


def _digests(found: Evaluation) -> Iterator[bytes]:
    for rank, best in zip(found.ranks, found.top, strict=True):
        yield hashlib.sha256(rank.tobytes() + best.tobytes()).digest()[:8]


def _row(way: Way, users: int, items: int, runs: Sequence[_Run], blocks: _Run) -> RankingRow:
    seconds = statistics.median(run.seconds for run in runs)
    alike = np.mean([a == b for a, b in zip(runs[0].users, blocks.users, strict=True)])
    return RankingRow(
        way,
        users,
        items,
        seconds,
        users / seconds,
        max(run.peak_mb for run in runs),
        float(alike),
        *runs[0].figures,
    )


class _Made:
    """A made-up catalogue, statistics and histories; equal for equal sizes."""

    def __init__(self, config: Config, users: int, items: int, dim: int) -> None:
        draw = np.random.default_rng(SEED)
        vectors = draw.standard_normal((items, dim), dtype=np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        counts = np.sort(draw.zipf(1.3, size=items).clip(max=users))[::-1]
        covered = min(COVERED, items)
        self.vectors = vectors
        self.statistics = Statistics(
            np.log(counts + 0.3),
            np.arange(covered),
            draw.gamma(0.1, size=(covered, covered)) / covered,
        )
        places = draw.choice(items, size=users * (HISTORY + 1), p=counts / counts.sum())
        histories = PrivateHistories(
            tuple(f"user-{user}" for user in range(users)),
            np.arange(users + 1, dtype=np.int64) * (HISTORY + 1),
            places,
            np.zeros(len(places)),
        )
        self.part: Split = leave_one_out(histories, "test")
        self.scorer = Scorer(config, self.statistics, vectors)
        fusion = config.fusion
        self.blend = Blend(
            1.0, config.statistics.weight, fusion.adapter_weight, fusion.content_weight
        )
        self._temperature = config.model.temperature

    def evaluated(self, way: Way) -> Evaluation:
        """By blocks, or by whole rows."""
        if way == "blocks":
            return evaluate_targets(self._targets, self.scorer.item_side, self.part)
        kind = np.float64 if way == "rows, float64" else np.float32
        return evaluate(lambda users: self._rows(users, kind), self.part, len(self.vectors))

    def _targets(self, users: Ints) -> Targets:
        # Near one item, as a user model's states are.
        near = self.vectors[users * 7919 % len(self.vectors)]
        far = self.vectors[users * 104_729 % len(self.vectors)]
        states = np.asarray((near + 0.5 * far) / self._temperature, dtype=np.float32)
        return self.scorer.targets(self.part.history, users, blend=self.blend, states=states)

    def _rows(self, users: Ints, kind: type[np.floating]) -> Scores:
        found = self._targets(users)
        scores = found.prior[:, None] * self.statistics.log_popularity + found.offset[:, None]
        scores += found.direction.astype(kind) @ self.vectors.T.astype(kind)
        scores[:, self.statistics.top] += found.reach
        return scores.astype(np.float32)
