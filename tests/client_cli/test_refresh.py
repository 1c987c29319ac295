"""``tacit client refresh``: what is new is read and said; a store that is damaged is made anew."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from client.data.store import read_store
from client.settings import settings_path

Tacit = Callable[..., Any]


@pytest.fixture
def source(made: Any, shop: Path, tmp_path: Path) -> Path:
    """A copy of the data that the organisation's settings name."""
    copy = tmp_path / "shop"
    shutil.copytree(shop, copy)
    path = settings_path(made.org)
    path.write_text(path.read_text().replace(f'source = "{shop}"', f'source = "{copy}"'))
    return copy


def add(source: Path, user: str, interactions: int) -> None:
    with (source / "interactions.csv").open("a") as file:
        file.writelines(
            f"{user},i{place},{1_800_000_000 + place}\n" for place in range(interactions)
        )


def users(made: Any) -> tuple[str, ...]:
    return read_store(made.org / "histories.duckdb")[1].user_ids


def test_new_users_are_counted_and_read(tacit: Tacit, made: Any, source: Path) -> None:
    add(source, "newcomer", 6)
    done = tacit("client", "refresh", str(made.org))
    assert done.status == 0
    assert "New: 6 interactions, 1 user, 0 items. Gone: 0 interactions, 0 users" in done.out
    assert "Left out: 1 user with too short a history." in done.out
    assert "newcomer" in users(made)


def test_a_user_who_is_erased_at_the_source_is_gone(tacit: Tacit, made: Any, source: Path) -> None:
    path = source / "interactions.csv"
    kept = [line for line in path.read_text().splitlines() if not line.startswith("u3,")]
    path.write_text("\n".join(kept) + "\n")
    done = tacit("client", "refresh", str(made.org))
    assert "Gone: 6 interactions, 1 user, 0 items." in done.out
    assert "u3" not in users(made)


def test_a_declared_size_that_is_outgrown_is_warned_of(
    tacit: Tacit, made: Any, source: Path
) -> None:
    for number in range(9):
        add(source, f"newcomer{number}", 6)
    done = tacit("client", "refresh", str(made.org))
    assert "Warning: 10 users are declared, there are 21" in done.out


def test_a_source_that_is_gone_changes_nothing(tacit: Tacit, made: Any, source: Path) -> None:
    before = (made.org / "histories.duckdb").read_bytes()
    shutil.rmtree(source)
    assert tacit("client", "refresh", str(made.org)).status == 2
    assert (made.org / "histories.duckdb").read_bytes() == before


def test_a_damaged_store_is_made_anew_only_when_asked_to(
    tacit: Tacit, made: Any, source: Path
) -> None:
    before = users(made)
    (made.org / "histories.duckdb").write_bytes(b"not DuckDB")
    assert tacit("client", "refresh", str(made.org)).status == 2
    done = tacit("client", "refresh", str(made.org), "--whole")
    assert done.status == 0
    assert "was made anew from the source" in done.out
    assert users(made) == before
