"""The rating head: rows are users' own, clipped with the adapter, saved beside it, checked."""

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import PeftModel
from safetensors.numpy import load_file, save_file
from torch import Tensor, nn

from client.canaries import Canaries
from client.checks import verify_gradients, verify_reload
from client.trainer import Trainable, private_steps, user_rows
from shared.adapters import (
    HEAD_FILE,
    Arrays,
    adapter_arrays,
    frozen_sha256,
    load_adapter,
    load_arrays,
    save_adapter,
)
from shared.assets import resolve_base
from shared.config import ModelSection, TrainingSection, parse_config
from shared.devices import Runtime
from shared.errors import ConfigError, DataError, FederationError, ModelError, RunError
from shared.histories import PrivateHistories
from shared.models import load_model
from shared.plan import Mechanism
from shared.randomness import from_seed
from shared.ratings import (
    BIAS,
    HEAD,
    WEIGHT,
    RatingHead,
    RatingScale,
    mean_ratings,
    overall_mean,
    predicted_ratings,
    rating_errors,
    residuals,
    standardised,
)
from shared.splits import leave_one_out, temporal
from shared.user_model import Rows, UserModel, build_user_model, load_backbone, row_losses

FLOAT32 = Runtime("cpu", "float32")
FAMILIES = ("bert", "llama", "gpt2")
WINDOW = 8
DECLARED = 11
NAN = float("nan")
SCALE = RatingScale(1.0, 5.0)
WEIGHT_OF_ERRORS = 3.0
SILENT = Mechanism("step", 1.0, 0.0, 0.5)
TRAINED_ROWS = (0, 1, 2, 3, 4, 5, 8)

BuildRated = Callable[..., UserModel]


class World(Protocol):
    """See the fixture of that name."""

    items: Tensor
    prior: Tensor
    histories: PrivateHistories


@pytest.fixture(scope="module")
def build_rated(tiny_bases: dict[str, Path]) -> BuildRated:
    """A fresh user model with a head; all that is trained is random, for at 0 many faults hide."""

    def fresh(family: str = "bert", adapter: str = "ffa-lora", weight: float = 3.0) -> UserModel:
        options = ModelSection.model_validate(
            {"adapter": adapter, "rank": 4, "layers": 2, "rating_weight": weight}
        )
        base = resolve_base(str(tiny_bases[family]))
        model = build_user_model(base, options, FLOAT32, 0)
        random = np.random.default_rng(1)
        drawn = {
            name: random.normal(0.0, 0.05, tuple(p.shape)).astype(np.float32)
            for name, p in model.trained.items()
        }
        load_arrays(model, drawn)
        return model

    return fresh


@pytest.fixture(scope="module")
def rated(world: World) -> PrivateHistories:
    """The users of the world with ratings; a third of their interactions have none."""
    return with_ratings(world.histories, 3)


def with_ratings(histories: PrivateHistories, seed: int) -> PrivateHistories:
    random = np.random.default_rng(seed)
    ratings = random.integers(1, 6, size=len(histories.items)).astype(np.float32)
    ratings[random.random(len(ratings)) < 1 / 3] = np.nan
    return dataclasses.replace(histories, ratings=ratings)


def rated_histories(rows: Sequence[Sequence[float]]) -> PrivateHistories:
    """Users with these ratings of items 0, 1, 2, ... in order of time."""
    lengths = [len(row) for row in rows]
    return PrivateHistories(
        user_ids=tuple(str(user) for user in range(len(rows))),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        items=np.array([item for row in rows for item in range(len(row))], dtype=np.int64),
        times=np.arange(sum(lengths), dtype=np.float64),
        ratings=np.array([rating for row in rows for rating in row], dtype=np.float32),
    )


