"""Synthetic data: deterministic, streamed, and of the structure that its model promises."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import pytest

from shared.catalogue import normalised_text
from shared.errors import ConfigError
from simulations.synth import synthesise
from simulations.synth_titles import THEMES

USERS, ITEMS, ORGANISATIONS = 2500, 1500, 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of three row groups, made once."""
    out = tmp_path_factory.mktemp("synthetic") / "made" / "here"
    synthesise(USERS, ITEMS, ORGANISATIONS, seed=7, out=out)
    return out


@pytest.fixture(scope="module")
def items(folder: Path) -> dict[str, list[Any]]:
    """The catalogue's columns."""
    columns: dict[str, list[Any]] = pq.read_table(folder / "items.parquet").to_pydict()
    return columns


@pytest.fixture(scope="module")
def interactions(folder: Path) -> dict[str, npt.NDArray[Any]]:
    """The interactions' columns, as arrays."""
    table = pq.read_table(folder / "interactions.parquet")
    return {name: np.asarray(table[name].to_pylist()) for name in table.column_names}


def _lengths(interactions: dict[str, npt.NDArray[Any]]) -> npt.NDArray[np.int64]:
    return np.unique(interactions["user"], return_counts=True)[1]


def _themes(
    items: dict[str, list[Any]], interactions: dict[str, npt.NDArray[Any]]
) -> npt.NDArray[np.int64]:
    """Place in THEMES of the main theme of every interaction's item."""
    main = {
        item: THEMES.index(genres.split("|")[0])
        for item, genres in zip(items["item"], items["genres"], strict=True)
    }
    return np.array([main[item] for item in interactions["item"]])


def _same_neighbour(
    themes: npt.NDArray[np.int64], user: npt.NDArray[Any], distance: int
) -> tuple[float, int]:
    """Share of pairs of one user at that distance with the same theme, and how many pairs."""
    pair = user[distance:] == user[:-distance]
    same = (themes[distance:] == themes[:-distance])[pair]
    return float(same.mean()), int(pair.sum())


