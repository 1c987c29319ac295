"""Sums of statistics over organisations whose catalogues and orders of items differ."""

from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.aggregation import (
    Popularity,
    check_cooccurrence,
    check_popularity,
    covered_items,
    statistics_arrays,
    sum_cooccurrence,
    sum_popularity,
)
from shared.catalogue import Catalogue
from shared.config import StatisticsSection
from shared.delivery import statistics_from_arrays
from shared.errors import FederationError
from shared.messages import Reply
from shared.plan import Mechanism
from shared.statistics import most_popular, symmetric, transition_matrix

KEYS = np.array([3, 7, 11, 2**64 - 1], dtype=np.uint64)
MECHANISM = Mechanism("popularity", 1.0, 2.0, 1.0)
COUNTS = Mechanism("popularity", 1.0, 1.0, 1.0)
PAIRS = Mechanism("cooccurrence", 1.0, 1.0, 1.0)


def reply(keys: Any, values: Any, name: str = "house") -> Reply:
    return Reply(
        name,
        5,
        0,
        {"keys": np.asarray(keys, np.uint64), "values": np.asarray(values, np.float32)},
    )


def popularity_over(keys: Any) -> Popularity:
    return Popularity(np.asarray(keys, np.uint64), np.ones(len(keys)), np.ones(len(keys)))


def test_popularity_adds_up_by_key_over_different_catalogues() -> None:
    found = sum_popularity([reply([7, 3], [1.0, 2.0]), reply([11, 7], [4.0, 8.0])], MECHANISM)
    assert dict(zip(found.keys.tolist(), found.noisy.tolist(), strict=True)) == {
        3: 2.0,
        7: 9.0,
        11: 4.0,
    }


def test_keys_above_half_of_their_range_are_not_rounded() -> None:
    found = sum_popularity([reply([2**64 - 1, 2**64 - 2], [1.0, 5.0])], MECHANISM)
    assert found.keys.tolist() == [2**64 - 2, 2**64 - 1]
    assert found.noisy.tolist() == [5.0, 1.0]


def test_deviation_grows_with_the_root_of_the_houses_that_hold_an_item() -> None:
    houses = [reply([1, 2], [0, 0]), reply([2], [0]), reply([2, 1], [0, 0]), reply([2], [0])]
    found = sum_popularity(houses, MECHANISM)
    assert found.deviation == pytest.approx([2.0 * 2**0.5, 2.0 * 4**0.5])


@given(
    st.lists(
        st.dictionaries(st.integers(0, 9), st.integers(-50, 50), min_size=1), min_size=1, max_size=5
    )
)
def test_popularity_is_the_sum_whatever_the_catalogues(houses: list[dict[int, int]]) -> None:
    found = sum_popularity([reply(list(h), list(h.values())) for h in houses], MECHANISM)
    expected = {key: sum(h.get(key, 0) for h in houses) for h in houses for key in h}
    assert dict(zip(found.keys.tolist(), found.noisy.tolist(), strict=True)) == expected
    counts = [sum(key in h for h in houses) for key in found.keys.tolist()]
    assert found.deviation == pytest.approx(2.0 * np.sqrt(counts))


def test_cooccurrence_lands_on_its_pair_for_another_subset_and_order() -> None:
    popularity, top = popularity_over([10, 20, 30]), np.array([2, 0, 1])
    # Of the asked 30, 10, 20 one house has all, in another order, and one house has two.
    whole = reply([20, 30, 10], [1.0, 2.0, 4.0])  # 20-30, 20-10, 30-10
    part = reply([20, 10], [8.0])
    found = sum_cooccurrence([whole, part], popularity, top)
    # In the order of the asked items the pairs are 30-10, 30-20, 10-20.
    assert found.tolist() == [4.0, 1.0, 10.0]