def loss_by_hand(
    model: UserModel,
    world: World,
    history: npt.NDArray[np.int64],
    ratings: npt.NDArray[np.float32],
) -> Tensor:
    """One user's loss, position by position, with nobody else and no padding."""
    assert model.rating_head is not None
    row, own = torch.from_numpy(history[-(WINDOW + 1) :].copy()), ratings[-(WINDOW + 1) :]
    hidden = model(world.items[row[:-1]][None])[0]
    direction = nn.functional.normalize(hidden, dim=-1)
    logits = direction @ world.items.T / model.temperature + world.prior
    for place, target in enumerate(row[1:].tolist()):
        for had in set(row[: place + 1].tolist()) - {target}:
            logits[place, had] = -torch.inf
    chosen = torch.log_softmax(logits, dim=-1)[torch.arange(len(row) - 1), row[1:]]
    prior = world.prior.double()
    standing = (prior - prior.mean()) / prior.std(unbiased=False)
    errors = []
    for place in range(len(row) - 1):
        if np.isnan(own[place + 1]):
            continue
        before = [float(r) for r in own[: place + 1] if not np.isnan(r)]
        mean = sum(before) / len(before) if before else 3.0
        item = world.items[row[place + 1]]
        features = torch.cat([item, standing[row[place + 1]].float()[None]])
        linear = model.rating_head.linear
        predicted = features @ linear.weight[0] + linear.bias[0]
        errors.append((predicted - (float(own[place + 1]) - mean) / 2.0) ** 2)
    squared = torch.stack(errors).mean() if errors else torch.zeros(())
    return -chosen.mean() + WEIGHT_OF_ERRORS * squared


def ratings_of(histories: PrivateHistories, user: int) -> npt.NDArray[np.float32]:
    assert histories.ratings is not None
    return histories.ratings[histories.offsets[user] : histories.offsets[user + 1]]


def gradients(
    trainable: Trainable, world: World, histories: PrivateHistories, users: Sequence[int]
) -> list[dict[str, npt.NDArray[np.float64]]]:
    """Per-row gradients from the hooks, by parameter, one table a row."""
    rows = user_rows(histories, np.array(users), WINDOW, "cpu")
    with trainable.runtime.autocast():
        losses = row_losses(
            trainable.wrapped, rows, world.items, world.prior, trainable.model.temperature
        )
    torch.autograd.backward(losses.sum())
    trained: dict[str, Any] = trainable.model.trained
    found = [
        {name: p.grad_sample[row].double().numpy() for name, p in trained.items()}
        for row in range(len(users))
    ]
    for parameter in trained.values():
        parameter.grad, parameter.grad_sample = None, None
    return found


def relative(value: npt.NDArray[np.float64], expected: npt.NDArray[np.float64]) -> float:
    return float(np.linalg.norm(value - expected) / np.linalg.norm(expected))


def step(
    trainable: Trainable,
    world: World,
    histories: PrivateHistories,
    *,
    clipping: str = "flat",
    canaries: Canaries | None = None,
    mechanism: Mechanism = SILENT,
) -> Arrays:
    """One update from the model's present adapter, which is put back."""
    start = adapter_arrays(trainable.model)
    update = private_steps(
        trainable,
        histories,
        world.items,
        world.prior,
        mechanism,
        1,
        DECLARED,
        WINDOW,
        clipping,
        TrainingSection(micro_batch_rows=4, step_size=1.0),
        from_seed(5),
        canaries,
    )
    load_arrays(trainable.model, start)
    return update.arrays


def flat(arrays: Arrays) -> npt.NDArray[np.float64]:
    return np.concatenate([arrays[name].ravel() for name in sorted(arrays)]).astype(np.float64)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("adapter", ["ffa-lora", "lora"])
def test_rows_with_ratings_equal_autograd(
    build_rated: BuildRated, world: World, rated: PrivateHistories, family: str, adapter: str
) -> None:
    together = gradients(
        Trainable.of(build_rated(family, adapter), FLOAT32), world, rated, TRAINED_ROWS
    )
    plain = build_rated(family, adapter)
    for row, user in zip(together, TRAINED_ROWS, strict=True):
        loss = loss_by_hand(plain, world, rated.row(user), ratings_of(rated, user))
        names = list(plain.trained)
        alone = torch.autograd.grad(
            loss, [plain.trained[n] for n in names], allow_unused=True, materialize_grads=True
        )
        expected = {n: g.double().numpy() for n, g in zip(names, alone, strict=True)}
        assert relative(flat(row), flat(expected)) < 1e-4
        # On its own: beside the adapter's gradient a wrong one of the head might not show.
        for name in (WEIGHT, BIAS):
            np.testing.assert_allclose(row[name], expected[name], rtol=1e-3, atol=1e-6)


def test_bfloat16_rows_are_each_users_own_to_its_precision(
    build_rated: BuildRated, world: World, rated: PrivateHistories
) -> None:
    coarse = Trainable.of(build_rated(), Runtime("cpu", "bfloat16"))
    together = gradients(coarse, world, rated, [3, 0, 2])
    plain = build_rated()
    for row, user in zip(together, (3, 0, 2), strict=True):
        loss = loss_by_hand(plain, world, rated.row(user), ratings_of(rated, user))
        head = [plain.trained[WEIGHT], plain.trained[BIAS]]
        expected = torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, head)])
        found = np.concatenate([row[WEIGHT].reshape(-1), row[BIAS]])
        assert relative(found, expected.double().numpy()) < 0.1


