"""Canaries see the noise, the clipping and the sampling of a release, and leave no trace in it."""

import dataclasses
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from client.canaries import Canaries, noised_sum
from client.trainer import BELOW_NORM, PrivateOptimizer, Trainable, private_steps, private_sum
from shared.adapters import adapter_arrays, load_arrays
from shared.canaries import CanaryRecord
from shared.config import StatisticsSection, TrainingSection
from shared.errors import RunError
from shared.histories import PrivateHistories
from shared.plan import Mechanism, Noise, PrivacyPlan
from shared.randomness import PrivateRandom, from_seed
from shared.statistics import cooccurrence_sum, popularity_sum, triangle_size
from shared.user_model import Rows

MakeHistories = Callable[[Sequence[Sequence[int]]], PrivateHistories]
WINDOW = 8
COUNT = 200
NORM = 0.5
DECLARED = 11
SILENT = Mechanism("step", 1.0, 0.0, NORM)
SHARED = Mechanism("step", 1.0, 1.0, NORM, 6**-0.5, "discrete", 23)


class World(Protocol):
    """See the fixture of that name."""

    items: Tensor
    prior: Tensor
    histories: PrivateHistories


def plan_of(mechanism: Mechanism, steps: int = 1) -> PrivacyPlan:
    plan = PrivacyPlan(None, None, None, None, steps, 1e-5, None, Noise.OWN)
    return dataclasses.replace(plan, **{mechanism.name: mechanism})


def train(
    model: Trainable,
    world: World,
    mechanism: Mechanism,
    canaries: Canaries | None,
    *,
    steps: int = 1,
    clipping: str = "flat",
) -> npt.NDArray[np.float64]:
    """The update of seeded steps from the model's present adapter, which is put back."""
    start = adapter_arrays(model.model)
    update = private_steps(
        model,
        world.histories,
        world.items,
        world.prior,
        mechanism,
        steps,
        DECLARED,
        WINDOW,
        clipping,
        TrainingSection(micro_batch_rows=4, step_size=1.0),
        from_seed(5),
        canaries,
    )
    load_arrays(model.model, start)
    return np.concatenate([update.arrays[name].ravel() for name in sorted(start)]).astype(float)


def on_adapter(model: Trainable, round_number: int = 1) -> Canaries:
    trained = list(model.model.trained.values())
    canaries = Canaries.on_adapter(COUNT, "run", round_number, trained)
    assert canaries is not None
    return canaries


def seen(
    model: Trainable, world: World, mechanism: Mechanism = SILENT, **options: Any
) -> CanaryRecord:
    canaries = on_adapter(model)
    train(model, world, mechanism, canaries, **options)
    return canaries.record(mechanism, plan_of(mechanism))


@pytest.mark.parametrize("clipping", ["flat", "automatic"])
def test_an_update_with_canaries_is_the_one_without(
    wrapped: Trainable, world: World, clipping: str
) -> None:
    mechanism = dataclasses.replace(SILENT, noise_multiplier=1.0)
    with_them, without = (
        train(wrapped, world, mechanism, canaries, steps=3, clipping=clipping)
        for canaries in (on_adapter(wrapped), None)
    )
    np.testing.assert_allclose(with_them, without, rtol=0, atol=1e-6 * np.abs(without).max())


def secure_sum(
    model: Trainable, world: World, canaries: Canaries | None
) -> npt.NDArray[np.float64]:
    """A seeded sum of one step, as it is masked afterwards."""
    return private_sum(
        model,
        world.histories,
        world.items,
        world.prior,
        SHARED,
        DECLARED,
        WINDOW,
        "flat",
        TrainingSection(micro_batch_rows=4),
        from_seed(5),
        canaries,
    )


def test_a_secure_sum_with_canaries_is_the_one_without_but_for_its_grid(
    wrapped: Trainable, world: World
) -> None:
    with_them, without = (
        secure_sum(wrapped, world, canaries) for canaries in (on_adapter(wrapped), None)
    )
    # Two roundings to a grid of 2 ** -24, that of half the norm 0.5.
    np.testing.assert_allclose(with_them, without, rtol=0, atol=2.0**-23)
    assert without.std() == pytest.approx(SHARED.deviation, rel=0.1)


