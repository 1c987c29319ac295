"""What each organisation has by itself: its own users' histories, and nobody else's."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from client.recommend.own_pairs import with_own_pairs
from shared.config import Config
from shared.histories import PrivateHistories
from shared.metrics import Evaluation
from shared.scoring import Scorer
from shared.statistics import Statistics
from simulations.own import by_itself, personalised
from simulations.variants import with_sections
from simulations.world import World, build_world

MakeConfig = Callable[..., Config]


@pytest.fixture(scope="module")
def world(make_config: MakeConfig, tmp_path_factory: pytest.TempPathFactory) -> World:
    config = make_config(
        data={"source": "synthetic", "synthetic_users": 60, "synthetic_items": 50},
        partition={"organisations": 3},
    )
    own = with_sections(config, personalisation={"own_cooccurrence": 2.0, "least_users": 1})
    return build_world(own, tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def delivered(world: World) -> Scorer:
    statistics = Statistics(
        np.linspace(1.0, 0.0, world.items), np.array([2, 0]), np.array([[0.0, 1.0], [1.0, 0.0]])
    )
    return Scorer(world.config, statistics, world.vectors)


def ranks(found: Evaluation) -> dict[int, float]:
    return dict(zip(found.users.tolist(), found.ranks.tolist(), strict=True))


def without_items_of_others(world: World, number: int) -> World:
    """The same world, where all other organisations' users had one item again and again."""
    histories = world.dataset.histories
    mine = np.zeros(len(histories), dtype=bool)
    mine[world.organisations[number].users] = True
    items = np.where(np.repeat(mine, histories.lengths), histories.items, 7)
    changed = PrivateHistories(histories.user_ids, histories.offsets, items, histories.times)
    return World(world.config, replace(world.dataset, histories=changed), world.organisations)


@pytest.mark.parametrize("number", [0, 2])
def test_other_organisations_histories_change_nothing(
    world: World, delivered: Scorer, number: int
) -> None:
    changed = without_items_of_others(world, number)
    for before, after in (
        (by_itself(world, world.test), by_itself(changed, changed.test)),
        (
            personalised(world, world.test, delivered),
            personalised(changed, changed.test, delivered),
        ),
    ):
        mine = world.organisations[number].users.tolist()
        assert [ranks(before)[user] for user in mine] == [ranks(after)[user] for user in mine]
        others = set(ranks(before)) - set(mine)
        assert any(ranks(before)[user] != ranks(after)[user] for user in others)


def test_users_come_in_order_each_with_the_own_target(world: World, delivered: Scorer) -> None:
    for found in (by_itself(world, world.test), personalised(world, world.test, delivered)):
        assert found.users.tolist() == sorted(found.users.tolist())
        assert set(found.users) == set(np.flatnonzero(world.test.target >= 0))
        assert found.targets.tolist() == world.test.target[found.users].tolist()
        assert len(found.top) == len(found)


def test_a_user_is_ranked_by_the_delivery_and_the_pairs_of_the_own_house(
    world: World, delivered: Scorer
) -> None:
    found = ranks(personalised(world, world.test, delivered))
    for part in world.organisations:
        scorer = with_own_pairs(delivered, world.test.train.select(part.users))
        user = int(part.users[-1])
        scores = scorer.fused(world.test.history, np.array([user]))[0]
        target = world.test.target[user]
        others = np.setdiff1d(np.arange(world.items), [*world.test.history.row(user), target])
        better = (scores[others] > scores[target]).sum()
        equal = (scores[others] == scores[target]).sum()
        assert found[user] == pytest.approx(1.0 + better + equal / 2, abs=1.0)
