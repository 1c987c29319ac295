"""Late fusion: every part counts with its weight, and nobody is left without a list."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from shared.config import Config
from shared.histories import PrivateHistories
from shared.scoring import Blend, Scorer, top_items, zero_shot_scores
from shared.statistics import decayed_context
from simulations.federate import federate, outcome_scorer
from simulations.world import World

MakeConfig = Callable[..., Config]

RELIABILITY = 0.4
WEIGHTS = {"adapter_weight": 0.7, "need_weight": 2.0, "content_weight": 0.0, "weight_per_lift": 0.0}


@pytest.fixture(scope="module")
def trained(
    world: World, make_config: MakeConfig, tmp_path_factory: pytest.TempPathFactory
) -> Scorer:
    """What two rounds without noise deliver, taken as 0.4 reliable."""
    config = make_config(privacy={"noise": "none"}, fusion=WEIGHTS, statistics={"weight": 0.8})
    outcome = federate(world, config, tmp_path_factory.mktemp("run"), "run")
    return replace(outcome_scorer(world, config, outcome), reliability=RELIABILITY)


@pytest.fixture(scope="module")
def histories(world: World) -> PrivateHistories:
    """Some users, one of whom has no history and one a single item."""
    some = world.dataset.histories.select(np.arange(5))
    return some.truncated(np.array([9, 0, 1, 30, 4]))


USERS = np.arange(5)


def standardised(scores: np.ndarray) -> np.ndarray:
    deviation = scores.std(axis=1, keepdims=True)
    return np.where(
        deviation > 0,
        (scores - scores.mean(axis=1, keepdims=True)) / np.where(deviation > 0, deviation, 1),
        0.0,
    )


def reach(scorer: Scorer, histories: PrivateHistories) -> np.ndarray:
    """Decayed history times G, which covers the whole catalogue here."""
    statistics = scorer.statistics
    decay = scorer.config.statistics.history_decay
    context = decayed_context(histories, USERS, statistics.top, decay)
    scores = np.zeros((len(USERS), len(statistics.log_popularity)))
    scores[:, statistics.top] = context @ statistics.transition
    return scores


def test_the_fused_score_is_the_weighted_sum_of_its_parts(
    trained: Scorer, histories: PrivateHistories
) -> None:
    need = trained.vectors[3]
    expected = (
        trained.statistics.log_popularity[None, :]
        + 0.8 * standardised(reach(trained, histories))
        + 0.7 * standardised(trained.states(histories, USERS) @ trained.vectors.T)
        + 2.0 * standardised((trained.vectors @ need)[None, :])
    )
    assert trained.fused(histories, USERS, need) == pytest.approx(expected, abs=1e-3)


def test_without_an_adapter_the_statistics_are_left(
    trained: Scorer, histories: PrivateHistories
) -> None:
    alone = Scorer(trained.config, trained.statistics, trained.vectors)
    expected = trained.statistics.log_popularity[None, :] + 0.8 * standardised(
        reach(trained, histories)
    )
    assert alone.fused(histories, USERS) == pytest.approx(expected, abs=1e-4)


def test_without_a_warm_start_the_share_of_signal_changes_no_score(
    trained: Scorer, histories: PrivateHistories
) -> None:
    noise = replace(trained, reliability=0.0)
    assert np.array_equal(noise.fused(histories, USERS), trained.fused(histories, USERS))


def test_the_adapter_changes_the_score(trained: Scorer, histories: PrivateHistories) -> None:
    without = replace(trained, adapter=None)
    change = trained.fused(histories, USERS) - without.fused(histories, USERS)
    assert np.abs(change[[0, 2, 3, 4]]).max(axis=1).min() > 0.1


def test_a_user_without_history_is_served_by_popularity(
    trained: Scorer, histories: PrivateHistories
) -> None:
    scores = trained.fused(histories, np.array([1]))[0]
    assert scores == pytest.approx(trained.statistics.log_popularity, abs=1e-5)
    assert len(top_items(scores, histories.row(1), 10)) == 10


def test_a_need_moves_a_user_without_history(trained: Scorer, histories: PrivateHistories) -> None:
    scores = trained.fused(histories, np.array([1]), trained.vectors[7])[0]
    gain = scores - trained.statistics.log_popularity
    assert int(np.argmax(gain)) == 7


def test_a_users_scores_do_not_depend_on_who_else_is_scored(
    trained: Scorer, histories: PrivateHistories
) -> None:
    together = trained.fused(histories, USERS)
    for user in USERS:
        alone = trained.fused(histories, np.array([user]))[0]
        assert alone == pytest.approx(together[user], abs=1e-4)


def test_no_users_have_no_scores(trained: Scorer, histories: PrivateHistories) -> None:
    assert trained.fused(histories, np.array([], dtype=np.int64)).shape == (
        0,
        len(trained.vectors),
    )


def test_items_outside_of_g_are_scored_too(trained: Scorer, histories: PrivateHistories) -> None:
    statistics = trained.statistics
    few = replace(
        statistics, top=statistics.top[:5], transition=statistics.transition[:5, :5].copy()
    )
    scores = replace(trained, statistics=few).fused(histories, USERS)
    assert np.isfinite(scores).all()


def test_zero_shot_prefers_what_is_like_the_newest_item(
    trained: Scorer, histories: PrivateHistories
) -> None:
    scores = zero_shot_scores(trained.vectors, histories, np.array([2]), 0.6)[0]
    assert int(np.argmax(scores)) == int(histories.row(2)[0])


def test_top_items_are_the_best_unseen_ones_best_first() -> None:
    scores = np.array([0.1, 0.9, 0.5, 0.7, 0.3], np.float32)
    found = top_items(scores, np.array([1, 1]), 3)
    assert [place for place, _ in found] == [3, 2, 4]
    assert [score for _, score in found] == pytest.approx([0.7, 0.5, 0.3])


def test_equal_scores_stand_in_the_order_of_the_catalogue() -> None:
    assert [p for p, _ in top_items(np.ones(5, np.float32), np.array([0]), 3)] == [1, 2, 3]


def test_who_has_seen_nearly_all_gets_a_short_list() -> None:
    found = top_items(np.arange(4, dtype=np.float32), np.array([0, 1, 3]), 10)
    assert [place for place, _ in found] == [2]


def test_seen_items_can_be_kept() -> None:
    scores = np.array([0.1, 0.9], np.float32)
    assert [p for p, _ in top_items(scores, np.array([1]), 2, exclude_seen=False)] == [1, 0]


def test_masking_seen_items_leaves_the_scores_alone() -> None:
    scores = np.array([0.1, 0.9], np.float32)
    top_items(scores, np.array([1]), 1)
    assert scores.tolist() == pytest.approx([0.1, 0.9])


def test_a_merged_adapter_scores_the_same_and_leaves_the_model_as_it_was(
    trained: Scorer, histories: PrivateHistories
) -> None:
    expected = trained.fused(histories, USERS)
    merged = trained.with_merged_adapter()
    assert merged.fused(histories, USERS) == pytest.approx(expected, abs=1e-3)
    assert merged.model is not trained.model
    assert np.array_equal(trained.fused(histories, USERS), expected)


@pytest.mark.parametrize("content", [0.0, 0.7])
def test_the_parts_of_a_score_add_up_to_it(
    trained: Scorer, histories: PrivateHistories, content: float
) -> None:
    blend = replace(trained.blend(), content=content)
    need, places = trained.vectors[3], np.array([0, 3, 5, 7])
    parts = trained.parts(trained.targets(histories, USERS, need, blend), places)
    assert set(parts) == {
        "popularity",
        "cooccurrence",
        "adapter",
        "need",
        *(["content"] if content else []),
    }
    scores = trained.fused(histories, USERS, need, blend)
    assert sum(parts.values()) == pytest.approx(scores[:, places], abs=1e-4)


def test_the_content_part_is_the_standardised_likeness_to_the_history(
    trained: Scorer, histories: PrivateHistories
) -> None:
    blend = Blend(popularity=0.0, content=0.5)
    alike = zero_shot_scores(trained.vectors, histories, USERS, 0.8)
    expected = 0.5 * standardised(alike)
    found = trained.fused(histories, USERS, blend=blend)
    assert found == pytest.approx(expected, abs=1e-4)


def test_g_is_standardised_over_what_it_covers_and_says_nothing_of_the_rest(
    trained: Scorer, histories: PrivateHistories
) -> None:
    """Covered items must not be lifted together: that is what their popularity is for."""
    top = np.array([5, 0, 9, 2])
    random = np.random.default_rng(0)
    transition = 1.0 + random.random((4, 4))
    few = replace(trained.statistics, top=top, transition=transition)
    scorer = Scorer(trained.config, few, trained.vectors)
    made = replace(histories, items=np.resize(top, len(histories.items)))
    part = scorer.fused(made, USERS, blend=Blend(cooccurrence=0.8)) - few.log_popularity
    others = np.setdiff1d(np.arange(len(few.log_popularity)), top)
    assert part[:, others] == pytest.approx(0.0, abs=1e-6)
    for user in (0, 2, 3, 4):
        raw = decayed_context(made, np.array([user]), top, trained.config.statistics.history_decay)
        expected = 0.8 * standardised(raw @ transition)[0]
        assert part[user, top] == pytest.approx(expected, abs=1e-5)
    assert part[1] == pytest.approx(0.0, abs=1e-6)
