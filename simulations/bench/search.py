"""``tacit bench search``: exact and approximate search of large catalogues, and what they cost.

Items are made up around the vectors of real titles, and users around a few items each.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from client.recommend.neighbours import approximate_search_is_there
from client.recommend.search import ItemIndex
from shared.config import Config
from shared.encoder import Vectors
from shared.scoring import Ints, Scores, Targets
from shared.statistics import Floats
from simulations.world import build_world

K, COVERED, HISTORY = 10, 400, 5
# An item lies between two titles, off by noise of this length; the direction that a user model
# gives lies off a history's items by as much.
NOISE = 0.5
AT_ONCE = 8
ROWS_PER_BLOCK = 20_000
SEED = 0

Find = Callable[[int], Ints]


@dataclass(frozen=True)
class SearchRow:
    """One way to find the best ten on one catalogue.

    Attributes:
        items, dim: of the catalogue.
        method: ``dense`` (float32 product and partial sort), ``exact``, ``exact, 8 at once``
            (threads; the time is the wall's for each query) or ``approximate``.
        p50_ms, p99_ms: of a query.
        size_mb: memory beside the vectors.
        build_s: once per delivery.
        recall10: share of the true best ten that come out.
    """

    items: int
    dim: int
    method: str
    p50_ms: float
    p99_ms: float
    size_mb: float
    build_s: float
    recall10: float


def measure(
    config: Config,
    sizes: Sequence[int],
    queries: int,
    approximate: bool = True,
    told: Callable[[str], None] = lambda _: None,
) -> list[SearchRow]:
    """Time every way on every size, query by query in turn.

    Args:
        config: base, and data whose titles the items are made up around.
        sizes: of catalogues.
        queries: of each way.
        approximate: whether that is timed too, where faiss is installed.
        told: is told what runs next.
    """
    with tempfile.TemporaryDirectory() as scratch:
        titles = build_world(config, Path(scratch)).vectors
    rows: list[SearchRow] = []
    for items in sizes:
        told(f"Making {items:,} items")
        made = _Made(titles, items, queries)
        told(f"Searching {items:,} items")
        rows += _timed(made, queries, approximate and approximate_search_is_there())
    return rows


class _Made:
    """A catalogue, statistics and what users look for."""

    def __init__(self, titles: Vectors, items: int, users: int) -> None:
        generator = np.random.default_rng(SEED)
        dim = titles.shape[1]
        self.vectors = np.empty((items, dim), dtype=np.float32)
        for start in range(0, items, ROWS_PER_BLOCK):
            block = self.vectors[start : start + ROWS_PER_BLOCK]
            first, second = titles[generator.integers(len(titles), size=(2, len(block)))]
            between = generator.uniform(0.0, 0.5, (len(block), 1))
            block[:] = first * (1.0 - between) + second * between
            block += generator.normal(size=block.shape) * (NOISE / np.sqrt(dim))
            block /= np.linalg.norm(block, axis=1, keepdims=True)
        # Few items are had often, and half of the others drown in the noise of P.
        noisy = np.minimum(generator.zipf(1.3, items), 1000) / 3.0 + generator.normal(size=items)
        self.log_popularity: Floats = np.log(np.maximum(noisy, 0.0) + 1.0)
        self.top: Ints = np.argsort(-self.log_popularity, kind="stable")[:COVERED]
        directions = titles[generator.integers(len(titles), size=(users, HISTORY))].mean(axis=1)
        directions += generator.normal(size=directions.shape) * (NOISE / np.sqrt(dim))
        # As wide over the catalogue as log popularity.
        directions /= (self.vectors[:ROWS_PER_BLOCK] @ directions.T).std(axis=0)[:, None]
        self.targets = Targets(
            np.ones(users),
            generator.normal(size=(users, len(self.top))),
            {"adapter": directions.astype(np.float32)},
            {"adapter": np.zeros(users)},
        )

    def dense(self, row: int) -> Ints:
        """The plain way: one float32 product, then a partial sort."""
        scores: Scores = self.vectors @ self.targets.direction[row]
        scores += self.log_popularity.astype(np.float32)
        scores[self.top] += self.targets.reach[row].astype(np.float32)
        best = np.argpartition(-scores, min(K, len(scores) - 1))[:K]
        return best[np.argsort(-scores[best], kind="stable")]


def _timed(made: _Made, queries: int, approximate: bool) -> list[SearchRow]:
    started = time.perf_counter()
    exact = ItemIndex(made.vectors, made.log_popularity, made.top, exact_up_to=len(made.vectors))
    built = {"dense": (0.0, 0), "exact": (time.perf_counter() - started, exact.size_bytes)}
    ways: dict[str, Find] = {
        "dense": made.dense,
        "exact": lambda row: exact.best(made.targets, row, K)[0],
    }
    if approximate:
        started = time.perf_counter()
        index = ItemIndex(made.vectors, made.log_popularity, made.top, exact_up_to=0)
        built["approximate"] = time.perf_counter() - started, index.size_bytes
        ways["approximate"] = lambda row: index.best(made.targets, row, K)[0]
    times: dict[str, list[float]] = {way: [] for way in ways}
    found: dict[str, list[Ints]] = {way: [] for way in ways}
    for find in ways.values():
        find(0)
    for row in range(queries):
        for way, find in ways.items():
            started = time.perf_counter()
            places = find(row)
            times[way].append(time.perf_counter() - started)
            found[way].append(places)
    together = f"exact, {AT_ONCE} at once"
    with ThreadPoolExecutor(AT_ONCE) as pool:
        started = time.perf_counter()
        found[together] = list(pool.map(ways["exact"], range(queries)))
        times[together] = [(time.perf_counter() - started) / queries]
    built[together] = built["exact"]
    truth = found["exact"]
    return [
        SearchRow(
            *made.vectors.shape,
            way,
            statistics.median(seconds) * 1e3,
            float(np.quantile(seconds, 0.99)) * 1e3,
            built[way][1] / 1e6,
            built[way][0],
            float(np.mean([np.isin(t, f).mean() for t, f in zip(truth, found[way], strict=True)])),
        )
        for way, seconds in times.items()
    ]
