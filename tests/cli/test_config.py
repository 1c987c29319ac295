"""Configuration: from files, options and Flower, back again, and refused with a sentence."""

import importlib
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flwr.clientapp import ClientApp
from flwr.common.config import get_fused_config_from_dir
from flwr.serverapp import ServerApp
from hypothesis import given
from hypothesis import strategies as st

from shared.config import (
    Config,
    from_run_config,
    load_config,
    parse_config,
    to_run_config,
)
from shared.errors import ConfigError
from shared.sections import to_toml

Tacit = Callable[..., Any]

ROOT = Path(__file__).parents[2]

configs = st.builds(
    lambda seed, source, targets, epsilon, rounds, twin, weight: parse_config(
        {
            "run": {"seed": seed, "noise_free_twin": twin},
            "data": {"source": source},
            "model": {"targets": targets},
            "privacy": {"epsilon": epsilon},
            "training": {"rounds": rounds},
            "fusion": {"adapter_weight": weight},
        },
        "test",
    ),
    st.integers(0, 2**31),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    st.lists(st.sampled_from(["query", "key", "value", "dense"]), unique=True),
    st.floats(0.5, 20.0),
    st.integers(0, 1000),
    st.booleans(),
    st.floats(0.0, 10.0),
)


@given(configs)
def test_flowers_run_config_carries_a_configuration_unchanged(config: Config) -> None:
    assert from_run_config(to_run_config(config)) == config


@given(configs)
def test_flowers_run_config_holds_plain_values_only(config: Config) -> None:
    assert all(isinstance(v, str | int | float | bool) for v in to_run_config(config).values())


@given(configs)
def test_the_printed_toml_holds_every_option_and_loads_back_equal(config: Config) -> None:
    values = tomllib.loads(to_toml(config))
    assert parse_config(values, "test") == config
    assert {section: set(table) for section, table in values.items()} == {
        section: set(table) for section, table in config.model_dump().items()
    }


def test_print_config_is_toml_that_gives_the_same_configuration(
    tacit: Tacit, tmp_path: Path
) -> None:
    options = ["--epsilon", "2.5", "--set", 'model.targets=["query", "value"]', "--rounds", "7"]
    done = tacit("simulate", *options, "--print-config")
    assert done.status == 0
    (tmp_path / "c.toml").write_text(done.out)
    again = tacit("simulate", "--config", str(tmp_path / "c.toml"), "--print-config")
    assert again.out == done.out
    config = load_config(tmp_path / "c.toml")
    assert (config.privacy.epsilon, config.training.rounds) == (2.5, 7)
    assert config.model.targets == ("query", "value")


def test_plain_aggregation_is_an_option_and_gives_each_its_own_noise(tacit: Tacit) -> None:
    printed = tacit("simulate", "--aggregation", "plain", "--print-config")
    values = tomllib.loads(printed.out)
    assert (values["aggregation"]["mode"], values["privacy"]["noise"]) == ("plain", "own")


def test_the_default_is_secure_sums_with_one_noise(tacit: Tacit) -> None:
    values = tomllib.loads(tacit("simulate", "--print-config").out)
    assert (values["aggregation"]["mode"], values["privacy"]["noise"]) == ("secure", "shared")
    assert (values["aggregation"]["colluders"], values["aggregation"]["dropouts"]) == (1, -1)


@pytest.mark.parametrize("orgs", ["1", "2"])
def test_fewer_than_three_organisations_are_plain_and_not_secure(tacit: Tacit, orgs: str) -> None:
    values = tomllib.loads(tacit("simulate", "--orgs", orgs, "--print-config").out)
    assert (values["aggregation"]["mode"], values["privacy"]["noise"]) == ("plain", "own")
    refused = tacit("simulate", "--orgs", orgs, "--aggregation", "secure", "--print-config")
    assert refused.status == 2
    assert "set aggregation.mode = plain" in " ".join(refused.err.split())


def test_another_aggregation_is_refused_by_name(tacit: Tacit) -> None:
    refused = tacit("simulate", "--aggregation", "masked", "--print-config")
    assert refused.status == 2
    assert "aggregation.mode" in refused.err


