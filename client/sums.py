"""Where an organisation's coordinates lie in the sum of all, which may have more items.

Every organisation adds noise at every coordinate, also at those of items that it does not have:
otherwise the noise there would be that of the others alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from shared.errors import FederationError
from shared.fixed_point import clamped
from shared.grid import WIDEST
from shared.statistics import triangle_size

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Keys = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Layout:
    """Attributes:
    places: ``[own] int64`` place in the sum of each own coordinate; -1 where it has none.
    size: coordinates of the sum.
    """

    places: Ints
    size: int

    @classmethod
    def same(cls, size: int) -> Self:
        """All organisations have the same coordinates."""
        return cls(np.arange(size), size)

    @classmethod
    def of_items(cls, own: Keys, asked: npt.NDArray[Any] | None) -> Self:
        """Items by their keys; ``asked`` are those of the sum.

        Raises:
            FederationError: if ``asked`` are no different keys, or too many.
        """
        if asked is None or asked.dtype != np.uint64 or asked.ndim != 1 or asked.size > WIDEST:
            raise FederationError("popularity: expected an array keys of uint64")
        order = np.argsort(asked, kind="stable")
        ordered = asked[order]
        if (ordered[1:] == ordered[:-1]).any():
            raise FederationError("popularity: some keys are asked for twice")
        if not asked.size:
            return cls(np.full(len(own), -1), 0)
        near = np.minimum(np.searchsorted(ordered, own), asked.size - 1)
        return cls(np.where(ordered[near] == own, order[near], -1), asked.size)

    @classmethod
    def of_pairs(cls, own: Sequence[int], items: int) -> Self:
        """Pairs of some of ``items``; ``own`` are the places of those, ascending."""
        first, second = np.triu_indices(len(own), 1)
        place = np.asarray(own, dtype=np.int64)
        low, high = place[first], place[second]
        cells = low * items - low * (low + 1) // 2 + (high - low - 1)
        return cls(cells, triangle_size(items))

    def widened(self, own: Floats, declared_users: int, sensitivity: float) -> Floats:
        """A sum over own coordinates, bounded, and after it zeros for those that are not own."""
        foreign = self.size - int((self.places >= 0).sum())
        bounded = clamped(own, declared_users, sensitivity)
        return np.concatenate([bounded, np.zeros(foreign)])

    def spread(self, noised: Floats) -> Floats:
        """What ``widened`` gave, with noise, in the order of the sum."""
        own = len(self.places)
        kept = self.places >= 0
        foreign = np.ones(self.size, dtype=bool)
        foreign[self.places[kept]] = False
        result = np.empty(self.size)
        result[self.places[kept]] = noised[:own][kept]
        result[foreign] = noised[own:]
        return result
