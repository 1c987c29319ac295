"""Small data sets in every format, and the real ones where they are at hand."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from tests.data.postgres import PASSWORD, VARIABLE, Postgres, running_postgres

Write = Callable[..., Path]

USERS = ("u2", "u10", "u1")
ITEMS = ("b", "a", "c", "d")


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write files, ``{name: text or bytes}``, into a new folder and return the folder."""

    def into(files: Mapping[str, str | bytes], folder: str = "shop") -> Path:
        target = tmp_path / folder
        target.mkdir(exist_ok=True)
        for name, content in files.items():
            data = content if isinstance(content, bytes) else content.encode()
            (target / name).write_bytes(data)
        return target

    return into


@pytest.fixture
def interactions() -> list[str]:
    """Rows ``user,item,time,rating``: three users with four interactions each, in order of time."""
    return [
        f"{user},{item},{1_000_000_000 + 10 * place},{place + 1}"
        for user in USERS
        for place, item in enumerate(ITEMS)
    ]


@pytest.fixture
def shop(interactions: list[str]) -> dict[str, str]:
    """Interactions and items as CSV, to be changed by a test before it writes them."""
    return {
        "interactions.csv": "\n".join(["user,item,time,rating", *interactions]) + "\n",
        "items.csv": "item,title,maker\na,Anvil,Acme\nb,Bell,\nc,Cup,Cole\nd,Drum,Dorn\n",
    }


@pytest.fixture
def real_data() -> Path:
    """The folder with MovieLens beside the repository."""
    folder = Path(__file__).parents[3] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("needs ../shared/data beside the repository, with ml-100k and ml-latest-small")
    return folder


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Postgres]:
    """One PostgreSQL for all tests of a process."""
    with running_postgres() as server:
        yield server


@pytest.fixture
def postgres(postgres_server: Postgres, monkeypatch: pytest.MonkeyPatch) -> Postgres:
    """PostgreSQL without tables, and its password in the environment."""
    monkeypatch.setenv(VARIABLE, PASSWORD)
    postgres_server.run("DROP SCHEMA public CASCADE", "CREATE SCHEMA public")
    return postgres_server
