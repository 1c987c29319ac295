"""``tacit bench growth``: time and memory as users, items, organisations or histories grow."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from shared.config import Config
from simulations.bench.growth_tasks import (
    Sizes,
    Timed,
    use_history,
    use_items,
    use_organisations,
    use_users,
    write_users,
)

USUAL: Mapping[str, tuple[int, ...]] = {
    "users": (1_000, 10_000, 100_000),
    "items": (1_000, 10_000, 100_000),
    "organisations": (2, 10, 50),
    "history": (10, 50, 150, 500),
}
LARGEST: Mapping[str, tuple[int, ...]] = {
    "users": (1_000, 10_000, 100_000, 1_000_000),
    "items": (1_000, 10_000, 100_000, 1_000_000),
    "organisations": (2, 10, 100, 1_000),
    "history": (10, 50, 150, 500),
}


@dataclass(frozen=True)
class GrowthRow:
    """One thing done at one size.

    Attributes:
        axis: what grows: ``users``, ``items``, ``organisations`` or ``history``.
        size: how many there are.
        what: of users ``write`` (the store), ``open``, ``P``, ``G`` and ``step``, whose expected
            number of users stays; of items and history ``step``; of organisations ``round``, and
            ``the rest`` of the federation: making the organisations, statistics, delivery.
        seconds: of a step or round the median.
        resident_mb: most memory meanwhile, in MB of 10**6 bytes, with mapped files, which the
            system takes back at need.
        anonymous_mb: without them. Model and libraries are in both.
    """

    axis: str
    size: int
    what: str
    seconds: float
    resident_mb: float
    anonymous_mb: float


@dataclass(frozen=True)
class Fit:
    """How the time of one thing grows: as ``size ** exponent``.

    Attributes:
        axis, what: as of ``GrowthRow``.
        exponent: over all sizes, by least squares in logarithms. What is spent at any size draws it
            towards 0.
        at_last: between the two largest sizes.
    """

    axis: str
    what: str
    exponent: float
    at_last: float


def measure(
    config: Config,
    axes: Mapping[str, Sequence[int]],
    sizes: Sizes,
    progress: Callable[[str], None],
) -> list[GrowthRow]:
    """Time each size in a process of its own.

    Args:
        config: base, model and training.
        axes: what grows, and how large.
        sizes: of what does not.
        progress: told what is measured.

    Raises:
        RunError: where the system does not tell a process's memory.
    """
    rows = []
    for axis, wanted in axes.items():
        for size in wanted:
            progress(f"Measuring {size:,} {axis}")
            timed = _timed(config, axis, size, sizes)
            rows += [
                GrowthRow(axis, size, t.what, t.seconds, t.resident_mb, t.anonymous_mb)
                for t in timed
            ]
    return rows


def fits(rows: Sequence[GrowthRow]) -> list[Fit]:
    """The exponent of each thing that was timed at two sizes or more."""
    found = []
    for axis, what in dict.fromkeys((row.axis, row.what) for row in rows):
        mine = [row for row in rows if (row.axis, row.what) == (axis, what)]
        if len(mine) > 1:
            sizes, seconds = np.log([row.size for row in mine]), np.log([r.seconds for r in mine])
            slopes = [np.polyfit(sizes[-n:], seconds[-n:], 1)[0] for n in (len(mine), 2)]
            found.append(Fit(axis, what, *map(float, slopes)))
    return found


def _timed(config: Config, axis: str, size: int, sizes: Sizes) -> list[Timed]:
    if axis == "users":
        with tempfile.TemporaryDirectory(prefix="tacit-bench-") as name:
            folder = Path(name)
            written = _alone(write_users, folder, size, sizes)
            return [*written, *_alone(use_users, config, folder, size, sizes)]
    tasks = {"items": use_items, "organisations": use_organisations, "history": use_history}
    return _alone(tasks[axis], config, size, sizes)


def _alone(task: Callable[..., list[Timed]], *given: object) -> list[Timed]:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as executor:
        return executor.submit(task, *given).result()
