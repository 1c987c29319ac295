"""Frozen weights in eight bits under trained adapters; torchao, where it is installed, for real."""

import gc
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import shared.devices as devices
from client.checks import verify_gradients, verify_reload
from client.trainer import Trainable
from shared.adapters import adapter_arrays
from shared.config import Config, parse_config
from shared.devices import Runtime, choose_runtime
from shared.encoder import centred
from shared.errors import AssetError, ConfigError, ModelError
from shared.histories import PrivateHistories
from shared.models import load_model
from shared.quantised import hold_in_eight_bits
from shared.scoring import Scorer
from shared.statistics import Statistics
from shared.user_model import UserModel

FAMILIES = ("bert", "llama")


@pytest.fixture
def make_config(tiny_bases: dict[str, Path]) -> Callable[[str], Config]:
    pytest.importorskip("torchao")

    def make(family: str, precision: str = "int8") -> Config:
        base = {"name": str(tiny_bases[family]), "precision": precision}
        run = {"device": "cpu", "threads": 1}
        return parse_config({"base": base, "run": run, "model": {"layers": 2}}, "test")

    return make


def frozen_layers(model: UserModel) -> dict[str, torch.Tensor]:
    return {n: p for n, p in model.named_parameters() if "base_layer.weight" in n}


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_on_weights_of_eight_bits_are_per_user(
    make_config: Callable[..., Config], family: str
) -> None:
    loaded = load_model(make_config(family))
    assert verify_gradients(Trainable.of(loaded.model, loaded.runtime)) < 1e-4
    assert verify_reload(loaded) < 1e-4


@pytest.mark.parametrize("family", FAMILIES)
def test_all_adapted_layers_and_nothing_else_are_rounded(
    make_config: Callable[..., Config], family: str
) -> None:
    rounded = frozen_layers(load_model(make_config(family)).model)
    exact = frozen_layers(load_model(make_config(family, "float32")).model)
    assert rounded.keys() == exact.keys()
    for name, weight in exact.items():
        other = rounded[name]
        assert type(other) is not type(weight)
        assert not other.requires_grad
        # Half a step of 255 over twice the greatest number of a row.
        step = weight.abs().amax(dim=1, keepdim=True) / 127
        off = (other.dequantize() - weight).abs()  # type: ignore[attr-defined]
        assert off.max() > 0.0
        assert bool((off <= 0.51 * step).all())


def test_nothing_of_the_base_s_file_stays_mapped(
    make_config: Callable[..., Config], tmp_path: Path
) -> None:
    config = make_config("llama")
    # Of its own, for others hold models of the shared one.
    folder = shutil.copytree(config.base.name, tmp_path / "base")
    base = config.base.model_copy(update={"name": str(folder)})
    loaded = load_model(config.model_copy(update={"base": base}))
    gc.collect()
    assert loaded.model.trained
    assert str(folder) not in Path("/proc/self/maps").read_text()


def test_both_sides_start_from_the_same_adapter(make_config: Callable[..., Config]) -> None:
    rounded = load_model(make_config("llama"))
    exact = load_model(make_config("llama", "float32"))
    assert rounded.sha256 == exact.sha256
    assert rounded.model.input_scale == exact.model.input_scale
    assert adapter_arrays(rounded.model).keys() == adapter_arrays(exact.model).keys()


def test_an_adapter_is_not_rounded_away_by_merging(
    make_config: Callable[..., Config], make_histories: Callable[..., PrivateHistories]
) -> None:
    config = make_config("llama")
    loaded = load_model(config)
    draw = np.random.default_rng(0)
    vectors = centred(draw.normal(size=(20, loaded.hidden_size)).astype(np.float32))
    nothing = Statistics(np.zeros(20), np.empty(0, dtype=np.int64), np.empty((0, 0)))
    # Large enough to count, and far below a step of the weights.
    adapter = {
        name: value + 0.01 * draw.normal(size=value.shape).astype(np.float32)
        for name, value in loaded.initial.items()
    }
    plain = Scorer(config, nothing, vectors, adapter, loaded.model, loaded.runtime)
    users, history = np.zeros(1, dtype=np.int64), make_histories([[3, 1, 2]])
    found = plain.with_merged_adapter().states(history, users)
    assert found == pytest.approx(plain.states(history, users))
    without = replace(plain, adapter=loaded.initial).states(history, users)
    assert np.abs(found - without).max() > 1e-4


def test_eight_bits_without_torchao_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    with pytest.raises(AssetError, match=r"pip install .*tacit\[int8\]"):
        hold_in_eight_bits(nn.ModuleList([nn.Linear(4, 4)]))


def test_layers_that_cannot_be_rounded_are_refused() -> None:
    with pytest.raises(ModelError, match="nothing would be rounded"):
        hold_in_eight_bits(nn.ModuleList([nn.LayerNorm(4)]))


def test_products_over_weights_of_eight_bits_are_taken_as_by_auto() -> None:
    chosen = choose_runtime("cpu", "int8", 1)
    assert chosen == Runtime("cpu", choose_runtime("cpu", "auto", 1).precision, "int8")


def test_eight_bits_on_a_gpu_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices.torch.cuda, "is_available", lambda: True)
    with pytest.raises(ConfigError, match="processors only"):
        choose_runtime("cuda", "int8", 1)
