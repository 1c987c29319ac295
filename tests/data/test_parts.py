"""Folders of Parquet parts, as Spark and Hadoop jobs leave them."""

from collections.abc import Callable
from pathlib import Path

import duckdb
import pytest

from client.data.ingest import Dataset, load_dataset
from shared.config import DataSection
from shared.errors import DataError

Write = Callable[..., Path]

ITEMS = "item,title\na,A\nb,B\nc,C\nd,D\n"


def read(source: Path, **options: object) -> Dataset:
    return load_dataset(
        DataSection.model_validate({"source": str(source), "min_history": 3} | options)
    )


def part(path: Path, *rows: tuple[str, str, int]) -> Path:
    """Write a part of interactions, with ``_SUCCESS`` and checksums beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = ", ".join(str(row) for row in rows)
    duckdb.connect().execute(
        f"COPY (FROM (VALUES {values}) AS t(\"user\", item, time)) TO '{path}' (FORMAT parquet)"
    )
    (path.parent / "_SUCCESS").write_text("")
    (path.parent / f".{path.name}.crc").write_bytes(b"crc\0")
    return path


@pytest.fixture
def shop(write: Write) -> Path:
    """A folder with items, and room for parts of interactions."""
    return write({"items.csv": ITEMS})


@pytest.mark.parametrize("name", ["interactions", "interactions.parquet"])
def test_parts_are_read_in_order_of_their_names(shop: Path, name: str) -> None:
    for number, item in ((2, "c"), (0, "d"), (10, "a"), (1, "b")):
        part(shop / name / f"part-{number:05}-7f.c000.snappy.parquet", ("u", item, 5))
    assert read(shop).histories.items.tolist() == [3, 1, 2, 0]


def test_parts_need_no_suffix(shop: Path) -> None:
    part(shop / "interactions" / "000000_0", *[("u", item, 5) for item in "abc"])
    assert len(read(shop).histories.items) == 3


def test_items_may_be_a_folder_too(write: Write) -> None:
    shop = write({})
    part(shop / "interactions" / "part-0", *[("u", item, 5) for item in "ab"], ("u", "a", 6))
    for number, item in enumerate("ab"):
        target = shop / "items" / f"part-{number}"
        target.parent.mkdir(exist_ok=True)
        duckdb.connect().execute(
            f"COPY (SELECT '{item}' AS item, 'T{item}' AS title) TO '{target}' (FORMAT parquet)"
        )
    assert read(shop).catalogue.titles == ("Ta", "Tb")


def test_partition_keys_are_columns(shop: Path) -> None:
    for day, item in (("2024-05-31", "a"), ("2024-05-30", "b"), ("2024-06-01", "c")):
        part(shop / "interactions" / f"day={day}" / "part-0.parquet", ("u", item, 5))
    histories = read(shop, time_column="day").histories
    assert histories.items.tolist() == [1, 0, 2]
    assert histories.times[0] == 1717027200.0


def test_partition_keys_are_unescaped_and_may_be_null(shop: Path) -> None:
    rows = [("x", item, 5) for item in "abc"]
    part(shop / "interactions" / "who=a%2Fb %25" / "part-0.parquet", *rows)
    part(shop / "interactions" / "who=c" / "part-0.parquet", *rows)
    assert read(shop, user_column="who").histories.user_ids == ("a/b %", "c")
    part(shop / "interactions" / "who=__HIVE_DEFAULT_PARTITION__" / "p.parquet", ("x", "a", 5))
    sentence = r"who=__HIVE_DEFAULT_PARTITION__/p\.parquet, row 1, column who: empty"
    with pytest.raises(DataError, match=sentence):
        read(shop, user_column="who")


def test_a_column_of_the_files_wins_over_a_key(shop: Path) -> None:
    rows = [("u", item, 5) for item in "abc"]
    part(shop / "interactions" / "user=other" / "part-0.parquet", *rows)
    assert read(shop).histories.user_ids == ("u",)


def test_keys_above_the_folder_are_no_columns(write: Write) -> None:
    shop = write({"items.csv": ITEMS}, "who=above")
    part(shop / "interactions" / "part-0.parquet", *[("u", item, 5) for item in "abc"])
    assert read(shop).user_columns == {}
    with pytest.raises(DataError, match=r"no column 'who'"):
        read(shop, user_column="who")


def test_parts_may_differ_in_columns(shop: Path) -> None:
    part(shop / "interactions" / "part-0", *[("u", item, 5) for item in "abc"])
    duckdb.connect().execute(
        "COPY (SELECT 6 AS time, 'd' AS item, 'u' AS user, 1 AS more) TO "
        f"'{shop}/interactions/part-1' (FORMAT parquet)"
    )
    assert read(shop).histories.items.tolist() == [0, 1, 2, 3]


def test_a_bad_row_is_named_by_its_part(shop: Path) -> None:
    part(shop / "interactions" / "part-0.parquet", *[("u", item, 5) for item in "abc"])
    part(shop / "interactions" / "part-1.parquet", ("u", "a", 5), ("", "a", 5))
    with pytest.raises(DataError, match=r"interactions/part-1\.parquet, row 2, column user: empty"):
        read(shop)


def test_a_job_that_has_not_finished_is_refused(shop: Path) -> None:
    part(shop / "interactions" / "part-0.parquet", ("u", "a", 5))
    (shop / "interactions" / "_temporary").mkdir()
    with pytest.raises(DataError, match=r"interactions/_temporary: the job .* has not finished"):
        read(shop)


def test_a_part_that_is_not_parquet_is_refused(shop: Path) -> None:
    part(shop / "interactions" / "part-0.parquet", ("u", "a", 5))
    (shop / "interactions" / "part-1.csv").write_text("user,item,time\n")
    with pytest.raises(DataError, match=r"part-1\.csv: not a Parquet file"):
        read(shop)


def test_a_folder_without_parts_is_refused(shop: Path) -> None:
    (shop / "interactions").mkdir()
    (shop / "interactions" / "_SUCCESS").write_text("")
    with pytest.raises(DataError, match=r"interactions: no Parquet file in this folder"):
        read(shop)


def test_a_folder_of_parts_may_be_the_source(shop: Path) -> None:
    part(shop / "clicks.parquet" / "part-0", *[("u", item, 5) for item in "abc"])
    dataset = read(shop / "clicks.parquet", items="items.csv")
    assert (dataset.name, len(dataset.histories.items)) == ("clicks", 3)
