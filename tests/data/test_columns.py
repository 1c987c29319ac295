"""Private columns that are too large for memory lie on disk, where nobody else finds them."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared import columns
from shared.columns import UserIds, stacked
from shared.errors import DataError

TEXTS = st.lists(st.text(st.characters(codec="utf-8", exclude_categories=["Cs"])), max_size=9)
DTYPES = (np.int64, np.float32)


def blocks_of(sizes: list[int]) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    for number, size in enumerate(sizes):
        yield np.arange(size) + 100 * number, np.arange(size)


@pytest.fixture
def no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "IN_MEMORY_BYTES", 0)


@pytest.mark.usefixtures("no_memory")
@pytest.mark.parametrize("sizes", [[], [0], [3], [0, 3, 0, 5], [1] * 20])
def test_columns_on_disk_are_those_in_memory(tmp_path: Path, sizes: list[int]) -> None:
    on_disk = stacked(blocks_of(sizes), DTYPES, tmp_path)
    in_memory = stacked(blocks_of(sizes), DTYPES, None)
    for one, other in zip(on_disk, in_memory, strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


@pytest.mark.usefixtures("no_memory")
def test_columns_on_disk_have_no_name_while_they_are_written_or_after(tmp_path: Path) -> None:
    seen: list[Path] = []

    def watched() -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
        for block in blocks_of([5, 5, 5]):
            yield block
            seen.extend(tmp_path.iterdir())

    whole, _ = stacked(watched(), DTYPES, tmp_path)
    seen.extend(tmp_path.iterdir())
    assert (len(whole), seen) == (15, [])
    assert f"{tmp_path}/" in Path("/proc/self/maps").read_text()


@pytest.mark.usefixtures("no_memory")
def test_columns_on_disk_cannot_be_written_to(tmp_path: Path) -> None:
    whole, _ = stacked(blocks_of([5]), DTYPES, tmp_path)
    with pytest.raises(ValueError, match="read-only"):
        whole[0] = 1


def test_small_columns_stay_in_memory(tmp_path: Path) -> None:
    stacked(blocks_of([5]), DTYPES, tmp_path)
    assert f"{tmp_path}/" not in Path("/proc/self/maps").read_text()


@pytest.mark.usefixtures("no_memory")
def test_a_folder_that_takes_no_file_is_told_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere: found no room for the histories.*free disk"):
        stacked(blocks_of([5]), DTYPES, tmp_path / "nowhere")


@settings(deadline=None)
@given(texts=TEXTS, cut=st.integers(0, 9), seed=st.integers(0, 9))
def test_user_ids_are_the_texts_they_were_made_of(texts: list[str], cut: int, seed: int) -> None:
    whole = pa.array(texts, pa.large_string())
    ids = UserIds.stacked([whole[:cut], whole[cut:]], None)
    places = np.random.default_rng(seed).permutation(len(texts))
    assert ids == tuple(texts)
    assert ids == UserIds.of(texts)
    assert (list(ids), hash(ids)) == (texts, hash(tuple(texts)))
    assert ids[cut:] == tuple(texts[cut:])
    assert [ids[place] for place in range(len(texts))] == texts
    assert list(ids.take(places)) == [texts[place] for place in places]
    assert list(UserIds.joined(ids, UserIds.of(("x",)))) == [*texts, "x"]


@pytest.mark.parametrize("others", [("a",), ("a", "c"), ("b", "a"), "ab", 3])
def test_user_ids_differ_from_other_texts(others: object) -> None:
    assert UserIds.of(("a", "b")) != others


def test_a_user_id_out_of_range_is_refused() -> None:
    with pytest.raises(IndexError):
        UserIds.of(("a",))[1]
