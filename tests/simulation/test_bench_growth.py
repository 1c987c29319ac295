"""The measurement of growth, on sizes so small that only its form counts."""

import gc
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from client.data.store import read_store
from shared import columns
from shared.adapters import adapter_arrays
from shared.config import Config
from shared.errors import ConfigError
from shared.models import load_model
from shared.sections import to_toml
from simulations.bench import growth_tasks, passes
from simulations.bench.cli import bench_app
from simulations.bench.growth import LARGEST, USUAL, Fit, GrowthRow, fits
from simulations.bench.growth_plots import write_plots
from simulations.bench.growth_tasks import (
    Sizes,
    made_up,
    use_history,
    use_items,
    use_organisations,
    use_users,
    write_users,
)
from simulations.bench.memory import watched

MakeConfig = Callable[..., Config]

SMALL = Sizes(step_users=3, items=40, rounds=1, repeats=1)


@pytest.fixture
def rates(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, int]]:
    """Sampling rate and users of every private step, in order."""
    seen: list[tuple[float, int]] = []
    steps = passes.private_steps

    def kept(*given: Any) -> Any:
        mechanism = next(value for value in given if hasattr(value, "sampling_rate"))
        seen.append((mechanism.sampling_rate, len(given[1])))
        return steps(*given)

    monkeypatch.setattr(passes, "private_steps", kept)
    return seen


def test_steps_have_as_many_users_however_many_there_are(
    make_config: MakeConfig, tmp_path: Path, rates: list[tuple[float, int]]
) -> None:
    for users in (12, 48):
        assert [t.what for t in write_users(tmp_path, users, SMALL)] == ["write"]
        timed = use_users(make_config(), tmp_path, users, SMALL)
        assert [t.what for t in timed] == ["open", "P", "G", "step"]
        assert all(t.seconds > 0 for t in timed)
        assert all(t.resident_mb > t.anonymous_mb > 0 for t in timed)
    # One step that is not counted, and one that is.
    assert rates == [(3 / 12, 12)] * 2 + [(3 / 48, 48)] * 2


def test_what_is_made_up_is_on_disk_and_always_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = made_up(500, 40, tmp_path)
    monkeypatch.setattr(columns, "IN_MEMORY_BYTES", 0)
    write_users(tmp_path, 500, SMALL)
    _, found = read_store(tmp_path / growth_tasks.STORE)
    assert found.user_ids == expected.user_ids
    assert 20 <= found.lengths.min() <= found.lengths.max() <= 80
    for name in ("offsets", "items", "times"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


@pytest.mark.parametrize(("task", "size"), [(use_items, 70), (use_history, 9)])
def test_steps_are_timed_and_leave_the_adapter_where_it_was(
    make_config: MakeConfig, rates: list[tuple[float, int]], task: Any, size: int
) -> None:
    config = make_config()
    model = load_model(config).model
    before = adapter_arrays(model)
    assert [t.what for t in task(config, size, SMALL)] == ["step"]
    assert rates == [(1.0, 3)] * 2
    for name, value in adapter_arrays(model).items():
        assert value == pytest.approx(before[name], abs=1e-6)


def test_whole_rounds_of_organisations_are_timed(make_config: MakeConfig) -> None:
    timed = use_organisations(make_config(), 3, replace(SMALL, rounds=2))
    assert [t.what for t in timed] == ["round", "the rest"]
    assert all(t.seconds > 0 for t in timed)


def test_memory_that_is_given_back_has_been_seen() -> None:
    gc.collect()  # What earlier tests left behind must not go while this one looks.
    with watched() as before:
        pass
    with watched() as peak:
        block = np.ones(50_000_000)  # 400 MB
        peak.look()
        del block
    assert peak.anonymous_mb > before.anonymous_mb + 200
    assert peak.resident_mb > before.resident_mb + 200
    with watched() as after:
        pass
    assert after.anonymous_mb < peak.anonymous_mb - 200


def made_rows(axis: str, what: str, exponent: float) -> list[GrowthRow]:
    return [
        GrowthRow(axis, size, what, 3.0 * size**exponent, 20.0, 10.0) for size in (10, 100, 1000)
    ]


def test_exponents_are_those_of_the_growth() -> None:
    rows = [*made_rows("users", "P", 1.0), *made_rows("users", "G", 2.0)]
    rows += made_rows("items", "step", 0.5)[:1]
    found = fits(rows)
    assert [(fit.axis, fit.what) for fit in found] == [("users", "P"), ("users", "G")]
    assert [fit.exponent for fit in found] == pytest.approx([1.0, 2.0])


def test_growth_that_begins_late_shows_between_the_largest_sizes() -> None:
    rows = made_rows("users", "P", 1.0)
    rows[0] = replace(rows[0], seconds=rows[1].seconds)
    (found,) = fits(rows)
    assert (found.exponent, found.at_last) == pytest.approx((0.5, 1.0))


def test_every_axis_has_a_picture(tmp_path: Path) -> None:
    rows = [*made_rows("users", "P", 1.0), *made_rows("items", "step", 0.0)]
    written = write_plots(tmp_path / "new", rows, [Fit("users", "P", 1.0, 1.0)])
    assert [path.name for path in written] == ["growth-users.png", "growth-items.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in written)


@pytest.mark.slow
def test_the_command_prints_writes_and_draws(make_config: MakeConfig, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(to_toml(make_config()))
    result = CliRunner().invoke(
        bench_app,
        [
            *("growth", "--config", str(tmp_path / "config.toml"), "--axis", "history"),
            *("--size", "8", "--size", "4", "--step-users", "2"),
            *("--plots", str(tmp_path / "plots"), "--json", str(tmp_path / "rows.json")),
        ],
        env={"COLUMNS": "200"},
    )
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "rows.json").read_text())
    assert [(row["axis"], row["size"], row["what"]) for row in found["rows"]] == [
        ("history", 4, "step"),
        ("history", 8, "step"),
    ]
    assert [(fit["axis"], fit["what"]) for fit in found["fits"]] == [("history", "step")]
    assert [path.name for path in (tmp_path / "plots").iterdir()] == ["growth-history.png"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--axis", "height"], "--axis height: expected one of users"),
        (["--size", "5"], "--size: says how large one thing is"),
    ],
)
def test_an_axis_or_size_that_cannot_be_is_refused(options: list[str], sentence: str) -> None:
    result = CliRunner().invoke(bench_app, ["growth", *options])
    assert isinstance(result.exception, ConfigError)
    assert sentence in str(result.exception)


def test_the_largest_sizes_are_those_that_are_claimed() -> None:
    assert LARGEST["users"][-1] == LARGEST["items"][-1] == 1_000_000
    assert LARGEST["organisations"][-1] == 1_000
    assert USUAL["history"][-1] == LARGEST["history"][-1] == 500