def test_one_users_ratings_change_no_other_row(
    build_rated: BuildRated, world: World, rated: PrivateHistories
) -> None:
    trainable = Trainable.of(build_rated(), FLOAT32)
    users = [0, 2, 3, 5]
    start, end = rated.offsets[3], rated.offsets[4]
    assert rated.ratings is not None
    found = []
    for values in ([1.0, 2.0], [5.0, 1.0], [NAN, NAN]):
        ratings = rated.ratings.copy()
        ratings[start:end] = np.resize(values, end - start)
        changed = dataclasses.replace(rated, ratings=ratings)
        found.append([flat(row) for row in gradients(trainable, world, changed, users)])
    for others in found[1:]:
        for place in (0, 1, 3):
            assert relative(others[place], found[0][place]) < 1e-6
        assert relative(others[2], found[0][2]) > 1e-3


@settings(max_examples=20, deadline=None)
@given(
    user=st.integers(0, 8),
    clipping=st.sampled_from(["flat", "automatic"]),
    far=st.sampled_from([5.0, 1e30]),
)
def test_one_rating_user_moves_the_sum_by_at_most_the_clipping_norm(
    build_rated: BuildRated,
    world: World,
    rated: PrivateHistories,
    user: int,
    clipping: str,
    far: float,
) -> None:
    """Also one whose ratings lie far outside the scale, before a head with a large weight."""
    assert rated.ratings is not None
    trainable = Trainable.of(build_rated(weight=1000.0), FLOAT32)
    ratings = rated.ratings.copy()
    ratings[rated.offsets[user] : rated.offsets[user + 1]] = far
    whole = dataclasses.replace(rated, ratings=ratings)
    rest = whole.select([place for place in range(len(whole)) if place != user])
    one, other = (flat(step(trainable, world, h, clipping=clipping)) for h in (whole, rest))
    bound = SILENT.sensitivity / DECLARED
    # Beyond it only by float32 rounding of the other rows, which are batched anew.
    assert np.linalg.norm(one - other) <= bound * (1 + 1e-4)


@pytest.mark.parametrize("ratings", ["none", "all missing"])
def test_without_ratings_the_adapters_update_is_that_of_a_model_without_a_head(
    build_rated: BuildRated, world: World, ratings: str
) -> None:
    histories = world.histories
    if ratings == "all missing":
        missing = np.full(len(histories.items), np.nan, dtype=np.float32)
        histories = dataclasses.replace(histories, ratings=missing)
    with_head = step(Trainable.of(build_rated(), FLOAT32), world, histories)
    without = step(Trainable.of(build_rated(weight=0.0), FLOAT32), world, histories)
    assert {name for name in with_head if name not in without} == {WEIGHT, BIAS}
    for name, value in without.items():
        np.testing.assert_allclose(with_head[name], value, rtol=0, atol=1e-8)
    assert not with_head[WEIGHT].any()
    assert not with_head[BIAS].any()


def test_a_head_starts_at_zero_and_learns_where_there_are_ratings(
    tiny_bases: dict[str, Path], world: World, rated: PrivateHistories
) -> None:
    options = ModelSection.model_validate({"rank": 4, "rating_weight": 1.0})
    model = build_user_model(resolve_base(str(tiny_bases["bert"])), options, FLOAT32, 0)
    assert not any(value.any() for n, value in adapter_arrays(model).items() if n.startswith(HEAD))
    trainable = Trainable.of(model, FLOAT32)
    mechanism = dataclasses.replace(SILENT, sensitivity=2.0)
    before = [float(loss) for loss in rating_losses(model, world, rated)]
    for _ in range(30):
        update = step(trainable, world, rated, mechanism=mechanism)
        load_arrays(model, {n: v + update[n] for n, v in adapter_arrays(model).items()})
    assert sum(rating_losses(model, world, rated)) < 0.9 * sum(before)


def rating_losses(model: UserModel, world: World, histories: PrivateHistories) -> list[float]:
    assert model.rating_head is not None
    rows = user_rows(histories, np.array(TRAINED_ROWS), WINDOW, "cpu")
    with torch.no_grad():
        found = model.rating_head.losses(world.items, rows.targets, world.prior, rows.ratings)
    return [float(loss) for loss in found]


