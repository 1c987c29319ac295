"""Reasons are exact and faithful: without what is named, the score is lower by what is said."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from client.recommend.query import Query
from client.recommend.reasons import history_reasons
from client.recommend.recommender import Recommender
from shared.catalogue import Catalogue
from shared.config import Config
from shared.histories import PrivateHistories
from shared.scoring import Scorer, Targets
from shared.statistics import Statistics

MakeRecommender = Callable[..., Recommender]


def score(recommender: Recommender, history: list[str], item: str, query: Query) -> float:
    """Of one item by the list itself, where everything is listed."""
    whole = replace(query, k=99, exclude_seen=False)
    (found,) = [line for line in recommender.recommend(history, whole) if line.item_id == item]
    return found.score


@pytest.mark.parametrize(
    "query", [Query(), Query(need="a film about space"), Query(mode="content")]
)
@pytest.mark.parametrize("user", range(6))
def test_removing_the_named_items_lowers_the_score_by_what_is_said(
    recommender: Recommender, histories: PrivateHistories, user: int, query: Query
) -> None:
    history = [f"f{place}" for place in histories.row(user)]
    items = [line.item_id for line in recommender.recommend(history, query)]
    for one in recommender.explain(history, items, query):
        before = score(recommender, history, one.item_id, query)
        assert one.score == pytest.approx(before, abs=1e-4)
        for reason in one.history:
            without = [item for item in history if item != reason.item_id]
            lost = before - score(recommender, without, one.item_id, query)
            assert lost == pytest.approx(reason.drop, abs=1e-3)
            assert reason.drop > 0.0
        if one.history:
            named = {reason.item_id for reason in one.history}
            without = [item for item in history if item not in named]
            lost = before - score(recommender, without, one.item_id, query)
            assert lost == pytest.approx(one.together, abs=1e-3)
            assert one.together > 0.0


def test_the_largest_drop_is_named_first_and_nothing_larger_is_left_out(
    recommender: Recommender, histories: PrivateHistories
) -> None:
    history = [f"f{place}" for place in histories.row(3)]
    (one,) = recommender.explain(history, ["f9"], Query())
    before = score(recommender, history, "f9", Query())
    drops = {
        item: before - score(recommender, [i for i in history if i != item], "f9", Query())
        for item in history
    }
    assert one.history[0].item_id == max(drops, key=drops.__getitem__)
    assert [r.drop for r in one.history] == sorted((r.drop for r in one.history), reverse=True)


def test_an_item_that_was_had_twice_is_taken_out_whole(recommender: Recommender) -> None:
    history = ["f0", "f2", "f0"]
    (one,) = recommender.explain(history, ["f3"], Query())
    (reason,) = [reason for reason in one.history if reason.item_id == "f0"]
    lost = score(recommender, history, "f3", Query()) - score(recommender, ["f2"], "f3", Query())
    assert reason.drop == pytest.approx(lost, abs=1e-3)


def test_items_that_stand_in_for_each_other_are_not_named_together(
    catalogue: Catalogue, settings: Config
) -> None:
    """Each alone lowers the score; together they would raise it, so fewer are named."""

    class Substitutes(Scorer):
        def parts(self, targets: Targets, places: np.ndarray) -> dict[str, np.ndarray]:
            return {"made up": np.repeat(targets.prior[:, None], len(places), axis=1)}

    def targets_of(histories: PrivateHistories, users: np.ndarray) -> Targets:
        worth = {(1, 2): 10.0, (2,): 9.0, (1,): 8.0, (): 11.0}
        rows = [tuple(sorted(histories.row(int(user)).tolist())) for user in users]
        return Targets(np.array([worth[row] for row in rows]), np.zeros((len(rows), 0)), {}, {})

    scorer = Substitutes(
        settings, Statistics(np.zeros(24), np.arange(0), np.zeros((0, 0))), np.eye(24)
    )
    ((named, together),) = history_reasons(
        scorer, targets_of, np.array([1, 2]), np.array([5]), catalogue
    )
    assert [(reason.item_id, reason.drop) for reason in named] == [("f2", 2.0)]
    assert together == 2.0


def test_without_history_there_are_no_reasons_from_it(recommender: Recommender) -> None:
    (one,) = recommender.explain([], ["f3"], Query())
    assert (one.history, one.together) == ((), 0.0)


def test_the_words_that_matched_a_need_are_those_whose_loss_lowers_the_match(
    recommender: Recommender,
) -> None:
    query = Query(need="a film about love and romance")
    (one,) = recommender.explain("u0", ["f13"], query)
    assert "Romance" in {reason.word for reason in one.words}
    text = recommender.catalogue.texts[13]
    need = recommender.text_vectors([query.need or ""])[0]
    spread = (recommender.scorer.vectors @ need).std()
    for reason in one.words:
        spoken = text.split()
        losses = []
        for i, word in enumerate(spoken):
            if reason.word in word:
                without = " ".join(spoken[:i] + spoken[i + 1 :])
                match, rest = recommender.text_vectors([text, without]) @ need
                losses.append((match - rest) / spread)
        assert any(loss == pytest.approx(reason.drop, rel=1e-3, abs=1e-4) for loss in losses)
        assert reason.drop > 0.0


def test_without_a_need_no_words_are_named(recommender: Recommender) -> None:
    (one,) = recommender.explain("u0", ["f13"], Query())
    assert one.words == ()


def test_no_word_of_a_text_that_is_far_from_the_need_is_named(recommender: Recommender) -> None:
    items = [f"f{place}" for place in range(24)]
    found = recommender.explain("u0", items, Query(need="a film about love and romance"))
    assert any(one.parts["need"] <= 0.0 for one in found)
    for one in found:
        if one.parts["need"] <= 0.0:
            assert one.words == ()


def test_reasons_follow_the_weights_of_the_query(recommender: Recommender) -> None:
    (hybrid,) = recommender.explain("u0", ["f6"], Query())
    (content,) = recommender.explain("u0", ["f6"], Query(mode="content"))
    assert hybrid.parts.keys() != content.parts.keys()
    assert hybrid.history != content.history
