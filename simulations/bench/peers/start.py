"""The process of one way: ``python -m simulations.bench.peers.start WAY TASK OUT``."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path


def _ours(folder: Path, out: Path) -> None:
    from simulations.bench.peers.ours import run

    run(folder, out, "in-process")


def _ours_ray(folder: Path, out: Path) -> None:
    from simulations.bench.peers.ours import run

    run(folder, out, "ray")


def _flower(folder: Path, out: Path) -> None:
    from simulations.bench.peers.usual import run

    run(folder, out, encode=True)


def _flower_cached(folder: Path, out: Path) -> None:
    from simulations.bench.peers.usual import run

    run(folder, out, encode=False)


def _pfl(folder: Path, out: Path) -> None:
    from simulations.bench.peers.research import run

    run(folder, out)


# Imports wait until a way is chosen: those of one are not installed where another runs.
WAYS: Mapping[str, Callable[[Path, Path], None]] = {
    "ours": _ours,
    "ours-ray": _ours_ray,
    "flower": _flower,
    "flower-cached": _flower_cached,
    "pfl": _pfl,
    "pfl-workers": _pfl,
}
# On several cores one process of pfl takes longer than its workers do.
DEFAULT = tuple(way for way in WAYS if way != "pfl")

if __name__ == "__main__":
    name, task, target = sys.argv[1:]
    WAYS[name](Path(task), Path(target))
