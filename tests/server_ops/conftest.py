"""A federation's folder, and processes that end with the test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from server.ops.folder import Folder
from tests.server_ops.operating import Spawn, make_folder, spawning


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Processes that these tests start share two cores."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """A federation's folder of this test's own."""
    return make_folder(tmp_path / "FED")


@pytest.fixture
def spawn(tmp_path: Path) -> Iterator[Spawn]:
    """Start processes that end with the test."""
    with spawning(tmp_path) as starting:
        yield starting


@pytest.fixture(scope="module")
def module_spawn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Spawn]:
    """Start processes that end with the module."""
    with spawning(tmp_path_factory.mktemp("processes")) as starting:
        yield starting
