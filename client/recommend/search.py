"""The best items of a catalogue for a user: exact up to a million items, approximate beyond.

The score of an item is linear in its vector (``shared.scoring.Targets``). A pass over the catalogue
makes rough scores with a bound on their error (``client.recommend.sweep``); every item that the
bound leaves among the best is scored again in float64. What comes out is the order of the float64
scores rounded to float32, ties by place in the catalogue, whatever the rough scores were.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch

from client.recommend.neighbours import Neighbours, approximate_search_is_there
from client.recommend.sweep import Sought, Sweep
from shared.bounds import ROUNDINGS, UNIT, longest_row, product_bounds
from shared.encoder import Vectors
from shared.errors import ModelError
from shared.scoring import Ints, Scores, Targets
from shared.statistics import Floats

Mask = npt.NDArray[np.bool_]
# Places, best first, and their scores.
Best = tuple[Ints, Scores]

NONE: Ints = np.empty(0, dtype=np.int64)
EXACT_UP_TO = 1_000_000
LEAST_RECALL = 0.97
# So few items are scored one by one.
FEW = 5_000
ROWS_PER_BLOCK = 4096
# Of the rough scores that a batch holds at a time.
BATCH_BYTES = 128 << 20
USERS_PER_BATCH = 256
SPARE = 32


class ItemIndex:
    """Finds the best items of one catalogue; made once per delivery, safe in several threads.

    Args:
        vectors: ``[items, dim] float32``, kept as they are.
        log_popularity: ``[items] float64``.
        top: ``[K] int64`` places that ``Targets.reach`` is about.
        exact_up_to: a catalogue with more items is searched approximately, where faiss is
            installed.
        least_recall: of the approximate search, measured on made-up users.

    Attributes:
        neighbours: the approximate index; None where search is exact.
    """

    def __init__(
        self,
        vectors: Vectors,
        log_popularity: Floats,
        top: Ints,
        exact_up_to: int = EXACT_UP_TO,
        least_recall: float = LEAST_RECALL,
    ) -> None:
        self._vectors = vectors
        self._log_popularity = log_popularity
        self._top = top
        self._column = np.full(len(vectors), -1, dtype=np.int32)
        self._column[top] = np.arange(len(top), dtype=np.int32)
        self._longest = longest_row(vectors)
        self._greatest_prior = float(np.abs(log_popularity).max(initial=0.0))
        self._sweep: Sweep | None = None
        self.neighbours: Neighbours | None = None
        if len(vectors) > exact_up_to and approximate_search_is_there():
            self.neighbours = Neighbours(vectors, log_popularity, least_recall)
        else:
            self._sweep = Sweep(vectors, log_popularity, top, self._longest)

    def __len__(self) -> int:
        return len(self._vectors)

    @property
    def size_bytes(self) -> int:
        """Memory beside the vectors."""
        parts = [part for part in (self._sweep, self.neighbours) if part is not None]
        return self._column.nbytes + sum(part.size_bytes for part in parts)

    def best(
        self,
        targets: Targets,
        row: int,
        count: int,
        excluded: Ints = NONE,
        allowed: Mask | None = None,
    ) -> Best:
        """The best items for one user.

        Args:
            targets: what users look for.
            row: which of them.
            count: how many items; all that there are where there are fewer.
            excluded: places that must not come out.
            allowed: ``[items]``, the only items that may; None for all.

        Returns:
            ``([n] int64, [n] float32)`` places and scores, best first, ties by place.

        Raises:
            ModelError: if a target is not finite.
            IndexError: if an excluded place lies outside the catalogue.
        """
        _check(targets, row)
        out = np.unique(excluded)
        if len(out) and not 0 <= out[0] <= out[-1] < len(self):
            raise IndexError(f"excluded: places from {out[0]} to {out[-1]} of {len(self)} items")
        if allowed is None:
            there = len(self) - len(out)
        else:
            allowed = allowed.copy()
            allowed[excluded] = False
            there = int(np.count_nonzero(allowed))
            if there <= FEW:
                return self._finish(targets, row, np.flatnonzero(allowed), count)
        count = min(count, there)
        if count <= 0:
            return NONE, np.empty(0, dtype=np.float32)
        places = self._candidates(targets, row, count, excluded, allowed, there)
        return self._finish(targets, row, places, count)

    def best_many(
        self, targets: Targets, count: int, excluded: Sequence[Ints], allowed: Mask | None = None
    ) -> Iterator[Best]:
        """The best items for many users in turn, exact, in memory that does not grow with them.

        Args:
            targets: what users look for.
            count: how many items each.
            excluded: for every user the places that must not come out.
            allowed: as of ``best``.

        Yields:
            As ``best`` returns, for every user in turn.

        Raises:
            ModelError: if a target is not finite.
        """
        step = max(1, min(USERS_PER_BATCH, BATCH_BYTES // (4 * max(1, len(self)))))
        wide = min(max(0, count) + SPARE, len(self))
        prior = self._log_popularity.astype(np.float32)
        for start in range(0, len(targets), step):
            rows = range(start, min(start + step, len(targets)))
            some = slice(rows.start, rows.stop)
            rough = targets.direction[some] @ self._vectors.T
            rough += targets.prior[some, None].astype(np.float32) * prior
            rough[:, self._top] += targets.reach[some].astype(np.float32)
            if allowed is not None:
                rough[:, ~allowed] = -np.inf
            for line, row in enumerate(rows):
                _check(targets, row)
                rough[line, excluded[row]] = -np.inf
            found = torch.topk(torch.from_numpy(rough), wide)
            for line, row in enumerate(rows):
                values, places = found.values[line].numpy(), found.indices[line].numpy()
                near = self._near(targets, row, count, rough[line], values, places)
                yield self._finish(targets, row, near, count)

    def scores(self, targets: Targets, row: int, places: Ints) -> Scores:
        """Scores of some items, in float64 until they are done, ``[places] float32``."""
        found = targets.prior[row] * self._log_popularity[places] + targets.offset[row]
        column = self._column[places]
        covered = column >= 0
        found[covered] += targets.reach[row, column[covered]]
        direction = targets.direction[row].astype(np.float64)
        if direction.any():
            for start in range(0, len(places), ROWS_PER_BLOCK):
                part = slice(start, start + ROWS_PER_BLOCK)
                found[part] += self._vectors[places[part]].astype(np.float64) @ direction
        return np.asarray(found, dtype=np.float32)

    def _candidates(
        self,
        targets: Targets,
        row: int,
        count: int,
        excluded: Ints,
        allowed: Mask | None,
        there: int,
    ) -> Ints:
        if self._sweep is not None:
            sought = Sought(
                direction=np.asarray(targets.direction[row], dtype=np.float64),
                prior=float(targets.prior[row]),
                reach=targets.reach[row],
                roundings=self._roundings(targets, row),
                count=count,
                excluded=excluded,
                allowed=allowed,
            )
            return self._sweep.candidates(sought)
        assert self.neighbours is not None
        if allowed is None:
            # The excluded come out too, and are taken away below.
            count, there = count + len(excluded), len(self)
        # The index knows nothing of reach: what that lowers may give its place to another, and what
        # it lifts is added.
        lowered = int(np.count_nonzero(targets.reach[row] < 0.0))
        near = self.neighbours.best(
            targets.direction[row], float(targets.prior[row]), count + lowered, there, allowed
        )
        both = np.union1d(near, self._top)
        return both[~np.isin(both, excluded)] if allowed is None else both[allowed[both]]

    def _near(
        self, targets: Targets, row: int, count: int, rough: Scores, values: Scores, places: Ints
    ) -> Ints:
        """Places that may be among the best, given the best few of a row of rough scores."""
        there = int(np.count_nonzero(values > -np.inf))
        if there <= count:
            return np.sort(places[:there])
        direction = targets.direction[row, None]
        off = float(product_bounds(direction, self._longest)[0]) + self._roundings(targets, row)
        least = values[max(0, count - 1)] - 2.0 * off
        if values[-1] >= least:
            return np.flatnonzero(rough >= least)
        return np.sort(places[values >= least])

    def _roundings(self, targets: Targets, row: int) -> float:
        """What rounding to float32 can move a rough score and the score itself, at most."""
        size = self._longest * float(np.linalg.norm(targets.direction[row]))
        size += abs(float(targets.prior[row])) * self._greatest_prior
        size += float(np.abs(targets.reach[row]).max(initial=0.0)) + abs(float(targets.offset[row]))
        return ROUNDINGS * UNIT * size

    def _finish(self, targets: Targets, row: int, places: Ints, count: int) -> Best:
        scores = self.scores(targets, row, places)
        order = np.argsort(-scores, kind="stable")[: max(0, count)]
        return places[order], scores[order]


def _check(targets: Targets, row: int) -> None:
    parts = (targets.direction[row], targets.prior[row], targets.reach[row], targets.offset[row])
    if not all(np.isfinite(part).all() for part in parts):
        raise ModelError(
            "what a user looks for came out as no finite number, so nothing can be ranked by it; "
            "the adapter that was delivered last or the statistics are damaged"
        )
