"""``tacit bench ranking`` and ``language`` at sizes so small that only what they say counts."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from shared.config import Config
from shared.errors import ConfigError
from shared.sections import to_toml
from simulations.bench.cli import bench_app
from simulations.bench.passes import Passes
from simulations.world import World, fewer

MakeConfig = Callable[..., Config]


def bench(config: Config, folder: Path, *arguments: str) -> dict[str, Any]:
    """Run a command and return its JSON."""
    (folder / "config.toml").write_text(to_toml(config))
    options = ["--config", str(folder / "config.toml"), "--json", str(folder / "rows.json")]
    result = CliRunner().invoke(bench_app, [*arguments, *options], env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads((folder / "rows.json").read_text())
    return found


@pytest.mark.slow
def test_blocks_rank_like_whole_rows_of_float64_scores(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    sizes = ["--users", "600", "--items", "2500", "--repeats", "1"]
    found = bench(make_config(), tmp_path, "ranking", *sizes)
    blocks, rows, exact = found["rows"]
    assert [row["way"] for row in found["rows"]] == ["blocks", "rows", "rows, float64"]
    assert exact["ranks_like_blocks"] == 1.0
    assert rows["ranks_like_blocks"] > 0.9
    for figure in ("hr10", "ndcg10", "mrr", "coverage", "novelty"):
        assert blocks[figure] == exact[figure]
    assert 0.0 < blocks["ndcg10"] < blocks["hr10"] < 1.0
    assert found["passes"]["sample"] == 256
    assert found["passes"]["epoch_s"] > found["passes"]["forward_s"] > 0.0


@pytest.mark.slow
def test_every_precision_is_timed_and_ranked_with(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config()
    precisions = ["--precision", "float32", "--precision", "bfloat16"]
    sizes = ["--layers", "2", "--users", "4", "--repeats", "1", "--rounds", "1"]
    options = ["--base", config.base.name, "--data", config.data.source, "--ranked-users", "40"]
    found = bench(config, tmp_path, "language", *precisions, *sizes, *options)
    assert [(row["layers"], row["precision"]) for row in found["speed"]] == [
        (2, "float32"),
        (2, "bfloat16"),
    ]
    for row in found["speed"]:
        assert row["step_rows_per_s"] > 0.0
        assert row["step_mb"] > 0.0
        assert row["scoring_mb"] > 0.0
        assert row["gradient_difference"] < 1e-3
    assert found["speed"][0]["step_to_float32"] == 1.0
    first, second = found["quality"]
    assert first["users"] == second["users"] == 40
    assert first["ndcg10_less_first"] == first["low"] == first["high"] == 0.0
    assert second["ndcg10_less_first"] == pytest.approx(second["ndcg10"] - first["ndcg10"])


def test_timed_steps_leave_the_adapter_where_it_was(make_config: MakeConfig) -> None:
    from shared.adapters import adapter_arrays
    from shared.models import load_model

    config = make_config()
    before = adapter_arrays(load_model(config).model)
    passes = Passes(config, 3, 60)
    assert passes.step_s() > 0.0
    for name, value in adapter_arrays(load_model(config).model).items():
        assert value == pytest.approx(before[name], abs=1e-6)


def test_fewer_users_keep_the_catalogue(world: World) -> None:
    some = fewer(world, 20, 0)
    assert len(some.dataset.histories) == 20
    assert some.items == world.items
    assert sum(len(part.users) for part in some.organisations) == 20
    known = set(world.dataset.histories.user_ids)
    assert set(some.dataset.histories.user_ids) <= known
    assert fewer(world, 0, 0) is world


def test_a_precision_that_is_none_is_refused(make_config: MakeConfig, tmp_path: Path) -> None:
    result = CliRunner().invoke(bench_app, ["language", "--precision", "float8"])
    assert isinstance(result.exception, ConfigError)
    assert "--precision float8" in str(result.exception)
