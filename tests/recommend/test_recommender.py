"""Lists for users, histories and needs: every mode, and what a query may not ask."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from client.recommend.query import Filter, Query
from client.recommend.recommender import Recommender
from shared.catalogue import Catalogue
from shared.config import Config
from shared.errors import ConfigError, DataError
from shared.histories import PrivateHistories
from shared.scoring import Scorer
from shared.statistics import Statistics

MakeRecommender = Callable[..., Recommender]


def ids(found: list) -> list[str]:
    return [line.item_id for line in found]


def test_a_list_has_the_best_unseen_items_of_the_fused_score(
    recommender: Recommender, histories: PrivateHistories
) -> None:
    row = recommender.scorer.fused(histories, np.array([2]))[0]
    row[histories.row(2)] = -np.inf
    best = np.argsort(-row)[:5]
    found = recommender.recommend("u2", Query(k=5))
    assert ids(found) == [f"f{place}" for place in best]
    assert [line.score for line in found] == pytest.approx(row[best].tolist(), abs=1e-4)


def test_the_parts_of_a_line_add_up_to_its_score(recommender: Recommender) -> None:
    for line in recommender.recommend("u0", Query(k=4, need="a film about space")):
        assert set(line.parts) == {"popularity", "cooccurrence", "adapter", "content", "need"}
        assert sum(line.parts.values()) == pytest.approx(line.score)


def test_a_history_in_hand_is_ranked_like_that_of_a_user(
    recommender: Recommender, histories: PrivateHistories
) -> None:
    items = [f"f{place}" for place in histories.row(4)]
    assert recommender.recommend(items, Query()) == recommender.recommend("u4", Query())


def test_seen_items_come_back_when_they_are_asked_for(recommender: Recommender) -> None:
    whole = recommender.recommend("u1", Query(k=99, exclude_seen=False))
    unseen = recommender.recommend("u1", Query(k=99))
    assert len(whole) == 24
    assert len(unseen) == 20


def test_a_user_without_history_is_served_by_popularity(recommender: Recommender) -> None:
    found = ids(recommender.recommend("u6", Query(k=3)))
    assert found == ["f0", "f1", "f2"]


@pytest.mark.parametrize("mode", ["hybrid", "content"])
@pytest.mark.parametrize("wish", [{"need": "a love story"}, {"interests": ("a love story",)}])
def test_a_user_without_history_is_served_by_need_and_interests(
    recommender: Recommender, mode: str, wish: dict
) -> None:
    found = recommender.recommend("u6", Query(k=4, mode=mode, popularity_damping=1.0, **wish))
    assert all(int(line.item_id[1:]) % 3 == 1 for line in found)


def test_content_without_anything_known_falls_back_on_popularity(recommender: Recommender) -> None:
    assert ids(recommender.recommend("u6", Query(k=3, mode="content"))) == ["f0", "f1", "f2"]


def test_content_ranks_by_texts_alone(make_recommender: MakeRecommender) -> None:
    other = Statistics(np.arange(24.0), np.arange(0), np.zeros((0, 0)))
    query = Query(k=24, mode="content")
    with_one, with_other = make_recommender(), make_recommender(statistics=other, adapted=False)
    assert ids(with_one.recommend("u0", query)) == ids(with_other.recommend("u0", query))


def test_behaviour_does_not_read_the_texts_of_a_need(recommender: Recommender) -> None:
    with pytest.raises(ConfigError, match="behaviour takes no need"):
        recommender.recommend("u0", Query(mode="behaviour", need="a love story"))
    assert "need" not in recommender.recommend("u0", Query(mode="behaviour"))[0].parts


def test_full_damping_takes_popularity_out(recommender: Recommender) -> None:
    for line in recommender.recommend("u0", Query(popularity_damping=1.0)):
        assert line.parts["popularity"] == 0.0


def test_a_need_moves_the_list_and_blank_words_do_not(recommender: Recommender) -> None:
    plain = recommender.recommend("u0", Query())
    assert recommender.recommend("u0", Query(need=" ", interests=("",))) == plain
    assert ids(recommender.recommend("u0", Query(need="robots in space"))) != ids(plain)


def test_a_new_item_is_recommended_at_once(
    make_recommender: MakeRecommender, catalogue: Catalogue, statistics: Statistics
) -> None:
    grown = Catalogue(
        (*catalogue.item_ids, "new"),
        (*catalogue.titles, "Rockets to Saturn"),
        {
            "year": (*catalogue.attributes["year"], "2026"),
            "genres": (*catalogue.attributes["genres"], "Science Fiction"),
        },
    )
    floor = float(statistics.log_popularity.min())
    unseen = replace(statistics, log_popularity=np.append(statistics.log_popularity, floor))
    found = make_recommender(catalogue=grown, statistics=unseen).recommend(
        "u6", Query(k=3, need="a rocket to Saturn")
    )
    assert "new" in ids(found)


def test_filters_hold_and_leave_everything_else_that_is_allowed(recommender: Recommender) -> None:
    filters = (Filter("genres", ("romance",)), Filter("year", least=1990.0))
    found = recommender.recommend("u0", Query(k=99, filters=filters))
    seen = {"f16"}
    assert set(ids(found)) == {f"f{p}" for p in range(10, 24) if p % 3 == 1} - seen


def test_diversity_keeps_the_first_and_makes_the_list_less_alike(recommender: Recommender) -> None:
    def alike(lines: list) -> float:
        rows = recommender.scorer.vectors[[int(line.item_id[1:]) for line in lines]]
        return float(np.triu(rows @ rows.T, 1).sum())

    plain = recommender.recommend("u0", Query(k=6))
    varied = recommender.recommend("u0", Query(k=6, diversity=0.7))
    assert varied[0] == plain[0]
    assert alike(varied) < alike(plain)


@pytest.mark.parametrize(
    ("query", "words"),
    [
        (Query(k=0), "at least one"),
        (Query(diversity=1.5), "diversity is 1.5"),
        (Query(popularity_damping=-0.1), "popularity_damping is -0.1"),
        (Query(mode="generative"), "none is loaded"),
        (Query(mode="generative", diversity=0.5), "takes no diversity"),
        (Query(filters=(Filter("colour", ("red",)),)), "has title, year, genres"),
        (Query(filters=(Filter("title", least=1.0),)), "title is no number"),
    ],
)
def test_a_query_that_makes_no_sense_is_refused(
    recommender: Recommender, query: Query, words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        recommender.recommend("u0", query)


def test_unknown_users_and_items_are_named(recommender: Recommender) -> None:
    with pytest.raises(DataError, match="no user 'u99'; it has 7, among them u0, u1"):
        recommender.recommend("u99", Query())
    with pytest.raises(DataError, match="no item 'x'"):
        recommender.recommend(["f1", "x"], Query())
    with pytest.raises(DataError, match="no item 'y'"):
        recommender.explain("u0", ["y"], Query())


def test_generated_lists_exclude_what_was_seen_or_is_filtered_out(
    recommender: Recommender,
) -> None:
    asked = []

    def generate(row: np.ndarray, need: str | None, k: int, closed: np.ndarray) -> list:
        asked.append((row.tolist(), need, k, set(closed.tolist())))
        return [(7, -0.5)]

    able = replace(recommender, generate=generate)
    filters = (Filter("genres", ("romance",)),)
    query = Query(k=2, mode="generative", need="love", interests=("sea",), filters=filters)
    (line,) = able.recommend("u0", query)
    ((row, need, k, closed),) = asked
    assert (row, need, k) == ([0, 3, 12, 16], "love; sea", 2)
    assert closed == {p for p in range(24) if p % 3 != 1} | {16}
    assert (line.item_id, line.score, line.parts) == ("f7", -0.5, {"generated": -0.5})
    with pytest.raises(ConfigError, match="has no reasons"):
        able.explain("u0", ["f7"], query)


def test_no_text_of_a_need_is_kept(
    recommender: Recommender, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TACIT_CACHE", str(tmp_path / "cache"))
    recommender.recommend("u0", Query(need="something only I would ask"))
    recommender.explain("u0", ["f7"], Query(need="something only I would ask"))
    assert not (tmp_path / "cache").exists()


def test_no_rating_is_predicted_where_none_were_learnt(recommender: Recommender) -> None:
    assert recommender.predict_ratings("u0", ["f1"]) is None


def test_a_predicted_rating_is_the_users_own_mean_and_what_the_head_says_of_the_item(
    recommender: Recommender, settings: Config
) -> None:
    model = settings.model.model_copy(update={"rating_weight": 1.0})
    scorer = recommender.scorer
    head = np.zeros((1, scorer.vectors.shape[1] + 1), dtype=np.float32)
    arrays = {"rating_head.linear.weight": head, "rating_head.linear.bias": np.zeros(1, np.float32)}
    changed = replace(
        scorer,
        config=settings.model_copy(update={"model": model}),
        adapter={**(scorer.adapter or {}), **arrays},
    )
    rated = replace(recommender, scorer=changed)
    # Their ratings are 5, 4, 3 and 2; of a history in hand none is known.
    assert rated.predict_ratings("u0", ["f1", "f2"]) == pytest.approx([3.5, 3.5])
    assert rated.predict_ratings(["f1"], ["f2"]) == pytest.approx([3.0])


def test_a_user_is_read_by_the_model_once(
    make_recommender: MakeRecommender, monkeypatch: pytest.MonkeyPatch
) -> None:
    recommender, read = make_recommender(), []
    states = Scorer.states

    def counted(self: Scorer, *arguments: object) -> object:
        read.append(arguments)
        return states(self, *arguments)

    monkeypatch.setattr(Scorer, "states", counted)
    first = recommender.recommend("u0", Query(k=3))
    assert recommender.recommend("u0", Query(k=3)) == first
    recommender.recommend("u0", Query(need="robots"))
    assert len(read) == 1
    recommender.recommend(["f0"], Query())
    recommender.recommend("u1", Query())
    assert len(read) == 3
