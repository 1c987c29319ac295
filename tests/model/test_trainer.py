"""A private step is the noised sum of clipped gradients of users over a public number, no more."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor, nn

from client.trainer import (
    Trainable,
    Update,
    micro_batches,
    private_steps,
    user_rows,
)
from shared.adapters import adapter_arrays, load_arrays
from shared.config import TrainingSection
from shared.devices import Runtime
from shared.histories import PrivateHistories
from shared.plan import Mechanism
from shared.randomness import PrivateRandom, from_operating_system, from_seed
from shared.user_model import Rows, UserModel, row_losses

Build = Callable[..., UserModel]
GradientByHand = Callable[[UserModel, npt.NDArray[np.int64], int], Tensor]
MakeHistories = Callable[[Sequence[Sequence[int]]], PrivateHistories]


class World(Protocol):
    """See the fixture of that name."""

    items: Tensor
    prior: Tensor
    histories: PrivateHistories


WINDOW = 8
DECLARED = 11
SILENT = Mechanism("step", 1.0, 0.0, 0.5)


def run(
    model: Trainable,
    world: World,
    mechanism: Mechanism = SILENT,
    *,
    histories: PrivateHistories | None = None,
    declared: int = DECLARED,
    steps: int = 1,
    clipping: str = "flat",
    micro_batch_rows: int = 64,
    random: PrivateRandom | None = None,
) -> Update:
    """One update from the model's present adapter, which is put back."""
    start = adapter_arrays(model.model)
    update = private_steps(
        model,
        world.histories if histories is None else histories,
        world.items,
        world.prior,
        mechanism,
        steps,
        declared,
        WINDOW,
        clipping,
        TrainingSection(micro_batch_rows=micro_batch_rows, step_size=1.0),
        random or from_operating_system(),
    )
    load_arrays(model.model, start)
    return update


def flat(arrays: dict[str, npt.NDArray[np.float32]]) -> npt.NDArray[np.float64]:
    return np.concatenate([arrays[name].ravel() for name in sorted(arrays)]).astype(np.float64)


def clipped_by_hand(gradient: Tensor, bound: float, clipping: str) -> Tensor:
    factor = bound / float(gradient.norm())
    return gradient * (min(1.0, factor) if clipping == "flat" else factor)


@pytest.mark.parametrize("clipping", ["flat", "automatic"])
@pytest.mark.parametrize("family", ["bert", "llama", "gpt2"])
@pytest.mark.parametrize("adapter", ["ffa-lora", "lora"])
def test_a_step_without_noise_is_the_mean_of_clipped_gradients(
    build: Build,
    world: World,
    gradient_by_hand: GradientByHand,
    family: str,
    adapter: str,
    clipping: str,
) -> None:
    plain = build(family, adapter)
    gradients = [
        gradient_by_hand(plain, world.histories.row(user), WINDOW)
        for user in range(len(world.histories))
        if len(world.histories.row(user)) >= 2
    ]
    norms = torch.stack([g.norm() for g in gradients])
    bound = float(norms.median())
    assert norms.min() < bound < norms.max()
    total = torch.stack([clipped_by_hand(g, bound, clipping) for g in gradients]).sum(0)

    mechanism = dataclasses.replace(SILENT, sensitivity=bound)
    hooked = Trainable.of(build(family, adapter), Runtime("cpu", "float32"))
    update = flat(run(hooked, world, mechanism, clipping=clipping).arrays)
    np.testing.assert_allclose(update, -total.numpy() / DECLARED, atol=1e-4 * bound / DECLARED)


def test_a_broken_user_is_counted_and_changes_nobody_elses_part(
    wrapped: Trainable, world: World, make_histories: MakeHistories
) -> None:
    rows = [[1, 2, 3], [4, 5, 6, 7], [8, 9]]
    before = run(wrapped, world, histories=make_histories(rows))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("client.trainer.row_losses", _with_a_broken_row(item=11))
        after = run(wrapped, world, histories=make_histories([*rows, [11, 12, 13]]))
    assert (before.broken_rows, after.broken_rows) == (0, 1)
    np.testing.assert_allclose(flat(after.arrays), flat(before.arrays), atol=1e-6)


def _with_a_broken_row(item: int) -> Callable[..., Tensor]:
    def losses(model: nn.Module, rows: Rows, *rest: Any) -> Tensor:
        result = row_losses(model, rows, *rest)
        return result * torch.where(rows.inputs[:, 0] == item, float("nan"), 1.0)

    return losses


@pytest.mark.parametrize("rate", [0.25, 1.0])
def test_the_divisor_is_the_expected_sample_of_the_declared_size(
    wrapped: Trainable, world: World, monkeypatch: pytest.MonkeyPatch, rate: float
) -> None:
    """The same three users enter, whatever the sampling rate and the size that is declared."""
    monkeypatch.setattr(Mechanism, "sample", lambda *_: np.array([0, 2, 3]))
    mechanism = dataclasses.replace(SILENT, sampling_rate=rate)
    totals = [
        flat(run(wrapped, world, mechanism, declared=declared).arrays) * rate * declared
        for declared in (3, 10, 1000)
    ]
    np.testing.assert_allclose(totals[1], totals[0], atol=1e-5)
    np.testing.assert_allclose(totals[2], totals[0], atol=1e-3)


def test_micro_batches_change_the_sum_by_rounding_alone(wrapped: Trainable, world: World) -> None:
    one, all_at_once = (flat(run(wrapped, world, micro_batch_rows=rows).arrays) for rows in (1, 64))
    np.testing.assert_allclose(one, all_at_once, atol=1e-6)


