"""Adapters average exactly where A is frozen, come from one seed, and come back from disk."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pytest
import torch
from peft import PeftModel
from peft.tuners.lora import Linear
from safetensors.torch import load_file, save_file

from client.checks import verify_reload
from client.directory import trainable_model
from client.trainer import Trainable, private_steps
from shared.adapters import (
    Arrays,
    adapter_arrays,
    frozen_sha256,
    load_adapter,
    load_arrays,
    save_adapter,
)
from shared.config import TrainingSection, parse_config
from shared.devices import Runtime
from shared.errors import FederationError, ModelError, RunError
from shared.models import LoadedModel, load_model
from shared.plan import Mechanism
from shared.randomness import from_seed
from shared.user_model import UserModel

Build = Callable[..., UserModel]


@pytest.fixture(scope="module")
def loaded(tiny_bases: dict[str, Path]) -> LoadedModel:
    values = {
        "base": {"name": str(tiny_bases["bert"]), "precision": "float32"},
        "run": {"threads": 1, "device": "cpu"},
        "model": {"rank": 4},
    }
    return load_model(parse_config(values, "test"))


def random_arrays(model: UserModel, seed: int) -> Arrays:
    random = np.random.default_rng(seed)
    return {
        name: random.normal(size=tuple(p.shape)).astype(np.float32)
        for name, p in model.trained.items()
    }


def products(model: UserModel, arrays: Arrays) -> dict[str, npt.NDArray[np.float64]]:
    """What an adapter adds to each weight, ``scale * B @ A``, as PEFT itself computes it."""
    load_arrays(model, arrays)
    return {
        name: layer.get_delta_weight("default").detach().double().numpy()
        for name, layer in model.named_modules()
        if isinstance(layer, Linear)
    }


def difference_of_means(model: UserModel) -> float:
    """Mean of three clients' products against the product of the mean, relative to its size."""
    clients = [random_arrays(model, seed) for seed in (1, 2, 3)]
    mean = {
        name: np.stack([client[name] for client in clients]).mean(axis=0, dtype=np.float64)
        for name in clients[0]
    }
    averaged = products(model, {name: value.astype(np.float32) for name, value in mean.items()})
    each = [products(model, client) for client in clients]
    return max(
        float(np.abs(np.mean([e[name] for e in each], axis=0) - value).max() / np.abs(value).max())
        for name, value in averaged.items()
    )


def frozen_factors(model: UserModel) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in model.named_parameters() if ".lora_A." in n}


@pytest.mark.parametrize("family", ["bert", "llama", "gpt2"])
def test_the_mean_of_products_is_the_product_of_the_mean_where_a_is_frozen(
    build: Build, family: str
) -> None:
    assert difference_of_means(build(family, "ffa-lora")) < 1e-6


def test_the_mean_of_products_is_not_the_product_of_means_of_plain_lora(build: Build) -> None:
    assert difference_of_means(build("bert", "lora")) > 0.1


def test_one_seed_draws_the_same_factors_whatever_torch_drew_before(build: Build) -> None:
    torch.manual_seed(1)
    first = build(seed=4)
    torch.manual_seed(2)
    torch.rand(17)
    second = build(seed=4)
    for one, other in zip(
        frozen_factors(first).values(), frozen_factors(second).values(), strict=True
    ):
        assert torch.equal(one, other)
    assert frozen_sha256(first) == frozen_sha256(second)


def test_another_seed_draws_other_factors_and_the_hash_tells(build: Build) -> None:
    first, second = build(seed=4), build(seed=5)
    for one, other in zip(
        frozen_factors(first).values(), frozen_factors(second).values(), strict=True
    ):
        assert not torch.isclose(one, other).any()
    assert frozen_sha256(first) != frozen_sha256(second)


def test_the_hash_of_frozen_factors_sees_one_changed_bit_and_no_trained_value(build: Build) -> None:
    model = build()
    before = frozen_sha256(model)
    load_arrays(model, random_arrays(model, 9))
    assert frozen_sha256(model) == before
    factor = next(p for n, p in model.named_parameters() if ".lora_A." in n)
    factor.data[0, 0] = torch.nextafter(factor[0, 0], torch.tensor(1e9))
    assert frozen_sha256(model) != before


def test_no_two_layers_share_their_frozen_factors(build: Build) -> None:
    factors = [factor.flatten()[:64] for factor in frozen_factors(build()).values()]
    assert all(
        not torch.isclose(factors[i], factors[j]).any()
        for i in range(len(factors))
        for j in range(i)
    )


@pytest.mark.parametrize(("adapter", "trained"), [("ffa-lora", {"B"}), ("lora", {"A", "B"})])
def test_only_the_adapters_of_kept_layers_are_trained(
    build: Build, adapter: str, trained: set[str]
) -> None:
    model = build("bert", adapter)
    assert {name.split(".lora_")[1][0] for name in model.trained} == trained
    assert {name.split(".layer.")[1][0] for name in model.trained} == {"1", "2"}
    assert {n for n, p in model.named_parameters() if p.requires_grad} == set(model.trained)