@given(
    st.lists(
        st.lists(st.sampled_from([3, 1, 4, 5, 9]), unique=True, max_size=5), min_size=1, max_size=4
    ),
    st.permutations(range(5)),
    st.randoms(use_true_random=False),
)
def test_cooccurrence_is_the_sum_by_pair_whatever_the_orders(
    houses: list[list[int]], order: list[int], random: Any
) -> None:
    popularity, top = popularity_over([1, 3, 4, 5, 9]), np.array(order)
    asked = popularity.keys[top].tolist()
    expected = {frozenset(pair): 0 for pair in combinations(asked, 2)}
    replies = []
    for house in houses:
        values = [random.randint(-9, 9) for _ in combinations(house, 2)]
        for pair, value in zip(combinations(house, 2), values, strict=True):
            expected[frozenset(pair)] += value
        replies.append(reply(house, values))
    found = sum_cooccurrence(replies, popularity, top)
    assert found.tolist() == [expected[frozenset(pair)] for pair in combinations(asked, 2)]


def test_a_house_with_none_of_the_asked_items_adds_nothing() -> None:
    popularity, top = popularity_over([1, 2]), np.array([0, 1])
    empty = reply([], [])
    check_cooccurrence(empty, PAIRS, popularity, top)
    assert sum_cooccurrence([empty, reply([1, 2], [3.0])], popularity, top).tolist() == [3.0]


def test_covered_items_are_those_with_the_largest_noisy_sums() -> None:
    popularity = Popularity(KEYS, np.array([1.0, 9.0, -4.0, 5.0]), np.ones(4))
    assert covered_items(popularity, StatisticsSection(top_items=2)).tolist() == [1, 3]


def test_what_is_handed_back_fits_a_catalogue_in_another_order_with_unknown_items() -> None:
    popularity = sum_popularity(
        [reply(_hashes("a", "b", "c"), [100.0, 50.0, 30.0])], Mechanism("popularity", 1.0, 1.0, 1.0)
    )
    options = StatisticsSection(top_items=2, rank=2, row_power=0.0, column_power=0.0)
    top = covered_items(popularity, options)
    arrays = statistics_arrays(popularity, top, np.array([7.0]), 0.0, options)
    own = Catalogue(("1", "2", "3"), ("new", "b", "a"), {}, keys=("new", "b", "a"))
    found = statistics_from_arrays(arrays, own)
    assert found.log_popularity == pytest.approx(np.log([1.0, 51.0, 101.0]))
    assert found.top.tolist() == [2, 1]
    # Rank 2 of a symmetric pair keeps both eigenvalues, 7 and -7, so nothing is lost.
    assert found.transition == pytest.approx(np.array([[0.0, 7.0], [7.0, 0.0]]))


def test_an_honest_release_passes_its_check() -> None:
    check_popularity(reply([1, 2], [0.5, -0.5]), COUNTS)
    check_cooccurrence(reply([2, 1], [0.5]), PAIRS, popularity_over([1, 2]), np.array([0, 1]))


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({}, "expected keys"),
        ({"keys": KEYS}, "expected keys"),
        ({"keys": KEYS.astype(np.int64), "values": np.zeros(4, np.float32)}, "uint64"),
        ({"keys": KEYS, "values": np.zeros(4)}, "float32"),
        ({"keys": KEYS, "values": np.zeros(3, np.float32)}, "values of shape"),
        ({"keys": KEYS, "values": np.zeros((4, 1), np.float32)}, "values of shape"),
        ({"keys": KEYS, "values": np.array([0, 0, np.nan, 0], np.float32)}, "not finite"),
        ({"keys": KEYS, "values": np.array([0, 0, np.inf, 0], np.float32)}, "not finite"),
    ],
    ids=["empty", "no-values", "signed-keys", "float64", "short", "2d", "nan", "infinite"],
)
def test_a_malformed_popularity_is_refused_by_name(arrays: dict[str, Any], words: str) -> None:
    with pytest.raises(FederationError, match=f"house: .*{words}"):
        check_popularity(Reply("house", 5, 0, arrays), COUNTS)


@pytest.mark.parametrize("keys", [np.uint64(3), np.zeros((2, 2), np.uint64)], ids=["0d", "2d"])
def test_keys_that_are_no_list_are_refused(keys: Any) -> None:
    arrays = {"keys": np.asarray(keys), "values": np.zeros(4, np.float32)}
    with pytest.raises(FederationError, match="house"):
        check_popularity(Reply("house", 5, 0, arrays), COUNTS)