def test_residuals_are_from_the_mean_so_far_in_halves_of_the_scale() -> None:
    ratings = torch.tensor([[NAN, 5.0, 3.0, NAN, 9.0], [1.0, 2.0, 0.0, NAN, NAN]])
    found, rated = residuals(ratings, SCALE)
    # First row: nothing known (middle 3), then means 5, 4, 4; the 9 counts as a 5.
    assert found.tolist() == [[1.0, -1.0, 0.0, 0.5], [0.5, -0.25, 0.0, 0.0]]
    assert rated.tolist() == [[True, True, False, True], [True, True, False, False]]


def test_a_row_carries_the_ratings_of_its_window() -> None:
    histories = rated_histories([[1, 2, 3, 4, 5, 1], [4, 2]])
    rows = user_rows(histories, np.array([1, 0]), window=3, device="cpu")
    assert rows.inputs.tolist() == [[0, 1, 0], [2, 3, 4]]
    assert rows.ratings is not None
    assert rows.ratings[1].tolist() == [3, 4, 5, 1]
    assert rows.ratings[0, :2].tolist() == [4, 2]
    assert rows.ratings[0, 2:].isnan().all()


@pytest.mark.parametrize("family", FAMILIES)
def test_the_check_before_training_passes_a_head(build_rated: BuildRated, family: str) -> None:
    assert verify_gradients(Trainable.of(build_rated(family), FLOAT32)) < 1e-5


