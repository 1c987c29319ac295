"""The measurements behind the docs' tables, on settings so small that only their form counts."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from shared.adapters import adapter_arrays
from shared.config import Config
from shared.errors import ConfigError, RunError
from shared.histories import PrivateHistories
from shared.models import load_model
from shared.sections import to_toml
from simulations.bench.accuracy import measure
from simulations.bench.cli import bench_app
from simulations.bench.round import first_round, overhead
from simulations.bench.settings import Setting, parse_setting
from simulations.bench.step import measure as measure_steps
from simulations.bench.step_ways import Batch, StepOptions, ways
from simulations.world import build_world, fewer

MakeConfig = Callable[..., Config]


def bench(config: Config, folder: Path, *arguments: str) -> list[dict[str, Any]]:
    """Run a command and return the rows of its JSON."""
    (folder / "config.toml").write_text(to_toml(config))
    options = ["--config", str(folder / "config.toml"), "--json", str(folder / "rows.json")]
    result = CliRunner().invoke(bench_app, [*arguments, *options], env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    rows = json.loads((folder / "rows.json").read_text())["rows"]
    assert isinstance(rows, list)
    return rows


@pytest.mark.slow
def test_accuracy_gives_a_row_for_every_method_of_every_setting(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    settings = ["--setting", "none", "--setting", "own:8"]
    rows = bench(
        make_config(), tmp_path, "accuracy", *settings, "--baseline", "popularity", "--seeds", "2"
    )
    assert [(row["method"], row["part"], row["noise"], row["seeds"]) for row in rows] == [
        ("popularity", "whole", "none", 1),
        *[
            (method, part, noise, 2)
            for noise in ("none", "own")
            for method, part in (
                ("statistics", "whole"),
                ("statistics", "share"),
                ("texts", "share"),
                ("adapter", "whole"),
                ("federation", "whole"),
                ("personalised", "whole"),
            )
        ],
    ]
    assert all(0.0 <= row["ndcg10"] <= row["hr10"] <= 1.0 for row in rows)


def test_draws_of_generated_data_are_of_the_same_data(make_config: MakeConfig) -> None:
    config = make_config(
        data={"source": "synthetic", "synthetic_users": 40, "synthetic_items": 50},
        training={"rounds": 0},
    )
    rows, _ = measure(config, [Setting("none", None)], 3, baselines=())
    # Without noise the statistics are the same sum whoever holds which users.
    assert [(row.seeds, row.hr10_spread, row.ndcg10_spread) for row in rows] == [(3, 0.0, 0.0)]


def test_accuracy_is_measured_in_secure_sums(make_config: MakeConfig) -> None:
    config = make_config(partition={"organisations": 3}, training={"rounds": 0})
    rows, _ = measure(config, [Setting("shared", 8.0, "secure")], 1, baselines=())
    assert [(row.method, row.noise, row.aggregation) for row in rows] == [
        ("statistics", "shared", "secure")
    ]


def test_the_private_step_is_timed_beside_other_ways_in_each_precision(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    config = make_config(base={"precision": "bfloat16"})
    sizes = ["--users", "8", "--items", "60", "--repeats", "1"]
    rows = bench(config, tmp_path, "step", *sizes)
    names = ["forward", "non_private", "private", "opacus_hooks", "opacus_ghost", "vmap"]
    assert [(row["precision"], row["name"]) for row in rows] == [
        (precision, name) for precision in ("float32", "bfloat16") for name in names
    ]
    rate = {(row["precision"], row["name"]): row["rows_per_s"] for row in rows}
    for row in rows:
        key = (row["precision"], row["name"])
        assert row["ratio_to_non_private"] * rate[key] == pytest.approx(rate[key[0], "non_private"])
        assert row["ratio_to_float32"] * rate["float32", key[1]] == pytest.approx(rate[key])
        assert 0.0 < row["fraction_of_matrix_rate"] < 1.0


def test_all_ways_to_take_a_step_take_the_same_step(make_config: MakeConfig) -> None:
    config = make_config(training={"micro_batch_rows": 3}, privacy={"clipping_norm": 0.05})
    loaded = load_model(config)
    generator = torch.Generator().manual_seed(0)
    random = torch.randn(60, loaded.hidden_size, generator=generator)
    items = torch.nn.functional.normalize(random, dim=-1)
    users, length = 7, config.model.window + 1
    histories = PrivateHistories(
        tuple(map(str, range(users))),
        np.arange(users + 1) * length,
        torch.randint(60, (users * length,), generator=generator).numpy(),
        np.zeros(users * length),
    )
    batch = Batch(histories, items, torch.randn(60, generator=generator))
    updates = {}
    for name, way in ways(config, loaded, batch, StepOptions(0.0, 1.0)).items():
        before = adapter_arrays(way.model)
        way.step()
        after = adapter_arrays(way.model)
        updates[name] = np.concatenate([(after[n] - before[n]).ravel() for n in before])
    ours = updates["private"]
    assert not updates["forward"].any()
    for name in ("opacus_hooks", "opacus_ghost", "vmap"):
        assert np.linalg.norm(updates[name] - ours) < 1e-4 * np.linalg.norm(ours), name
    # So that clipping is what they agree on, and not that nothing was clipped.
    assert np.linalg.norm(updates["non_private"]) > 1.5 * np.linalg.norm(ours)


def test_a_random_base_of_a_named_shape_is_timed(make_config: MakeConfig) -> None:
    config = make_config(model={"layers": 1, "window": 2})
    found = measure_steps(config, users=1, items=5, repeats=1, shape="qwen3-0.6b")
    assert {row.name for row in found.rows} >= {"private", "non_private"}
    with pytest.raises(ConfigError, match=r"--shape tiny: expected one of qwen3-0\.6b"):
        measure_steps(config, users=1, items=5, repeats=1, shape="tiny")


def test_timed_steps_leave_the_adapter_where_it_was(make_config: MakeConfig) -> None:
    config = make_config()
    loaded = load_model(config)
    before = adapter_arrays(loaded.model)
    measure_steps(config, users=4, items=60, repeats=1)
    for name, value in adapter_arrays(loaded.model).items():
        assert value == pytest.approx(before[name], abs=1e-6)


def test_overhead_is_what_rounds_take_besides_private_steps(make_config: MakeConfig) -> None:
    row = overhead(make_config(), organisations=3, rounds=3)
    assert (row.name, row.organisations, row.samples) == ("overhead", 3, 3)
    assert 0.0 < row.least_s <= row.median_s <= row.greatest_s < 5.0


@pytest.mark.slow
def test_the_way_to_the_first_round_is_timed_in_a_process_of_its_own(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    rounds = ["--rounds", "1", "--organisations", "2", "--starts", "1"]
    rows = bench(make_config(), tmp_path, "round", *rounds)
    assert [row["name"] for row in rows] == ["overhead", "first_round"]
    assert rows[1]["median_s"] > rows[0]["median_s"]


@pytest.mark.slow
def test_a_simulation_that_fails_is_told_with_its_own_words(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    config = make_config(data={"source": str(tmp_path / "nowhere")})
    with pytest.raises(RunError, match=r"exit status 2.*no such file"):
        first_round(config, samples=1)


def test_another_aggregation_of_the_bench_is_refused() -> None:
    result = CliRunner().invoke(bench_app, ["accuracy", "--aggregation", "masked"])
    assert isinstance(result.exception, ConfigError)
    assert "--aggregation masked: expected secure or plain" in str(result.exception)


def test_a_setting_names_the_noise_and_its_epsilon() -> None:
    assert parse_setting("none") == Setting("none", None)
    assert parse_setting("own:2.5") == Setting("own", 2.5)


@pytest.mark.parametrize(
    "text", ["", "own", "own:", "own:x", "own:-1", "own:nan", "own:inf", "none:8", "all:8"]
)
def test_a_setting_that_cannot_be_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="expected none, own:EPSILON"):
        parse_setting(text)


def test_users_of_a_size_are_among_those_of_a_greater_one(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    config = make_config(data={"source": "synthetic", "synthetic_users": 40})
    world = build_world(config, tmp_path)
    few, more, all_ = (fewer(world, count, 0).dataset.histories.user_ids for count in (9, 20, 0))
    assert (len(few), len(more), len(all_)) == (9, 20, 40)
    assert set(few) < set(more) < set(all_)


def test_size_ranks_users_of_a_data_set(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config(data={"synthetic_items": 50}, training={"rounds": 0})
    rows = bench(config, tmp_path, "size", "--users", "60", "--users", "80", "--setting", "own:8")
    assert [(row["users"], row["method"]) for row in rows] == [
        (users, method)
        for users in (60, 80)
        for method in ("Popularity", "Each organisation by itself", "Statistics alone")
    ]