def test_every_printed_option_says_what_it_means(tacit: Tacit) -> None:
    lines = tacit("simulate", "--print-config").out.splitlines()
    assert [line for line in lines if "=" in line.partition("#")[0] and "# " not in line] == []


def test_print_config_makes_no_folder(
    tacit: Tacit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tacit("simulate", "--print-config")
    assert list(tmp_path.iterdir()) == []


def test_later_sources_win(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text("[training]\nrounds = 1\n[run]\nseed = 1\n")
    config = load_config(
        tmp_path / "c.toml", ["training.rounds=2", "run.seed=2"], {"training.rounds": 3}
    )
    assert (config.training.rounds, config.run.seed) == (3, 2)


def test_what_a_set_option_gives_may_be_bare_text() -> None:
    config = load_config(None, ["data.source=some/path with spaces", "base.name=minilm"])
    assert config.data.source == "some/path with spaces"


@pytest.mark.parametrize(
    ("override", "nearest"),
    [
        ("run.sed=1", "run.seed"),
        ("privacy.epsilonn=1", "privacy.epsilon"),
        ("privcy.epsilon=1", "[privacy]"),
        ("training.learning_rate=0.1", "server.learning_rate"),
        ("model.ranks=4", "model.rank"),
    ],
)
def test_an_unknown_key_names_the_nearest_one(override: str, nearest: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, [override])
    assert f"did you mean {nearest}?" in str(caught.value)


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("run.engine=spark", "run.engine"),
        ("privacy.epsilon=0", "privacy.epsilon"),
        ("privacy.epsilon=nan", "privacy.epsilon"),
        ("privacy.epsilon=inf", "privacy.epsilon"),
        ("privacy.delta=1.0", "privacy.delta"),
        ("privacy.delta=1e-13", "delta"),
        ("privacy.popularity_share=0.5", "add up to 1"),
        ("training.rounds=-1", "training.rounds"),
        ("training.rounds=1.5", "training.rounds"),
        ("training.sampling_rate=0", "training.sampling_rate"),
        ("model.window=1", "model.window"),
        ("data.min_history=2", "data.min_history"),
    ],
)
def test_a_bad_value_names_its_key(override: str, key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, [override])
    assert key in str(caught.value)


def test_all_problems_of_a_file_are_told_at_once(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text("[run]\nsed = 1\n[training]\nrounds = -1\n")
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "run.sed" in str(caught.value)
    assert "training.rounds" in str(caught.value)


def test_a_run_config_key_of_another_app_is_refused() -> None:
    with pytest.raises(ConfigError, match="num-server-rounds"):
        from_run_config({"num-server-rounds": 3})


def test_the_apps_configuration_in_pyproject_is_every_option_at_its_default_but_one() -> None:
    fused = get_fused_config_from_dir(ROOT, {})
    # Flower simulates two nodes unless it is told otherwise, and what auto means is settled by how
    # many there are.
    unsettled = {"aggregation.mode": "auto", "privacy.noise": "auto"}
    assert fused == to_run_config(Config()) | {"partition.organisations": 2} | unsettled
    config = from_run_config(fused)
    assert config.partition.organisations == 2
    assert (config.aggregation.mode, config.privacy.noise) == ("plain", "own")


def test_three_nodes_of_flower_run_aggregate_securely() -> None:
    config = from_run_config(get_fused_config_from_dir(ROOT, {"partition.organisations": 3}))
    assert (config.aggregation.mode, config.privacy.noise) == ("secure", "shared")


def test_what_flwr_run_overrides_reaches_the_configuration() -> None:
    fused = get_fused_config_from_dir(ROOT, {"privacy.epsilon": 2, "model.targets": "query,value"})
    config = from_run_config(fused)
    assert (config.privacy.epsilon, config.model.targets) == (2.0, ("query", "value"))


def test_flower_finds_the_two_apps() -> None:
    components = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["flwr"]["app"]
    for reference, kind in (("serverapp", ServerApp), ("clientapp", ClientApp)):
        module, _, name = components["components"][reference].partition(":")
        assert isinstance(getattr(importlib.import_module(module), name), kind)


def test_tacits_own_keys_in_a_run_config_are_no_options() -> None:
    assert from_run_config({"tacit.directory": "x", "run.seed": 3}).run.seed == 3