@pytest.mark.parametrize(
    ("keys", "values", "words"),
    [
        ([1, 8], [0.0], "not asked for"),
        ([1, 3], [0.0], "not asked for"),
        ([1, 1], [0.0], "not asked for"),
        ([1, 2], [0.0, 0.0], "values of shape"),
        ([1, 2], [np.nan], "not finite"),
    ],
    ids=["unknown-item", "known-but-not-asked", "repeated", "wrong-size", "nan"],
)
def test_a_malformed_cooccurrence_is_refused(keys: Any, values: Any, words: str) -> None:
    with pytest.raises(FederationError, match=f"house: .*{words}"):
        check_cooccurrence(reply(keys, values), PAIRS, popularity_over([1, 2, 3]), np.array([0, 1]))


def test_a_release_longer_than_its_users_and_its_noise_can_be_is_refused() -> None:
    declared = Reply("house", 5, 0, {"keys": KEYS, "values": np.full(4, 6.9, np.float32)})
    # 2 * (5 users + deviation 1 * sqrt(4 items)) = 14, and the norm of these values is 13.8.
    check_popularity(declared, COUNTS)
    declared.arrays["values"][0] = 8.0
    with pytest.raises(FederationError, match="house: a popularity of norm 14"):
        check_popularity(declared, COUNTS)


def _hashes(*keys: str) -> Any:
    return Catalogue(keys, keys, {}, keys=keys).key_hashes


def _planted(k: int, strength: float, deviation: float) -> tuple[Any, Any]:
    """Sums of two groups of items that go together, and the same with noise."""
    random = np.random.default_rng(3)
    group = np.where(np.arange(k) < k // 2, 1.0, -1.0)
    truth = strength * np.outer(group, group)[np.triu_indices(k, 1)]
    return truth, truth + deviation * random.standard_normal(len(truth))


def _matrix(triangle: Any, deviation: float, **options: Any) -> Any:
    k = round((1 + (1 + 8 * len(triangle)) ** 0.5) / 2)
    chosen = StatisticsSection(row_power=0.0, column_power=0.0, **options)
    return transition_matrix(triangle, np.ones(k), 0.0, deviation, chosen)


def test_what_stands_out_of_the_noise_is_kept_and_the_noise_is_not() -> None:
    truth, noisy = _planted(60, 1.0, 1.0)
    exact = symmetric(truth, 60)
    found = _matrix(noisy, 1.0)
    raw = np.linalg.norm(symmetric(noisy, 60) - exact)
    assert np.linalg.norm(found - exact) < 0.3 * raw


def test_a_g_of_noise_alone_is_dropped() -> None:
    # The greatest eigenvalue of noise lies at the edge of its spectrum, give or take little; a
    # deviation a quarter greater than that of the noise leaves none above nine tenths of the edge.
    _, noise = _planted(200, 0.0, 1.0)
    assert not _matrix(noise, 1.25).any()
    assert _matrix(noise, 0.5).any()


def test_without_noise_all_of_g_is_kept_and_a_rank_that_is_set_is_obeyed() -> None:
    _, noisy = _planted(20, 1.0, 0.3)
    assert _matrix(noisy, 0.0) == pytest.approx(symmetric(noisy, 20))
    values, vectors = np.linalg.eigh(symmetric(noisy, 20))
    first = values[-1] * np.outer(vectors[:, -1], vectors[:, -1])
    np.fill_diagonal(first, 0.0)
    assert _matrix(noisy, 0.3, rank=1) == pytest.approx(first)
    assert _matrix(np.empty(0), 1.0).shape == (1, 1)


def test_items_of_g_are_those_that_stand_four_deviations_out_of_the_noise() -> None:
    noisy = np.concatenate([np.full(300, 8.1), np.full(200, 7.9)])
    assert len(most_popular(noisy, 2.0, StatisticsSection())) == 300
    assert len(most_popular(noisy, 200.0, StatisticsSection())) == 100
    assert len(most_popular(np.ones(5000), 0.0, StatisticsSection())) == 2000
    assert len(most_popular(noisy, 2.0, StatisticsSection(top_items=7))) == 7
