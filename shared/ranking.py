"""Full ranking in flat memory: blocks of users times blocks of items, in one product each.

The score of an item is linear in its vector (``shared.scoring.Targets``). Float32 products say of
nearly every item on which side of the target it lies, because their error has a bound; the few that
lie within it, and those that may be among the best, are scored again in float64. What comes out is
the ranking by float64 scores rounded to float32, whatever the sizes of the blocks, as in
``client.recommend.search``.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from shared.bounds import ROUNDINGS, UNIT, Floats, longest_row, product_bounds
from shared.errors import ModelError
from shared.histories import PrivateHistories
from shared.metrics import Evaluation, evaluated_users
from shared.scoring import Ints, ItemSide, Scores, Targets
from shared.splits import Split

FindTargets = Callable[[Ints], Targets]
"""From places of users ``[block] int64`` to what they look for."""

USERS_PER_BLOCK = 512
ITEMS_PER_BLOCK = 2048
# Of the lists that are kept of a block of users.
MOST_KEPT = 1 << 22
# Further items kept beside the best few, of which the rough scores do not know the order.
SPARE = 8
# A user of whom more items lie so near the target is ranked by float64 scores alone.
MOST_NEAR = 512
# Products of greater numbers may overflow.
GREATEST = 1e30


def evaluate_targets(
    find: FindTargets, side: ItemSide, split: Split, cutoff: int = 10
) -> Evaluation:
    """As ``shared.metrics.evaluate``, for scores that are linear in an item's vector.

    Takes some 50 MB beside the vectors, for any number of users and items.

    Args:
        find: what users look for.
        side: the catalogue.
        split: who is evaluated, on which target, after which history.
        cutoff: k of the metrics at k.

    Raises:
        DataError: if no user has a target.
        ModelError: if what a user looks for is not finite; names the user.
    """
    users = evaluated_users(split)
    count = min(cutoff, len(side))
    step = max(1, min(USERS_PER_BLOCK, MOST_KEPT // (count + SPARE)))
    ranker = _Ranker(side, count)
    parts = []
    for start in range(0, len(users), step):
        part = users[start : start + step]
        history, found = split.history.select(part), find(part)
        _check(found, history.user_ids)
        parts.append(ranker.ranked(found, history, split.target[part]))
    ranks, best = zip(*parts, strict=True)
    return Evaluation(
        ranks=np.concatenate(ranks),
        users=users,
        targets=split.target[users],
        top=np.concatenate(best),
        items=len(side),
        cutoff=cutoff,
    )


@dataclass(frozen=True)
class _Block:
    """A block of users: what they look for, their targets' scores, and what they had.

    Attributes:
        looked_for: in float64.
        targets: ``[users]`` places.
        own: ``[users] float32`` scores of the targets.
        owners, had: pairs of users and items that they had, in order of the items.
    """

    looked_for: Targets
    targets: Ints
    own: Scores
    owners: Ints
    had: Ints

    def __len__(self) -> int:
        return len(self.targets)

    def select(self, rows: Ints) -> "_Block":
        """Some of the users."""
        place = np.full(len(self), -1)
        place[rows] = np.arange(len(rows))
        kept = place[self.owners] >= 0
        return _Block(
            self.looked_for.select(rows),
            self.targets[rows],
            self.own[rows],
            place[self.owners[kept]],
            self.had[kept],
        )


class _Ranker:
    """Ranks blocks of users among one catalogue."""

    def __init__(self, side: ItemSide, count: int) -> None:
        self._side = side
        self._count = count
        self._vectors = torch.from_numpy(side.vectors)
        self._longest = longest_row(side.vectors)
        self._greatest_prior = float(np.abs(side.log_popularity).max(initial=0.0))
        self._order = np.argsort(side.top, kind="stable")
        self._covered = side.top[self._order]
        self._scratch = torch.empty(USERS_PER_BLOCK * ITEMS_PER_BLOCK)

    def ranked(
        self, found: Targets, history: PrivateHistories, targets: Ints
    ) -> tuple[Floats, Ints]:
        """Ranks ``[users]`` and best items ``[users, count]`` of a block of users."""
        rows = np.arange(len(targets))
        owners = np.repeat(rows, history.lengths)
        order = np.argsort(history.items, kind="stable")
        own = self._side.scores_of(found, rows, targets)
        block = _Block(found, targets, own, owners[order], history.items[order])
        if not found.direction.any():
            return self._exactly(block)
        ranks, best, undecided = self._quickly(block)
        if len(undecided):
            ranks[undecided], best[undecided] = self._exactly(block.select(undecided))
        return ranks, best

    def _quickly(self, block: _Block) -> tuple[Floats, Ints, Ints]:
        """By rough scores, with those users last of whom they decide too little."""
        found = block.looked_for
        slack = product_bounds(found.direction, self._longest) + self._roundings(found)
        prior = torch.from_numpy(found.prior.astype(np.float32))
        popular = torch.from_numpy(self._side.log_popularity.astype(np.float32))
        direction, reach = torch.from_numpy(found.direction), found.reach.astype(np.float32)

        def rough(start: int, stop: int) -> Scores:
            out = self._scratch[: len(block) * (stop - start)].view(len(block), -1)
            torch.mm(direction, self._vectors[start:stop].T, out=out)
            scores: Scores = out.addr_(prior, popular[start:stop]).numpy()
            columns, places = self._covered_between(start, stop)
            scores[:, places] += reach[:, columns]
            return scores

        sweep = _Sweep(block, block.own - found.offset, slack, self._count + SPARE, keep=True)
        sweep.run(rough, len(self._side))
        owners, places = sweep.near_pairs()
        scores, own = self._side.scores_of(found, owners, places), block.own[owners]
        sweep.better += np.bincount(owners[scores > own], minlength=len(block))
        sweep.equal += np.bincount(owners[scores == own], minlength=len(block))
        best, clear = self._best(block, sweep, slack)
        undecided = np.flatnonzero(~clear | sweep.crowded)
        return sweep.ranks(), best, undecided

    def _best(
        self, block: _Block, sweep: "_Sweep", slack: Floats
    ) -> tuple[Ints, npt.NDArray[np.bool_]]:
        """The best items by their float64 scores, and whether none may be missing."""
        values, count = sweep.values, self._count
        last_kept, last_wanted = values[:, -1], values[:, count - 1]
        clear = ~np.isfinite(last_kept) | (last_kept < last_wanted - 2.0 * slack)
        places = np.sort(sweep.places, axis=1)
        owners, columns = np.nonzero(places >= 0)
        scores = np.full(places.shape, -np.inf, dtype=np.float32)
        scores[owners, columns] = self._side.scores_of(
            block.looked_for, owners, places[owners, columns]
        )
        order = np.argsort(-scores, axis=1, kind="stable")[:, :count]
        return np.take_along_axis(places, order, axis=1), clear

    def _exactly(self, block: _Block) -> tuple[Floats, Ints]:
        found, side = block.looked_for, self._side
        direction = found.direction.astype(np.float64)
        plain = not direction.any()

        def exact(start: int, stop: int) -> Scores:
            scores = found.prior[:, None] * side.log_popularity[start:stop] + found.offset[:, None]
            columns, places = self._covered_between(start, stop)
            scores[:, places] += found.reach[:, columns]
            if not plain:
                scores += direction @ side.vectors[start:stop].T.astype(np.float64)
            return scores.astype(np.float32)

        sweep = _Sweep(block, block.own, np.zeros(len(block)), self._count, keep=False)
        sweep.run(exact, len(side))
        return sweep.ranks(), sweep.places

    def _covered_between(self, start: int, stop: int) -> tuple[Ints, Ints]:
        """Columns of ``reach`` about a block of items, and their places in the block."""
        low, high = np.searchsorted(self._covered, [start, stop])
        return self._order[low:high], self._covered[low:high] - start

    def _roundings(self, found: Targets) -> Floats:
        size = self._longest * np.linalg.norm(found.direction, axis=1).astype(np.float64)
        size += np.abs(found.prior) * self._greatest_prior
        size += np.abs(found.reach).max(axis=1, initial=0.0) + np.abs(found.offset)
        return np.asarray(ROUNDINGS * UNIT * size)


class _Sweep:
    """Passes over the catalogue: how many items score above, and like, the target, and the best.

    Args:
        block: of users.
        own: ``[users]`` scores of the targets on the scale of the scores that come.
        slack: ``[users]``; a score this near the target's may be above, equal or below it.
        kept: how many of the best are kept.
        keep: whether pairs within the slack are kept for a second look; otherwise they are ties.
    """

    def __init__(
        self, block: _Block, own: Floats | Scores, slack: Floats, kept: int, keep: bool
    ) -> None:
        users = len(block)
        self._block = block
        self._own = own.astype(np.float32)[:, None]
        self._high = (own + slack).astype(np.float32)[:, None]
        self._low = (own - slack).astype(np.float32)[:, None]
        self._keep = keep
        self._near: list[tuple[Ints, Ints]] = []
        self._near_counts = np.zeros(users, dtype=np.int64)
        self._waiting: list[tuple[Ints, Ints, Scores]] = []
        self._waiting_count = 0
        self.better = np.zeros(users, dtype=np.int64)
        self.equal = np.zeros(users, dtype=np.int64)
        self.crowded = np.zeros(users, dtype=np.bool_)
        self.values = np.full((users, kept), -np.inf, dtype=np.float32)
        self.places = np.full((users, kept), -1, dtype=np.int64)

    def run(self, scores_between: Callable[[int, int], Scores], items: int) -> None:
        """Look at every item once."""
        for start in range(0, items, ITEMS_PER_BLOCK):
            stop = min(start + ITEMS_PER_BLOCK, items)
            scores = scores_between(start, stop)
            self._mask(scores, start, stop)
            self._compare(scores, start)
            self._gather(scores, start)
        self._merge()

    def ranks(self) -> Floats:
        """``[users] float64`` mean ranks; the target is among those that are equal."""
        return np.asarray(1.0 + self.better + (self.equal - 1) / 2)

    def near_pairs(self) -> tuple[Ints, Ints]:
        """Users and items that need a second look; not of the users of whom there are too many."""
        owners, places = (np.concatenate(part) for part in zip(*self._near, strict=True))
        kept = ~self.crowded[owners]
        return owners[kept], places[kept]

    def _mask(self, scores: Scores, start: int, stop: int) -> None:
        low, high = np.searchsorted(self._block.had, [start, stop])
        scores[self._block.owners[low:high], self._block.had[low:high] - start] = -np.inf
        # The target is a candidate even where the user had it.
        inside = np.flatnonzero((self._block.targets >= start) & (self._block.targets < stop))
        scores[inside, self._block.targets[inside] - start] = self._own[inside, 0]

    def _compare(self, scores: Scores, start: int) -> None:
        above = scores > self._high
        self.better += np.count_nonzero(above, axis=1)
        near = scores >= self._low
        near ^= above
        counts = np.count_nonzero(near, axis=1)
        if not self._keep:
            self.equal += counts
            return
        self._near_counts += counts
        self.crowded |= self._near_counts > MOST_NEAR
        near[self.crowded] = False
        owners, columns = _pairs(near)
        self._near.append((owners, columns + start))

    def _gather(self, scores: Scores, start: int) -> None:
        kept, width = self.values.shape[1], scores.shape[1]
        better = scores > self.values[:, -1:]
        if start == 0 and kept < width:
            better &= scores >= np.partition(scores, width - kept, axis=1)[:, width - kept, None]
        owners, columns = _pairs(better)
        self._waiting.append((owners, columns + start, scores[owners, columns]))
        self._waiting_count += len(owners)
        if self._waiting_count >= self.values.size:
            self._merge()

    def _merge(self) -> None:
        """Put what waits among the best; of equal ones the first in the catalogue stay."""
        if not self._waiting:
            return
        kept = self.values.shape[1]
        owners, places, values = (np.concatenate(part) for part in zip(*self._waiting, strict=True))
        order = np.argsort(owners, kind="stable")
        owners = owners[order]
        counts = np.bincount(owners, minlength=len(self.values))
        column = kept + np.arange(len(owners)) - np.repeat(np.cumsum(counts) - counts, counts)
        wide = (len(self.values), kept + int(counts.max(initial=0)))
        all_values = np.full(wide, -np.inf, dtype=np.float32)
        all_places = np.full(wide, -1, dtype=np.int64)
        all_values[:, :kept], all_places[:, :kept] = self.values, self.places
        all_values[owners, column], all_places[owners, column] = values[order], places[order]
        best = np.argsort(-all_values, axis=1, kind="stable")[:, :kept]
        self.values = np.take_along_axis(all_values, best, axis=1)
        self.places = np.take_along_axis(all_places, best, axis=1)
        self._waiting, self._waiting_count = [], 0


def _pairs(mask: npt.NDArray[np.bool_]) -> tuple[Ints, Ints]:
    """Rows and columns of what is true; five times as fast as ``np.nonzero`` where that is rare."""
    flat = np.flatnonzero(mask)
    return flat // mask.shape[1], flat % mask.shape[1]


def _check(found: Targets, user_ids: Sequence[str]) -> None:
    reach = np.abs(found.reach).max(axis=1, initial=0.0)
    direction = np.abs(found.direction).max(axis=1, initial=0.0)
    greatest = np.maximum.reduce([np.abs(found.prior), np.abs(found.offset), reach, direction])
    # Written so that NaN is refused.
    broken = np.flatnonzero(~(greatest < GREATEST))
    if len(broken):
        user = int(broken[0])
        raise ModelError(
            f"scores of user {user_ids[user]!r}: found {greatest[user]} in what they are made of; "
            f"expected finite numbers below {GREATEST:g}. The model that produced it has diverged "
            "or was given broken input; do not use it"
        )
