"""Federations of organisations without data, each test's in a folder of its own."""

from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.secure.house import Hostile, hostile
from tests.secure.parts import Federation, make_federation

MakeFederation = Callable[..., Federation]

# Every phase is synced to disk; here that need not take its time.
MEMORY = Path("/dev/shm")


@pytest.fixture
def folder() -> Iterator[Path]:
    """An empty folder, in memory where there is such a one."""
    with TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as scratch:
        yield Path(scratch)


@pytest.fixture
def make(folder: Path) -> MakeFederation:
    """``make_federation`` in the test's own folder."""

    def made(*arguments: int, **more: int) -> Federation:
        return make_federation(folder / "federation", *arguments, **more)

    return made


@pytest.fixture
def server(folder: Path) -> Iterator[Hostile]:
    """Against an organisation of four, of which three must be in a sum and one may be hostile."""
    with hostile(folder) as opened:
        yield opened
