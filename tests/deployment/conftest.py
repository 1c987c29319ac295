"""One federation for the tests of this folder: real SuperLink, SuperNodes, agents and namespaces.

Its SuperNodes look for messages every 0.3 s instead of every 3 s (``lab/pace``); nothing else of
Flower is touched.
"""

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

# The tests of this folder share helpers, which pytest's import mode does not find by itself.
sys.path.insert(0, str(Path(__file__).parent))

from lab.federation import Federation
from lab.goods import Shop
from lab.network import Network, missing_permission
from lab.processes import Lab

# Two have more users than the third: their training lasts long enough to be hit.
SHOPS = {"films": Shop("films", 3000), "books": Shop("books", 3000), "tools": Shop("tools", 40)}


@pytest.fixture(scope="session")
def network() -> Iterator[Network]:
    """A bridge without hosts."""
    if reason := missing_permission():
        pytest.skip(reason)
    made = Network(f"tacit-{os.getpid()}")
    try:
        made.make()
        yield made
    finally:
        made.remove()


@pytest.fixture(scope="session")
def folder() -> Iterator[Path]:
    """Of everything; another user may pass through it, as through no folder of pytest's."""
    made = Path(tempfile.mkdtemp(prefix="tacit-lab-"))
    made.chmod(0o711)
    try:
        yield made
    finally:
        shutil.rmtree(made)


@pytest.fixture(scope="session")
def lab(folder: Path) -> Iterator[Lab]:
    """Starts processes; ends all of them, and what they started."""
    made = Lab(f"{os.getpid()}-{os.urandom(4).hex()}", folder / "logs")
    try:
        yield made
    finally:
        made.end_all()


@pytest.fixture(scope="session")
def empty_federation(network: Network, lab: Lab, folder: Path) -> Federation:
    """A SuperLink with TLS and node authentication, and no organisation."""
    made = Federation(lab, network, network.add("link"), folder, quick=True)
    made.make()
    return made


@pytest.fixture(scope="session")
def joined(empty_federation: Federation) -> Federation:
    """The same with three organisations: three namespaces, three catalogues."""
    empty_federation.join(SHOPS)
    return empty_federation


@pytest.fixture
def federation(joined: Federation) -> Federation:
    """Three organisations, all well, and no run going on."""
    joined.heal()
    return joined