def test_canaries_of_a_secure_sum_push_as_far_as_clipping_lets_them(
    wrapped: Trainable, world: World
) -> None:
    canaries = on_adapter(wrapped)
    secure_sum(wrapped, world, canaries)
    record = canaries.record(SHARED, plan_of(SHARED))
    pushed = (record.residuals * record.signs)[0]
    # The mean of 100 with noise of 0.41 norms each.
    assert pushed[: record.members].mean() == pytest.approx(1.0, abs=0.2)
    assert pushed[record.members :].mean() == pytest.approx(0.0, abs=0.2)
    assert record.residuals[0, record.members :].std() == pytest.approx(6**-0.5, rel=0.25)
    assert (record.noise_share, record.grid_bits) == (6**-0.5, 23)


@pytest.mark.parametrize("clipping", ["flat", "automatic"])
def test_members_push_as_far_as_clipping_lets_them_and_reserves_not_at_all(
    wrapped: Trainable, world: World, clipping: str
) -> None:
    record = seen(wrapped, world, clipping=clipping)
    pushed = (record.residuals * record.signs)[0]
    np.testing.assert_allclose(pushed[: record.members], BELOW_NORM, atol=1e-5)
    np.testing.assert_allclose(pushed[record.members :], 0.0, atol=1e-5)
    assert 0.3 < (record.signs == 1).mean() < 0.7


def test_only_members_that_were_sampled_push(wrapped: Trainable, world: World) -> None:
    record = seen(wrapped, world, dataclasses.replace(SILENT, sampling_rate=0.3), steps=5)
    pushed = (record.residuals * record.signs)[:, : record.members]
    np.testing.assert_allclose(pushed, record.sampled * BELOW_NORM, atol=1e-5)
    assert 0.2 < record.sampled.mean() < 0.4
    assert (record.batch_sizes >= record.sampled.sum(1)).all()
    assert record.people == record.members + len(world.histories)


