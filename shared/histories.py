"""The private side of the data: one chronological history per user, in compressed rows."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


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
    """

    user_ids: tuple[str, ...]
    offsets: npt.NDArray[np.int64]
    items: npt.NDArray[np.int64]
    times: npt.NDArray[np.float64]
    ratings: npt.NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.user_ids)

    def row(self, user: int) -> npt.NDArray[np.int64]:
        """Items of one user in order of time, ``[length] int64``."""
        return self.items[self.offsets[user] : self.offsets[user + 1]]

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Interactions per user, ``[users] int64``."""
        return np.diff(self.offsets)

    def select(self, users: Sequence[int] | npt.NDArray[np.int64]) -> "PrivateHistories":
        """The histories of some users, in the order given."""
        index = np.asarray(users, dtype=np.int64)
        return self._gather(index, self.offsets[index], self.offsets[index + 1])

    def truncated(self, keep: npt.NDArray[np.int64]) -> "PrivateHistories":
        """The first ``keep[u]`` interactions of every user (``[users] int64``)."""
        starts = self.offsets[:-1]
        ends = starts + np.clip(keep, 0, self.lengths)
        return self._gather(np.arange(len(self)), starts, ends)

    def _gather(
        self,
        index: npt.NDArray[np.int64],
        starts: npt.NDArray[np.int64],
        ends: npt.NDArray[np.int64],
    ) -> "PrivateHistories":
        lengths = ends - starts
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        flat = np.repeat(starts - offsets[:-1], lengths) + np.arange(offsets[-1])
        return PrivateHistories(
            user_ids=tuple(self.user_ids[i] for i in index),
            offsets=offsets,
            items=self.items[flat],
            times=self.times[flat],
            ratings=None if self.ratings is None else self.ratings[flat],
        )
