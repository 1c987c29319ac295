"""An organisation's store gives back what was written, or says why it cannot."""

import stat
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from client.data.store import count_users, read_store, write_store
from shared.catalogue import Catalogue
from shared.errors import DataError
from shared.histories import PrivateHistories

TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=8)


def some_histories(lengths: list[int], items: int, *, rated: bool) -> PrivateHistories:
    generator = np.random.default_rng(len(lengths))
    total = sum(lengths)
    return PrivateHistories(
        user_ids=tuple(f"user {len(lengths) - i}" for i in range(len(lengths))),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        items=generator.integers(items, size=total),
        times=generator.normal(1e9, 1e6, size=total),
        ratings=generator.random(total, dtype=np.float32) if rated else None,
    )


CATALOGUE = Catalogue(("b", "a"), ("Bell", "Anvil"), {"Year": ("1", ""), "year": ("", "2")}, None)


def equal(left: PrivateHistories, right: PrivateHistories) -> bool:
    pairs: list[tuple[npt.NDArray[Any], npt.NDArray[Any]]] = [
        (left.offsets, right.offsets),
        (left.items, right.items),
        (left.times, right.times),
    ]
    if left.ratings is not None and right.ratings is not None:
        pairs.append((left.ratings, right.ratings))
    same = all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in pairs)
    return (
        same
        and left.user_ids == right.user_ids
        and (left.ratings is None) == (right.ratings is None)
    )


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    lengths=st.lists(st.integers(0, 4), max_size=5),
    texts=st.lists(st.tuples(TEXT, TEXT, TEXT, TEXT), min_size=1, max_size=5),
    keyed=st.booleans(),
    rated=st.booleans(),
)
def test_a_store_gives_back_what_was_written(
    tmp_path: Path,
    lengths: list[int],
    texts: list[tuple[str, str, str, str]],
    keyed: bool,
    rated: bool,
) -> None:
    ids, titles, values, keys = (tuple(column) for column in zip(*texts, strict=True))
    attributes = {"Maker": values, "maker": titles}
    catalogue = Catalogue(ids, titles, attributes, keys if keyed else None)
    histories = some_histories(lengths, len(ids), rated=rated)
    path = tmp_path / "organisation.duckdb"
    write_store(path, "Shop", catalogue, histories)
    found_catalogue, found = read_store(path)
    assert found_catalogue == catalogue
    assert equal(found, histories)


def test_a_store_replaces_the_one_before_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "new" / "organisation.duckdb"
    write_store(path, "Shop", CATALOGUE, some_histories([1], 2, rated=False))
    write_store(path, "Shop", CATALOGUE, some_histories([2, 3], 2, rated=False))
    assert len(read_store(path)[1]) == 2
    assert [entry.name for entry in path.parent.iterdir()] == ["organisation.duckdb"]


def test_a_failed_write_keeps_the_store_that_was_there(tmp_path: Path) -> None:
    path = tmp_path / "organisation.duckdb"
    write_store(path, "Shop", CATALOGUE, some_histories([2], 2, rated=False))
    broken = Catalogue(("a",), ("A", "B"), {})
    with pytest.raises(DataError, match=r"organisation\.duckdb: the store cannot be written"):
        write_store(path, "Shop", broken, some_histories([1], 1, rated=False))
    assert read_store(path)[0] == CATALOGUE
    assert [entry.name for entry in tmp_path.iterdir()] == ["organisation.duckdb"]


def test_a_store_is_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "organisation.duckdb"
    write_store(path, "Shop", CATALOGUE, some_histories([1], 2, rated=False))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_store_says_whose_it_is(tmp_path: Path) -> None:
    path = tmp_path / "organisation.duckdb"
    write_store(path, "Shop", CATALOGUE, some_histories([1], 2, rated=False))
    with duckdb.connect(str(path), read_only=True) as connection:
        query = "SELECT value FROM meta WHERE key = 'name'"
        assert connection.execute(query).fetchall() == [("Shop",)]


def test_a_folder_that_is_a_file_cannot_hold_a_store(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"x\.duckdb: the store cannot be written"):
        write_store(
            tmp_path / "file" / "x.duckdb", "Shop", CATALOGUE, some_histories([], 2, rated=False)
        )


def test_a_missing_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.duckdb: no such store"):
        read_store(tmp_path / "none.duckdb")


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.duckdb"
    path.write_text("not a database, but long enough to be looked at" * 100)
    with pytest.raises(DataError, match=r"x\.duckdb: not readable as a store of tacit"):
        read_store(path)


def test_a_database_without_the_tables_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.duckdb"
    duckdb.connect(str(path)).close()
    with pytest.raises(DataError, match=r"x\.duckdb: not readable as a store of tacit .*meta"):
        read_store(path)


def test_a_store_of_another_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.duckdb"
    write_store(path, "Shop", CATALOGUE, some_histories([1], 2, rated=False))
    with duckdb.connect(str(path)) as connection:
        connection.execute("UPDATE meta SET value = 'tacit-store-0' WHERE key = 'format'")
    with pytest.raises(DataError, match=r"found a store of format 'tacit-store-0', expected tacit"):
        read_store(path)


@pytest.mark.parametrize("table", ["users", "interactions"])
@pytest.mark.parametrize("change", ["SET place = 1 - place WHERE place < 2", "SET place = 7"])
def test_a_store_whose_rows_were_moved_is_refused(tmp_path: Path, table: str, change: str) -> None:
    path = tmp_path / "x.duckdb"
    write_store(path, "Shop", CATALOGUE, some_histories([1, 3], 2, rated=False))
    with duckdb.connect(str(path)) as connection:
        connection.execute(f"UPDATE {table} {change}")
    with pytest.raises(DataError, match=rf"rows of the table {table} are missing or out of order"):
        read_store(path)


def test_a_missing_rating_is_missing_in_the_store_too(tmp_path: Path) -> None:
    path, histories = tmp_path / "x.duckdb", some_histories([1, 3], 2, rated=True)
    assert histories.ratings is not None
    histories.ratings[1:3] = np.nan
    write_store(path, "Shop", CATALOGUE, histories)
    found = read_store(path)[1].ratings
    assert found is not None
    np.testing.assert_array_equal(found, histories.ratings)
    assert type(found) is np.ndarray


def test_the_users_of_a_store_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "x.duckdb"
    write_store(path, "Shop", CATALOGUE, some_histories([1, 0, 3], 2, rated=False))
    assert count_users(path) == 3