def test_residuals_are_the_noise_that_was_drawn(
    wrapped: Trainable, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[npt.NDArray[np.float64]] = []
    draw = Mechanism.noise

    def keep(
        self: Mechanism, shape: tuple[int, ...], random: PrivateRandom
    ) -> npt.NDArray[np.float64]:
        drawn.append(draw(self, shape, random))
        return drawn[-1]

    monkeypatch.setattr(Mechanism, "noise", keep)
    canaries = on_adapter(wrapped)
    mechanism = dataclasses.replace(SILENT, noise_multiplier=2.0)
    train(wrapped, world, mechanism, canaries)
    record = canaries.record(mechanism, plan_of(mechanism))
    noise = np.concatenate([part.ravel() for part in drawn])[canaries.places] / NORM
    np.testing.assert_allclose(
        record.residuals[0, record.members :], noise[record.members :], atol=1e-5
    )


def test_several_rows_of_one_user_show_as_a_longer_push(
    wrapped: Trainable, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Example-level clipping: a long history as two windows, each clipped on its own."""
    from client import trainer

    one_window = trainer.user_rows

    def two_windows(
        histories: PrivateHistories,
        users: npt.NDArray[np.int64],
        window: int,
        device: str,
        rated: bool,
    ) -> Rows:
        rows = one_window(histories, users, window, device, rated)
        return Rows(rows.inputs.repeat(2, 1), rows.targets.repeat(2, 1))

    monkeypatch.setattr(trainer, "user_rows", two_windows)
    record = seen(wrapped, world)
    pushed = (record.residuals * record.signs)[0, : record.members]
    np.testing.assert_allclose(pushed, 2 * BELOW_NORM, atol=1e-5)


def test_a_sum_divided_by_the_sampled_batch_size_shows(
    wrapped: Trainable, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gradient of 3 sampled users in the place of 11 expected ones carries 11 / 3 the noise."""
    finish = PrivateOptimizer.finish_step

    def by_batch(self: PrivateOptimizer, canaries: Canaries | None = None) -> None:
        self.divisor = 3.0
        finish(self, canaries)

    mechanism = dataclasses.replace(SILENT, noise_multiplier=1.0)
    honest = seen(wrapped, world, mechanism)
    monkeypatch.setattr(PrivateOptimizer, "finish_step", by_batch)
    faulty = seen(wrapped, world, mechanism)
    ratio = (
        faulty.residuals[0, faulty.members :].std() / honest.residuals[0, honest.members :].std()
    )
    assert ratio > 3.0


def test_every_coordinate_has_one_canary_at_most(wrapped: Trainable) -> None:
    trained = list(wrapped.model.trained.values())
    everywhere = Canaries.on_adapter(10**6, "run", 1, trained)
    assert everywhere is not None
    assert sorted(everywhere.places) == list(range(sum(p.numel() for p in trained)))
    some = on_adapter(wrapped)
    assert len(np.unique(some.places)) == COUNT
    assert some.members == COUNT // 2


def test_places_depend_on_the_run_and_signs_on_the_round_too(
    wrapped: Trainable, world: World
) -> None:
    first, second = (seen(wrapped, world, steps=2) for _ in range(2))
    np.testing.assert_array_equal(first.signs, second.signs)
    assert (first.signs[0] != first.signs[1]).any()
    other = on_adapter(wrapped, round_number=2)
    np.testing.assert_array_equal(other.places, on_adapter(wrapped).places)
    train(wrapped, world, SILENT, other)
    assert (other.record(SILENT, plan_of(SILENT)).signs[0] != first.signs[0]).any()
    trained = list(wrapped.model.trained.values())
    another = Canaries.on_adapter(COUNT, "another run", 1, trained)
    assert another is not None
    assert set(another.places) != set(other.places)


KEYS = np.random.default_rng(0).integers(2**63, size=300).astype(np.uint64)
TOP = np.random.default_rng(1).permutation(300)[:40]


@pytest.fixture
def histories(make_histories: MakeHistories) -> PrivateHistories:
    """Fifty users over 300 items."""
    random = np.random.default_rng(2)
    return make_histories([random.integers(300, size=n).tolist() for n in range(50)])


def statistic(
    name: str, histories: PrivateHistories, rate: float = 1.0, sigma: float = 0.0
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], CanaryRecord]:
    """A seeded release with canaries, the one without, and what the canaries saw."""
    mechanism = Mechanism(name, rate, sigma, 1.0)
    if name == "popularity":
        canaries = Canaries.on_items(COUNT, "run", 0, KEYS)
    else:
        canaries = Canaries.on_pairs(COUNT, "run", 0, KEYS[TOP], TOP)

    def total(chosen: PrivateHistories) -> npt.NDArray[np.float64]:
        if name == "popularity":
            return popularity_sum(chosen, len(KEYS))
        return cooccurrence_sum(chosen, TOP, StatisticsSection())

    assert canaries is not None
    with_them = noised_sum(histories, total, mechanism, from_seed(3), canaries)
    without = noised_sum(histories, total, mechanism, from_seed(3))
    return with_them, without, canaries.record(mechanism, plan_of(mechanism))


@pytest.mark.parametrize("name", ["popularity", "cooccurrence"])
def test_a_statistic_with_canaries_is_the_one_without(
    histories: PrivateHistories, name: str
) -> None:
    with_them, without, _ = statistic(name, histories, sigma=1.0)
    assert len(without) == (300 if name == "popularity" else triangle_size(40))
    np.testing.assert_allclose(with_them, without, atol=1e-9)


@pytest.mark.parametrize("name", ["popularity", "cooccurrence"])
@pytest.mark.parametrize("rate", [0.4, 1.0])
def test_a_statistics_members_add_a_row_of_norm_one_if_they_are_sampled(
    histories: PrivateHistories, name: str, rate: float
) -> None:
    _, _, record = statistic(name, histories, rate)
    members = record.members
    np.testing.assert_allclose(record.residuals[0, :members], record.sampled[0], atol=1e-6)
    np.testing.assert_allclose(record.residuals[0, members:], 0.0, atol=1e-6)
    assert record.sampled.mean() == 1.0 if rate == 1.0 else 0.2 < record.sampled.mean() < 0.6


def test_a_statistic_that_counts_without_normalising_shows(histories: PrivateHistories) -> None:
    canaries = Canaries.on_items(COUNT, "run", 0, KEYS)
    assert canaries is not None
    mechanism = Mechanism("popularity", 1.0, 0.0, 1.0)

    def counted(chosen: PrivateHistories) -> npt.NDArray[np.float64]:
        return np.bincount(chosen.items, minlength=len(KEYS)).astype(float)

    noised_sum(histories, counted, mechanism, from_seed(0), canaries)
    record = canaries.record(mechanism, plan_of(mechanism))
    assert (record.residuals[0, : record.members] == 3.0).all()


def test_organisations_with_other_catalogues_have_reserves_at_the_same_keys() -> None:
    one = Canaries.on_items(150, "run", 0, KEYS[:250])
    two = Canaries.on_items(150, "run", 0, KEYS[50:][::-1].copy())
    assert one is not None
    assert two is not None
    reserves = [set(KEYS[:250][one.places[one.members :]].tolist())]
    reserves.append(set(KEYS[50:][::-1][two.places[two.members :]].tolist()))
    members = set(KEYS[:250][one.places[: one.members]].tolist())
    assert len(reserves[0] & reserves[1]) > 40
    assert not members & reserves[1]


def test_no_canaries_are_none() -> None:
    assert Canaries.on_items(0, "run", 0, KEYS) is None
    assert Canaries.on_pairs(0, "run", 0, KEYS[TOP], TOP) is None
    assert Canaries.on_adapter(0, "run", 0, [torch.nn.Parameter(torch.zeros(3))]) is None


def test_a_record_comes_back_and_only_its_owner_can_read_it(
    wrapped: Trainable, world: World, tmp_path: Path
) -> None:
    record = seen(wrapped, world, steps=2)
    path = record.save(tmp_path / "audit")
    assert path.name == "step-00001.safetensors"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    loaded = CanaryRecord.load(path)
    for field in dataclasses.fields(CanaryRecord):
        one, other = getattr(record, field.name), getattr(loaded, field.name)
        assert np.array_equal(one, other)


def test_a_record_of_a_further_attempt_has_a_file_of_its_own(
    wrapped: Trainable, world: World, tmp_path: Path
) -> None:
    canaries = on_adapter(wrapped)
    train(wrapped, world, SILENT, canaries)
    paths = [canaries.record(SILENT, plan_of(SILENT), attempt).save(tmp_path) for attempt in (0, 2)]
    assert [path.name for path in paths] == [
        "step-00001.safetensors",
        "step-00001-2.safetensors",
    ]
    assert [CanaryRecord.load(path).attempt for path in paths] == [0, 2]


def _no_share(record: CanaryRecord) -> CanaryRecord:
    return dataclasses.replace(record, noise_share=0.0)


def _no_grid(record: CanaryRecord) -> CanaryRecord:
    return dataclasses.replace(record, grid_bits=7)


def _wrong_dtype(record: CanaryRecord) -> CanaryRecord:
    return dataclasses.replace(record, signs=record.signs.astype(np.int64))


def _too_short(record: CanaryRecord) -> CanaryRecord:
    return dataclasses.replace(record, batch_sizes=record.batch_sizes[:1])


def _not_finite(record: CanaryRecord) -> CanaryRecord:
    return dataclasses.replace(record, residuals=record.residuals * np.float32(np.nan))


@pytest.mark.parametrize("damage", [_wrong_dtype, _too_short, _not_finite, _no_share, _no_grid])
def test_a_damaged_record_is_refused_by_name(
    wrapped: Trainable,
    world: World,
    tmp_path: Path,
    damage: Callable[[CanaryRecord], CanaryRecord],
) -> None:
    path = damage(seen(wrapped, world, steps=2)).save(tmp_path)
    with pytest.raises(RunError, match=r"step-00001\.safetensors: is no record of canaries"):
        CanaryRecord.load(path)


def test_what_is_no_record_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "step-00001.safetensors"
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(RunError, match=r"step-00001\.safetensors: is no record of canaries"):
        CanaryRecord.load(path)