def test_the_check_before_training_sees_ratings_measured_against_other_users(
    build_rated: BuildRated, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = RatingHead.losses

    def of_the_batch(self: RatingHead, *arguments: Any) -> Tensor:
        losses = own(self, *arguments)
        return losses * losses.mean()

    monkeypatch.setattr(RatingHead, "losses", of_the_batch)
    with pytest.raises(ModelError, match="row-by-row"):
        verify_gradients(Trainable.of(build_rated(), FLOAT32))


def test_the_check_before_training_sees_a_head_that_the_hooks_do_not_reach(
    build_rated: BuildRated,
) -> None:
    trainable = Trainable.of(build_rated(), FLOAT32)
    head = trainable.model.rating_head
    assert head is not None
    head.linear._forward_hooks.clear()
    head.linear._backward_hooks.clear()
    with pytest.raises(ModelError, match="no per-user gradients"):
        verify_gradients(trainable)


@pytest.mark.parametrize("adapter", ["ffa-lora", "lora"])
def test_canaries_ride_on_the_head_and_leave_no_trace(
    build_rated: BuildRated, world: World, rated: PrivateHistories, adapter: str
) -> None:
    trainable = Trainable.of(build_rated("bert", adapter), FLOAT32)
    trained = list(trainable.model.trained.values())
    canaries = Canaries.on_adapter(sum(p.numel() for p in trained), "run", 1, trained)
    assert canaries is not None
    of_head = sum(p.numel() for n, p in trainable.model.trained.items() if n.startswith(HEAD))
    first = sum(p.numel() for p in trained) - of_head
    assert (canaries.places[: canaries.members] >= first).any()
    mechanism = dataclasses.replace(SILENT, noise_multiplier=1.0)
    with_them, without = (
        flat(step(trainable, world, rated, canaries=chosen, mechanism=mechanism))
        for chosen in (canaries, None)
    )
    np.testing.assert_allclose(with_them, without, rtol=0, atol=1e-6 * np.abs(without).max())


def test_a_saved_head_comes_back_and_peft_loads_the_adapter_beside_it(
    build_rated: BuildRated, tiny_bases: dict[str, Path], world: World, tmp_path: Path
) -> None:
    model = build_rated()
    save_adapter(model, tmp_path, "the card", 0.5)
    again, reliability = load_adapter(build_rated(), tmp_path)
    arrays = adapter_arrays(model)
    assert reliability == 0.5
    assert again.keys() == arrays.keys()
    assert all(np.array_equal(again[name], arrays[name]) for name in arrays)
    assert set(load_file(tmp_path / HEAD_FILE)) == {WEIGHT, BIAS}
    assert not any(HEAD in n for n in load_file(tmp_path / "adapter_model.safetensors"))
    peft = PeftModel.from_pretrained(load_backbone(tiny_bases["bert"], 2, "top"), tmp_path)
    reloaded = UserModel(peft, model.input_scale, model.temperature).eval()
    with torch.no_grad():
        torch.testing.assert_close(
            reloaded(world.items[None, :5]), model.eval()(world.items[None, :5])
        )


def test_a_model_without_a_head_saves_none_and_removes_an_earlier_one(
    build_rated: BuildRated, tmp_path: Path
) -> None:
    save_adapter(build_rated(), tmp_path, "", 1.0)
    assert (tmp_path / HEAD_FILE).exists()
    save_adapter(build_rated(weight=0.0), tmp_path, "", 1.0)
    assert not (tmp_path / HEAD_FILE).exists()
    load_adapter(build_rated(weight=0.0), tmp_path)


def test_a_head_that_is_not_there_is_refused(build_rated: BuildRated, tmp_path: Path) -> None:
    save_adapter(build_rated(weight=0.0), tmp_path, "", 1.0)
    with pytest.raises(RunError, match=r"rating_head\.safetensors: is not there.*rating_weight"):
        load_adapter(build_rated(), tmp_path)


def test_a_head_that_is_no_safetensors_file_is_refused(
    build_rated: BuildRated, tmp_path: Path
) -> None:
    save_adapter(build_rated(), tmp_path, "", 1.0)
    (tmp_path / HEAD_FILE).write_bytes(b"not tensors")
    with pytest.raises(RunError, match=r"rating_head\.safetensors: cannot be read"):
        load_adapter(build_rated(), tmp_path)


@pytest.mark.parametrize("fault", ["not finite", "shape", "missing", "strange"])
def test_a_head_that_does_not_fit_is_refused(
    build_rated: BuildRated, tmp_path: Path, fault: str
) -> None:
    save_adapter(build_rated(), tmp_path, "", 1.0)
    head = load_file(tmp_path / HEAD_FILE)
    if fault == "not finite":
        head[WEIGHT][0, 0] = np.inf
    elif fault == "shape":
        head[WEIGHT] = head[WEIGHT][:, 1:].copy()
    elif fault == "missing":
        del head[BIAS]
    else:
        head["backbone.other"] = head[BIAS]
    save_file(head, tmp_path / HEAD_FILE)
    with pytest.raises(FederationError, match="adapter array"):
        load_adapter(build_rated(), tmp_path)


def test_without_a_head_names_and_hash_are_those_of_a_model_that_never_had_one(
    tiny_bases: dict[str, Path],
) -> None:
    def loaded(**model: Any) -> Any:
        values = {
            "base": {"name": str(tiny_bases["bert"]), "precision": "float32"},
            "run": {"threads": 1, "device": "cpu"},
            "model": {"rank": 4} | model,
        }
        return load_model(parse_config(values, "test"))

    bare = loaded()
    old = bare.options.model_dump_json(exclude={"rating_weight", "rating_low", "rating_high"})
    assert "rating" not in old
    digest = hashlib.sha256()
    weights = bare.encoder.weights_sha256
    for part in (weights, weights, frozen_sha256(bare.model), old):
        digest.update(part.encode() + b"\0")
    assert bare.sha256 == digest.hexdigest()
    assert loaded(rating_high=10.0).sha256 == bare.sha256
    assert all(".lora_B." in name for name in bare.initial)
    heads = [loaded(rating_weight=1.0), loaded(rating_weight=2.0)]
    heads.append(loaded(rating_weight=1.0, rating_high=10.0))
    assert len({bare.sha256, *(head.sha256 for head in heads)}) == 4
    assert [name for name in heads[0].initial if name not in bare.initial] == [BIAS, WEIGHT]


def test_the_reload_check_passes_a_model_with_a_head(tiny_bases: dict[str, Path]) -> None:
    values = {
        "base": {"name": str(tiny_bases["bert"]), "precision": "float32"},
        "run": {"threads": 1, "device": "cpu"},
        "model": {"rank": 4, "rating_weight": 1.0},
    }
    assert verify_reload(load_model(parse_config(values, "test"))) < 1e-5


@pytest.mark.parametrize(("low", "high"), [(5.0, 1.0), (3.0, 3.0)])
def test_a_scale_without_extent_is_refused(low: float, high: float) -> None:
    with pytest.raises(ConfigError, match="rating_low must be below rating_high"):
        parse_config({"model": {"rating_low": low, "rating_high": high}}, "test")


def test_a_negative_weight_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"model\.rating_weight"):
        parse_config({"model": {"rating_weight": -1.0}}, "test")


