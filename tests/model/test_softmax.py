"""A large catalogue's normaliser is estimated by public items, without bias and row by row."""

import math
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import pytest
import torch
from torch import Tensor

from client.trainer import Trainable, private_steps, user_rows
from shared.adapters import adapter_arrays, load_arrays
from shared.config import TrainingSection
from shared.histories import PrivateHistories
from shared.plan import Mechanism
from shared.randomness import from_operating_system
from shared.softmax import Candidates, next_item_losses, public_candidates
from shared.user_model import Rows, UserModel, row_losses

POSITIONS, ITEMS, DIM = 6, 40, 8
TEMPERATURE = 0.2


class World(Protocol):
    """See the fixture of that name."""

    items: Tensor
    prior: Tensor
    histories: PrivateHistories


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def scene() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Directions, targets, items and a prior."""
    generator = seeded(3)
    direction, items = (
        torch.nn.functional.normalize(torch.randn(n, DIM, generator=generator), dim=-1)
        for n in (POSITIONS, ITEMS)
    )
    targets = torch.randint(ITEMS, (POSITIONS,), generator=generator)
    return direction, targets, items, torch.randn(ITEMS, generator=generator)


def scores(scene: tuple[Tensor, Tensor, Tensor, Tensor]) -> Tensor:
    direction, _, items, prior = scene
    return direction @ items.T / TEMPERATURE + prior


def test_over_the_whole_catalogue_a_loss_is_minus_the_log_softmax(
    scene: tuple[Tensor, Tensor, Tensor, Tensor],
) -> None:
    expected = -torch.log_softmax(scores(scene), dim=1)[torch.arange(POSITIONS), scene[1]]
    torch.testing.assert_close(next_item_losses(*scene, TEMPERATURE), expected)


def test_a_catalogue_that_is_not_too_large_is_not_sampled() -> None:
    assert public_candidates(torch.zeros(20), 20, seeded(0)) is None
    assert public_candidates(torch.zeros(21), 20, seeded(0)) is not None


def test_the_most_popular_stand_for_themselves_and_the_others_for_all_the_rest() -> None:
    prior = torch.linspace(1.0, 0.0, 100)[torch.randperm(100, generator=seeded(1))]
    drawn = public_candidates(prior, 20, seeded(2))
    assert drawn is not None
    exact = drawn.places[drawn.log_stands_for == 0.0]
    assert set(exact.tolist()) == set(prior.topk(10).indices.tolist())
    assert len(set(drawn.places.tolist())) == 20
    stands_for = drawn.log_stands_for[drawn.log_stands_for != 0.0].exp()
    torch.testing.assert_close(stands_for, torch.full((10,), 9.0))


def test_a_draw_follows_from_public_figures_and_differs_from_step_to_step() -> None:
    prior, generator = torch.randn(100, generator=seeded(0)), seeded(5)
    draws = [public_candidates(prior, 20, g) for g in (generator, generator, seeded(5))]
    places = [draw.places.tolist() for draw in draws if draw is not None]
    assert places[0] == places[2]
    assert places[0] != places[1]


def test_the_estimated_normaliser_is_right_on_average(
    scene: tuple[Tensor, Tensor, Tensor, Tensor],
) -> None:
    direction, targets, items, prior = scene
    exact = scores(scene).exp().sum(dim=1).double()
    own = scores(scene)[torch.arange(POSITIONS), targets].double()
    estimates = []
    for draw in range(4000):
        found = public_candidates(prior, 16, seeded(draw))
        losses = next_item_losses(direction, targets, items, prior, TEMPERATURE, found)
        estimates.append((losses.double() + own).exp())
    values = torch.stack(estimates)
    deviation = values.std(dim=0) / math.sqrt(len(values))
    assert bool((deviation > 0).all())
    # Six positions, five deviations: a false alarm in 300,000.
    assert bool(((values.mean(dim=0) - exact).abs() < 5 * deviation).all())


def test_what_a_user_has_is_no_rival_of_the_target(
    scene: tuple[Tensor, Tensor, Tensor, Tensor],
) -> None:
    direction, targets, items, prior = scene
    had = torch.tensor([[0, 3], [0, 7], [4, 3]])
    left_in = scores(scene)
    for position, item in had.tolist():
        assert int(targets[position]) != item
        left_in[position, item] = -torch.inf
    expected = -torch.log_softmax(left_in, dim=1)[torch.arange(POSITIONS), targets]
    arguments = (direction, targets, items, prior, TEMPERATURE)
    torch.testing.assert_close(next_item_losses(*arguments, had=had), expected)
    everything = Candidates(torch.arange(ITEMS), torch.zeros(ITEMS))
    torch.testing.assert_close(next_item_losses(*arguments, everything, had), expected)


def test_rivals_leave_out_the_window_up_to_the_position_and_never_the_target(
    build: Callable[..., UserModel], world: World
) -> None:
    # The target after 3 is 5 again: what comes back stays a target.
    history = np.array([5, 3, 5, 9])
    rows = Rows(torch.tensor([history[:-1].tolist()]), torch.tensor([history[1:].tolist()]))
    model = build()
    hidden = model(world.items[rows.inputs].float())[0]
    logits = torch.nn.functional.normalize(hidden, dim=-1) @ world.items.T / 0.1 + world.prior
    for position, left_out in enumerate(([5], [3], [5, 3])):
        logits[position, left_out] = -torch.inf
    expected = torch.nn.functional.cross_entropy(logits, rows.targets[0])
    torch.testing.assert_close(row_losses(model, rows, world.items, world.prior, 0.1)[0], expected)


def test_a_target_among_the_candidates_counts_once(
    scene: tuple[Tensor, Tensor, Tensor, Tensor],
) -> None:
    direction, targets, items, prior = scene
    places = torch.arange(ITEMS)
    everything = Candidates(places, torch.zeros(ITEMS))
    torch.testing.assert_close(
        next_item_losses(direction, targets, items, prior, TEMPERATURE, everything),
        next_item_losses(direction, targets, items, prior, TEMPERATURE),
    )


def test_with_candidates_a_rows_loss_knows_nothing_of_other_rows(
    build: Callable[..., UserModel], world: World
) -> None:
    model = build()
    drawn = public_candidates(world.prior, 10, seeded(1))
    rows = user_rows(world.histories, np.array([0, 2, 3]), 8, "cpu")
    together = row_losses(model, rows, world.items, world.prior, 0.1, drawn)
    for place, user in enumerate((0, 2, 3)):
        alone = user_rows(world.histories, np.array([user]), 8, "cpu")
        one = row_losses(model, alone, world.items, world.prior, 0.1, drawn)
        torch.testing.assert_close(one[0], together[place])


def updates(
    trainable: Trainable,
    world: World,
    most: int,
    seed: int,
    users: Sequence[int] | None = None,
) -> np.ndarray:
    start = adapter_arrays(trainable.model)
    update = private_steps(
        trainable,
        world.histories if users is None else world.histories.select(users),
        world.items,
        world.prior,
        Mechanism("step", 1.0, 0.0, 0.5),
        1,
        9,
        8,
        "automatic",
        TrainingSection(softmax_items=most),
        from_operating_system(),
        public_seed=seed,
    )
    load_arrays(trainable.model, start)
    return np.concatenate([update.arrays[name].ravel() for name in sorted(update.arrays)])


def test_a_private_step_takes_its_candidates_from_the_public_seed(
    wrapped: Trainable, world: World
) -> None:
    whole = updates(wrapped, world, 25, 0)
    np.testing.assert_array_equal(updates(wrapped, world, 25, 1), whole)
    sampled = updates(wrapped, world, 10, 0)
    np.testing.assert_array_equal(updates(wrapped, world, 10, 0), sampled)
    assert not np.array_equal(updates(wrapped, world, 10, 1), sampled)
    assert not np.array_equal(sampled, whole)
    # Six users with a loss, each of norm 0.5, over nine declared: no draw moves further.
    assert np.linalg.norm(sampled) < 7 * 0.5 / 9


def test_a_sampled_step_is_the_sum_of_what_each_user_adds_alone(
    wrapped: Trainable, world: World
) -> None:
    together = updates(wrapped, world, 10, 0)
    alone = [updates(wrapped, world, 10, 0, [user]) for user in range(len(world.histories))]
    np.testing.assert_allclose(together, np.sum(alone, axis=0), atol=1e-6)
