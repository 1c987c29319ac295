"""Every row of gradients is one user's own, on tiny and real models, and the check sees faults."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from opacus import GradSampleModule
from torch import Tensor, nn

from client.checks import verify_gradients
from client.trainer import Trainable, user_rows
from shared.adapters import adapter_arrays
from shared.assets import resolve_base
from shared.config import ModelSection
from shared.devices import Runtime
from shared.errors import AssetError, ModelError
from shared.histories import PrivateHistories
from shared.user_model import Rows, UserModel, build_user_model, load_backbone, row_losses

Build = Callable[..., UserModel]
MakeHistories = Callable[[Sequence[Sequence[int]]], PrivateHistories]
GradientByHand = Callable[[UserModel, npt.NDArray[np.int64], int], Tensor]

WINDOW = 8
FAMILIES = ("bert", "llama", "gpt2")
FLOAT32 = Runtime("cpu", "float32")


class World(Protocol):
    """See the fixture of that name."""

    items: Tensor
    prior: Tensor
    histories: PrivateHistories


@pytest.fixture(scope="module")
def hooked(build: Build) -> dict[str, Trainable]:
    return {family: Trainable.of(build(family), FLOAT32) for family in FAMILIES}


@pytest.fixture(scope="module")
def plain(build: Build) -> dict[str, UserModel]:
    """The same models without hooks."""
    return {family: build(family) for family in FAMILIES}


def rows_of_gradients(
    trainable: Trainable, rows: Rows, items: Tensor, prior: Tensor
) -> npt.NDArray[np.float64]:
    """Per-row gradients from the hooks, ``[rows, parameters]``, parameters in order of name."""
    with trainable.runtime.autocast():
        losses = row_losses(trainable.wrapped, rows, items, prior, trainable.model.temperature)
    torch.autograd.backward(losses.sum())
    parameters: list[Any] = [trainable.model.trained[n] for n in sorted(trainable.model.trained)]
    result = torch.cat([p.grad_sample.reshape(len(losses), -1) for p in parameters], dim=1)
    for p in parameters:
        p.grad, p.grad_sample = None, None
    return result.double().numpy()


def of_users(
    trainable: Trainable,
    world: World,
    users: Sequence[int],
    histories: PrivateHistories | None = None,
) -> npt.NDArray[np.float64]:
    rows = user_rows(histories or world.histories, np.array(users), WINDOW, "cpu")
    return rows_of_gradients(trainable, rows, world.items, world.prior)


def relative(value: npt.NDArray[np.float64], expected: npt.NDArray[np.float64]) -> float:
    return float(np.linalg.norm(value - expected) / np.linalg.norm(expected))


def random_rows(generator: np.random.Generator, items: int, rows: int) -> Rows:
    """Windows of unequal lengths of 2 to 12 items, padded at the right."""
    lengths = generator.integers(2, 13, size=rows)
    inputs = torch.zeros((rows, int(lengths.max())), dtype=torch.int64)
    targets = torch.full_like(inputs, -1)
    for row, length in enumerate(lengths):
        inputs[row, :length] = torch.from_numpy(generator.integers(0, items, size=length))
        targets[row, :length] = torch.from_numpy(generator.integers(0, items, size=length))
    return Rows(inputs, targets)


def real_model(base: str, layers_from: str) -> UserModel:
    try:
        found = resolve_base(base)
    except AssetError as error:
        pytest.skip(str(error))
    options = ModelSection.model_validate({"layers": 2, "layers_from": layers_from})
    torch.set_num_threads(1)
    model = build_user_model(found, options, FLOAT32, seed=0)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.trained.values():
            parameter.copy_(0.02 * torch.randn(parameter.shape, generator=generator))
    return model


@settings(max_examples=25, deadline=None)
@given(
    users=st.lists(st.sampled_from([0, 1, 2, 3, 4, 5, 8]), min_size=1, max_size=6),
    family=st.sampled_from(FAMILIES),
)
def test_rows_equal_autograd_in_any_company(
    hooked: dict[str, Trainable],
    plain: dict[str, UserModel],
    world: World,
    gradient_by_hand: GradientByHand,
    users: list[int],
    family: str,
) -> None:
    together = of_users(hooked[family], world, users)
    for row, user in zip(together, users, strict=True):
        alone = gradient_by_hand(plain[family], world.histories.row(user), WINDOW)
        assert relative(row, alone.numpy()) < 1e-4


@pytest.mark.parametrize("family", FAMILIES)
def test_one_users_history_changes_no_other_row(
    hooked: dict[str, Trainable], world: World, make_histories: MakeHistories, family: str
) -> None:
    others = [[1, 2, 3], [4, 5, 6, 7, 8], [9, 9]]
    for history in ([0, 1], list(range(20)), [5] * 9):
        histories = make_histories([*others, history])
        rows = of_users(hooked[family], world, [0, 1, 2, 3], histories)
        alone = [of_users(hooked[family], world, [user], histories)[0] for user in range(4)]
        assert all(relative(rows[user], alone[user]) < 1e-5 for user in range(4))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("filler", [0, 17])
def test_padding_changes_nothing(
    hooked: dict[str, Trainable], world: World, family: str, filler: int
) -> None:
    inputs, targets = torch.tensor([[3, 1, 4]]), torch.tensor([[1, 4, 5]])
    short = Rows(inputs, targets)
    padding = torch.full((1, 30), filler)
    padded = Rows(
        torch.cat([inputs, padding], dim=1), torch.cat([targets, torch.full((1, 30), -1)], dim=1)
    )
    expected, found = (
        rows_of_gradients(hooked[family], rows, world.items, world.prior)
        for rows in (short, padded)
    )
    assert relative(found, expected) < 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_no_position_sees_a_later_one(
    plain: dict[str, UserModel], world: World, family: str
) -> None:
    first, other = world.items[[1, 2, 3, 4, 5]], world.items[[1, 2, 3, 9, 8]]
    with torch.no_grad():
        states = plain[family].train()(torch.stack([first, other]))
    torch.testing.assert_close(states[0, :3], states[1, :3], atol=1e-6, rtol=1e-6)
    assert not torch.allclose(states[0, 3:], states[1, 3:], atol=1e-2)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_attention_of_long_windows_and_gpus_gives_the_same_states_and_is_causal(
    tiny_bases: dict[str, Path], family: str
) -> None:
    assert Runtime("cuda", "bfloat16").attention(50) == "sdpa"
    assert FLOAT32.attention(50) == "eager"
    assert FLOAT32.attention(500) == "sdpa"
    states = []
    embedded = torch.randn(2, WINDOW, 32, generator=torch.Generator().manual_seed(0))
    for attention in ("eager", "sdpa"):
        model = load_backbone(tiny_bases[family], 2, "top", attention=attention).eval()
        states.append(model(inputs_embeds=embedded, use_cache=False).last_hidden_state)
    torch.testing.assert_close(states[1], states[0], atol=1e-5, rtol=1e-5)
    first = model(inputs_embeds=embedded[:, :3], use_cache=False).last_hidden_state
    torch.testing.assert_close(states[1][:, :3], first, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_bfloat16_gradients_are_each_rows_own_to_its_precision(
    build: Build,
    plain: dict[str, UserModel],
    world: World,
    gradient_by_hand: GradientByHand,
    family: str,
) -> None:
    coarse = Trainable.of(build(family), Runtime("cpu", "bfloat16"))
    together = of_users(coarse, world, [3, 0, 2, 5])
    for row, user in zip(together, (3, 0, 2, 5), strict=True):
        alone = gradient_by_hand(plain[family], world.histories.row(user), WINDOW)
        assert relative(row, alone.numpy()) < 0.1


@pytest.mark.parametrize(
    ("base", "layers_from"),
    [
        pytest.param("minilm", "top", id="minilm"),
        # Converted from GGUF on its first use on a machine.
        pytest.param("smollm2", "bottom", id="smollm2", marks=pytest.mark.slow),
    ],
)
def test_rows_of_a_real_model_equal_autograd(base: str, layers_from: str) -> None:
    """By our own comparison at three random batches, and by the check that runs before training."""
    model = real_model(base, layers_from)
    trainable = Trainable.of(model, FLOAT32)
    assert verify_gradients(trainable) < 1e-5

    random = np.random.default_rng(11)
    dim = next(iter(model.backbone.parameters())).shape[-1]
    drawn = torch.from_numpy(random.normal(size=(40, dim))).float()
    items, prior = nn.functional.normalize(drawn, dim=-1), torch.zeros(40)
    parameters = [model.trained[name] for name in sorted(model.trained)]
    for size in (1, 2, 5):
        rows = random_rows(random, 40, size)
        together = rows_of_gradients(trainable, rows, items, prior)
        trainable.wrapped.disable_hooks()
        for row in range(size):
            length = int((rows.targets[row] >= 0).sum())
            hidden = model(items[rows.inputs[row, :length]][None])[0]
            logits = nn.functional.normalize(hidden, dim=-1) @ items.T / model.temperature
            for place in range(length):
                rivals = set(rows.inputs[row, : place + 1].tolist())
                for had in rivals - {int(rows.targets[row, place])}:
                    logits[place, had] = -torch.inf
            loss = nn.functional.cross_entropy(logits, rows.targets[row, :length])
            alone = torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, parameters)])
            assert relative(together[row], alone.double().numpy()) < 1e-4
        trainable.wrapped.enable_hooks()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("adapter", ["ffa-lora", "lora"])
def test_the_check_passes_sound_gradients(build: Build, family: str, adapter: str) -> None:
    assert verify_gradients(Trainable.of(build(family, adapter), FLOAT32)) < 1e-5


def test_the_check_leaves_the_model_as_it_was(build: Build, world: World) -> None:
    trainable = Trainable.of(build(), FLOAT32)
    before, rows = adapter_arrays(trainable.model), of_users(trainable, world, [0, 2])
    verify_gradients(trainable)
    after = adapter_arrays(trainable.model)
    assert all(np.array_equal(before[name], after[name]) for name in before)
    np.testing.assert_array_equal(of_users(trainable, world, [0, 2]), rows)


def test_the_check_sees_dropout(build: Build) -> None:
    model = build()
    for part in model.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.1
    with pytest.raises(ModelError, match="nothing is trained"):
        verify_gradients(Trainable.of(model, FLOAT32))


def test_the_check_sees_gradients_scaled_by_the_batch(build: Build) -> None:
    model = build()
    scaled = GradSampleModule(model, loss_reduction="mean", strict=False)
    with pytest.raises(ModelError, match="row-by-row"):
        verify_gradients(Trainable(model.train(), scaled, FLOAT32))


def test_the_check_sees_hooks_that_return_the_mean_of_the_batch(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = GradSampleModule.GRAD_SAMPLERS[nn.Linear]

    def mean_of_the_batch(*args: Any) -> dict[nn.Parameter, Tensor]:
        return {p: rows.mean(0).expand_as(rows).clone() for p, rows in sound(*args).items()}

    trainable = Trainable.of(build(), FLOAT32)
    monkeypatch.setitem(GradSampleModule.GRAD_SAMPLERS, nn.Linear, mean_of_the_batch)
    with pytest.raises(ModelError, match="row-by-row"):
        verify_gradients(trainable)


def test_the_check_sees_gradients_that_are_no_numbers(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = GradSampleModule.GRAD_SAMPLERS[nn.Linear]

    def one_broken_row(*args: Any) -> dict[nn.Parameter, Tensor]:
        found = {p: rows.clone() for p, rows in sound(*args).items()}
        for rows in found.values():
            rows[1] = torch.nan
        return found

    trainable = Trainable.of(build(), FLOAT32)
    monkeypatch.setitem(GradSampleModule.GRAD_SAMPLERS, nn.Linear, one_broken_row)
    with pytest.raises(ModelError, match="row-by-row"):
        verify_gradients(trainable)


def test_the_check_sees_rows_that_see_each_other(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = UserModel.forward

    def centred_over_the_batch(self: UserModel, embedded: Tensor) -> Tensor:
        hidden = forward(self, embedded)
        return hidden - hidden.mean(0, keepdim=True) / 2

    monkeypatch.setattr(UserModel, "forward", centred_over_the_batch)
    with pytest.raises(ModelError, match="row-by-row"):
        verify_gradients(Trainable.of(build(), FLOAT32))


def test_the_check_sees_a_model_that_is_not_causal(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then a padded row differs from the same row alone."""
    forward = UserModel.forward

    def mean_of_the_window(self: UserModel, embedded: Tensor) -> Tensor:
        hidden = forward(self, embedded)
        return hidden + hidden.mean(1, keepdim=True)

    monkeypatch.setattr(UserModel, "forward", mean_of_the_window)
    with pytest.raises(ModelError, match="row-by-row"):
        verify_gradients(Trainable.of(build(), FLOAT32))
