"""A warm start: trained on public histories, written whole, and taken by the user model."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from typer import Typer
from typer.testing import CliRunner

from shared.config import Config
from shared.errors import ConfigError, RunError
from shared.models import load_model
from shared.wire import arrays_sha256
from simulations.federate import federate
from simulations.pretrain import Pretraining, pretrain
from simulations.pretrain_cli import pretrain_command
from simulations.world import World

MakeConfig = Callable[..., Config]

# A random base learns little at the rate that suits a real one.
FAST = 1e-2


@pytest.fixture(scope="module")
def warm(make_config: MakeConfig, tmp_path_factory: pytest.TempPathFactory) -> Pretraining:
    out = tmp_path_factory.mktemp("warm") / "start"
    return pretrain(make_config(), out, "CC0", epochs=4, learning_rate=FAST)


def test_the_held_out_loss_falls_and_the_best_epoch_is_kept(warm: Pretraining) -> None:
    assert min(warm.loss) < warm.loss[0] - 0.1
    assert warm.loss[warm.epochs] == min(warm.loss)


def test_training_judged_to_harm_leaves_the_base_as_it_was(
    make_config: MakeConfig,
    tiny_base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rising = itertools.count(1.0)
    monkeypatch.setattr("simulations.pretrain._loss", lambda *_: next(rising))
    found = pretrain(make_config(), tmp_path / "start", "CC0", epochs=5, learning_rate=FAST)
    # Two epochs without a gain are waited for, no more.
    assert (found.epochs, found.loss) == (0, (1.0, 2.0, 3.0))
    base = load_file(tiny_base / "model.safetensors")
    kept = load_file(found.directory / "model.safetensors")
    assert all(np.array_equal(base[name], kept[name]) for name in base)


def test_only_kept_layers_and_what_feeds_them_differ_from_the_base(
    warm: Pretraining, tiny_base: Path
) -> None:
    base = load_file(tiny_base / "model.safetensors")
    trained = load_file(warm.directory / "model.safetensors")
    assert trained.keys() == base.keys()
    changed = {name for name in base if not np.array_equal(base[name], trained[name])}
    layers = {name.split(".")[2] for name in changed if name.startswith("encoder.layer.")}
    assert layers == {"1", "2"}
    others = {name for name in changed if not name.startswith("encoder.layer.")}
    assert others == {
        "embeddings.position_embeddings.weight",
        "embeddings.token_type_embeddings.weight",
        "embeddings.LayerNorm.weight",
        "embeddings.LayerNorm.bias",
    }


def test_the_card_names_base_data_licence_and_hashes(
    warm: Pretraining, make_config: MakeConfig
) -> None:
    card = json.loads((warm.directory / "card.json").read_text())
    assert card["licence"] == "CC0"
    assert card["base_sha256"] == load_model(make_config()).encoder.weights_sha256
    assert card["users"] == 60
    assert card["epochs"] == warm.epochs


def test_a_federation_starts_from_the_warm_layers(
    warm: Pretraining, make_config: MakeConfig, world: World, tmp_path: Path
) -> None:
    config = make_config(model={"warm_start": str(warm.directory)}, privacy={"noise": "none"})
    cold, loaded = load_model(make_config()), load_model(config)
    name = "encoder.layer.2.output.dense"
    weights = {
        key: next(p for n, p in model.model.named_parameters() if name in n and "lora" not in n)
        for key, model in (("cold", cold), ("warm", loaded))
    }
    assert not np.array_equal(weights["cold"].detach(), weights["warm"].detach())
    assert loaded.sha256 != cold.sha256
    warm_world = World(config, world.dataset, world.organisations)
    outcome = federate(warm_world, config, tmp_path, "run")
    assert outcome.adapter is not None
    assert arrays_sha256(outcome.adapter) != arrays_sha256(loaded.initial)


def test_an_existing_directory_is_refused(make_config: MakeConfig, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="exists already"):
        pretrain(make_config(), tmp_path, "CC0")


def test_a_warm_start_is_not_pretrained_from(
    warm: Pretraining, make_config: MakeConfig, tmp_path: Path
) -> None:
    config = make_config(model={"warm_start": str(warm.directory)})
    with pytest.raises(ConfigError, match="warm_start"):
        pretrain(config, tmp_path / "out", "CC0")


def test_the_command_writes_the_warm_start_and_says_how_to_use_it(
    data: Path, tiny_base: Path, tmp_path: Path
) -> None:
    app = Typer()
    app.command("pretrain")(pretrain_command)
    options = ["--data", str(data), "--out", str(tmp_path / "start"), "--base", str(tiny_base)]
    result = CliRunner().invoke(app, [*options, "--epochs", "1", "--set", "run.threads=1"])
    assert result.exit_code == 0, result.output
    assert "--warm-start" in result.output
    assert (tmp_path / "start" / "model.safetensors").exists()
