"""Rough products with a whole catalogue, each with a bound on how far it may be off.

One query against a million items is bound by memory: float32 rows of 384 numbers are 1.5 GB. Rows
rounded to eight bits are a quarter of that, and what the rounding can move has a proven bound, so
that a search that looks at every item within the bound is exact.
"""

from collections.abc import Iterator
from typing import Protocol

import numpy as np
import torch

from shared.bounds import product_bounds
from shared.encoder import Vectors
from shared.statistics import Floats

LEVELS = 127
ROWS_PER_BLOCK = 8192
# So many directions share one reading of the rows.
AT_ONCE = 8


class Rough(Protocol):
    """Rough products of one catalogue.

    Attributes:
        slack: ``[items] float32``; how much an item's product may be off, up to a factor.
        size_bytes: memory beside the vectors themselves.
    """

    slack: torch.Tensor
    size_bytes: int

    def products(self, directions: Floats, out: torch.Tensor) -> Iterator[tuple[float, float]]:
        """Write rough products with every item, one direction after the other; one call at a time.

        Args:
            directions: ``[n, dim] float64``, finite.
            out: ``[items] float32``, overwritten with each direction's products in turn.

        Yields:
            ``(factor, constant)``: the product with item ``i`` is at most ``factor * slack[i] +
            constant`` off, besides what a few roundings to float32 move.
        """
        ...


class EightBits:
    """Rows rounded to eight bits, each with its own scale.

    With a row ``x = s q + e`` and a direction ``d = t p + f``, where ``q`` and ``p`` are whole
    numbers of at most 127, ``x . d - s t (q . p) = e . (t p) + x . f``. By Cauchy-Schwarz it is
    at most ``|e| |t p| + |x| |f|``, and ``q . p`` is computed without any rounding.

    Args:
        vectors: ``[items, dim] float32``.
        longest: no row of ``vectors`` is longer.
    """

    def __init__(self, vectors: Vectors, longest: float) -> None:
        items, dim = vectors.shape
        self._whole = torch.empty((items, dim), dtype=torch.int8)
        self._scale = torch.empty(items)
        self.slack = torch.empty(items)
        whole, scale, slack = self._whole.numpy(), self._scale.numpy(), self.slack.numpy()
        for start in range(0, items, ROWS_PER_BLOCK):
            rows = slice(start, start + ROWS_PER_BLOCK)
            block = vectors[rows].astype(np.float64)
            scale[rows] = np.maximum(np.abs(block).max(axis=1), 1e-30) / LEVELS
            kept = scale[rows, None].astype(np.float64)
            numbers = np.clip(np.rint(block / kept), -LEVELS, LEVELS)
            whole[rows] = numbers
            # Upwards by more than the conversion to float32 can take off.
            slack[rows] = np.linalg.norm(block - kept * numbers, axis=1) * (1.0 + 1e-6)
        self._longest = longest
        self._found = torch.empty(AT_ONCE * items, dtype=torch.int32)
        self.size_bytes = items * (dim + 8 + 4 * AT_ONCE)

    def products(self, directions: Floats, out: torch.Tensor) -> Iterator[tuple[float, float]]:
        """As of ``Rough``; the rows are read once for all of at most ``AT_ONCE`` directions."""
        steps = np.maximum(np.abs(directions).max(axis=1), 1e-30) / LEVELS
        numbers = np.clip(np.rint(directions / steps[:, None]), -LEVELS, LEVELS)
        found = whole_products(self._whole, torch.from_numpy(numbers.astype(np.int8)), self._found)
        for place, step in enumerate(steps.tolist()):
            out.copy_(found[place]).mul_(self._scale).mul_(step)
            left = float(np.linalg.norm(directions[place] - step * numbers[place]))
            yield step * float(np.linalg.norm(numbers[place])), self._longest * left


class FullPrecision:
    """The float32 rows as they are.

    Args:
        vectors: ``[items, dim] float32``.
        longest: no row of ``vectors`` is longer.
    """

    def __init__(self, vectors: Vectors, longest: float) -> None:
        self._vectors = vectors
        self.slack = torch.zeros(1).expand(len(vectors))
        self._longest = longest
        self.size_bytes = 0

    def products(self, directions: Floats, out: torch.Tensor) -> Iterator[tuple[float, float]]:
        """As of ``Rough``."""
        rounded = directions.astype(np.float32)
        bounds = product_bounds(rounded, self._longest).tolist()
        for direction, bound in zip(rounded, bounds, strict=True):
            np.dot(self._vectors, direction, out=out.numpy())
            yield 0.0, bound


def rough_vectors(vectors: Vectors, longest: float) -> Rough:
    """Eight bits where this machine multiplies them without error, else float32."""
    kind = EightBits if whole_products_hold(vectors.shape[1]) else FullPrecision
    return kind(vectors, longest)


def whole_products(rows: torch.Tensor, numbers: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    """Products of eight-bit rows, ``[n, items] int32``.

    Args:
        rows: ``[items, dim] int8``.
        numbers: ``[n, dim] int8``.
        out: at least ``n * items`` of int32, overwritten.
    """
    found = out[: len(numbers) * len(rows)]
    if len(numbers) == 1:
        # The other way round a single row comes out unwritten (torch 2.13).
        torch._int_mm(rows, numbers.T, out=found.view(-1, 1))
        return found.view(1, -1)
    return torch._int_mm(numbers, rows.T, out=found.view(len(numbers), -1))


def whole_products_hold(dim: int) -> bool:
    """Whether products of eight-bit numbers come out whole on this machine.

    Some processors saturate where two products are added in 16 bits; the largest numbers of either
    sign show it.
    """
    generator = np.random.default_rng(0)
    rows = generator.choice([-LEVELS, LEVELS], size=(64, dim)).astype(np.int8)
    rows[:8] = [[LEVELS], [-LEVELS]] * 4
    out = torch.empty(AT_ONCE * len(rows), dtype=torch.int32)
    for count in range(1, AT_ONCE + 1):
        numbers = rows[1 : count + 1]
        found = whole_products(torch.from_numpy(rows), torch.from_numpy(numbers), out).numpy()
        if not np.array_equal(found, numbers.astype(np.int64) @ rows.T.astype(np.int64)):
            return False
    return True
