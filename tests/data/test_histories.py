"""Histories of any size: the same rows, and memory for those in use alone."""

import tracemalloc
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from client.data import store
from client.data.store import read_store, write_store
from shared import columns, histories
from shared.catalogue import Catalogue
from shared.columns import UserIds
from shared.config import StatisticsSection
from shared.histories import PrivateHistories
from shared.statistics import cooccurrence_sum, popularity_sum

ITEMS = 30
LENGTHS = st.lists(st.integers(0, 5), min_size=1, max_size=8)
Rows = list[tuple[str, list[int], list[float], list[float]]]


def made(lengths: list[int], *, rated: bool, folder: Path | None = None) -> PrivateHistories:
    generator = np.random.default_rng(len(lengths))
    total = sum(lengths)
    ids = tuple(f"user {place}" for place in range(len(lengths)))
    return PrivateHistories(
        ids if folder is None else UserIds.of(ids),
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        generator.integers(ITEMS, size=total),
        generator.normal(1e9, 1e6, size=total),
        generator.random(total, dtype=np.float32) if rated else None,
        folder,
    )


def rows_of(found: PrivateHistories) -> Rows:
    assert (found.items.dtype, found.times.dtype) == (np.int64, np.float64)
    bounds = zip(found.offsets[:-1], found.offsets[1:], strict=True)
    ratings = np.empty(len(found.items)) if found.ratings is None else found.ratings
    return [
        (user, found.items[a:b].tolist(), found.times[a:b].tolist(), ratings[a:b].tolist())
        for user, (a, b) in zip(found.user_ids, bounds, strict=True)
    ]


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a few interactions were too many for memory."""
    monkeypatch.setattr(columns, "IN_MEMORY_BYTES", 40)
    monkeypatch.setattr(histories, "INTERACTIONS_PER_BLOCK", 3)
    monkeypatch.setattr(store, "_ROWS_AT_A_TIME", 2)


@pytest.mark.usefixtures("small_blocks")
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lengths=LENGTHS, rated=st.booleans(), on_disk=st.booleans(), data=st.data())
def test_a_selection_has_the_rows_of_its_users(
    tmp_path: Path, lengths: list[int], rated: bool, on_disk: bool, data: st.DataObject
) -> None:
    whole = made(lengths, rated=rated, folder=tmp_path if on_disk else None)
    users = data.draw(st.lists(st.integers(0, len(lengths) - 1)))
    rows = rows_of(whole)
    if rated:
        assert rows_of(whole.select(users)) == [rows[user] for user in users]
    else:
        assert [r[:3] for r in rows_of(whole.select(users))] == [rows[user][:3] for user in users]


@pytest.mark.usefixtures("small_blocks")
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lengths=LENGTHS, on_disk=st.booleans(), data=st.data())
def test_truncation_keeps_the_first_of_every_user(
    tmp_path: Path, lengths: list[int], on_disk: bool, data: st.DataObject
) -> None:
    whole = made(lengths, rated=True, folder=tmp_path if on_disk else None)
    keep = [data.draw(st.integers(-2, 7)) for _ in lengths]
    expected = [
        (user, *(column[: max(k, 0)] for column in row))
        for (user, *row), k in zip(rows_of(whole), keep, strict=True)
    ]
    assert rows_of(whole.truncated(np.array(keep))) == expected


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("on_disk", [False, True])
def test_one_house_may_follow_another(tmp_path: Path, on_disk: bool) -> None:
    first = made([3, 0, 5], rated=True, folder=tmp_path if on_disk else None)
    second = made([2, 4], rated=True)
    assert rows_of(first.followed_by(second)) == rows_of(first) + rows_of(second)


@settings(deadline=None)
@given(lengths=LENGTHS, most=st.integers(1, 9))
def test_blocks_hold_every_user_once_and_not_too_much(lengths: list[int], most: int) -> None:
    whole = made(lengths, rated=False)
    blocks = list(whole.blocks(most))
    assert [user for block in blocks for user in range(*block)] == list(range(len(lengths)))
    for first, last in blocks:
        assert last == first + 1 or sum(lengths[first:last]) <= most


def test_lengths_are_counted_once_and_for_all() -> None:
    whole = made([3, 0, 5], rated=False)
    assert whole.lengths.tolist() == [3, 0, 5]
    assert whole.lengths is whole.lengths
    with pytest.raises(ValueError, match="read-only"):
        whole.lengths[0] = 1


@pytest.mark.usefixtures("small_blocks")
def test_what_was_read_stays_when_the_store_changes_and_then_is_gone(tmp_path: Path) -> None:
    path, catalogue = tmp_path / "x.duckdb", Catalogue(("a",) * ITEMS, ("A",) * ITEMS, {})
    old, new = made([4, 3, 5], rated=True), made([6, 2], rated=True)
    write_store(path, "Shop", catalogue, old)
    read = read_store(path)[1]
    write_store(path, "Shop", catalogue, new)
    assert rows_of(read) == rows_of(old)
    assert rows_of(read_store(path)[1]) == rows_of(new)
    # Only the store has a name; what was read of the old one goes with the object.
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.duckdb"]
    assert f"{tmp_path}/" in Path("/proc/self/maps").read_text()
    del read
    assert f"{tmp_path}/" not in Path("/proc/self/maps").read_text()


def peak_bytes(task: Callable[[], Any]) -> int:
    """Most that Python and numpy allocate meanwhile; DuckDB and mapped files are not counted."""
    tracemalloc.start()
    try:
        task()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def many(users: int, folder: Path) -> PrivateHistories:
    return made([20] * users, rated=False, folder=folder)


def test_statistics_take_the_same_memory_for_many_users_as_for_few(tmp_path: Path) -> None:
    options, top = StatisticsSection(pair_window=2), np.arange(10)

    def peaks(of: PrivateHistories) -> tuple[int, int]:
        _ = of.lengths
        return (
            peak_bytes(lambda: popularity_sum(of, ITEMS)),
            peak_bytes(lambda: cooccurrence_sum(of, top, options)),
        )

    few, many_of_them = peaks(many(20_000, tmp_path)), peaks(many(80_000, tmp_path))
    assert all(large < 1.1 * small for small, large in zip(few, many_of_them, strict=True))


def test_a_store_is_read_in_memory_that_does_not_grow_with_the_interactions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(columns, "IN_MEMORY_BYTES", 2**18)
    monkeypatch.setattr(store, "_ROWS_AT_A_TIME", 10_000)
    catalogue = Catalogue(("a",) * ITEMS, ("A",) * ITEMS, {})
    peaks: dict[int, int] = {}
    for users in (5_000, 40_000):
        path = tmp_path / f"{users}.duckdb"
        write_store(path, "Shop", catalogue, many(users, tmp_path))
        peaks[users] = peak_bytes(partial(read_store, path))
    # Of each user the places where history and name begin stay; the interactions have 320 bytes.
    assert peaks[40_000] - peaks[5_000] < 48 * 35_000
