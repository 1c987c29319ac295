"""An organisation's own co-occurrence: what counts, by how much, and where it never goes."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest

from client.recommend.own_pairs import own_sums, with_own_pairs
from client.recommend.recommender import Recommender
from client.serving.utility import measured
from shared.config import Config, StatisticsSection
from shared.histories import PrivateHistories, _blocks
from shared.scoring import Scorer
from shared.statistics import Statistics

OPTIONS = StatisticsSection(pair_decay=0.5, row_power=0.5, column_power=0.0)
ITEMS = 5


def histories(rows: Sequence[Sequence[int]]) -> PrivateHistories:
    lengths = [len(row) for row in rows]
    return PrivateHistories(
        tuple(f"u{user}" for user in range(len(rows))),
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        np.concatenate([np.array(row, dtype=np.int64) for row in rows]),
        np.arange(sum(lengths), dtype=np.float64),
    )


@pytest.fixture
def personal(settings: Config) -> Callable[..., Scorer]:
    """A scorer over five items, of which G covers the first two, with own pairs of a weight."""

    def make(weight: float = 1.0, least_users: int = 1) -> Scorer:
        section = settings.personalisation.model_copy(
            update={"own_cooccurrence": weight, "least_users": least_users}
        )
        config = settings.model_copy(update={"personalisation": section, "statistics": OPTIONS})
        transition = np.array([[0.0, 3.0], [3.0, 0.0]])
        statistics = Statistics(np.log([4.0, 4.0, 1.0, 1.0, 1.0]), np.array([1, 0]), transition)
        return Scorer(config, statistics, np.eye(ITEMS, dtype=np.float32))

    return make


def test_sums_are_those_of_all_histories() -> None:
    popularity, top, triangle = own_sums(histories([[0, 2], [2, 0], [4]]), ITEMS, 1, OPTIONS)
    assert popularity == pytest.approx([2**0.5, 0.0, 2**0.5, 0.0, 1.0])
    # The most users first; items that nobody had are left out.
    assert top.tolist() == [0, 2, 4]
    assert triangle == pytest.approx([2.0, 0.0, 0.0])


def test_a_pair_of_too_few_users_does_not_count() -> None:
    rows = [[0, 2], [0, 2], [0, 3], [3], [4]]
    _, top, triangle = own_sums(histories(rows), ITEMS, 2, OPTIONS)
    # Item 3 has two users, but only one of them had it with item 0.
    assert top.tolist() == [0, 2, 3]
    assert triangle == pytest.approx([2.0, 0.0, 0.0])


def test_blocks_of_users_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    made = histories([random.integers(0, ITEMS, 6).tolist() for _ in range(40)])
    whole = own_sums(made, ITEMS, 3, OPTIONS)
    monkeypatch.setattr(PrivateHistories, "blocks", lambda self, *_: _blocks(self.offsets, 20))
    for one, other in zip(whole, own_sums(made, ITEMS, 3, OPTIONS), strict=True):
        assert one == pytest.approx(other)


def test_own_pairs_count_as_if_all_others_were_alike(personal: Callable[..., Scorer]) -> None:
    made, scorer = histories([[0, 2], [1]]), personal(weight=0.5)
    found = with_own_pairs(scorer, made).statistics
    assert found.top.tolist() == [0, 1, 2]
    # Over items 0 and 1 the federation has 8, this organisation 0.707 + 1.
    times = 8.0 / (1.0 + 0.5**0.5)
    rows = np.sqrt(times * 0.5**0.5)
    own = 0.5 * times / rows
    assert found.transition == pytest.approx(
        np.array([[0.0, 3.0, own], [3.0, 0.0, 0.0], [own, 0.0, 0.0]])
    )
    assert found.log_popularity is scorer.statistics.log_popularity


@pytest.mark.parametrize("rows", [[[]], [[3]], [[3, 4]]], ids=["nobody", "one-item", "unknown"])
def test_a_house_with_little_in_common_keeps_what_was_delivered(
    personal: Callable[..., Scorer], rows: list[list[int]]
) -> None:
    found = with_own_pairs(personal(), histories(rows)).statistics
    at = np.searchsorted(found.top, [0, 1])
    assert found.transition[np.ix_(at, at)] == pytest.approx(np.array([[0.0, 3.0], [3.0, 0.0]]))
    assert np.isfinite(found.transition).all()


def test_lists_then_depend_on_other_users(personal: Callable[..., Scorer]) -> None:
    """Why it is outside the guarantee: the list of a user who had item 0 tells what others had."""
    mine, others = [0, 3], [[0, 2], [0, 2]]
    ask = histories([mine])
    # Nothing but the others' pairs tells items 2 and 4 apart.
    with_them, without = (
        with_own_pairs(personal(least_users=2), histories([mine, *rest])).fused(ask, np.array([0]))[
            0
        ]
        for rest in (others, [])
    )
    assert with_them[2] > with_them[4]
    assert without[2] == without[4]


def test_utility_does_not_count_the_items_that_it_ranks(
    recommender: Recommender, settings: Config
) -> None:
    section = settings.personalisation.model_copy(
        update={"own_cooccurrence": 50.0, "least_users": 1}
    )
    bare = replace(
        recommender.scorer,
        config=recommender.scorer.config.model_copy(update={"personalisation": section}),
    )
    own = replace(
        recommender,
        scorer=with_own_pairs(bare, recommender.histories),
        delivered=bare.statistics,
    )
    found = {one.name: one for one in measured(own, True).figures}
    plain = {one.name: one for one in measured(recommender, True).figures}
    assert set(found) == {*plain, "personalised"}
    assert all(found[name] == plain[name] for name in plain)
    # Each user's newest item stands beside the others of the history in one pair of that user
    # alone: a G that had counted it would put it first.
    seen = measured(replace(own, delivered=own.scorer.statistics), True)
    flattering = {one.name: one for one in seen.figures}["federation"]
    assert found["personalised"].ndcg < flattering.ndcg
