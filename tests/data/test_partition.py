"""Every scheme gives every user to exactly one organisation, and the same one for the same seed."""

from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.data.ingest import Dataset
from client.data.partition import favourite_genres, partition
from shared.catalogue import Catalogue
from shared.errors import ConfigError
from shared.histories import PrivateHistories

GENRES = ("War, Drama", "Comedy", "", "Drama, War", "War")


def dataset(
    rows: list[list[int]],
    columns: Mapping[str, tuple[str, ...]] | None = None,
    attributes: Mapping[str, tuple[str, ...]] | None = None,
) -> Dataset:
    histories = PrivateHistories(
        user_ids=tuple(str(user) for user in range(len(rows))),
        offsets=np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64),
        items=np.concatenate([np.array(row, dtype=np.int64) for row in rows]),
        times=np.zeros(sum(len(row) for row in rows)),
    )
    names = tuple("abcde")
    further = {"genres": GENRES} if attributes is None else attributes
    catalogue = Catalogue(names, names, {"year": ("1990",) * 5, **further})
    return Dataset("tiny", catalogue, histories, columns or {}, (), 0)


ROWS = st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=6), min_size=1, max_size=40)


@given(
    rows=ROWS,
    scheme=st.sampled_from(
        ["iid", "dirichlet:0.001", "dirichlet:0.5", "dirichlet:1000", "column:c"]
    ),
    seed=st.integers(0, 2**31),
    data=st.data(),
)
def test_every_user_is_in_exactly_one_organisation_and_none_is_empty(
    rows: list[list[int]], scheme: str, seed: int, data: st.DataObject
) -> None:
    organisations = data.draw(st.integers(1, len(rows)))
    values = tuple(data.draw(st.sampled_from(["x", "y", "", "é"])) for _ in rows)
    parts = partition(dataset(rows, {"c": values}), scheme, organisations, seed)
    users = np.concatenate([part.users for part in parts])
    assert sorted(users.tolist()) == list(range(len(rows)))
    assert all(len(part.users) and part.users.dtype == np.int64 for part in parts)
    assert len({part.name for part in parts}) == len(parts)
    if scheme != "column:c":
        assert len(parts) == organisations


@pytest.mark.parametrize("scheme", ["iid", "dirichlet:0.5"])
def test_the_seed_decides(scheme: str) -> None:
    data = dataset([[i % 5] for i in range(200)])

    def members(seed: int) -> list[list[int]]:
        return [part.users.tolist() for part in partition(data, scheme, 4, seed)]

    assert members(1) == members(1)
    assert members(1) != members(2)


@given(users=st.integers(1, 100), data=st.data())
def test_iid_sizes_differ_by_at_most_one(users: int, data: st.DataObject) -> None:
    organisations = data.draw(st.integers(1, users))
    sizes = [len(p.users) for p in partition(dataset([[0]] * users), "iid", organisations, 0)]
    assert max(sizes) - min(sizes) <= 1


def test_names_sort_in_the_order_of_the_organisations() -> None:
    names = [part.name for part in partition(dataset([[0]] * 10), "iid", 10, 0)]
    assert names[0] == "org-01"
    assert names == sorted(names)


def test_a_small_alpha_keeps_the_users_of_a_genre_together_and_a_large_one_does_not() -> None:
    rows = [[1]] * 500 + [[3]] * 500

    def largest_share(scheme: str) -> float:
        parts = partition(dataset(rows), scheme, 5, 3)
        return max(float(np.sum(part.users < 500)) for part in parts) / 500

    assert largest_share("dirichlet:0.01") > 0.9
    assert largest_share("dirichlet:1000") < 0.3


def test_the_favourite_genre_is_the_first_genre_of_most_items_and_ties_go_by_the_alphabet() -> None:
    data = dataset([[0, 4, 1], [1, 0], [2], [2, 2, 3], [3, 1, 1]])
    comedy, drama, war = 1, 2, 3
    favourites = favourite_genres(data.catalogue, data.histories)
    assert favourites.tolist() == [war, comedy, -1, drama, comedy]


def test_without_genres_the_first_attribute_other_than_the_year_stands_in() -> None:
    data = dataset([[0], [1]], attributes={"maker": ("x|z", "y", "", "", "")})
    assert favourite_genres(data.catalogue, data.histories).tolist() == [1, 2]


def test_dirichlet_over_items_without_attributes_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"items have no attribute to take a genre from"):
        partition(dataset([[0], [1]], attributes={}), "dirichlet:1", 2, 0)


def test_a_column_gives_an_organisation_to_every_value_named_after_it() -> None:
    columns = {"town": ("New York", "Århus", "new-york", "", "New York")}
    parts = partition(dataset([[0]] * 5, columns), "column:town", 99, 0)
    assert [(part.name, part.users.tolist()) for part in parts] == [
        ("unknown", [3]),
        ("new-york", [0, 4]),
        ("new-york-2", [2]),
        ("århus", [1]),
    ]


def test_an_unknown_column_is_refused_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r"no such column about users; it has town, age"):
        partition(dataset([[0]], {"town": ("x",), "age": ("1",)}), "column:country", 1, 0)


@pytest.mark.parametrize(
    "scheme",
    [
        "",
        "IID",
        "iid:3",
        "dirichlet",
        "dirichlet:",
        "dirichlet:x",
        "dirichlet:0",
        "dirichlet:-1",
        "dirichlet:nan",
        "dirichlet:inf",
        "column:",
        "column",
    ],
)
def test_another_scheme_is_refused_with_the_valid_ones(scheme: str) -> None:
    sentence = rf"'{scheme}'; expected iid, dirichlet:ALPHA .* or column:NAME"
    with pytest.raises(ConfigError, match=sentence):
        partition(dataset([[0], [1]]), scheme, 2, 0)


def test_more_organisations_than_users_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"organisations is 3, but tiny has only 2 users"):
        partition(dataset([[0], [1]]), "iid", 3, 0)
