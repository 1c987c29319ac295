"""Needs in words: what is said, and that each user's list is by that user's own words."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from shared.config import Config
from shared.scoring import Scorer
from shared.statistics import Floats, Statistics
from simulations.bench.asked import need_vectors, rank_asked, words_of
from simulations.world import World, build_world

MakeConfig = Callable[..., Config]


@pytest.fixture(scope="module")
def world(make_config: MakeConfig, tmp_path_factory: pytest.TempPathFactory) -> World:
    config = make_config(data={"source": "synthetic", "synthetic_users": 40})
    return build_world(config, tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def scorer(world: World) -> Scorer:
    loaded, popularity = world.loaded, np.linspace(1.0, 0.0, world.items)
    statistics = Statistics(popularity, np.array([2, 0]), np.array([[0.0, 1.0], [1.0, 0.0]]))
    return Scorer(
        world.config, statistics, world.vectors, loaded.initial, loaded.model, loaded.runtime
    )


def test_what_is_said_has_neither_title_nor_numbers(world: World) -> None:
    catalogue = replace(
        world.dataset.catalogue,
        attributes={
            "year": ("1995",) * world.items,
            "genres": ("Comedy, Drama",) * world.items,
            "price": ("3.50",) * world.items,
            "mood": (" ",) * world.items,
        },
    )
    assert words_of(catalogue, 3) == "Comedy, Drama"
    assert words_of(replace(catalogue, attributes={}), 3) == ""


def test_who_wants_nothing_says_nothing(world: World) -> None:
    found = need_vectors(world.dataset.catalogue, np.array([4, -1, 4]), world.loaded)
    assert np.linalg.norm(found, axis=1) == pytest.approx([1.0, 0.0, 1.0], abs=1e-5)
    assert found[0].tolist() == found[2].tolist()
    bare = replace(world.dataset.catalogue, attributes={})
    assert not need_vectors(bare, np.array([4]), world.loaded).any()


def test_each_user_is_ranked_by_the_own_need(world: World, scorer: Scorer) -> None:
    users = np.array([3, 0, 7])
    random = np.random.default_rng(0)
    needs = random.standard_normal((40, world.vectors.shape[1])).astype(np.float32)
    blend, part = scorer.blend(), world.test
    targets = scorer.targets(part.history, users, needs[users], blend)
    places = np.arange(world.items)
    together: Floats = np.sum(list(scorer.parts(targets, places).values()), axis=0)
    for row, user in enumerate(users):
        alone = scorer.fused(part.history, np.array([user]), needs[user], blend)[0]
        assert together[row] == pytest.approx(alone, abs=1e-3)


def test_a_need_helps_where_items_say_what_they_are(world: World, scorer: Scorer) -> None:
    found = rank_asked(world, scorer)
    assert set(found) == {"statistics", "unasked", "need", "texts", "federation"}
    assert found["federation"].per_user("mrr").mean() > found["unasked"].per_user("mrr").mean()