def test_predictions_are_the_heads_own_with_the_users_mean_added_back(
    build_rated: BuildRated, world: World
) -> None:
    model = build_rated()
    assert model.rating_head is not None
    places, means = np.array([7, 0, 19]), np.array([2.5, 3.0, 3.5])
    found = predicted_ratings(
        adapter_arrays(model),
        SCALE,
        means,
        world.items.numpy(),
        world.prior.double().numpy(),
        places,
    )
    with torch.no_grad():
        own = model.rating_head(
            world.items[places][None], standardised(world.prior)[places][None]
        ).numpy()
    expected = means[:, None] + 2.0 * own
    assert np.abs(expected - means[:, None]).max() > 0.02
    np.testing.assert_allclose(found, np.clip(expected, 1.0, 5.0), atol=1e-5)


def test_predictions_stay_within_the_scale_and_are_the_mean_before_any_training() -> None:
    vectors, popularity = np.eye(3, dtype=np.float32), np.zeros(3)
    adapter = {
        WEIGHT: np.zeros((1, 4), dtype=np.float32),
        BIAS: np.zeros(1, dtype=np.float32),
    }
    means, places = np.array([4.5, 1.25]), np.arange(3)

    def predict() -> npt.NDArray[np.float32]:
        return predicted_ratings(adapter, SCALE, means, vectors, popularity, places)

    assert predict().tolist() == [[4.5] * 3, [1.25] * 3]
    adapter[BIAS][0] = 0.5
    assert predict().tolist() == [[5.0] * 3, [2.25] * 3]
    adapter[BIAS][0] = -9.0
    assert predict().tolist() == [[1.0] * 3, [1.0] * 3]


def test_constant_popularity_says_nothing() -> None:
    assert standardised(torch.full((4,), -3.0)).tolist() == [0.0] * 4
    found = standardised(torch.tensor([1.0, 2.0, 3.0, 6.0]))
    assert abs(float(found.mean())) < 1e-6
    assert float(found.std(unbiased=False)) == pytest.approx(1.0)


def test_a_users_mean_is_of_the_ratings_that_there_are_and_else_the_middle() -> None:
    histories = rated_histories([[1, 2, 9], [NAN, 4], [NAN], [2]])
    assert mean_ratings(histories, SCALE).tolist() == pytest.approx([8 / 3, 4.0, 3.0, 2.0])
    assert overall_mean(histories, SCALE) == pytest.approx((1 + 2 + 5 + 4 + 2) / 5)
    bare = dataclasses.replace(histories, ratings=None)
    assert mean_ratings(bare, RatingScale(0.0, 10.0)).tolist() == [5.0] * 4
    with pytest.raises(DataError, match="no training interaction has a rating"):
        overall_mean(bare, SCALE)


def test_errors_are_over_the_users_whose_item_has_a_rating() -> None:
    given = np.array([5.0, NAN, 1.0, 7.0], dtype=np.float32)
    errors = rating_errors(np.array([4.0, 1.0, 3.0, 5.0]), given, SCALE)
    assert len(errors) == 3
    assert errors.mae == pytest.approx(1.0)
    assert errors.rmse == pytest.approx((5 / 3) ** 0.5)
    with pytest.raises(DataError, match="none of the 4 held-out"):
        rating_errors(np.zeros(4), np.full(4, NAN, dtype=np.float32), SCALE)


def test_a_split_carries_the_rating_of_its_target() -> None:
    histories = rated_histories([[1, 2, 3, 4], [5], [2, 3]])
    assert leave_one_out(histories, "test").rating is not None
    for part, expected in (("test", [4.0, NAN, 3.0]), ("validation", [3.0, NAN, NAN])):
        found = leave_one_out(histories, part).rating  # type: ignore[arg-type]
        assert found is not None
        np.testing.assert_array_equal(found, np.array(expected, dtype=np.float32))
    assert leave_one_out(dataclasses.replace(histories, ratings=None), "test").rating is None


def test_a_temporal_split_carries_the_rating_of_its_target() -> None:
    histories = rated_histories([[float(1 + place % 5) for place in range(20)]])
    split = temporal(histories, "test")
    assert histories.ratings is not None
    assert split.rating is not None
    assert split.rating[0] == histories.ratings[int(split.target[0])] == 4.0


def test_rows_without_ratings_still_run_the_head(build_rated: BuildRated, world: World) -> None:
    model = build_rated()
    rows = Rows(torch.tensor([[1, 2]]), torch.tensor([[2, 3]]))
    one = row_losses(model, rows, world.items, world.prior, model.temperature)
    other = row_losses(build_rated(weight=0.0), rows, world.items, world.prior, model.temperature)
    torch.testing.assert_close(one, other)
