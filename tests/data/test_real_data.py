"""The real MovieLens data, through the same way in as any other."""

import csv
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from client.data.ingest import load_dataset
from shared.config import DataSection
from shared.errors import AssetError

# The README of ml-latest-small: 100836 ratings of 9742 films by 610 users, the last one on
# 24 September 2018. Copies are about that hold later ratings as well.
RELEASED_BEFORE = 1_538_000_000


def test_movielens_100k_from_its_package_has_its_published_size_and_says_its_licence() -> None:
    try:
        dataset = load_dataset(DataSection(source="movielens-100k"))
    except AssetError as error:
        if "is not installed" in str(error):
            pytest.skip("needs the package recbole 1.2.1 with MovieLens 100K")
        raise
    assert len(dataset.histories) == 943
    assert len(dataset.catalogue) == 1682
    assert len(dataset.histories.items) == 100_000
    assert dataset.dropped_users == 0
    assert "research use only" in dataset.notices[0]
    assert dataset.catalogue.texts[0] == "Toy Story (1995). Genres: Animation, Children's, Comedy."


def test_movielens_100k_as_a_folder_has_columns_about_users(real_data: Path) -> None:
    dataset = load_dataset(DataSection(source=str(real_data / "ml-100k")))
    assert len(dataset.histories.items) == 100_000
    assert list(dataset.user_columns) == ["age", "gender", "occupation", "zip_code"]
    assert Counter(dataset.user_columns["gender"]) == {"M": 670, "F": 273}


def test_movielens_latest_small_has_its_published_size(
    real_data: Path, write: Callable[..., Path]
) -> None:
    source = real_data / "ml-latest-small"
    with (source / "ratings.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    released = [row for row in rows if int(row[3]) < RELEASED_BEFORE]
    folder = write({"ratings.csv": "".join(",".join(row) + "\n" for row in [header, *released])})
    for name in ("movies.csv", "links.csv"):
        (folder / name).write_bytes((source / name).read_bytes())
    dataset = load_dataset(DataSection(source=str(folder), min_history=5))
    assert len(dataset.histories) == 610
    assert len(dataset.catalogue) == 9742
    assert len(dataset.histories.items) == 100_836
    assert dataset.catalogue.keys is not None
    assert dataset.catalogue.keys[0] == "tt0114709"


def test_movielens_latest_small_as_it_lies_there_loses_no_row(real_data: Path) -> None:
    source = real_data / "ml-latest-small"
    lengths = _rows_per_user(source / "ratings.csv")
    kept = {user: length for user, length in lengths.items() if length >= 5}
    dataset = load_dataset(DataSection(source=str(source), min_history=5))
    found = dict(zip(dataset.histories.user_ids, dataset.histories.lengths.tolist(), strict=True))
    assert found == kept
    assert dataset.dropped_users == len(lengths) - len(kept)


def _rows_per_user(path: Path) -> Counter[str]:
    with path.open(newline="") as file:
        return Counter(row["userId"] for row in csv.DictReader(file))