def test_the_same_seed_gives_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    synthesise(USERS, ITEMS, ORGANISATIONS, seed=7, out=tmp_path)
    for name in ("items.parquet", "interactions.parquet"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


def test_another_seed_gives_other_items_and_histories(folder: Path, tmp_path: Path) -> None:
    synthesise(USERS, ITEMS, ORGANISATIONS, seed=8, out=tmp_path)
    for name, column in (("items.parquet", "title"), ("interactions.parquet", "item")):
        assert not pq.read_table(tmp_path / name)[column].equals(
            pq.read_table(folder / name)[column]
        )


def test_no_temporary_file_remains(folder: Path) -> None:
    assert sorted(p.name for p in folder.iterdir()) == ["interactions.parquet", "items.parquet"]


def test_a_write_that_fails_leaves_no_interactions(tmp_path: Path) -> None:
    def stop(done: int, _users: int) -> None:
        raise KeyboardInterrupt(done)

    with pytest.raises(KeyboardInterrupt):
        synthesise(USERS, ITEMS, ORGANISATIONS, seed=7, out=tmp_path, progress=stop)
    assert [p.name for p in tmp_path.iterdir()] == ["items.parquet"]


def test_many_users_are_written_in_several_row_groups(folder: Path) -> None:
    file = pq.ParquetFile(folder / "interactions.parquet")
    assert file.num_row_groups == 3


def test_progress_counts_users_up_to_all(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    synthesise(1500, 60, 2, seed=0, out=tmp_path, progress=lambda *done: seen.append(done))
    assert seen == [(1024, 1500), (1500, 1500)]


def test_columns_and_types_are_as_documented(folder: Path) -> None:
    schema = pq.read_schema(folder / "items.parquet")
    assert {field.name: str(field.type) for field in schema} == {
        "item": "string",
        "title": "string",
        "year": "int32",
        "genres": "string",
        "summary": "string",
    }
    schema = pq.read_schema(folder / "interactions.parquet")
    assert {field.name: str(field.type) for field in schema} == {
        "user": "string",
        "item": "string",
        "timestamp": "int64",
        "rating": "float",
        "organisation": "string",
    }


def test_every_title_is_unique_even_when_normalised(tmp_path: Path) -> None:
    synthesise(1, 20_000, 1, seed=3, out=tmp_path)
    titles = pq.read_table(tmp_path / "items.parquet")["title"].to_pylist()
    assert len({normalised_text(title) for title in titles}) == 20_000


def test_every_theme_has_an_item_in_the_smallest_catalogue(tmp_path: Path) -> None:
    for seed in range(20):
        synthesise(1, 50, 1, seed=seed, out=tmp_path)
        genres = pq.read_table(tmp_path / "items.parquet")["genres"].to_pylist()
        assert {theme for genre in genres for theme in genre.split("|")} == set(THEMES)


def test_titles_of_a_theme_share_words_that_other_themes_lack(items: dict[str, list[Any]]) -> None:
    words: dict[str, set[str]] = {theme: set() for theme in THEMES}
    pure = [
        (genre, set(summary.lower().replace(",", "").replace(".", "").split()))
        for genre, summary in zip(items["genres"], items["summary"], strict=True)
        if "|" not in genre
    ]
    half = len(pure) // 2
    for genre, found in pure[:half]:
        words[genre] |= found
    common = set.union(
        *(words[a] & words[b] for a in THEMES for b in THEMES if a != b),
    )
    guesses = [
        max(THEMES, key=lambda theme: len((found & words[theme]) - common)) == genre
        for genre, found in pure[half:]
    ]
    assert np.mean(guesses) > 0.9


def test_history_lengths_are_in_range_around_their_median(
    interactions: dict[str, npt.NDArray[Any]],
) -> None:
    lengths = _lengths(interactions)
    assert len(lengths) == USERS
    assert lengths.min() == 5
    assert lengths.max() == 500
    # A median of 2,500 log-normal lengths has a standard error of 0.9 * 1.25 / 50 = 2.3%.
    assert 36 <= np.median(lengths) <= 44


def test_histories_are_cut_to_half_of_a_small_catalogue(tmp_path: Path) -> None:
    synthesise(500, 50, 1, seed=1, out=tmp_path)
    users = pq.read_table(tmp_path / "interactions.parquet")["user"].to_pylist()
    assert np.unique(users, return_counts=True)[1].max() == 25


def test_no_user_has_an_item_twice(interactions: dict[str, npt.NDArray[Any]]) -> None:
    pairs = set(zip(interactions["user"], interactions["item"], strict=True))
    assert len(pairs) == len(interactions["user"])


def test_times_rise_strictly_within_a_history(interactions: dict[str, npt.NDArray[Any]]) -> None:
    same_user = interactions["user"][1:] == interactions["user"][:-1]
    assert (np.diff(interactions["timestamp"])[same_user] > 0).all()


def test_parts_of_a_series_follow_each_other_more_than_chance(
    items: dict[str, list[Any]], interactions: dict[str, npt.NDArray[Any]]
) -> None:
    places = {title: place for place, title in enumerate(items["title"])}
    numbers = {item: place for place, item in enumerate(items["item"])}
    follower = np.full(ITEMS, -1)
    for title, place in places.items():
        for later in (f"{title} 2", f"{title} Part II"):
            if later in places:
                follower[place] = places[later]
    item = np.array([numbers[i] for i in interactions["item"]])
    same_user = interactions["user"][1:] == interactions["user"][:-1]
    asked = same_user & (follower[item[:-1]] >= 0)
    follows = (item[1:] == follower[item[:-1]])[asked].mean()
    chance = np.mean([(item == f).mean() for f in follower[follower >= 0]])
    assert (follower >= 0).sum() > 50
    assert follows > 0.5
    assert chance < 0.01


def test_themes_of_a_history_agree_more_than_those_of_strangers(
    items: dict[str, list[Any]], interactions: dict[str, npt.NDArray[Any]]
) -> None:
    themes = _themes(items, interactions)
    within, pairs = _same_neighbour(themes, interactions["user"], distance=3)
    shuffled = np.random.default_rng(0).permutation(themes)
    between = float((shuffled == themes).mean())
    # Pairs of one user are dependent: 2,500 users bound the effective number from below.
    assert pairs > USERS
    assert within > 2 * between


def test_tastes_drift_so_that_near_interactions_agree_most(
    items: dict[str, list[Any]], interactions: dict[str, npt.NDArray[Any]]
) -> None:
    themes = _themes(items, interactions)
    long = (_lengths(interactions) >= 60)[
        np.unique(interactions["user"], return_inverse=True)[1].ravel()
    ]
    near = _same_neighbour(themes[long], interactions["user"][long], distance=5)[0]
    far = _same_neighbour(themes[long], interactions["user"][long], distance=55)[0]
    assert near > far + 0.015


def test_popularity_is_skewed(interactions: dict[str, npt.NDArray[Any]]) -> None:
    counts = np.sort(np.unique(interactions["item"], return_counts=True)[1])[::-1]
    assert counts[: ITEMS // 10].sum() > 0.25 * counts.sum()
    assert counts[0] > 10 * np.median(counts)


def test_ratings_are_halves_and_rise_with_the_match_of_tastes(
    items: dict[str, list[Any]], interactions: dict[str, npt.NDArray[Any]]
) -> None:
    ratings = interactions["rating"]
    assert set(np.unique(ratings)) <= set(np.arange(1, 11) / 2)
    themes = _themes(items, interactions)
    user = np.unique(interactions["user"], return_inverse=True)[1].ravel()
    counts = np.zeros((USERS, len(THEMES)))
    np.add.at(counts, (user, themes), 1)
    favourite = counts.argmax(axis=1)[user] == themes
    assert ratings[favourite].mean() > ratings[~favourite].mean() + 0.3


def test_every_organisation_has_a_user(tmp_path: Path) -> None:
    synthesise(9, 50, 9, seed=5, out=tmp_path)
    found = pq.read_table(tmp_path / "interactions.parquet")["organisation"].to_pylist()
    assert set(found) == {f"org-{o}" for o in range(1, 10)}


def test_a_user_belongs_to_one_organisation(interactions: dict[str, npt.NDArray[Any]]) -> None:
    assert len(set(zip(interactions["user"], interactions["organisation"], strict=True))) == USERS


@pytest.mark.parametrize(
    ("users", "items", "organisations", "seed", "key"),
    [
        (10, 49, 1, 0, "data.synthetic_items: found 49"),
        (10, 200_001, 1, 0, "data.synthetic_items: found 200001"),
        (3, 50, 4, 0, "data.synthetic_users: found 3 for 4 organisations"),
        (0, 50, 0, 0, "partition.organisations: found 0"),
        (10, 50, 1, -1, "run.seed: found -1"),
    ],
)
def test_impossible_sizes_are_refused_by_name(
    tmp_path: Path, users: int, items: int, organisations: int, seed: int, key: str
) -> None:
    with pytest.raises(ConfigError, match=key):
        synthesise(users, items, organisations, seed, out=tmp_path)
    assert not any(tmp_path.iterdir())
