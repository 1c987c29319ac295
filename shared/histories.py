"""The private side of the data: one chronological history per user, in compressed rows."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from shared.columns import Array, UserIds, stacked

# Of a copy that goes to disk; bounds the memory that making it takes.
INTERACTIONS_PER_BLOCK = 2**18


@dataclass(frozen=True)
class PrivateHistories:
    """Users' histories of one organisation. Private: passed as an argument, never kept in a plan.

    Row ``u`` is ``items[offsets[u]:offsets[u + 1]]``, ordered by time; ties keep the order of the
    input. (44% of ML-100K's users have their last two items in the same second: ordered by item
    number the test item would be the rarer of them, and popularity's NDCG@10 0.025, not 0.044.)

    Attributes:
        user_ids: the organisation's own identifiers, as text.
        offsets: ``[users + 1] int64``, starting at 0.
        items: ``[interactions] int64`` places in the catalogue.
        times: ``[interactions] float64`` seconds since 1970.
        ratings: ``[interactions] float32``, or None where the data has none.
        folder: where columns and copies of them lie that are too large for memory
            (``shared.columns.stacked``); None keeps all in memory.
    """

    user_ids: Sequence[str]
    offsets: npt.NDArray[np.int64]
    items: npt.NDArray[np.int64]
    times: npt.NDArray[np.float64]
    ratings: npt.NDArray[np.float32] | None = None
    folder: Path | None = None

    @classmethod
    def stacked(
        cls,
        user_ids: Sequence[str],
        offsets: npt.NDArray[np.int64],
        blocks: Iterable[Sequence[Array]],
        rated: bool,
        folder: Path | None,
    ) -> "PrivateHistories":
        """Histories from blocks of interactions, which go to disk where they are large.

        Args:
            user_ids, offsets, folder: as of the class.
            blocks: consecutive items, times and, if ``rated``, ratings; read once.
            rated: whether there are ratings.

        Raises:
            DataError: if ``folder`` does not take the files.
        """
        dtypes = (np.int64, np.float64, np.float32) if rated else (np.int64, np.float64)
        items, times, *ratings = stacked(blocks, dtypes, folder)
        return cls(user_ids, offsets, items, times, ratings[0] if rated else None, folder)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def row(self, user: int) -> npt.NDArray[np.int64]:
        """Items of one user in order of time, ``[length] int64``."""
        return self.items[self.offsets[user] : self.offsets[user + 1]]

    @property
    def rated(self) -> bool:
        """Whether there are ratings."""
        return self.ratings is not None

    @cached_property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Interactions per user, ``[users] int64``; not to be written to."""
        # Kept, since a private step asks again and again and must not cost by all users.
        lengths = np.diff(self.offsets)
        lengths.setflags(write=False)
        return lengths

    def blocks(self, interactions: int = INTERACTIONS_PER_BLOCK) -> Iterator[tuple[int, int]]:
        """Consecutive users ``(first, last + 1)`` with about so many interactions together.

        A block has one user at least, and more than ``interactions`` only then.
        """
        return _blocks(self.offsets, interactions)

    def select(self, users: Sequence[int] | npt.NDArray[np.int64]) -> "PrivateHistories":
        """The histories of some users, in the order given."""
        index = np.asarray(users, dtype=np.int64)
        ids = self.user_ids
        chosen = ids.take(index) if isinstance(ids, UserIds) else tuple(ids[i] for i in index)
        return self._gather(chosen, self.offsets[index], self.offsets[index + 1])

    def truncated(self, keep: npt.NDArray[np.int64]) -> "PrivateHistories":
        """The first ``keep[u]`` interactions of every user (``[users] int64``)."""
        starts = self.offsets[:-1]
        return self._gather(self.user_ids, starts, starts + np.clip(keep, 0, self.lengths))

    def followed_by(self, others: "PrivateHistories") -> "PrivateHistories":
        """These users and after them ``others``; both have ratings or neither has."""
        ids = (UserIds.of(part.user_ids) for part in (self, others))
        blocks = (
            [column[part.offsets[first] : part.offsets[last]] for column in part._columns]
            for part in (self, others)
            for first, last in part.blocks()
        )
        offsets = np.concatenate([self.offsets, self.offsets[-1] + others.offsets[1:]])
        return self.stacked(UserIds.joined(*ids), offsets, blocks, self.rated, self.folder)

    @property
    def _columns(self) -> list[Array]:
        return [self.items, self.times, *([] if self.ratings is None else [self.ratings])]

    def _gather(
        self,
        user_ids: Sequence[str],
        starts: npt.NDArray[np.int64],
        ends: npt.NDArray[np.int64],
    ) -> "PrivateHistories":
        lengths = ends - starts
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        moves = starts - offsets[:-1]

        def blocks() -> Iterator[list[Array]]:
            for first, last in _blocks(offsets, INTERACTIONS_PER_BLOCK):
                places = np.repeat(moves[first:last], lengths[first:last])
                places += np.arange(offsets[first], offsets[last])
                yield [column[places] for column in self._columns]

        return self.stacked(user_ids, offsets, blocks(), self.rated, self.folder)


def _blocks(offsets: npt.NDArray[np.int64], interactions: int) -> Iterator[tuple[int, int]]:
    first = 0
    while first < len(offsets) - 1:
        most = int(np.searchsorted(offsets, offsets[first] + interactions, side="right")) - 1
        last = max(first + 1, most)
        yield first, last
        first = last