@given(
    lengths=st.lists(st.integers(0, 20), max_size=30),
    rows=st.integers(1, 8),
    window=st.integers(2, 10),
)
def test_every_user_with_a_target_is_in_exactly_one_micro_batch(
    make_histories: MakeHistories, lengths: list[int], rows: int, window: int
) -> None:
    histories = make_histories([[0] * n for n in lengths])
    sampled = np.arange(len(lengths))[::2]
    groups = micro_batches(histories, sampled, window, rows)
    together = sorted(int(user) for group in groups for user in group)
    assert together == [user for user in sampled if lengths[user] >= 2]
    assert all(len(group) for group in groups)


@pytest.mark.parametrize("micro_batch_rows", [1, 64])
def test_noise_is_drawn_once_a_step_for_each_parameter(
    wrapped: Trainable, world: World, monkeypatch: pytest.MonkeyPatch, micro_batch_rows: int
) -> None:
    shapes: list[tuple[int, ...]] = []
    draw = Mechanism.noise

    def record(
        self: Mechanism, shape: tuple[int, ...], random: PrivateRandom
    ) -> npt.NDArray[np.float64]:
        shapes.append(shape)
        return draw(self, shape, random)

    monkeypatch.setattr(Mechanism, "noise", record)
    mechanism = dataclasses.replace(SILENT, noise_multiplier=1.0)
    run(wrapped, world, mechanism, steps=2, micro_batch_rows=micro_batch_rows)
    assert shapes == 2 * [tuple(p.shape) for p in wrapped.model.trained.values()]


@pytest.mark.parametrize("family", ["bert", "llama", "gpt2"])
@pytest.mark.parametrize("nobody", ["sampled", "trainable"])
def test_an_empty_sample_sends_noise_of_the_planned_deviation(
    build: Build, world: World, make_histories: MakeHistories, family: str, nobody: str
) -> None:
    """Wrong by chance once in a million runs; a user is sampled once in ten million."""
    model = Trainable.of(build(family), Runtime("cpu", "float32"))
    rate, declared = (1e-8, 300_000_000) if nobody == "sampled" else (0.5, 6)
    mechanism = Mechanism("step", rate, 4.0, 0.5, noise_share=0.25)
    histories = world.histories if nobody == "sampled" else make_histories([[], [3], []])
    noise = flat(run(model, world, mechanism, histories=histories, declared=declared).arrays)
    planned = 4.0 * 0.5 * 0.25 / 3.0
    statistic = ((noise / planned) ** 2).sum()
    assert stats.chi2.cdf(statistic, noise.size) > 0.5e-6
    assert stats.chi2.sf(statistic, noise.size) > 0.5e-6


def test_noise_of_two_steps_and_of_two_parameters_differs(wrapped: Trainable, world: World) -> None:
    loud = Mechanism("step", 1.0, 1e3, 1.0)
    first, second = (flat(run(wrapped, world, loud).arrays) for _ in range(2))
    assert stats.pearsonr(first, second).pvalue > 1e-6
    both = flat(run(wrapped, world, loud, steps=2).arrays)
    statistic = (both**2).sum() / (2 * (1e3 / DECLARED) ** 2)
    assert 0.5e-6 < stats.chi2.cdf(statistic, both.size) < 1 - 0.5e-6
    assert len(np.unique(np.abs(first))) > 0.99 * first.size


def test_two_steps_are_one_after_the_other(wrapped: Trainable, world: World) -> None:
    both = flat(run(wrapped, world, steps=2).arrays)
    first = run(wrapped, world).arrays
    start = adapter_arrays(wrapped.model)
    load_arrays(wrapped.model, {name: start[name] + first[name] for name in start})
    second = run(wrapped, world).arrays
    np.testing.assert_allclose(both, flat(first) + flat(second), atol=1e-6)


def test_a_run_with_seeded_noise_repeats(wrapped: Trainable, world: World) -> None:
    mechanism = Mechanism("step", 0.5, 1.0, 1.0)
    one, other = (flat(run(wrapped, world, mechanism, random=from_seed(5)).arrays) for _ in "ab")
    np.testing.assert_array_equal(one, other)


@settings(max_examples=20, deadline=None)
@given(
    user=st.integers(0, 8),
    clipping=st.sampled_from(["flat", "automatic"]),
)
def test_one_user_moves_the_sum_by_at_most_the_clipping_norm(
    build: Build,
    world: World,
    make_histories: MakeHistories,
    user: int,
    clipping: str,
) -> None:
    model = Trainable.of(build(), Runtime("cpu", "float32"))
    rows = [world.histories.row(place).tolist() for place in range(9)]
    sums = [
        flat(run(model, world, histories=make_histories(chosen), clipping=clipping).arrays)
        for chosen in (rows, rows[:user] + rows[user + 1 :])
    ]
    bound = SILENT.sensitivity / DECLARED
    # Beyond it only by float32 rounding of the other rows, which are batched anew.
    assert np.linalg.norm(sums[0] - sums[1]) <= bound * (1 + 1e-4)


def test_a_row_is_the_newest_window_and_what_followed(make_histories: MakeHistories) -> None:
    histories = make_histories([list(range(20)), [1, 2, 3]])
    rows = user_rows(histories, np.array([0, 1]), window=4, device="cpu")
    assert rows.inputs.tolist() == [[15, 16, 17, 18], [1, 2, 3, 0]]
    assert rows.targets.tolist() == [[16, 17, 18, 19], [2, 3, -1, -1]]