def test_training_moves_the_trained_factors_alone(build: Build, world: Any) -> None:
    model = build()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    private_steps(
        Trainable.of(model, Runtime("cpu", "float32")),
        world.histories,
        world.items,
        world.prior,
        Mechanism("step", 1.0, 1.0, 1.0),
        1,
        9,
        8,
        "automatic",
        TrainingSection(),
        from_seed(1),
    )
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert moved == set(model.trained)


def test_arrays_are_copies(build: Build) -> None:
    model = build()
    arrays = adapter_arrays(model)
    name = next(iter(arrays))
    arrays[name] += 1.0
    assert not np.isclose(adapter_arrays(model)[name], arrays[name]).any()


def test_an_adapter_that_does_not_fit_sets_nothing(build: Build) -> None:
    model = build()
    before = adapter_arrays(model)
    bad = random_arrays(model, 5)
    bad[max(bad)][0, 0] = np.nan
    with pytest.raises(FederationError, match="not finite"):
        load_arrays(model, bad)
    assert all(np.array_equal(before[n], v) for n, v in adapter_arrays(model).items())


def test_a_saved_adapter_comes_back(build: Build, tmp_path: Path) -> None:
    model = build()
    arrays = random_arrays(model, 6)
    load_arrays(model, arrays)
    save_adapter(model, tmp_path / "adapter", "the card", 0.25)
    again, reliability = load_adapter(build(), tmp_path / "adapter")
    assert again.keys() == arrays.keys()
    assert all(np.array_equal(again[name], arrays[name]) for name in arrays)
    assert reliability == 0.25
    assert (tmp_path / "adapter" / "README.md").read_text() == "the card"


def test_nothing_that_is_saved_is_a_pickle(build: Build, tmp_path: Path) -> None:
    save_adapter(build(), tmp_path, "", 1.0)
    assert {file.suffix for file in tmp_path.iterdir()} == {".json", ".safetensors", ".md"}


def test_a_directory_without_an_adapter_is_refused(build: Build, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no adapter"):
        load_adapter(build(), tmp_path)


def test_the_reload_check_passes_a_sound_adapter_and_leaves_the_model_as_it_was(
    loaded: LoadedModel,
) -> None:
    before = adapter_arrays(loaded.model)
    assert verify_reload(loaded) < 1e-5
    assert all(np.array_equal(before[n], v) for n, v in adapter_arrays(loaded.model).items())


@pytest.mark.parametrize("loss", ["dropped", "zeroed", "halved"])
@pytest.mark.parametrize("factor", ["lora_A", "lora_B"])
def test_the_reload_check_sees_a_factor_that_saving_loses(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch, loss: str, factor: str
) -> None:
    save = PeftModel.save_pretrained

    def lossy(self: PeftModel, directory: str, **options: Any) -> None:
        save(self, directory, **options)
        file = Path(directory) / "adapter_model.safetensors"
        state = load_file(file)
        name = next(n for n in sorted(state) if factor in n)
        if loss == "dropped":
            del state[name]
        else:
            state[name] = state[name] * (0.0 if loss == "zeroed" else 0.5)
        save_file(state, file)

    monkeypatch.setattr(PeftModel, "save_pretrained", lossy)
    with pytest.raises(ModelError, match="saved and loaded"):
        verify_reload(loaded)


def test_a_model_is_trained_only_after_both_checks_and_checked_once(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []

    def fail(_: object) -> float:
        done.append("gradients")
        raise ModelError("the gradients are wrong")

    monkeypatch.setattr(loaded.model, "companion", None)
    monkeypatch.setattr(
        "client.directory.Trainable.of",
        lambda model, runtime: Trainable(model, cast(Any, None), runtime),
    )
    monkeypatch.setattr("client.directory.verify_reload", lambda _: done.append("reload"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("client.directory.verify_gradients", fail)
        for _ in range(2):
            with pytest.raises(ModelError, match="wrong"):
                trainable_model(loaded)
    assert done == ["gradients", "gradients"]
    monkeypatch.setattr("client.directory.verify_gradients", lambda _: done.append("gradients"))
    assert trainable_model(loaded) is trainable_model(loaded)
    assert done[2:] == ["gradients", "reload"]


def test_models_that_may_not_be_averaged_have_different_hashes(tiny_bases: dict[str, Path]) -> None:
    def sha(base: str = "bert", seed: int = 0, **model: Any) -> str:
        values = {
            "base": {"name": str(tiny_bases[base]), "precision": "float32"},
            "run": {"threads": 1, "device": "cpu", "seed": seed},
            "model": {"rank": 4} | model,
        }
        return load_model(parse_config(values, "test")).sha256

    others = [sha("llama"), sha(seed=1), sha(rank=2), sha(layers=1), sha(temperature=0.1)]
    assert len({sha(), *others}) == 1 + len(others)
    assert sha() == sha()
