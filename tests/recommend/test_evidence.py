"""A part of the score counts as far as the released pairs bear out its likenesses, no further."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from client.recommend.own_pairs import with_own_pairs
from client.recommend.recommender import Recommender
from shared.config import StatisticsSection
from shared.evidence import borne_out, pair_lift
from shared.scoring import Scorer
from shared.statistics import Statistics

OPTIONS = StatisticsSection()
K = 120
Planted = Callable[..., tuple[Statistics, np.ndarray]]


@pytest.fixture
def planted() -> Planted:
    """Released pairs that are more frequent by a share for each deviation of some likeness."""

    def make(share: float) -> tuple[Statistics, np.ndarray]:
        random = np.random.default_rng(0)
        count = 5.0 + 95.0 * random.random(K)
        half = random.standard_normal((K, K)) / 2**0.5
        likeness = half + half.T
        pairs = 0.01 * np.outer(count, count) * (1.0 + share * likeness)
        np.fill_diagonal(pairs, 0.0)
        transition = pairs / count[:, None] ** OPTIONS.row_power
        transition /= count[None, :] ** OPTIONS.column_power
        top = random.permutation(K + 30)[:K]
        popularity = np.zeros(K + 30)
        popularity[top] = np.log(count)
        return Statistics(popularity, top, transition), likeness.astype(np.float32)

    return make


@pytest.mark.parametrize("share", [-0.2, 0.0, 0.04, 0.3])
def test_the_lift_is_the_planted_one(planted: Planted, share: float) -> None:
    statistics, likeness = planted(share)
    assert pair_lift(statistics, OPTIONS, likeness) == pytest.approx(share, abs=0.02)


def test_neither_scale_nor_what_is_about_one_item_counts(planted: Planted) -> None:
    statistics, likeness = planted(0.3)
    random = np.random.default_rng(1)
    rows, columns = 3.0 * random.standard_normal((2, K))
    moved = (7.0 * likeness + rows[:, None] + columns).astype(np.float32)
    expected = pair_lift(statistics, OPTIONS, likeness)
    assert pair_lift(statistics, OPTIONS, moved) == pytest.approx(expected, abs=0.01)
    # Every popular item is likely after every other: that is popularity's to say.
    popular = np.tile(statistics.log_popularity[statistics.top], (K, 1)).astype(np.float32)
    assert pair_lift(statistics, OPTIONS, popular) == pytest.approx(0.0, abs=0.01)


def test_a_likeness_of_other_items_explains_nothing(planted: Planted) -> None:
    statistics, likeness = planted(0.3)
    order = np.random.default_rng(2).permutation(K)
    assert abs(pair_lift(statistics, OPTIONS, likeness[np.ix_(order, order)])) < 0.03


@pytest.mark.parametrize("value", [0.0, -1.0])
def test_without_pairs_nothing_can_be_told(planted: Planted, value: float) -> None:
    statistics, likeness = planted(0.3)
    empty = replace(statistics, transition=np.full((K, K), value))
    assert np.isnan(pair_lift(empty, OPTIONS, likeness))
    none = Statistics(statistics.log_popularity, np.empty(0, np.int64), np.empty((0, 0)))
    assert np.isnan(pair_lift(none, OPTIONS, np.empty((0, 0), np.float32)))


@pytest.mark.parametrize("likeness", [0.0, 1.0])
def test_a_likeness_that_never_differs_explains_nothing(planted: Planted, likeness: float) -> None:
    statistics, _ = planted(0.3)
    assert pair_lift(statistics, OPTIONS, np.full((K, K), likeness, np.float32)) == 0.0


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_broken_model_keeps_its_weight_so_that_it_shows(planted: Planted, value: float) -> None:
    statistics, likeness = planted(0.3)
    likeness[3, 4] = value
    lift = pair_lift(statistics, OPTIONS, likeness)
    assert np.isnan(lift)
    assert borne_out(0.4, lift, 8.0) == 0.4


def test_the_weight_grows_with_the_lift_up_to_what_is_configured() -> None:
    lifts = [-1.0, 0.0, 0.04, 0.065, 0.09, 5.0]
    found = [borne_out(0.4, lift, 8.0) for lift in lifts]
    assert found == pytest.approx([0.0, 0.0, 0.0, 0.2, 0.4, 0.4])
    assert borne_out(0.4, float("nan"), 8.0) == 0.4
    assert borne_out(0.4, 0.0, 0.0) == 0.4


@pytest.fixture
def scorer(recommender: Recommender) -> Scorer:
    """Not merged yet, so that its weights are its own to find."""
    return replace(recommender.scorer, weights=None)


def test_texts_of_other_items_lose_their_weight(scorer: Scorer) -> None:
    assert scorer.blend().content == scorer.config.fusion.content_weight
    shuffled = scorer.vectors[np.random.default_rng(3).permutation(len(scorer.vectors))]
    astray = replace(scorer, vectors=shuffled)
    assert astray.lift_of_texts < 0.2 * scorer.lift_of_texts
    assert astray.blend().content < 0.2 * scorer.config.fusion.content_weight
    trusting = scorer.config.fusion.model_copy(update={"weight_per_lift": 0.0})
    asked = replace(astray, config=scorer.config.model_copy(update={"fusion": trusting}))
    assert asked.blend().content == scorer.config.fusion.content_weight


def test_a_user_model_that_knows_nothing_loses_its_weight(
    scorer: Scorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it says after an item is what the lift is of: here noise, and here the item itself."""
    random = np.random.default_rng(4)

    def says(vectors: Callable[[np.ndarray], np.ndarray]) -> float:
        monkeypatch.setattr(
            Scorer,
            "_read",
            lambda self, rows, row: vectors(np.concatenate([row(r) for r in range(rows)])),
        )
        return replace(scorer).blend().adapter

    noise = random.standard_normal(scorer.vectors.shape).astype(np.float32)
    assert says(lambda items: noise[items]) == 0.0
    assert says(lambda items: 5.0 * scorer.vectors[items]) == scorer.config.fusion.adapter_weight
    assert replace(scorer, adapter=None).blend().adapter == 0.0


def test_own_pairs_do_not_move_the_other_weights(recommender: Recommender, scorer: Scorer) -> None:
    section = scorer.config.personalisation.model_copy(
        update={"own_cooccurrence": 50.0, "least_users": 1}
    )
    # No weight is at its most, so that another lift would show.
    fusion = scorer.config.fusion.model_copy(update={"weight_per_lift": 0.5})
    config = scorer.config.model_copy(update={"personalisation": section, "fusion": fusion})
    delivered = replace(scorer, config=config)
    personal = with_own_pairs(delivered, recommender.histories)
    assert replace(personal, weights=None).blend() != delivered.blend()
    assert personal.blend() == delivered.blend()
